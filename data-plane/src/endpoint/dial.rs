//! Opens sockets to one endpoint.

use std::{net::SocketAddr, slice, sync::Arc, time::Duration};

use hermes_core::address::{ServerAddress, ServerHost};
use tokio::time::{Instant, timeout_at};

use super::{
    connect_error::EndpointConnectError,
    race,
    resolve::{NameResolver, ResolvedName},
    secure::{EndpointTls, PoolTls, TlsSession},
    stream::EndpointStream,
};
use crate::tcp::VanishedPeer;

/// An endpoint's host that vanished. What is written is acknowledged sooner by any server that is
/// only busy, and this is shorter than any answer's own deadline.
const VANISHED: VanishedPeer = VanishedPeer {
    keep_alive: Duration::from_secs(15),
    probe: Duration::from_secs(5),
    probes: 3,
    unacknowledged: Duration::from_secs(30),
};

/// Where to connect to and how to secure it, for all connections of one endpoint.
pub(crate) struct EndpointDialer {
    target: DialTarget,
    /// Present if the address is secured.
    tls: Option<EndpointTls>,
}

enum DialTarget {
    Socket(SocketAddr),
    Name(ResolvedName),
}

/// A stream that is connected, and how it was secured if it was.
type DialedStream = (EndpointStream, Option<TlsSession>);

impl EndpointDialer {
    /// `resolver` is used if the host is a name, `tls` if the address is secured.
    pub(crate) fn new(
        address: &ServerAddress,
        resolver: Arc<dyn NameResolver>,
        tls: &PoolTls,
    ) -> Self {
        let port = address.port().get();
        let target = match address.host() {
            ServerHost::Ip(ip) => DialTarget::Socket(SocketAddr::new(*ip, port)),
            ServerHost::Name(name) => {
                DialTarget::Name(ResolvedName::new(name.clone(), port, resolver))
            }
        };
        Self {
            target,
            tls: EndpointTls::of(address, tls),
        }
    }

    /// Secures connections by `tls` from now on, if the address is secured.
    pub(super) fn secure_by(&self, tls: &PoolTls) {
        if let Some(own) = &self.tls {
            own.set(tls);
        }
    }

    /// Whether a connection with this session may get another request; a plain one always may.
    pub(super) fn is_current(&self, session: Option<&TlsSession>) -> bool {
        session.is_none_or(|session| self.tls.as_ref().is_some_and(|tls| tls.is_current(session)))
    }

    /// The address that is tried first, within `limit`.
    ///
    /// # Errors
    /// When it is behind a name that has none.
    pub(super) async fn first_address(
        &self,
        limit: Duration,
    ) -> Result<SocketAddr, EndpointConnectError> {
        match &self.target {
            DialTarget::Socket(address) => Ok(*address),
            DialTarget::Name(name) => {
                let found = name.addresses(limit).await;
                Ok(found.map_err(EndpointConnectError::Resolve)?[0])
            }
        }
    }

    /// A socket that is connected, and secured if the address says so, within `limit`. A name whose
    /// addresses fail is looked up again.
    pub(super) async fn dial(&self, limit: Duration) -> Result<DialedStream, EndpointConnectError> {
        let deadline = Instant::now() + limit;
        let known;
        let addresses = match &self.target {
            DialTarget::Socket(address) => slice::from_ref(address),
            DialTarget::Name(name) => {
                let found = name.addresses(limit).await;
                known = found.map_err(EndpointConnectError::Resolve)?;
                &*known
            }
        };
        let opened = timeout_at(deadline, self.open(addresses))
            .await
            .unwrap_or(Err(EndpointConnectError::Timeout(limit)));
        if let (Err(_), DialTarget::Name(name)) = (&opened, &self.target) {
            name.look_up();
        }
        opened
    }

    async fn open(&self, addresses: &[SocketAddr]) -> Result<DialedStream, EndpointConnectError> {
        let stream = race::connect(addresses).await?;
        VANISHED.prepare(&stream)?;
        let Some(tls) = &self.tls else {
            return Ok((EndpointStream::Plain(stream), None));
        };
        // Boxed, so that a plain connection does not carry the state of a handshake.
        let (secured, session) = Box::pin(tls.secure(stream)).await?;
        Ok((EndpointStream::Secured(Box::new(secured)), Some(session)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::{FutureExt, future::BoxFuture};
    use hermes_core::address::DnsName;
    use hermes_runtime::tls::ServerTrust;
    use socket2::SockRef;
    use tokio::net::TcpListener;

    use super::*;

    /// The loopback, and how often it was looked up.
    #[derive(Default)]
    struct Loopback(AtomicUsize);

    impl NameResolver for Loopback {
        fn resolve(
            &self,
            _: &DnsName,
            port: u16,
        ) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            async move { Ok(vec![([127, 0, 0, 1], port).into()]) }.boxed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_looked_up_again_after_a_handshake_that_takes_too_long() {
        // The backlog accepts, and no one reads.
        let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = silent.local_addr().expect("bound").port();
        let resolver = Arc::new(Loopback::default());
        let address = ServerAddress::parse(&format!("https://engine:{port}")).expect("an address");
        let shared: Arc<dyn NameResolver> = Arc::clone(&resolver) as _;
        let tls = PoolTls::by(Ok(ServerTrust::none()));
        let dialer = EndpointDialer::new(&address, shared, &tls);
        let limit = Duration::from_secs(2);
        let failure = dialer.dial(limit).await.err().expect("no handshake");
        assert!(matches!(failure, EndpointConnectError::Timeout(late) if late == limit));
        assert_eq!(resolver.0.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_host_that_vanishes_is_noticed_by_the_kernel() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let address = ServerAddress::try_from(address).expect("an address");
        let dialer = EndpointDialer::new(
            &address,
            Arc::<Loopback>::default(),
            &PoolTls::by(Ok(ServerTrust::none())),
        );
        let dialed = dialer.dial(Duration::from_secs(2)).await;
        let Ok((EndpointStream::Plain(stream), None)) = dialed else {
            panic!("a plain connection");
        };
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().expect("an option"));
        #[cfg(target_os = "linux")]
        {
            let probing = socket.tcp_keepalive_time().expect("an option");
            let vanished = socket.tcp_user_timeout().expect("an option");
            let expected = (VANISHED.keep_alive, Some(VANISHED.unacknowledged));
            assert_eq!((probing, vanished), expected);
        }
    }
}
