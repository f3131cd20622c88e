//! TLS toward endpoints: the authorities of their pool, and the name of each.

use std::{io, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use hermes_core::{
    address::{ServerAddress, ServerHost},
    policy::EndpointTrust,
    snapshot::Pool,
};
use hermes_runtime::tls::{NoAuthority, ServerTrust, unverified_http2};
use rustls::pki_types::ServerName;
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::connect_error::EndpointConnectError;

/// A connection gets no further request this long after its handshake, so that an endpoint whose
/// certificate has expired is noticed although its connections are never idle.
const MAX_AGE: Duration = Duration::from_secs(600);

/// How to secure connections to the endpoints of one pool. Clones are the same. A view has one by
/// the newest policy, and hands it to the pool's endpoints.
#[derive(Clone)]
pub(crate) struct PoolTls(Option<Arc<TlsClient>>);

/// Handshakes by a pool's authorities, or why there are none.
type TlsClient = Result<TlsConnector, NoAuthority>;

/// TLS toward one endpoint at an `https` address.
pub(super) struct EndpointTls {
    /// The name that its certificate has to have.
    name: ServerName<'static>,
    /// By the newest policy, whichever view a request has.
    client: ArcSwapOption<TlsClient>,
}

/// How a connection was secured.
pub(super) struct TlsSession {
    client: Arc<TlsClient>,
    /// When its certificate was verified.
    since: Instant,
}

// === PoolTls ===

impl PoolTls {
    /// As the pool's policy says. `before` is what the previous view had, with its policy: it is
    /// used again while the authorities stay the same.
    pub(crate) fn of(pool: &Pool, before: Option<(&EndpointTrust, &Self)>) -> Self {
        let is_needed = |pool: &Pool| {
            let mut addresses = pool.endpoints.iter().map(|endpoint| &endpoint.address);
            addresses.any(ServerAddress::is_secured)
        };
        if !is_needed(pool) {
            return Self(None);
        }
        let trust = &pool.spec.policy.trust;
        if let Some((_, known)) =
            before.filter(|(old, known)| *old == trust && known.has_authorities())
        {
            return known.clone();
        }
        let authorities = match trust {
            EndpointTrust::System => ServerTrust::system(),
            EndpointTrust::Authorities(pem) => ServerTrust::of(pem.as_bytes()),
        };
        if let Err(error) = &authorities {
            tracing::error!(pool = &*pool.spec.name, %error, "no endpoint at an https address can be reached");
        }
        Self::by(authorities)
    }

    /// Whether it verifies by any authorities. Those that could not be read are read again with the
    /// next view.
    fn has_authorities(&self) -> bool {
        self.0.as_deref().is_some_and(Result::is_ok)
    }

    /// No connection is secured.
    pub(crate) const fn none() -> Self {
        Self(None)
    }

    /// By none: any certificate is accepted, and HTTP/2 is spoken inside.
    pub(crate) fn unverified() -> Self {
        let client = TlsConnector::from(Arc::new(unverified_http2()));
        Self(Some(Arc::new(Ok(client))))
    }

    /// By these authorities. Without any, every handshake fails.
    pub(super) fn by(authorities: Result<ServerTrust, NoAuthority>) -> Self {
        let client = authorities.map(|trust| TlsConnector::from(Arc::new(trust.client())));
        Self(Some(Arc::new(client)))
    }
}

// === EndpointTls ===

impl EndpointTls {
    /// TLS for this address, if it is secured: for its server name, or its host.
    pub(super) fn of(address: &ServerAddress, tls: &PoolTls) -> Option<Self> {
        if !address.is_secured() {
            return None;
        }
        let name = match (address.server_name(), address.host()) {
            (Some(name), _) | (None, ServerHost::Name(name)) => {
                let name = ServerName::try_from(name.as_str().to_owned());
                name.expect("a DNS name is a server's name")
            }
            (None, ServerHost::Ip(ip)) => ServerName::from(*ip),
        };
        Some(Self {
            name,
            client: ArcSwapOption::new(tls.0.clone()),
        })
    }

    /// Secures connections by `tls` from now on.
    pub(super) fn set(&self, tls: &PoolTls) {
        self.client.store(tls.0.clone());
    }

    /// Completes the handshake. There is no fallback to plain text.
    pub(super) async fn secure(
        &self,
        stream: TcpStream,
    ) -> Result<(TlsStream<TcpStream>, TlsSession), EndpointConnectError> {
        let failed = |why: io::Error| Err(EndpointConnectError::Secure(why));
        // The pool of a secured endpoint has TLS.
        let Some(client) = self.client.load_full() else {
            return failed(io::Error::other("TLS is not set up"));
        };
        let connector = match &*client {
            Ok(connector) => connector,
            Err(error) => return failed(io::Error::other(*error)),
        };
        match connector.connect(self.name.clone(), stream).await {
            Ok(stream) => {
                let since = Instant::now();
                Ok((stream, TlsSession { client, since }))
            }
            Err(error) => failed(error),
        }
    }

    /// Whether a connection may get another request: the authorities are those that its certificate
    /// was verified by, not too long ago.
    pub(super) fn is_current(&self, session: &TlsSession) -> bool {
        let client = self.client.load();
        let is_same = client
            .as_ref()
            .is_some_and(|client| Arc::ptr_eq(client, &session.client));
        is_same && session.since.elapsed() < MAX_AGE
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::time::advance;

    use super::*;

    fn no_one() -> Result<ServerTrust, NoAuthority> {
        Ok(ServerTrust::none())
    }

    fn name(url: &str) -> Option<String> {
        let address = ServerAddress::parse(url).expect("an address");
        let tls = EndpointTls::of(&address, &PoolTls(None));
        tls.map(|tls| tls.name.to_str().into_owned())
    }

    #[test]
    fn certificates_are_verified_for_the_host_or_the_configured_name() {
        assert_eq!(name("http://10.0.0.7:8000"), None);
        assert_eq!(name("https://10.0.0.7:8000").as_deref(), Some("10.0.0.7"));
        assert_eq!(name("https://[fd00::7]").as_deref(), Some("fd00::7"));
        assert_eq!(name("https://Engine.AI").as_deref(), Some("engine.ai"));
        let address = ServerAddress::parse("https://10.0.0.7").expect("an address");
        let named = address.with_server_name("engines.ai".parse().expect("a name"));
        let tls = EndpointTls::of(&named, &PoolTls(None)).expect("secured");
        assert_eq!(Some(tls.name), ServerName::try_from("engines.ai").ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_not_used_again_after_another_trust_or_ten_minutes() {
        let (old, new) = (PoolTls::by(no_one()), PoolTls::by(no_one()));
        let address = ServerAddress::parse("https://10.0.0.7").expect("an address");
        let tls = EndpointTls::of(&address, &old).expect("secured");
        let session = TlsSession {
            client: old.0.clone().expect("set up"),
            since: Instant::now(),
        };
        advance(MAX_AGE - Duration::from_secs(1)).await;
        assert!(tls.is_current(&session));
        tls.set(&new);
        assert!(!tls.is_current(&session), "verified by other authorities");
        tls.set(&old);
        assert!(tls.is_current(&session));
        advance(Duration::from_secs(1)).await;
        assert!(!tls.is_current(&session), "verified too long ago");
    }

    proptest! {
        #[test]
        fn every_address_has_a_name_for_certificates(host in "[a-zA-Z0-9._-]{1,70}") {
            if let Ok(address) = ServerAddress::parse(&format!("https://{host}")) {
                prop_assert!(EndpointTls::of(&address, &PoolTls(None)).is_some());
            }
        }
    }
}
