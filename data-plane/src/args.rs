//! The command line of `hermes-data-plane`.

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::Parser;
use hermes_runtime::telemetry::LogFormat;

use crate::options::{DataPlaneOptions, PickerOptions};

/// The Hermes data plane: a proxy that forwards OpenAI-compatible requests to the best model
/// server.
///
/// The control plane supplies pools, policies and endpoints; these flags are the only local
/// configuration. OpenTelemetry is configured by the standard OTEL_* variables, the log level by
/// HERMES_LOG.
#[derive(Debug, Parser)]
#[command(name = "hermes-data-plane", version)]
pub struct DataPlaneArgs {
    /// URL of the control plane: http://HOST:PORT, or https with --tls; several are separated by
    /// commas. Each address that a name resolves to (a headless Service) is one replica.
    #[arg(long, env = "HERMES_CONTROL_PLANE", value_delimiter = ',', required = true, value_parser = target)]
    pub control_plane: Vec<ControlPlaneUrl>,

    /// Directory with ca.crt, tls.crt and tls.key for mutual TLS with the control plane; changed
    /// files are reloaded. The control plane's certificate must be signed by ca.crt for HOST.
    #[arg(long, env = "HERMES_TLS", value_name = "DIR")]
    pub tls: Option<PathBuf>,

    /// Address on which clients are served.
    #[arg(long, env = "HERMES_LISTEN", default_value = "0.0.0.0:8000")]
    pub listen: SocketAddr,

    /// Directory with the certificates of listeners, each a folder NAME with tls.crt and tls.key;
    /// changed files are reloaded. The configuration names them.
    #[arg(long, env = "HERMES_LISTENER_CERTIFICATES", value_name = "DIR")]
    pub listener_certificates: Option<PathBuf>,

    /// The door for gateways.
    #[command(flatten)]
    pub picker: PickerArgs,

    /// Address of the admin port: probes, metrics and debug pages.
    #[arg(long, env = "HERMES_ADMIN", default_value = "0.0.0.0:8001")]
    pub admin: SocketAddr,

    /// Name of this proxy in the control plane's logs, such as the pod's name.
    #[arg(long, env = "HERMES_NAME", default_value = "data-plane")]
    pub name: String,

    /// Threads that serve clients [default: one per core].
    #[arg(long, env = "HERMES_WORKERS")]
    pub workers: Option<NonZeroUsize>,

    /// Seconds that requests in flight may take to finish after SIGTERM.
    #[arg(long, env = "HERMES_DRAIN", default_value = "30", value_parser = seconds)]
    pub drain: Duration,

    /// Log format: text or json.
    #[arg(long, env = "HERMES_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// The flags of the door for gateways.
#[derive(Clone, Debug, Parser)]
pub struct PickerArgs {
    /// Address on which gateways ask by ext_proc where requests should go, such as 0.0.0.0:9002
    /// [default: no such door].
    #[arg(long, env = "HERMES_PICKER_LISTEN", value_name = "ADDRESS")]
    pub picker_listen: Option<SocketAddr>,

    /// Directory with tls.crt and tls.key: gateways then connect by TLS; changed files are
    /// reloaded.
    #[arg(
        long,
        env = "HERMES_PICKER_TLS",
        value_name = "DIR",
        requires = "picker_listen"
    )]
    pub picker_tls: Option<PathBuf>,

    /// Endpoints that a gateway is given for each request, best first; more than one needs a
    /// gateway that reads a list.
    #[arg(
        long,
        env = "HERMES_PICKER_ENDPOINTS",
        value_name = "COUNT",
        default_value = "1"
    )]
    pub picker_endpoints: NonZeroUsize,
}

impl PickerArgs {
    /// The options of the door, if there is one.
    #[must_use]
    pub fn options(&self) -> Option<PickerOptions> {
        Some(PickerOptions {
            listen: self.picker_listen?,
            tls: self.picker_tls.clone(),
            endpoints: self.picker_endpoints,
        })
    }
}

/// A control plane's address and the scheme of its URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPlaneUrl {
    /// `host:port`.
    pub authority: String,
    /// Whether the scheme is `https`; `None` for an URL without a scheme.
    pub tls: Option<bool>,
}

/// The scheme of the control plane's URL contradicts `--tls`.
#[derive(Debug, thiserror::Error)]
pub enum SchemeMismatch {
    /// `https` without certificates.
    #[error(
        "--control-plane https://{0} needs --tls DIR, a folder with ca.crt, tls.crt and tls.key"
    )]
    NoCertificates(String),
    /// `http` with certificates.
    #[error("--tls is set, so --control-plane must be https://{0}, not http://{0}")]
    Plain(String),
}

impl DataPlaneArgs {
    /// The options that these flags set.
    ///
    /// # Errors
    /// When the scheme of a control plane's URL contradicts `--tls`.
    pub fn options(&self) -> Result<DataPlaneOptions, SchemeMismatch> {
        let secured = self.tls.is_some();
        for ControlPlaneUrl { authority, tls } in &self.control_plane {
            match tls {
                Some(true) if !secured => {
                    return Err(SchemeMismatch::NoCertificates(authority.clone()));
                }
                Some(false) if secured => return Err(SchemeMismatch::Plain(authority.clone())),
                _ => {}
            }
        }
        Ok(DataPlaneOptions {
            control_planes: self
                .control_plane
                .iter()
                .map(|target| target.authority.clone())
                .collect(),
            tls: self.tls.clone(),
            listener_certificates: self.listener_certificates.clone(),
            listen: self.listen,
            admin: Some(self.admin),
            name: self.name.clone(),
            workers: self.workers.unwrap_or_else(crate::options::cores),
            picker: self.picker.options(),
        })
    }
}

/// An URL without a path.
fn target(url: &str) -> Result<ControlPlaneUrl, String> {
    let wrong = || format!("must be http://host:port or https://host:port, not {url:?}");
    let (tls, authority) = match url.split_once("://") {
        Some(("http", authority)) => (Some(false), authority),
        Some(("https", authority)) => (Some(true), authority),
        Some(_) => return Err(wrong()),
        None => (None, url),
    };
    let authority = authority.trim_end_matches('/');
    let (host, port) = authority.rsplit_once(':').ok_or_else(wrong)?;
    if host.is_empty() || authority.contains('/') || port.parse::<u16>().is_err() {
        return Err(wrong());
    }
    Ok(ControlPlaneUrl {
        authority: authority.to_owned(),
        tls,
    })
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: u64 = text
        .parse()
        .map_err(|_| format!("must be a whole number of seconds, not {text:?}"))?;
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<DataPlaneArgs, clap::Error> {
        DataPlaneArgs::try_parse_from(["hermes-data-plane"].iter().chain(args))
    }

    #[test]
    fn a_control_plane_is_an_url_without_a_path() {
        let args = parse(&[
            "--control-plane",
            "http://hermes-control-plane:7070,http://10.0.0.1:7070/",
        ])
        .expect("valid");
        let options = args.options().expect("both without TLS");
        assert_eq!(
            options.control_planes,
            ["hermes-control-plane:7070", "10.0.0.1:7070"]
        );
        for wrong in [
            "http://host",
            "http://host:x",
            "http://host:1/path",
            "grpc://host:1",
        ] {
            let error = parse(&["--control-plane", wrong])
                .expect_err("refused")
                .to_string();
            assert!(error.contains("must be http://host:port"), "{error}");
        }
    }

    #[test]
    fn https_and_certificates_go_together() {
        let options = |args: &[&str]| parse(args).expect("valid").options();
        let https = ["--control-plane", "https://h:1"];
        let with = |target: &'static str| ["--tls", "/certificates", "--control-plane", target];
        assert!(options(&with("https://h:1")).is_ok_and(|options| options.tls.is_some()));
        assert!(
            options(&with("h:1")).is_ok(),
            "a name without scheme goes by --tls"
        );
        let error = options(&https).expect_err("no certificates").to_string();
        assert!(error.contains("https://h:1 needs --tls DIR"), "{error}");
        let error = options(&with("http://h:1"))
            .expect_err("a plain URL")
            .to_string();
        assert!(error.contains("must be https://h:1"), "{error}");
    }

    #[test]
    fn flags_have_the_documented_defaults() {
        let args = parse(&["--control-plane", "http://h:1"]).expect("valid");
        assert_eq!(
            (args.listen.port(), args.admin.port(), args.drain.as_secs()),
            (8000, 8001, 30)
        );
    }
}
