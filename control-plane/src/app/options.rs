//! What a control plane is started with, and why it may not start.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
};

use hermes_runtime::{admin::BindError, tls::TlsError};

use crate::{
    config::{Config, watch::LoadError},
    events::Pod,
};

/// What a control plane is started with.
pub struct Options {
    /// The configuration.
    pub config: ConfigSource,
    /// Where proxies connect; port 0 takes any.
    pub listen: SocketAddr,
    /// Where publishers of KV events connect that dial, if any do; port 0 takes any.
    pub kv_events: Vec<SocketAddr>,
    /// The replicas to share the events of these publishers with, `host:port` each.
    pub kv_events_replicas: Vec<String>,
    /// A folder with `ca.crt`, `tls.crt` and `tls.key`: proxies must then show a certificate that
    /// this authority signed.
    pub tls: Option<PathBuf>,
    /// Whether certificates of listeners, with their keys, are sent to proxies that connect without
    /// TLS too.
    pub certificates_without_tls: bool,
    /// Where probes and metrics are served, if at all; port 0 takes any.
    pub admin: Option<SocketAddr>,
    /// Names the replica among others, such as the pod's name; drawn at random when absent.
    pub replica: Option<Arc<str>>,
    /// The Kubernetes API server to watch; the one that the environment names when absent.
    pub kube: Option<kube::Client>,
    /// The pod that it runs in: refused configurations become Kubernetes Events on it.
    pub pod: Option<Pod>,
}

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub enum ConfigSource {
    /// A file, followed as it changes.
    File(PathBuf),
    /// A value, for good.
    Value(Config),
}

/// Why a control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is invalid or unreadable.
    #[error(transparent)]
    Config(#[from] LoadError),
    /// A port cannot be bound.
    #[error("cannot listen on {address}, set by {flag}: {source}")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// The flag that configures it.
        flag: &'static str,
        /// The error of the system.
        source: io::Error,
    },
    /// The admin port cannot be bound.
    #[error(transparent)]
    Admin(#[from] BindError),
    /// The folder of certificates cannot be used.
    #[error("{0} (--tls)")]
    Tls(#[from] TlsError),
    /// The process has no usable TLS configuration.
    #[error("the client for engines' metrics cannot be built: {0}")]
    EngineProbes(#[from] reqwest::Error),
}

// === Options ===

impl Options {
    /// Any free ports on the loopback interface: for tests, and for both planes in one process.
    #[must_use]
    pub fn local(config: ConfigSource) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            config,
            listen: any,
            kv_events: Vec::new(),
            kv_events_replicas: Vec::new(),
            tls: None,
            certificates_without_tls: false,
            admin: Some(any),
            replica: None,
            kube: None,
            pod: None,
        }
    }
}

/// A number that no other start is likely to draw. Not for secrets.
pub(super) fn at_random() -> u64 {
    RandomState::new().build_hasher().finish()
}
