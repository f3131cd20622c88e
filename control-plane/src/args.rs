//! The command line of `hermes-control-plane`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Parser;
use hermes_runtime::telemetry::LogFormat;

use crate::config::duration;

/// Discovers model servers and tracks their load and caches; proxies ask it where to send each
/// request.
#[derive(Clone, Debug, Parser)]
#[command(name = "hermes-control-plane", version, about)]
pub struct Args {
    /// The configuration file (YAML), reloaded when it changes
    #[arg(long, env = "HERMES_CONFIG", value_name = "FILE")]
    pub config: PathBuf,

    /// Where proxies connect (gRPC)
    #[arg(
        long,
        env = "HERMES_LISTEN",
        value_name = "ADDRESS",
        default_value = "0.0.0.0:7070"
    )]
    pub listen: SocketAddr,

    /// Where engines connect whose KV-event publishers dial; may be given several times, as
    /// data-parallel rank r dials the port that is higher by r. None by default
    #[arg(
        long,
        env = "HERMES_KV_EVENTS_LISTEN",
        value_name = "ADDRESS",
        value_delimiter = ','
    )]
    pub kv_events_listen: Vec<SocketAddr>,

    /// The other replicas, as the host:port of their --kv-events-listen, to share the events with
    /// that publishers send to one of them; a name may have the addresses of all
    #[arg(
        long,
        env = "HERMES_KV_EVENTS_REPLICAS",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        requires = "kv_events_listen"
    )]
    pub kv_events_replicas: Vec<String>,

    /// A folder with ca.crt, tls.crt and tls.key, reloaded when they change: proxies must then
    /// connect by TLS with a client certificate of this authority
    #[arg(long, env = "HERMES_TLS", value_name = "DIR")]
    pub tls: Option<PathBuf>,

    /// Sends the certificates of Gateways' listeners, with their keys, to proxies also over connections
    /// without --tls: only where something else secures them, such as a service mesh
    #[arg(long, env = "HERMES_CERTIFICATES_WITHOUT_TLS")]
    pub certificates_without_tls: bool,

    /// Where probes, metrics and debug pages are served
    #[arg(
        long,
        env = "HERMES_ADMIN",
        value_name = "ADDRESS",
        default_value = "0.0.0.0:7071"
    )]
    pub admin: SocketAddr,

    /// Log format: text or json
    #[arg(
        long,
        env = "HERMES_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "text"
    )]
    pub log_format: LogFormat,

    /// How long a shutdown waits for work in flight
    #[arg(long, env = "HERMES_DRAIN", value_name = "DURATION", default_value = "30s", value_parser = read_duration)]
    pub drain: Duration,
}

fn read_duration(text: &str) -> Result<Duration, String> {
    duration::parse(text).ok_or_else(|| format!("`{text}` is not a duration such as 30s or 1m30s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_configuration_file_must_be_named() {
        let args = Args::try_parse_from(["hermes-control-plane", "--config", "hermes.yaml"])
            .expect("complete");
        assert_eq!((args.listen.port(), args.admin.port()), (7070, 7071));
        assert_eq!(args.drain, Duration::from_secs(30));
        assert!(args.kv_events_listen.is_empty());
        assert!(Args::try_parse_from(["hermes-control-plane"]).is_err());
    }

    #[test]
    fn a_duration_that_is_none_is_refused_with_an_example() {
        let error =
            Args::try_parse_from(["hermes-control-plane", "--config", "c", "--drain", "soon"])
                .expect_err("no duration");
        assert!(error.to_string().contains("such as 30s"), "{error}");
    }
}
