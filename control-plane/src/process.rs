//! The life of the process `hermes-control-plane`: logs, control plane, signals, drain.

use std::{io, num::NonZero, sync::Arc, thread, time::Duration};

use hermes_runtime::{
    open_files, panics,
    shutdown::Shutdown,
    telemetry::{Service, Telemetry, TelemetryError},
};

use crate::{
    app::{self, ConfigSource, Options, StartError},
    args::Args,
    events::Pod,
};

/// Limit of the steps after the drain.
const LAST: Duration = Duration::from_secs(2);

/// Why the process fails.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The runtime, or its signal handlers, could not be set up.
    #[error("cannot set up the process: {0}")]
    Runtime(#[from] io::Error),
    /// Logs or traces could not be set up.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The control plane did not start.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Runs a control plane until a signal ends it.
///
/// # Errors
/// When it does not start.
pub fn run(args: Args) -> Result<(), ProcessError> {
    // Two at least: the exporter of traces blocks one while it needs another.
    let threads = thread::available_parallelism()
        .map_or(2, NonZero::get)
        .max(2);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()?;
    runtime.block_on(live(args))
}

async fn live(args: Args) -> Result<(), ProcessError> {
    let Args {
        config,
        listen,
        kv_events_listen,
        kv_events_replicas,
        tls,
        certificates_without_tls,
        admin,
        log_format,
        drain: grace,
    } = args;
    let service = Service {
        name: "hermes-control-plane",
        version: env!("CARGO_PKG_VERSION"),
    };
    let telemetry = Telemetry::init(service, log_format)?;
    open_files::raise_limit();
    panics::install_hook();
    let shutdown = Shutdown::from_signals()?;
    let options = Options {
        config: ConfigSource::File(config),
        listen,
        kv_events: kv_events_listen,
        kv_events_replicas,
        tls,
        certificates_without_tls,
        admin: Some(admin),
        replica: replica_name(|name| std::env::var(name).ok(), listen.port()),
        kube: None,
        pod: Pod::from_environment(),
    };
    let bound = app::start(options, shutdown.drain()).await?;
    shutdown.run(grace).await;
    bound.join(LAST).await;
    telemetry.shutdown(LAST).await;
    Ok(())
}

/// The name of this replica, by which proxies share out the pools: no two of a proxy's replicas may
/// have the same, and a process that restarts keeps it. In Kubernetes it is the pod's. The name of
/// a host is not enough where several processes run on it, which listen at different ports.
fn replica_name(variable: impl Fn(&str) -> Option<String>, port: u16) -> Option<Arc<str>> {
    let read = |name| variable(name).filter(|value| !value.is_empty());
    let of_host = || Some(format!("{}:{port}", read("HOSTNAME")?));
    read("POD_NAME").or_else(of_host).map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_on_one_host_have_names_of_their_own() {
        let host = |name: &str| (name == "HOSTNAME").then(|| "box".to_owned());
        assert_eq!(replica_name(host, 7070).as_deref(), Some("box:7070"));
        assert_ne!(replica_name(host, 7070), replica_name(host, 7071));
        let pod = |name: &str| match name {
            "POD_NAME" => Some("hermes-0".to_owned()),
            _ => host(name),
        };
        assert_eq!(replica_name(pod, 7070).as_deref(), Some("hermes-0"));
        assert_eq!(replica_name(|_| Some(String::new()), 7070), None);
    }
}
