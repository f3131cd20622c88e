//! What a data plane needs to know before it starts.

use std::{net::SocketAddr, path::PathBuf};

/// Everything that a data plane is told; the rest comes from the control plane.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where control planes are, as `host:port`; each name may stand for several replicas.
    pub control_planes: Vec<String>,
    /// A folder with `ca.crt`, `tls.crt` and `tls.key`: control planes are then reached by TLS, and must show a certificate
    /// that this authority signed for the name by which they are dialed.
    pub tls: Option<PathBuf>,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where operators and probes connect; `None` for no admin port.
    pub admin: Option<SocketAddr>,
    /// For people: the pod's name.
    pub name: String,
    /// Threads that serve clients; with 0 the runtime that starts the data plane serves them.
    pub workers: usize,
}

impl Options {
    /// Any free ports on the loopback interface, and the caller's runtime: for tests.
    #[must_use]
    pub fn local(control_planes: Vec<String>) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            control_planes,
            tls: None,
            listen: any,
            admin: Some(any),
            name: "test".to_owned(),
            workers: 0,
        }
    }
}

/// Cores that this process may use: as many threads serve clients unless told otherwise.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}
