//! Keeps one discovery running for every source that has to be watched.

use std::{collections::BTreeMap, num::NonZeroU16, sync::Arc};

use hermes_runtime::tasks::RestartedTask;
use kube::Client;
use parking_lot::Mutex;
use tokio::sync::{OnceCell, mpsc, watch};

use crate::{
    cluster::{SourceId, Update, WatchedSource},
    config::{self, EndpointSource},
    discovery::{self, DiscoveryStatus, KubernetesDiscovery, KubernetesSource, Selection},
};

/// One discovery task per watched source. Dropping it ends them.
pub(crate) struct DiscoverySupervisor {
    updates: mpsc::Sender<Update>,
    client: Arc<OnceCell<Client>>,
    running: BTreeMap<SourceId, RestartedTask>,
    health: DiscoveryHealth,
}

/// How every discovery is doing, for metrics. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct DiscoveryHealth(Arc<Mutex<BTreeMap<SourceId, PoolDiscovery>>>);

/// A discovery's pool and its health.
type PoolDiscovery = (Arc<str>, watch::Receiver<DiscoveryStatus>);

// === DiscoverySupervisor ===

impl DiscoverySupervisor {
    /// No discovery yet. They send to `updates`, and use the API server of the environment unless
    /// `client` is given.
    #[must_use]
    pub(crate) fn new(updates: mpsc::Sender<Update>, client: Option<Client>) -> Self {
        let client = Arc::new(OnceCell::new_with(client));
        Self {
            updates,
            client,
            running: BTreeMap::new(),
            health: DiscoveryHealth::default(),
        }
    }

    /// Where their health can be read.
    #[must_use]
    pub(crate) fn health(&self) -> DiscoveryHealth {
        self.health.clone()
    }

    /// Runs discovery for exactly these sources. One that stays is not disturbed; one that has
    /// ended is started again.
    pub(super) fn set(&mut self, sources: Vec<WatchedSource>) {
        let mut before = std::mem::take(&mut self.running);
        for watched_source in sources {
            let source = watched_source.source;
            let kept = before.remove(&source).filter(|task| !task.is_finished());
            let running = kept.unwrap_or_else(|| self.start(watched_source));
            self.running.insert(source, running);
        }
        self.health
            .0
            .lock()
            .retain(|source, _| self.running.contains_key(source));
    }

    fn start(&self, watched_source: WatchedSource) -> RestartedTask {
        tracing::info!(pool = &*watched_source.pool, watched = ?watched_source.watched, "discovery begins");
        let (client, updates) = (Arc::clone(&self.client), self.updates.clone());
        let health = self.health.clone();
        RestartedTask::spawn("discovery", move || {
            discover(
                Arc::clone(&client),
                watched_source.clone(),
                updates.clone(),
                health.clone(),
            )
        })
    }
}

/// Runs one discovery until it is dropped.
async fn discover(
    client: Arc<OnceCell<Client>>,
    watched_source: WatchedSource,
    updates: mpsc::Sender<Update>,
    health: DiscoveryHealth,
) {
    let WatchedSource {
        source,
        pool,
        watched,
        in_use,
    } = watched_source;
    let client = client
        .get_or_init(|| discovery::client::await_client("discovery"))
        .await
        .clone();
    let Some(kubernetes) = kubernetes(&watched, client.default_namespace()) else {
        return;
    };
    let (discovery, status) = KubernetesDiscovery::new(kubernetes);
    health.0.lock().insert(source, (pool, status));
    let discovery = discovery.continuing(&in_use);
    let sink = |found| {
        let updates = updates.clone();
        async move {
            // Closed means that the pipeline has ended, and this task is about to.
            let _closed = updates.send(Update::Discovered { source, found }).await;
        }
    };
    discovery.run(client, sink).await;
}

/// What to watch, in the words of discovery; nothing for a static source. `home` is the namespace
/// of this process.
fn kubernetes(source: &EndpointSource, home: &str) -> Option<KubernetesSource> {
    let selection = match source {
        EndpointSource::Static(_) | EndpointSource::StaticRole(..) => return None,
        EndpointSource::Services(selection)
        | EndpointSource::Service(_, selection)
        | EndpointSource::Pods(selection) => selection,
    };
    let config::KubernetesSelection {
        namespace,
        labels,
        port,
        further_ports,
        scheme,
        resync,
        timeout,
        event_ports,
        role_names,
    } = selection;
    let labels = labels
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    let selected = match source {
        EndpointSource::Service(name, _) => Selection::Service(name.to_string()),
        EndpointSource::Pods(_) => Selection::Pods(labels),
        EndpointSource::Static(_)
        | EndpointSource::StaticRole(..)
        | EndpointSource::Services(_) => Selection::Services(labels),
    };
    Some(KubernetesSource {
        namespace: namespace.as_deref().unwrap_or(home).to_owned(),
        selection: selected,
        port: discovery_port(port)?,
        further_ports: (further_ports.iter().copied())
            .filter_map(NonZeroU16::new)
            .collect(),
        scheme: *scheme,
        resync: *resync,
        timeout: *timeout,
        event_ports: event_ports.clone(),
        role_names: role_names.clone(),
    })
}

fn discovery_port(port: &config::PortRef) -> Option<discovery::Port> {
    match port {
        config::PortRef::Number(number) => NonZeroU16::new(*number).map(discovery::Port::Number),
        config::PortRef::Name(name) => Some(discovery::Port::Name(name.to_string())),
    }
}

// === DiscoveryHealth ===

impl DiscoveryHealth {
    /// Every discovery's pool and health.
    #[must_use]
    pub(crate) fn read(&self) -> Vec<(Arc<str>, DiscoveryStatus)> {
        let health = self.0.lock();
        health
            .values()
            .map(|(pool, status)| (Arc::clone(pool), status.borrow().clone()))
            .collect()
    }
}
