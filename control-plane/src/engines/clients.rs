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
    time::Duration,
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
use tokio::{task, time::Instant};
use tokio_util::task::AbortOnDropHandle;

/// Most sets of authorities whose clients are kept; there is one for each pool, and old ones after
/// rotations.
const MAX_KEPT: usize = 256;

/// After this time authorities are read again that could not be read.
const READ_AGAIN: Duration = Duration::from_secs(10);

/// Makes clients, and keeps those that can be shared. Clones share them.
#[derive(Clone)]
pub(crate) struct EngineClients(Arc<KeptClients>);

struct KeptClients {
    /// Everything but TLS.
    builder: Box<dyn Fn() -> ClientBuilder + Send + Sync>,
    plain: Client,
    /// Over HTTP/2, without asking whether that is spoken.
    plain_http2: Client,
    secured: Mutex<HashMap<EndpointTrust, SecuredClient>>,
}

#[derive(Clone)]
struct SecuredClient {
    client: Client,
    config: ClientConfig,
    /// See [`EngineClient::until`].
    until: Option<Instant>,
}

/// A client for one engine.
#[derive(Clone, Debug)]
pub(crate) struct EngineClient {
    pub(crate) client: Client,
    /// What its URLs begin with.
    base: ServerAddress,
    /// Until when it stands in for one that can verify engines: its authorities could not be read.
    /// `None` when they were.
    until: Option<Instant>,
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
        let plain = builder().tls_certs_only([]).http1_only().build()?;
        let plain_http2 = builder()
            .tls_certs_only([])
            .http2_prior_knowledge()
            .build()?;
        Ok(Self(Arc::new(KeptClients {
            builder: Box::new(builder),
            plain,
            plain_http2,
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
                until: None,
            });
        }
        let SecuredClient {
            client,
            config,
            until,
        } = self.secured(trust)?;
        let Some(name) = address.server_name() else {
            return Ok(EngineClient {
                client,
                base: address.clone(),
                until,
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
            until,
        })
    }

    /// The same, in a pool whose endpoints at `http` addresses are spoken to over HTTP/2.
    ///
    /// # Errors
    /// When no client can be built.
    pub(crate) fn over_http2(
        &self,
        address: &ServerAddress,
        trust: &EndpointTrust,
    ) -> Result<EngineClient, NoEngineClient> {
        let engine = self.to(address, trust)?;
        Ok(if address.is_secured() {
            engine
        } else {
            EngineClient {
                client: self.0.plain_http2.clone(),
                ..engine
            }
        })
    }

    fn secured(&self, trust: &EndpointTrust) -> Result<SecuredClient, NoEngineClient> {
        let mut kept = self.0.secured.lock();
        if let Some(known) = kept.get(trust).filter(|known| !is_past(known.until)) {
            return Ok(known.clone());
        }
        let authorities = match trust {
            EndpointTrust::System => ServerTrust::system(),
            EndpointTrust::Authorities(pem) => ServerTrust::of(pem.as_bytes()),
        };
        // Engines are asked all the same: what cannot be verified is unreachable, and counts so.
        let (authorities, until) = match authorities {
            Ok(authorities) => (authorities, None),
            Err(error) => {
                tracing::error!(%error, "no engine at an https address can be verified");
                (ServerTrust::none(), Some(Instant::now() + READ_AGAIN))
            }
        };
        let config = authorities.client();
        let builder = (self.0.builder)().tls_backend_preconfigured(config.clone());
        let secured = SecuredClient {
            client: builder.build()?,
            config,
            until,
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

    /// Whether another one should be asked for, because the authorities of this one could not be
    /// read and may be readable now.
    pub(crate) fn is_outdated(&self) -> bool {
        is_past(self.until)
    }
}

fn is_past(until: Option<Instant>) -> bool {
    until.is_some_and(|until| until <= Instant::now())
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
                    // A lookup whose probe has ended does not begin: as many threads as resolve
                    // names may hang for as long as the resolver does.
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
    use hermes_runtime::crypto::install_default_crypto;
    use tokio::time;

    use super::*;

    fn clients() -> EngineClients {
        install_default_crypto();
        EngineClients::new(Client::builder).expect("TLS is set up")
    }

    fn client(clients: &EngineClients, url: &str, pem: &str) -> EngineClient {
        let address = ServerAddress::parse(url).expect("an address");
        let trust = EndpointTrust::Authorities(pem.into());
        clients.to(&address, &trust).expect("a client")
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_whose_authorities_could_not_be_read_is_replaced_after_a_while() {
        let clients = clients();
        let first = client(&clients, "https://engine", "unreadable");
        time::advance(READ_AGAIN / 2).await;
        let second = client(&clients, "https://engine", "unreadable");
        assert_eq!(second.until, first.until, "not read for every engine");
        assert!(!first.is_outdated());
        time::advance(READ_AGAIN / 2).await;
        assert!(first.is_outdated());
        let third = client(&clients, "https://engine", "unreadable");
        assert!(third.until > first.until, "read again");
    }

    #[tokio::test(start_paused = true)]
    async fn other_clients_are_kept() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        let pem = params.self_signed(&key).expect("signed").pem();
        let clients = clients();
        let secured = client(&clients, "https://engine", &pem);
        let plain = client(&clients, "http://engine", "unreadable");
        time::advance(READ_AGAIN * 2).await;
        assert!(!secured.is_outdated() && !plain.is_outdated());
    }

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
