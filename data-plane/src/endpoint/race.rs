//! Connects to the first of several addresses that answers: Happy Eyeballs, RFC 8305.
//!
//! An address that neither accepts nor refuses costs 250 ms and not the whole time limit. The
//! attempts that lose are dropped, which closes their sockets.

use std::{io, net::SocketAddr, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::{net::TcpStream, time::sleep};

/// From the beginning of one attempt to the beginning of the next, while none has failed (RFC 8305,
/// section 5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// A connection to one of `addresses`, which are tried in this order. The caller sets the deadline.
///
/// # Errors
/// The last attempt's, when all of them failed.
pub(super) async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    if let [only] = addresses {
        return TcpStream::connect(only).await;
    }
    let mut untried = addresses.iter();
    let mut attempts = FuturesUnordered::new();
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        match untried.next() {
            Some(address) => attempts.push(TcpStream::connect(address)),
            None if attempts.is_empty() => return Err(failure),
            None => {}
        }
        tokio::select! {
            biased;
            Some(attempt) = attempts.next() => match attempt {
                Ok(stream) => return Ok(stream),
                // The next attempt begins at once.
                Err(error) => failure = error,
            },
            () = sleep(ATTEMPT_DELAY), if untried.len() > 0 => {}
        }
    }
}

/// The addresses with their families in turn, beginning with the family of the first (RFC 8305,
/// section 4).
pub(super) fn interleaved(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut ours, mut others) = (
        addresses.iter().filter(|a| a.is_ipv6() == first_is_v6),
        addresses.iter().filter(|a| a.is_ipv6() != first_is_v6),
    );
    let mut mixed = Vec::with_capacity(addresses.len());
    while mixed.len() < addresses.len() {
        mixed.extend(ours.next());
        mixed.extend(others.next());
    }
    mixed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use socket2::{Domain, Socket, Type};
    use tokio::{net::TcpListener, time::timeout};

    use super::*;

    /// A bound port that does not listen: connections are refused.
    fn refusing(host: &str) -> (Socket, SocketAddr) {
        let address: SocketAddr = format!("{host}:0").parse().expect("an address");
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("made");
        socket.bind(&address.into()).expect("a port");
        let bound = socket.local_addr().expect("bound").as_socket();
        (socket, bound.expect("an IP address"))
    }

    async fn accepting(host: &str) -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((host, 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        (listener, address)
    }

    /// A port whose backlog is full: it neither accepts nor refuses.
    async fn silent(host: &str) -> (Socket, Vec<TcpStream>, SocketAddr) {
        let (socket, address) = refusing(host);
        socket.listen(0).expect("listens");
        let mut waiting = Vec::new();
        while let Ok(Ok(stream)) =
            timeout(Duration::from_millis(100), TcpStream::connect(address)).await
        {
            waiting.push(stream);
        }
        (socket, waiting, address)
    }

    #[tokio::test]
    async fn a_refusing_address_gives_way_to_the_next_at_once() {
        let (_dead, dead) = refusing("127.0.0.1");
        let (_alive, alive) = accepting("127.0.0.2").await;
        let connected = timeout(ATTEMPT_DELAY, connect(&[dead, alive])).await;
        let stream = connected.expect("without a pause").expect("connected");
        assert_eq!(stream.peer_addr().expect("connected"), alive);
    }

    #[tokio::test]
    async fn a_silent_address_does_not_use_up_the_time() {
        let (_socket, _waiting, silent) = silent("127.0.0.1").await;
        let (_alive, alive) = accepting("127.0.0.2").await;
        let connected = timeout(ATTEMPT_DELAY * 8, connect(&[silent, alive])).await;
        let stream = connected.expect("in time").expect("connected");
        assert_eq!(stream.peer_addr().expect("connected"), alive);
    }

    #[tokio::test]
    async fn the_other_family_is_tried_too() {
        let (_dead, dead) = refusing("127.0.0.1");
        let (_alive, alive) = accepting("::1").await;
        let stream = connect(&[dead, alive]).await.expect("connected");
        assert_eq!(stream.peer_addr().expect("connected"), alive);
    }

    #[tokio::test]
    async fn when_all_addresses_refuse_the_reason_is_returned() {
        let ((_one, one), (_two, two)) = (refusing("127.0.0.1"), refusing("127.0.0.2"));
        let error = connect(&[one, two]).await.expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn families_take_turns_and_the_best_is_first() {
        let addresses = |text: &str| -> Vec<SocketAddr> {
            text.split(' ')
                .map(|address| address.parse().expect("an address"))
                .collect()
        };
        let mixed = interleaved(&addresses("[::1]:1 [::2]:1 [::3]:1 1.1.1.1:1 2.2.2.2:1"));
        assert_eq!(
            mixed,
            addresses("[::1]:1 1.1.1.1:1 [::2]:1 2.2.2.2:1 [::3]:1")
        );
    }

    proptest! {
        #[test]
        fn every_address_is_tried_once(addresses: Vec<SocketAddr>) {
            let mut mixed = interleaved(&addresses);
            prop_assert_eq!(mixed.first(), addresses.first());
            let mut all = addresses;
            mixed.sort_unstable();
            all.sort_unstable();
            prop_assert_eq!(mixed, all);
        }
    }
}
