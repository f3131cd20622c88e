//! TLS toward the endpoints of a pool: the authorities of the pool, and the name of each endpoint.

use std::{io, sync::Arc};

use hermes_core::{
    address::{ServerAddress, ServerHost},
    policy::EndpointTrust,
    snapshot::Pool,
};
use hermes_runtime::tls::{NoAuthority, ServerTrust};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::connect_error::EndpointConnectError;

/// How to secure new connections to the endpoints of one pool. A view has one by the newest policy;
/// connections that are open keep what they began with.
#[derive(Clone)]
pub(crate) struct PoolTls(Option<Result<TlsConnector, NoAuthority>>);

/// The name that an endpoint's certificate has to have; `None` without TLS.
pub(super) struct CertificateName(Option<ServerName<'static>>);

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
        if let Some((_, known)) = before.filter(|(old, known)| *old == trust && known.0.is_some()) {
            return known.clone();
        }
        let authorities = match trust {
            EndpointTrust::System => ServerTrust::system(),
            EndpointTrust::Authorities(pem) => ServerTrust::of(pem.as_bytes()),
        };
        let made = authorities.map(|trust| TlsConnector::from(Arc::new(trust.client())));
        if let Err(error) = &made {
            tracing::error!(pool = &*pool.spec.name, %error, "no endpoint at an https address can be reached");
        }
        Self(Some(made))
    }

    /// Completes the handshake. There is no fallback to plain text.
    pub(super) async fn secure(
        &self,
        name: ServerName<'static>,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, EndpointConnectError> {
        match &self.0 {
            Some(Ok(connector)) => {
                let secured = connector.connect(name, stream).await;
                secured.map_err(EndpointConnectError::Secure)
            }
            Some(Err(error)) => Err(EndpointConnectError::Secure(io::Error::other(*error))),
            // Endpoints and policy are of one view.
            None => Err(EndpointConnectError::Secure(io::Error::other(
                "TLS is not set up",
            ))),
        }
    }
}

// === CertificateName ===

impl CertificateName {
    /// The server name of the address, or its host.
    pub(super) fn of(address: &ServerAddress) -> Self {
        if !address.is_secured() {
            return Self(None);
        }
        let name = match (address.server_name(), address.host()) {
            (Some(name), _) | (None, ServerHost::Name(name)) => {
                let name = ServerName::try_from(name.as_str().to_owned());
                name.expect("a DNS name is a server's name")
            }
            (None, ServerHost::Ip(ip)) => ServerName::from(*ip),
        };
        Self(Some(name))
    }

    pub(super) fn get(&self) -> Option<&ServerName<'static>> {
        self.0.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(url: &str) -> Option<String> {
        let address = ServerAddress::parse(url).expect("an address");
        let name = CertificateName::of(&address);
        name.get().map(|name| name.to_str().into_owned())
    }

    #[test]
    fn certificates_are_verified_for_the_host_or_the_configured_name() {
        assert_eq!(name("http://10.0.0.7:8000"), None);
        assert_eq!(name("https://10.0.0.7:8000").as_deref(), Some("10.0.0.7"));
        assert_eq!(name("https://[fd00::7]").as_deref(), Some("fd00::7"));
        assert_eq!(name("https://Engine.AI").as_deref(), Some("engine.ai"));
        let address = ServerAddress::parse("https://10.0.0.7").expect("an address");
        let named = address.with_server_name("engines.ai".parse().expect("a name"));
        let name = CertificateName::of(&named);
        assert_eq!(name.get(), ServerName::try_from("engines.ai").ok().as_ref());
    }

    proptest! {
        #[test]
        fn every_address_has_a_name_for_certificates(host in "[a-zA-Z0-9._-]{1,70}") {
            if let Ok(address) = ServerAddress::parse(&format!("https://{host}")) {
                prop_assert!(CertificateName::of(&address).get().is_some());
            }
        }
    }
}
