//! The command line of `hermes-data-plane`.

use std::{net::SocketAddr, num::NonZeroUsize, time::Duration};

use clap::Parser;
use hermes_runtime::telemetry::LogFormat;

use crate::app::Options;

/// The Hermes data plane: forwards OpenAI traffic to the model server that the control plane's knowledge favors.
///
/// It has no configuration but these flags: pools, policies and endpoints come from the control plane. OpenTelemetry is
/// configured by the standard OTEL_* variables, the log level by HERMES_LOG.
#[derive(Debug, Parser)]
#[command(name = "hermes-data-plane", version)]
pub struct Args {
    /// Where the control plane is: http://HOST:PORT, several separated by commas. A name that stands for several
    /// addresses (a headless Service) stands for as many replicas.
    #[arg(long, env = "HERMES_CONTROL_PLANE", value_delimiter = ',', required = true, value_parser = target)]
    pub control_plane: Vec<String>,

    /// Where clients connect.
    #[arg(long, env = "HERMES_LISTEN", default_value = "0.0.0.0:8000")]
    pub listen: SocketAddr,

    /// Where operators and probes connect.
    #[arg(long, env = "HERMES_ADMIN", default_value = "0.0.0.0:8001")]
    pub admin: SocketAddr,

    /// This proxy's name in the control plane's logs, such as the pod's name.
    #[arg(long, env = "HERMES_NAME", default_value = "data-plane")]
    pub name: String,

    /// Threads that serve clients; one for each core unless set.
    #[arg(long, env = "HERMES_WORKERS")]
    pub workers: Option<NonZeroUsize>,

    /// Seconds that requests may take to finish after SIGTERM.
    #[arg(long, env = "HERMES_DRAIN", default_value = "30", value_parser = seconds)]
    pub drain: Duration,

    /// How logs are written: text or json.
    #[arg(long, env = "HERMES_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

impl Args {
    /// What the data plane is told.
    #[must_use]
    pub fn options(&self) -> Options {
        Options {
            control_planes: self.control_plane.clone(),
            listen: self.listen,
            admin: Some(self.admin),
            name: self.name.clone(),
            workers: self.workers.map_or_else(crate::app::cores, NonZeroUsize::get),
        }
    }
}

/// `host:port` of an URL without a path.
fn target(url: &str) -> Result<String, String> {
    let wrong = || format!("must be http://host:port, not {url:?}");
    let authority = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let (host, port) = authority.rsplit_once(':').ok_or_else(wrong)?;
    if host.is_empty() || authority.contains('/') || port.parse::<u16>().is_err() {
        return Err(wrong());
    }
    Ok(authority.to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: u64 = text.parse().map_err(|_| format!("must be a whole number of seconds, not {text:?}"))?;
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(["hermes-data-plane"].iter().chain(args))
    }

    #[test]
    fn a_control_plane_is_an_url_without_a_path() {
        let args =
            parse(&["--control-plane", "http://hermes-control-plane:7070,http://10.0.0.1:7070/"]).expect("valid");
        assert_eq!(args.control_plane, ["hermes-control-plane:7070", "10.0.0.1:7070"]);
        for wrong in ["http://host", "http://host:x", "http://host:1/path", "https://host:1"] {
            let error = parse(&["--control-plane", wrong]).expect_err("refused").to_string();
            assert!(error.contains("must be http://host:port"), "{error}");
        }
    }

    #[test]
    fn flags_have_the_documented_defaults() {
        let args = parse(&["--control-plane", "http://h:1"]).expect("valid");
        assert_eq!((args.listen.port(), args.admin.port(), args.drain.as_secs()), (8000, 8001, 30));
    }
}
