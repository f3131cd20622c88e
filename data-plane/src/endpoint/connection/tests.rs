//! Connections over real sockets.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Wake,
};

use http::header;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::*;

/// A task's waker that counts.
struct CountedWaker {
    task: Waker,
    wakes: Arc<AtomicUsize>,
}

impl Wake for CountedWaker {
    fn wake(self: Arc<Self>) {
        self.wakes.fetch_add(1, Ordering::Relaxed);
        self.task.wake_by_ref();
    }
}

async fn connected(listener: &TcpListener) -> (Connection, TcpStream) {
    let address = listener.local_addr().expect("bound");
    let stream = TcpStream::connect(address).await.expect("accepted");
    let (endpoint, _) = listener.accept().await.expect("connected");
    let stream = TokioIo::new(EarlyAnswerStream::new(EndpointStream::Plain(stream)));
    let (sender, driver) = http1::handshake(stream).await.expect("no bytes are needed");
    let connection = DrivenConnection {
        sender,
        driver,
        waker: DriverWaker::new(),
        tls: None,
        idle_since: Instant::now(),
        reused: false,
    };
    (Connection(Box::new(connection)), endpoint)
}

/// Answers with a chunk for each message, and with the end after the last one. The connection stays
/// open with what is returned.
async fn answer(mut endpoint: TcpStream, mut chunks: mpsc::Receiver<()>) -> TcpStream {
    let mut request = [0; 4_096];
    let length = endpoint.read(&mut request).await.expect("a request");
    assert!(length > 0);
    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    endpoint.write_all(head).await.expect("written");
    while chunks.recv().await.is_some() {
        endpoint.write_all(b"4\r\nword\r\n").await.expect("written");
    }
    endpoint.write_all(b"0\r\n\r\n").await.expect("written");
    endpoint
}

#[tokio::test]
async fn a_task_that_reads_pieces_is_not_woken_by_reading_them() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (connection, endpoint) = connected(&listener).await;
    let (next, chunks) = mpsc::channel(1);
    let answering = tokio::spawn(answer(endpoint, chunks));
    let mut request = Request::new(LegBody::default());
    let host = http::HeaderValue::from_static("engine");
    request.headers_mut().insert(header::HOST, host);
    let mut body = connection.send(request).await.expect("a head").into_body();

    let wakes = Arc::new(AtomicUsize::new(0));
    let mut own = 0;
    for _ in 0..20 {
        next.send(()).await.expect("answering");
        let frame = poll_fn(|cx| {
            let waker = Waker::from(Arc::new(CountedWaker {
                task: cx.waker().clone(),
                wakes: Arc::clone(&wakes),
            }));
            let before = wakes.load(Ordering::Relaxed);
            let polled = Pin::new(&mut body).poll_frame(&mut Context::from_waker(&waker));
            own += wakes.load(Ordering::Relaxed) - before;
            polled
        });
        let frame = frame.await.expect("not the end").expect("not broken");
        assert_eq!(frame.into_data().ok(), Some(Bytes::from_static(b"word")));
    }
    assert!(wakes.load(Ordering::Relaxed) > 0, "the socket wakes it");
    assert_eq!(own, 0);
    drop(next);
    assert!(
        poll_fn(|cx| Pin::new(&mut body).poll_frame(cx))
            .await
            .is_none()
    );
    assert!(body.into_connection().is_some(), "it can be used again");
    drop(answering.await.expect("no panic"));
}
