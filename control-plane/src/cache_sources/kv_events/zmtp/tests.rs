//! A client against peers that are scripted byte by byte.

use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::*;

/// The other side of one connection.
struct Scripted {
    stream: TcpStream,
    inbox: BytesMut,
    assembly: Assembly,
}

/// What the other side does with its connection.
async fn scripted<F: Future<Output = ()> + Send + 'static>(
    script: impl FnOnce(Scripted) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a client");
        script(Scripted {
            stream,
            inbox: BytesMut::new(),
            assembly: Assembly::default(),
        })
        .await;
    });
    address
}

impl Scripted {
    async fn shake_hands(&mut self, socket: &str) {
        self.stream
            .write_all(&frame::greeting())
            .await
            .expect("sent");
        while self.inbox.len() < GREETING {
            self.stream.read_buf(&mut self.inbox).await.expect("read");
        }
        let _greeting = self.inbox.split_to(GREETING);
        self.command("READY", &frame::ready(socket, b"")).await;
        let Incoming::Command(name, _) = self.next().await else {
            panic!("READY")
        };
        assert_eq!(&name[..], b"READY");
    }

    async fn command(&mut self, name: &str, data: &[u8]) {
        let mut bytes = BytesMut::new();
        frame::write_command(&mut bytes, name, data);
        self.stream.write_all(&bytes).await.expect("sent");
    }

    async fn message(&mut self, frames: &[&[u8]]) {
        let mut bytes = BytesMut::new();
        frame::write_message(&mut bytes, frames);
        self.stream.write_all(&bytes).await.expect("sent");
    }

    async fn next(&mut self) -> Incoming {
        loop {
            if let Some(incoming) = self.assembly.next(&mut self.inbox).expect("well formed") {
                return incoming;
            }
            assert!(
                self.stream.read_buf(&mut self.inbox).await.expect("read") > 0,
                "the client left"
            );
        }
    }

    /// Waits until the client leaves.
    async fn linger(mut self) {
        while self
            .stream
            .read_buf(&mut self.inbox)
            .await
            .is_ok_and(|read| read > 0)
        {}
    }
}

async fn subscriber(address: SocketAddr) -> Result<Peer, ZmtpError> {
    Peer::connect(&address.to_string(), Socket::Sub).await
}

#[tokio::test]
async fn a_subscriber_gets_messages_and_signs_of_life() {
    let address = scripted(|mut peer| async move {
        peer.shake_hands("PUB").await;
        let Incoming::Message(subscription) = peer.next().await else {
            panic!("a subscription")
        };
        assert_eq!(subscription[..], [Bytes::from_static(b"\x01kv@")]);
        peer.message(&[b"kv@a", &[7; 300], b""]).await;
        let Incoming::Command(name, data) = peer.next().await else {
            panic!("a ping")
        };
        assert_eq!(
            (&name[..], &data[..]),
            (&b"PING"[..], &TTL.to_be_bytes()[..])
        );
        peer.command("PONG", b"").await;
        peer.linger().await;
    })
    .await;
    let mut peer = subscriber(address).await.expect("a publisher");
    peer.subscribe(b"kv@").await.expect("sent");
    let message = peer.next().await.expect("connected").expect("a message");
    assert_eq!(
        message[..],
        [&b"kv@a"[..], &[7; 300], b""].map(Bytes::copy_from_slice)
    );
    assert!(!peer.answers_pings());
    peer.ping().await.expect("sent");
    assert_eq!(peer.next().await.expect("connected"), None);
    assert!(peer.answers_pings());
}

#[tokio::test]
async fn a_ping_of_the_peer_is_answered() {
    let address = scripted(|mut peer| async move {
        peer.shake_hands("PUB").await;
        peer.command("PING", b"\x00\x0acontext").await;
        let Incoming::Command(name, data) = peer.next().await else {
            panic!("a pong")
        };
        assert_eq!((&name[..], &data[..]), (&b"PONG"[..], &b"context"[..]));
        peer.message(&[b"done"]).await;
        peer.linger().await;
    })
    .await;
    let mut peer = subscriber(address).await.expect("a publisher");
    assert_eq!(
        peer.next()
            .await
            .expect("connected")
            .expect("a message")
            .len(),
        1
    );
}

#[tokio::test]
async fn a_peer_that_is_no_publisher_is_rejected() {
    let router = scripted(|mut peer| async move {
        peer.shake_hands("ROUTER").await;
        peer.linger().await;
    })
    .await;
    assert!(
        matches!(subscriber(router).await, Err(ZmtpError::WrongSocket(socket)) if socket == "ROUTER")
    );
    let http = scripted(|mut peer| async move {
        let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        peer.stream.write_all(answer).await.expect("sent");
        peer.linger().await;
    })
    .await;
    assert!(matches!(
        subscriber(http).await,
        Err(ZmtpError::Protocol(_))
    ));
    let refusing = scripted(|mut peer| async move {
        peer.stream
            .write_all(&frame::greeting())
            .await
            .expect("sent");
        peer.command("ERROR", b"\x07go away").await;
        peer.linger().await;
    })
    .await;
    assert!(
        matches!(subscriber(refusing).await, Err(ZmtpError::Refused(reason)) if reason == "go away")
    );
}

#[tokio::test]
async fn a_closed_connection_is_reported_at_once() {
    let address = scripted(|mut peer| async move { peer.shake_hands("PUB").await }).await;
    let mut peer = subscriber(address).await.expect("a publisher");
    assert!(matches!(peer.next().await, Err(ZmtpError::Io(_))));
}

#[tokio::test]
async fn waiting_can_be_given_up_in_the_middle_of_a_message() {
    let (signal, signalled) = tokio::sync::oneshot::channel();
    let address = scripted(|mut peer| async move {
        peer.shake_hands("PUB").await;
        let mut bytes = BytesMut::new();
        frame::write_message(&mut bytes, &[b"topic", b"payload"]);
        peer.stream.write_all(&bytes[..10]).await.expect("sent");
        signalled.await.expect("the client says so");
        peer.stream.write_all(&bytes[10..]).await.expect("sent");
        peer.linger().await;
    })
    .await;
    let mut peer = subscriber(address).await.expect("a publisher");
    assert!(
        tokio::time::timeout(Duration::from_millis(20), peer.next())
            .await
            .is_err()
    );
    signal.send(()).expect("the peer waits");
    assert_eq!(
        peer.next()
            .await
            .expect("connected")
            .expect("a message")
            .len(),
        2
    );
}
