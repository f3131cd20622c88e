//! A connection to the API server that notices when the other side is silently gone.

use std::time::Duration;

use kube::{Client, Config};
use tokio::time::sleep;

/// How long connecting may take; short, as a router waits for it while an API server restarts.
const CONNECT: Duration = Duration::from_secs(3);

/// Longest silence on a connection. Above the 60 s after which the server itself ends each watch,
/// so that it is reached only when packets vanish: a list or the beginning of a watch has no other
/// limit in the client.
const SILENCE: Duration = Duration::from_secs(70);

/// The pause after the API server's address could not be found out.
const RETRY: Duration = Duration::from_secs(5);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Neither a kubeconfig nor a service account was found.
    #[error("found no way to reach a Kubernetes API server, run in a pod or set KUBECONFIG")]
    Config(#[source] Box<kube::config::InferConfigError>),
    /// The configuration was found and cannot be used.
    #[error("cannot use the configuration for the Kubernetes API server")]
    Client(#[source] Box<kube::Error>),
}

/// A client from the kubeconfig, or from the pod's service account.
///
/// # Errors
///
/// When neither is there, or what is there cannot be used. The API server itself is not asked.
pub async fn infer() -> Result<Client, ConnectError> {
    let config = Config::infer()
        .await
        .map_err(|error| ConnectError::Config(Box::new(error)))?;
    connect(config)
}

/// As [`infer`], tried again every five seconds until there is one. `what` waits for it.
pub(crate) async fn await_client(what: &str) -> Client {
    let mut has_failed = false;
    loop {
        match infer().await {
            Ok(client) => return client,
            Err(error) => {
                if !std::mem::replace(&mut has_failed, true) {
                    tracing::warn!(%error, "{what} cannot begin, trying again every {RETRY:?}");
                }
                sleep(RETRY).await;
            }
        }
    }
}

/// A client for `config` with the timeouts that long watches need.
///
/// # Errors
///
/// When the configuration cannot be used: certificates, proxies, credentials.
pub fn connect(mut config: Config) -> Result<Client, ConnectError> {
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    // Otherwise the time that a pooled connection lay idle counts against the next answer.
    config.reset_reader_on_write = true;
    Client::try_from(config).map_err(|error| ConnectError::Client(Box::new(error)))
}
