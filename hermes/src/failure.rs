//! Why a command fails, for the person who typed it.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use hermes_bench::load::LoadError;
use hermes_bench::record::RecordError;
use hermes_bench::replay::live::LiveReplayError;
use hermes_bench::report::WriteError;
use hermes_bench::simulate::SimulateError;
use hermes_control_plane::{app as control_plane, config::ConfigErrors};
use hermes_data_plane::app as data_plane;
use hermes_runtime::telemetry::TelemetryError;

/// Why a command fails. The texts name the flag to change, where there is one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The runtime, or its signal handlers.
    #[error("cannot set up the process: {0}")]
    Process(#[source] io::Error),
    /// Logs or traces.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// A file that was named.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Flags that amount to no configuration.
    #[error("{0}")]
    Flags(ConfigErrors),
    /// A port that is taken, or not ours to take.
    #[error("cannot listen on {address} ({flag}): {source}")]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// Where it was asked for.
        flag: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A simulated engine that does not start.
    #[error("the simulated engine cannot start: {0}")]
    Engine(#[source] io::Error),
    /// The control plane does not start.
    #[error(transparent)]
    ControlPlane(control_plane::StartError),
    /// The data plane does not start.
    #[error(transparent)]
    DataPlane(#[from] data_plane::DataPlaneStartError),
    /// The planes run, and cannot serve.
    #[error("the router is not ready after {0:?}")]
    NotReady(Duration),
    /// A load that cannot be sent.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A simulation that did not run.
    #[error(transparent)]
    Simulate(#[from] SimulateError),
    /// A live replay that did not run.
    #[error(transparent)]
    LiveReplay(#[from] LiveReplayError),
    /// A report that cannot be written.
    #[error(transparent)]
    Page(WriteError),
    /// Nothing can be recorded.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Standard output, or the terminal.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
}

impl Failure {
    /// Whether the reader of the output closed it, as in `hermes check FILE | head -1`.
    pub(crate) fn is_reader_gone(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl From<control_plane::StartError> for Failure {
    fn from(error: control_plane::StartError) -> Self {
        match error {
            // The binary of the control plane has another flag for this port.
            control_plane::StartError::Listen {
                address, source, ..
            } => Self::Listen {
                address,
                flag: "--control-plane-listen",
                source,
            },
            other => Self::ControlPlane(other),
        }
    }
}
