//! Both planes in this process: the code of the two server binaries, joined by gRPC over the
//! loopback.
//!
//! They end in an order: the data plane first, with the drain that it was started with, then the
//! control plane, so that requests in flight still have a control plane to be reported to.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use hermes_control_plane::app::{self as control_plane, ConfigSource};
use hermes_data_plane::app as data_plane;
use hermes_runtime::{
    readiness::Readiness,
    shutdown::{Drain, Shutdown, Trigger},
};

use crate::failure::Failure;

/// How long each plane may take to end once nothing is in flight.
const LAST: Duration = Duration::from_secs(1);

/// What both planes are started with. Port 0 takes any.
#[derive(Debug)]
pub(crate) struct Options {
    /// Pools and policies.
    pub(crate) config: ConfigSource,
    /// Where clients connect.
    pub(crate) listen: SocketAddr,
    /// The certificates of listeners.
    pub(crate) listener_certificates: Option<PathBuf>,
    /// The data plane's probes and metrics.
    pub(crate) admin: Option<SocketAddr>,
    /// Where the data plane connects to the control plane.
    pub(crate) control_plane_listen: SocketAddr,
    /// Where publishers of KV events connect that dial.
    pub(crate) kv_events_listen: Vec<SocketAddr>,
    /// The control plane's probes, metrics and debug pages.
    pub(crate) control_plane_admin: Option<SocketAddr>,
    /// Where gateways connect to the data plane.
    pub(crate) picker: Option<data_plane::PickerOptions>,
}

/// Both planes, running. Dropping it cuts everything off.
#[derive(Debug)]
pub(crate) struct Planes {
    data_plane: data_plane::DataPlane,
    control_plane: control_plane::ControlPlane,
    shutdown: Shutdown,
    trigger: Trigger,
}

impl Planes {
    /// Starts both; `drain` is the data plane's.
    pub(crate) async fn start(options: Options, drain: Drain) -> Result<Self, Failure> {
        let Options {
            config,
            listen,
            listener_certificates,
            admin,
            control_plane_listen,
            kv_events_listen,
            control_plane_admin,
            picker,
        } = options;
        let (shutdown, trigger) = Shutdown::manual();
        let options = control_plane::Options {
            config,
            listen: control_plane_listen,
            kv_events: kv_events_listen,
            kv_events_replicas: Vec::new(),
            tls: None,
            // Both planes are this process.
            certificates_without_tls: control_plane_listen.ip().is_loopback(),
            admin: control_plane_admin,
            replica: Some("hermes".into()),
            kube: None,
            pod: None,
        };
        let control_plane = control_plane::start(options, shutdown.drain()).await?;
        let options = data_plane::DataPlaneOptions {
            control_planes: vec![reachable(control_plane.grpc).to_string()],
            tls: None,
            listener_certificates,
            listen,
            admin,
            name: "hermes".to_owned(),
            workers: data_plane::cores(),
            picker,
        };
        let data_plane = data_plane::start(options, drain).await?;
        Ok(Self {
            data_plane,
            control_plane,
            shutdown,
            trigger,
        })
    }

    /// Where clients connect.
    pub(crate) const fn listen(&self) -> SocketAddr {
        self.data_plane.listen
    }

    /// The data plane's probes and metrics.
    pub(crate) const fn admin(&self) -> Option<SocketAddr> {
        self.data_plane.admin
    }

    /// Where gateways connect, if they may.
    pub(crate) const fn picker(&self) -> Option<SocketAddr> {
        self.data_plane.picker
    }

    /// The control plane's gRPC port.
    pub(crate) const fn control_plane(&self) -> SocketAddr {
        self.control_plane.grpc
    }

    /// The control plane's probes, metrics and debug pages.
    pub(crate) const fn control_plane_admin(&self) -> Option<SocketAddr> {
        self.control_plane.admin
    }

    /// Whether the data plane has a snapshot to route by.
    pub(crate) const fn readiness(&self) -> &Readiness {
        &self.data_plane.readiness
    }

    /// Ends what is left after the data plane's drain is over.
    pub(crate) async fn stop(self) {
        let Self {
            data_plane,
            control_plane,
            shutdown,
            trigger,
        } = self;
        data_plane.tasks.shutdown(LAST).await;
        trigger.fire();
        shutdown.run(LAST).await;
        control_plane.join(LAST).await;
    }
}

/// An address to connect to: one that listens everywhere is reached on the loopback.
fn reachable(bound: SocketAddr) -> SocketAddr {
    let mut address = bound;
    if bound.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    address
}
