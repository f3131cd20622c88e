//! Runs the watches of one pool.

mod active_ports;
pub mod client;
mod event_ports;
mod failure_log;
mod index;
mod labels;
mod location;
mod port;
mod publish;
mod readiness;
mod relist;
mod state;
mod status;
mod watch_loop;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt::Debug,
    future::Future,
    hash::{BuildHasher, RandomState},
    num::NonZeroU16,
    time::Duration,
};

use hermes_core::{address::ServerScheme, rng::SeededRng};
use k8s_openapi::{
    NamespaceResourceScope, Resource as _,
    api::{
        core::v1::{Pod, Service},
        discovery::v1::EndpointSlice,
    },
};
use kube::{
    Api, Client, Resource,
    core::{DeserializeGuard, Expression, Selector},
    runtime::watcher::{self, watcher},
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

pub use self::{
    event_ports::{EventPortNames, EventPorts},
    labels::RoleNames,
    port::Port,
    status::DiscoveryStatus,
};
pub(crate) use self::{
    failure_log::FailureLog,
    index::ObjectIndex,
    relist::{RelistDiff, RelistOutcome},
    watch_loop::{Pace, WatchError, WatchSink, follow},
};
use self::{
    index::{PodIndex, SERVICE_NAME, ServiceIndex},
    publish::publish,
    readiness::PeerReadiness,
    state::SourceIndex,
};
use super::{DiscoveredEndpoint, DiscoveredSet};

/// Seconds after which the server ends a watch and the watcher resumes it. A connection that is
/// silently dead is noticed 5 s later at the latest.
pub(crate) const WATCH_SECONDS: u32 = 60;

/// Lists more often than this would be polling.
const SHORTEST_RESYNC: Duration = Duration::from_secs(1);

/// Where a pool's endpoints come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesSource {
    /// The namespace to look in.
    pub namespace: String,
    /// Which objects there.
    pub selection: Selection,
    /// Where inference requests go.
    pub port: Port,
    /// Other ports of each pod where they go, too, each an endpoint of its own. Services have none.
    pub further_ports: Vec<NonZeroU16>,
    /// How endpoints are spoken to; absent if the `appProtocol` of their Service's port says it.
    pub scheme: Option<ServerScheme>,
    /// How often everything is listed again although watches run, at least every second. Watches
    /// report changes at once; this only bounds how long a change that a watch lost stays
    /// unnoticed.
    pub resync: Duration,
    /// Longest silence during a list, after which it is started again.
    pub timeout: Duration,
    /// Whether ports for KV events are looked for, and by which names.
    pub event_ports: Option<EventPortNames>,
    /// How roles and groups are called, besides the known names.
    pub role_names: RoleNames,
}

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Services that have all these labels, resolved through their EndpointSlices to ready pods.
    Services(BTreeMap<String, String>),
    /// The Service of this name, resolved alike.
    Service(String),
    /// Pods that have all these labels.
    Pods(BTreeMap<String, String>),
}

/// Discovers the endpoints of one pool until it is dropped.
#[derive(Debug)]
pub struct KubernetesDiscovery {
    source: KubernetesSource,
    readiness: PeerReadiness,
    status: watch::Sender<DiscoveryStatus>,
}

// === KubernetesSource ===

impl KubernetesSource {
    /// A source that lists every five minutes and gives up a list after ten seconds of silence.
    #[must_use]
    pub fn new(namespace: impl Into<String>, selection: Selection, port: Port) -> Self {
        let (resync, timeout) = (Duration::from_secs(300), Duration::from_secs(10));
        Self {
            namespace: namespace.into(),
            selection,
            port,
            further_ports: Vec::new(),
            scheme: None,
            resync,
            timeout,
            event_ports: None,
            role_names: RoleNames::default(),
        }
    }
}

// === Selection ===

impl Selection {
    fn kinds(&self) -> &'static [&'static str] {
        match self {
            Self::Services(_) | Self::Service(_) => {
                &[Service::URL_PATH_SEGMENT, EndpointSlice::URL_PATH_SEGMENT]
            }
            Self::Pods(_) => &[Pod::URL_PATH_SEGMENT],
        }
    }
}

// === KubernetesDiscovery ===

impl KubernetesDiscovery {
    /// Prepares discovery for one pool and the view on its health; nothing runs yet.
    #[must_use]
    pub fn new(source: KubernetesSource) -> (Self, watch::Receiver<DiscoveryStatus>) {
        let (status, view) = watch::channel(DiscoveryStatus::new(source.selection.kinds()));
        let discovery = Self {
            source,
            readiness: PeerReadiness::default(),
            status,
        };
        (discovery, view)
    }

    /// Continues a discovery that found these endpoints: they count as ready before, so that they
    /// stay in use if Kubernetes reports most of them not ready at the first list.
    #[must_use]
    pub fn continuing(self, in_use: &[DiscoveredEndpoint]) -> Self {
        Self {
            readiness: PeerReadiness::with_ready(in_use),
            ..self
        }
    }

    /// Runs for ever; dropping the future ends all watches. It spawns nothing.
    ///
    /// `sink` gets the whole current set, sorted by address, once everything was listed (even when
    /// it is empty) and then whenever it changed: the first change at once, a burst as one. While
    /// it is awaited, changes gather.
    pub async fn run<S, F>(self, client: Client, sink: S)
    where
        S: FnMut(DiscoveredSet) -> F,
        F: Future<Output = ()>,
    {
        let Self {
            source,
            readiness,
            status,
        } = self;
        let KubernetesSource {
            namespace,
            selection,
            port,
            further_ports,
            scheme,
            resync,
            timeout,
            event_ports,
            role_names,
        } = source;
        let pace = Pace {
            list: timeout,
            resync: spread(resync.max(SHORTEST_RESYNC)),
        };
        let (client, namespace) = (&client, namespace.as_str());
        match selection {
            Selection::Services(_) | Selection::Service(_) => {
                let (services, slices) = filters(selection);
                let state = SourceIndex::new(
                    ServiceIndex::new(port, scheme)
                        .with_event_ports(event_ports)
                        .with_role_names(role_names),
                    status,
                );
                tokio::join!(
                    objects::<Service, _>(&state, client, namespace, services, pace),
                    objects::<EndpointSlice, _>(&state, client, namespace, slices, pace),
                    publish(&state, readiness, sink),
                );
            }
            Selection::Pods(labels) => {
                let state = SourceIndex::new(
                    PodIndex::new(port, scheme.unwrap_or_default())
                        .with_further_ports(further_ports)
                        .with_event_ports(event_ports)
                        .with_role_names(role_names),
                    status,
                );
                let pods = labels.into_iter().collect();
                let pods = watcher::Config::default().labels_from(&pods);
                tokio::join!(
                    objects::<Pod, _>(&state, client, namespace, pods, pace),
                    publish(&state, readiness, sink),
                );
            }
        }
    }
}

/// Which Services, and which slices, are watched.
fn filters(selection: Selection) -> (watcher::Config, watcher::Config) {
    let all = watcher::Config::default;
    let of_any = || Selector::from(Expression::Exists(SERVICE_NAME.to_owned()));
    match selection {
        Selection::Service(name) => {
            let label = Expression::Equal(SERVICE_NAME.to_owned(), name.clone());
            let named = all().fields(&format!("metadata.name={name}"));
            (named, all().labels_from(&label.into()))
        }
        Selection::Services(labels) | Selection::Pods(labels) => {
            let labelled = all().labels_from(&labels.into_iter().collect());
            (labelled, all().labels_from(&of_any()))
        }
    }
}

/// Watches the objects of one kind that `config` selects.
async fn objects<K, I>(
    state: &SourceIndex<I>,
    client: &Client,
    namespace: &str,
    config: watcher::Config,
    pace: Pace,
) -> Infallible
where
    I: ObjectIndex<K>,
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + k8s_openapi::Resource,
    K: Clone + Debug + DeserializeOwned + Send + 'static,
{
    let api: Api<DeserializeGuard<K>> = Api::namespaced(client.clone(), namespace);
    let config = config.timeout(WATCH_SECONDS);
    let open = || watcher(api.clone(), config.clone());
    follow(state, K::URL_PATH_SEGMENT, pace, open).await
}

/// A time up to a tenth shorter, by chance: sources of one configuration, which begin together,
/// must not list together for ever.
pub(crate) fn spread(resync: Duration) -> Duration {
    let draw = SeededRng::new(RandomState::new().hash_one(resync)).unit();
    resync.mul_f32(1.0 - 0.1 * draw)
}
