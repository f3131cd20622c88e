//! The options of a data plane.

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, thread};

/// Local configuration; everything else comes from the control plane.
#[derive(Clone, Debug)]
pub struct DataPlaneOptions {
    /// Control planes as `host:port`; each name may resolve to several replicas.
    pub control_planes: Vec<String>,
    /// A directory with `ca.crt`, `tls.crt` and `tls.key`: control planes are then dialed by TLS,
    /// and their certificates must be signed by this authority for the dialed name.
    pub tls: Option<PathBuf>,
    /// Address for clients.
    pub listen: SocketAddr,
    /// A directory with the certificates of listeners: `NAME/tls.crt` and `NAME/tls.key`.
    pub listener_certificates: Option<PathBuf>,
    /// Address of the admin port; `None` for no admin port.
    pub admin: Option<SocketAddr>,
    /// Name in logs of the control plane, such as the pod's name.
    pub name: String,
    /// Threads that serve clients and gateways.
    pub workers: NonZeroUsize,
    /// The door for gateways; `None` for no such door.
    pub picker: Option<PickerOptions>,
}

/// The door for gateways that ask where requests should go.
#[derive(Clone, Debug)]
pub struct PickerOptions {
    /// Address for gateways.
    pub listen: SocketAddr,
    /// A directory with `tls.crt` and `tls.key`: gateways then connect by TLS. They show no
    /// certificate.
    pub tls: Option<PathBuf>,
    /// How many endpoints a gateway is given at most, best first, to try one after another.
    pub endpoints: NonZeroUsize,
}

impl DataPlaneOptions {
    /// Free ports on the loopback interface and two workers: for tests.
    #[must_use]
    pub fn local(control_planes: Vec<String>) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            control_planes,
            tls: None,
            listener_certificates: None,
            listen: any,
            admin: Some(any),
            name: "test".to_owned(),
            workers: const { NonZeroUsize::new(2).expect("two is not zero") },
            picker: None,
        }
    }
}

impl PickerOptions {
    /// One endpoint for each request, and connections without TLS.
    #[must_use]
    pub const fn plain(listen: SocketAddr) -> Self {
        Self {
            listen,
            tls: None,
            endpoints: NonZeroUsize::MIN,
        }
    }
}

/// Cores that this process may use, the default number of workers.
#[must_use]
pub fn cores() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}
