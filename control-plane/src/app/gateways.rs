//! The tasks that Gateways need: their Services, and the certificates of their listeners.

use std::{future::pending, sync::Arc};

use hermes_runtime::{
    shutdown::Drain,
    tasks::{RestartedTask, Tasks},
};
use prometheus_client::registry::Registry;
use tokio::sync::{OnceCell, watch};

use super::until_drain;
use crate::{
    gateway_ports::{GatewayPortFeed, GatewayPortMetrics},
    listener_certificates::{CertificateFeed, SecretMetrics},
    objects::GatewayLinks,
    serve::CertificateSource,
};

/// Starts the tasks. They ask nothing of an API server before a Gateway needs it. `may_send`: whether
/// proxies may be sent certificates over the connections that they have.
pub(super) fn run(
    kube: Option<kube::Client>,
    may_send: bool,
    registry: &mut Registry,
    tasks: &Tasks,
    drain: &Drain,
) -> (GatewayLinks, CertificateSource) {
    let client = Arc::new(OnceCell::new_with(kube));
    let (wanted, gateways) = watch::channel(None);
    let (published_services, services) = watch::channel(None);
    let ports = GatewayPortFeed {
        wanted: gateways,
        services: Arc::new(published_services),
        client: Arc::clone(&client),
        metrics: GatewayPortMetrics::register(registry),
    };
    let (allowed, names) = watch::channel(None);
    let (published_states, secrets) = watch::channel(Arc::default());
    let (published_certificates, newest) = watch::channel(None);
    let followed = CertificateFeed {
        allowed: names,
        states: Arc::new(published_states),
        certificates: Arc::new(published_certificates),
        client,
        metrics: SecretMetrics::register(registry),
    };
    spawn("gateway ports", move || ports.clone().run(), tasks, drain);
    spawn("secrets", move || followed.clone().run(), tasks, drain);
    let links = GatewayLinks {
        wanted: Arc::new(wanted),
        services,
        last_services: None,
        allowed: Arc::new(allowed),
        secrets,
    };
    let certificates = CertificateSource {
        newest,
        is_permitted: may_send,
    };
    (links, certificates)
}

/// Runs a task until the drain, and again after a panic.
fn spawn<F>(name: &'static str, task: impl Fn() -> F + Send + 'static, tasks: &Tasks, drain: &Drain)
where
    F: Future<Output = ()> + Send + 'static,
{
    tasks.spawn(
        name,
        until_drain(drain.clone(), async move {
            let _following = RestartedTask::spawn(name, task);
            pending::<()>().await;
        }),
    );
}
