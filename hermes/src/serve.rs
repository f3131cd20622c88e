//! `hermes serve`: both planes in this process, in front of model servers that run elsewhere.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{ArgGroup, Args};
use hermes_control_plane::{
    app::ConfigSource,
    config::{Config, duration},
};
use hermes_data_plane::args::PickerArgs;
use hermes_runtime::{
    open_files, panics,
    shutdown::Shutdown,
    telemetry::{LogFormat, Telemetry},
};

use crate::{
    failure::Failure,
    output,
    planes::{self, Planes},
    process,
};

/// The command line of `hermes serve`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("source").required(true).args(["config", "endpoint"]))]
pub(crate) struct ServeArgs {
    /// The configuration file (YAML), read again whenever it changes
    #[arg(long, env = "HERMES_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,

    /// A model server, such as http://127.0.0.1:8100; give it several times, or several separated
    /// by commas
    #[arg(
        long,
        env = "HERMES_ENDPOINT",
        value_name = "URL",
        value_delimiter = ','
    )]
    endpoint: Vec<String>,

    /// How an endpoint is chosen: kv-aware (the default), round-robin, random, least-request,
    /// power-of-two, session-affinity, prefix-cache or hermes-classic; a configuration file says it
    /// for each pool
    #[arg(
        long,
        env = "HERMES_STRATEGY",
        value_name = "NAME",
        conflicts_with = "config"
    )]
    strategy: Option<String>,

    /// Where clients connect
    #[arg(
        long,
        env = "HERMES_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8000"
    )]
    listen: SocketAddr,

    #[command(flatten)]
    picker: PickerArgs,

    /// The certificates of listeners: a directory with a folder NAME for each, with tls.crt and
    /// tls.key; the configuration names them
    #[arg(long, env = "HERMES_LISTENER_CERTIFICATES", value_name = "DIR")]
    listener_certificates: Option<PathBuf>,

    /// Where probes and metrics are served
    #[arg(
        long,
        env = "HERMES_ADMIN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8001"
    )]
    admin: SocketAddr,

    /// Where the control plane listens (gRPC), for this process and for more proxies
    #[arg(
        long,
        env = "HERMES_CONTROL_PLANE_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:0"
    )]
    control_plane_listen: SocketAddr,

    /// Where engines connect whose KV-event publishers dial; may be given several times
    #[arg(
        long,
        env = "HERMES_KV_EVENTS_LISTEN",
        value_name = "ADDRESS",
        value_delimiter = ','
    )]
    kv_events_listen: Vec<SocketAddr>,

    /// Where the control plane's probes, metrics and debug pages are served
    #[arg(
        long,
        env = "HERMES_CONTROL_PLANE_ADMIN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:0"
    )]
    control_plane_admin: SocketAddr,

    /// How log lines look: text or json
    #[arg(
        long,
        env = "HERMES_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text"
    )]
    log_format: LogFormat,

    /// How long requests in flight may take to finish after SIGTERM or Ctrl-C; a second one ends
    /// them at once
    #[arg(long, env = "HERMES_DRAIN", value_name = "DURATION", default_value = "30s", value_parser = read_duration)]
    drain: Duration,
}

impl ServeArgs {
    fn options(self) -> Result<planes::Options, Failure> {
        let config = match self.config {
            Some(path) => ConfigSource::File(path),
            None => ConfigSource::Value(
                Config::serve(&self.endpoint, self.strategy.as_deref()).map_err(Failure::Flags)?,
            ),
        };
        Ok(planes::Options {
            config,
            listen: self.listen,
            listener_certificates: self.listener_certificates,
            admin: Some(self.admin),
            picker: self.picker.options(),
            control_plane_listen: self.control_plane_listen,
            kv_events_listen: self.kv_events_listen,
            control_plane_admin: Some(self.control_plane_admin),
        })
    }
}

/// Serves until a signal ends it.
pub(crate) async fn run(args: ServeArgs) -> Result<(), Failure> {
    let (grace, log_format) = (args.drain, args.log_format);
    // Wrong flags are reported before any log line.
    let options = args.options()?;
    let telemetry = Telemetry::init(process::SERVICE, log_format)?;
    open_files::raise_limit();
    panics::install_hook();
    let shutdown = Shutdown::from_signals().map_err(Failure::Process)?;
    let planes = Planes::start(options, shutdown.drain()).await?;
    announce(&planes)?;
    shutdown.run(grace).await;
    planes.stop().await;
    telemetry.shutdown(process::SHUTDOWN_GRACE).await;
    Ok(())
}

/// The addresses, as bound. The first line is the one that scripts read.
fn announce(planes: &Planes) -> Result<(), Failure> {
    output::line(format_args!("listening on http://{}", planes.listen()))?;
    if let Some(picker) = planes.picker() {
        output::line(format_args!("gateways at {picker} (ext_proc)"))?;
    }
    if let Some(admin) = planes.admin() {
        output::line(format_args!(
            "admin on http://{admin} (/readyz, /metrics, /debug/snapshot, /debug/records)"
        ))?;
    }
    output::line(format_args!(
        "control plane on {} (gRPC)",
        planes.control_plane()
    ))?;
    if let Some(admin) = planes.control_plane_admin() {
        output::line(format_args!(
            "control plane's admin on http://{admin} (/readyz, /metrics, /debug/snapshot)"
        ))?;
    }
    Ok(())
}

fn read_duration(text: &str) -> Result<Duration, String> {
    duration::parse(text).ok_or_else(|| format!("`{text}` is not a duration such as 30s or 1m30s"))
}
