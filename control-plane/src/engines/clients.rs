//! HTTP clients for engines, by whose signatures on certificates count.
//!
//! Engines of one pool share a client, and so its settings of TLS. One whose certificate has
//! another name than its host is asked by that name, and has a client of its own that connects to
//! the host.

use std::{
    collections::HashMap,
    fmt,
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
};

use hermes_core::{
    address::{ServerAddress, ServerHost},
    policy::EndpointTrust,
};
use hermes_runtime::tls::ServerTrust;
use parking_lot::Mutex;
use reqwest::{
    Client, ClientBuilder, Url,
    dns::{Addrs, Name, Resolve, Resolving},
};
use rustls::ClientConfig;
use tokio::task;
use tokio_util::task::AbortOnDropHandle;

/// Most sets of authorities whose clients are kept; there is one for each pool, and old ones after
/// rotations.
const MAX_KEPT: usize = 256;

/// Makes clients, and keeps those that can be shared. Clones share them.
#[derive(Clone)]
pub(crate) struct EngineClients(Arc<KeptClients>);

struct KeptClients {
    /// Everything but TLS.
    builder: Box<dyn Fn() -> ClientBuilder + Send + Sync>,
    plain: Client,
    secured: Mutex<HashMap<EndpointTrust, SecuredClient>>,
}

#[derive(Clone)]
struct SecuredClient {
    client: Client,
    config: ClientConfig,
}

/// A client for one engine.
#[derive(Clone, Debug)]
pub(crate) struct EngineClient {
    pub(crate) client: Client,
    /// What its URLs begin with.
    base: ServerAddress,
}

/// Why an engine cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoEngineClient {
    #[error("{0} is no URL for an HTTP client")]
    Url(String),
    #[error("HTTP client cannot be built: {0}")]
    Client(#[from] reqwest::Error),
}

/// Resolves every name to the addresses of one host.
struct DialedHost(ServerHost);

// === EngineClients ===

impl EngineClients {
    /// Clients that `builder` begins.
    ///
    /// # Errors
    /// When the process has no usable TLS configuration.
    pub(crate) fn new(
        builder: impl Fn() -> ClientBuilder + Send + Sync + 'static,
    ) -> Result<Self, reqwest::Error> {
        // A client for plain HTTP needs no CA certificates, which an image may not have.
        let plain = builder().tls_certs_only([]).build()?;
        Ok(Self(Arc::new(KeptClients {
            builder: Box::new(builder),
            plain,
            secured: Mutex::default(),
        })))
    }

    /// A client for the engine at `address`, whose certificate `trust` verifies.
    ///
    /// # Errors
    /// When no client can be built.
    pub(crate) fn to(
        &self,
        address: &ServerAddress,
        trust: &EndpointTrust,
    ) -> Result<EngineClient, NoEngineClient> {
        if !address.is_secured() {
            return Ok(EngineClient {
                client: self.0.plain.clone(),
                base: address.clone(),
            });
        }
        let SecuredClient { client, config } = self.secured(trust)?;
        let Some(name) = address.server_name() else {
            return Ok(EngineClient {
                client,
                base: address.clone(),
            });
        };
        let named = ServerHost::Name(name.clone());
        let base = ServerAddress::new(address.scheme(), named, address.port());
        let base = base.with_base_path(address.base_path());
        let builder = (self.0.builder)()
            .tls_backend_preconfigured(config)
            .dns_resolver(Arc::new(DialedHost(address.host().clone())));
        Ok(EngineClient {
            client: builder.build()?,
            base: base.map_err(|_| NoEngineClient::Url(address.to_string()))?,
        })
    }

    fn secured(&self, trust: &EndpointTrust) -> Result<SecuredClient, NoEngineClient> {
        let mut kept = self.0.secured.lock();
        if let Some(known) = kept.get(trust) {
            return Ok(known.clone());
        }
        let authorities = match trust {
            EndpointTrust::System => ServerTrust::system(),
            EndpointTrust::Authorities(pem) => ServerTrust::of(pem.as_bytes()),
        };
        // Engines are asked all the same: what cannot be verified is unreachable, and counts so.
        let authorities = authorities.unwrap_or_else(|error| {
            tracing::error!(%error, "no engine at an https address can be verified");
            ServerTrust::none()
        });
        let config = authorities.client();
        let builder = (self.0.builder)().tls_backend_preconfigured(config.clone());
        let secured = SecuredClient {
            client: builder.build()?,
            config,
        };
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(trust.clone(), secured.clone());
        Ok(secured)
    }
}

impl fmt::Debug for EngineClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineClients").finish_non_exhaustive()
    }
}

// === EngineClient ===

impl EngineClient {
    /// The URL of a page, whose path begins with a slash.
    ///
    /// # Errors
    /// When the engine's name is none for the client: it reads international names.
    pub(crate) fn page(&self, path: &str) -> Result<Url, NoEngineClient> {
        let url = self.base.page(path);
        Url::parse(&url).map_err(|_| NoEngineClient::Url(url))
    }
}

// === DialedHost ===

impl Resolve for DialedHost {
    fn resolve(&self, _: Name) -> Resolving {
        let host = self.0.clone();
        Box::pin(async move {
            // The port is that of the URL, whatever stands here.
            let addresses: Addrs = match host {
                ServerHost::Ip(ip) => Box::new(std::iter::once(SocketAddr::new(ip, 0))),
                ServerHost::Name(name) => {
                    let look_up = move || (name.as_str(), 0).to_socket_addrs();
                    // A lookup that nobody waits for any more does not begin: as many threads as
                    // resolve names may hang for as long as the resolver does.
                    let found = AbortOnDropHandle::new(task::spawn_blocking(look_up));
                    Box::new(found.await??)
                }
            };
            Ok(addresses)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dialed_host_resolves_to_its_own_addresses_whatever_name_is_asked_for() {
        let resolve = |host: &str| {
            let address = ServerAddress::parse(&format!("https://{host}:8443"));
            let host = address.expect("an address").host().clone();
            DialedHost(host).resolve("engines.example.com".parse().expect("a name"))
        };
        let mut literal = resolve("127.0.0.7").await.expect("an address");
        assert_eq!(literal.next(), Some(([127, 0, 0, 7], 0).into()));
        let mut found = resolve("localhost").await.expect("every machine has it");
        assert!(found.all(|address| address.ip().is_loopback() && address.port() == 0));
    }
}
