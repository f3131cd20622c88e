//! The task: follows the Gateways that are wanted and the Services that exist, and makes the second
//! what the first need.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

use hermes_core::rng::SeededRng;
use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client,
    core::DeserializeGuard,
    runtime::watcher::{self, Event, watcher},
};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, OnceCell, watch},
    time::{Instant, sleep, sleep_until},
};

use super::{
    GatewayProblem, GatewayService, GatewayServices, NewestWantedGateways, WantedGateways,
    changes::{NextServiceWrite, WrittenServices, make},
    metrics::GatewayPortMetrics,
    observed::ObservedServices,
    plan::plan,
};
use crate::{
    discovery::{
        self, FailureLog, Pace, RelistDiff, RelistOutcome, WATCH_SECONDS, WatchError, WatchSink,
        follow, spread,
    },
    news::send_news,
};

/// How long a list may make no progress.
const LIST: Duration = Duration::from_secs(10);

/// Time between two full lists of Services.
const RESYNC: Duration = Duration::from_secs(300);

/// Time between two writes of this replica.
const PAUSE: Duration = Duration::from_millis(100);

/// Longest pause before the first of several writes, drawn by each replica.
const SPREAD: Duration = Duration::from_millis(500);

/// How long Services that cannot be listed are waited for, before that is reported of each Gateway.
const GRACE: Duration = Duration::from_secs(20);

/// Gives Gateways their Services. Clones share everything, so that another one can go on.
#[derive(Clone)]
pub struct GatewayPortFeed {
    /// The Gateways.
    pub wanted: watch::Receiver<NewestWantedGateways>,
    /// Where it goes what became of them.
    pub services: Arc<watch::Sender<GatewayServices>>,
    /// The API server, as soon as it is needed.
    pub client: Arc<OnceCell<Client>>,
    /// Counters.
    pub metrics: GatewayPortMetrics,
}

/// The Services of one namespace.
#[derive(Debug)]
struct ServiceStore {
    services: Mutex<ObservedServices>,
    watch: Mutex<ServiceWatch>,
    changed: Notify,
}

/// How the watch is doing.
#[derive(Debug)]
struct ServiceWatch {
    is_listed: bool,
    since: Instant,
    failure: Option<Arc<str>>,
    log: FailureLog,
}

// === GatewayPortFeed ===

impl GatewayPortFeed {
    /// Runs until the channel of Gateways is closed. It spawns nothing. While no Gateways are
    /// wanted it asks nothing of the API server.
    pub async fn run(mut self) {
        loop {
            let Some(wanted) = self.wanted.borrow_and_update().clone() else {
                self.publish(None);
                if self.wanted.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let client = Arc::clone(&self.client);
            let client = client
                .get_or_init(|| discovery::client::await_client("the watch of Services"))
                .await;
            let namespace = namespace_of(&wanted, client);
            let store = ServiceStore::new();
            tokio::select! {
                never = watch_services(&store, client, &namespace) => match never {},
                is_open = self.follow(&store, client, &namespace) => if !is_open { return },
            }
        }
    }

    /// Publishes and writes until Services of another namespace are to be watched, or none. Returns
    /// whether the channel of Gateways is still open.
    async fn follow(&mut self, store: &ServiceStore, client: &Client, namespace: &str) -> bool {
        let api: Api<Service> = Api::namespaced(client.clone(), namespace);
        let mut written = WrittenServices::default();
        let mut rng = SeededRng::new(RandomState::new().hash_one(namespace));
        let mut has_paused = false;
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let wanted = wanted.filter(|wanted| namespace_of(wanted, client) == namespace);
            let Some(wanted) = wanted else { return true };
            let next = self.plan_next(&wanted, store, &mut written);
            let wake = match next {
                NextServiceWrite::Now(..) if !has_paused => {
                    has_paused = true;
                    // Another replica may write meanwhile.
                    sleep(SPREAD.mul_f32(rng.unit())).await;
                    continue;
                }
                NextServiceWrite::Now(name, change) => {
                    let (outcome, failure) = make(&api, (namespace, &name), &change).await;
                    self.metrics.written(outcome);
                    if let Some(reason) = &failure {
                        tracing::warn!(namespace, service = &*name, %reason, "the Service of a Gateway was not written; it is tried again");
                    }
                    written.note(name, change, failure, Instant::now());
                    sleep(PAUSE).await;
                    continue;
                }
                NextServiceWrite::At(time) => Some(time),
                NextServiceWrite::Never => None,
            };
            has_paused = false;
            tokio::select! {
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
                () = store.changed.notified() => {}
                changed = self.wanted.changed() => if changed.is_err() { return false },
            }
        }
    }

    /// Publishes what became of the Gateways; returns what is to be written.
    fn plan_next(
        &self,
        wanted: &WantedGateways,
        store: &ServiceStore,
        written: &mut WrittenServices,
    ) -> NextServiceWrite {
        let now = Instant::now();
        match store.is_listed(now) {
            Listed::Yes => {}
            Listed::NotYet(then) => {
                return then.map_or(NextServiceWrite::Never, NextServiceWrite::At);
            }
            Listed::No(reason) => {
                let problem = GatewayService {
                    problem: Some(GatewayProblem::NotListed(reason)),
                    ..GatewayService::default()
                };
                let names = wanted.gateways.keys().cloned();
                self.publish(Some(names.map(|name| (name, problem.clone())).collect()));
                return NextServiceWrite::Never;
            }
        }
        let plan = plan(wanted, &store.services.lock(), written.failed());
        self.publish(Some(plan.gateways));
        written.next(&plan.due, now)
    }

    fn publish(&self, services: Option<BTreeMap<super::GatewayName, GatewayService>>) {
        self.metrics.count(services.as_ref());
        send_news(&self.services, services.map(Arc::new));
    }
}

/// Where the Services of the Gateways are.
fn namespace_of(wanted: &WantedGateways, client: &Client) -> String {
    let configured = wanted.service.namespace.as_deref();
    configured
        .unwrap_or_else(|| client.default_namespace())
        .to_owned()
}

async fn watch_services(store: &ServiceStore, client: &Client, namespace: &str) -> Infallible {
    let api: Api<DeserializeGuard<Service>> = Api::namespaced(client.clone(), namespace);
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    let pace = Pace {
        list: LIST,
        resync: spread(RESYNC),
    };
    let open = || watcher(api.clone(), config.clone());
    follow(store, "services", pace, open).await
}

// === ServiceStore ===

/// Whether the Services were listed.
enum Listed {
    Yes,
    /// It may take a while; if that has failed, until then.
    NotYet(Option<Instant>),
    /// They cannot be listed.
    No(Arc<str>),
}

impl ServiceStore {
    fn new() -> Self {
        let watch = ServiceWatch {
            is_listed: false,
            since: Instant::now(),
            failure: None,
            log: FailureLog::default(),
        };
        Self {
            services: Mutex::default(),
            watch: Mutex::new(watch),
            changed: Notify::new(),
        }
    }

    fn is_listed(&self, now: Instant) -> Listed {
        let watch = self.watch.lock();
        match &watch.failure {
            _ if watch.is_listed => Listed::Yes,
            Some(reason) if watch.since + GRACE <= now => Listed::No(Arc::clone(reason)),
            Some(_) => Listed::NotYet(Some(watch.since + GRACE)),
            None => Listed::NotYet(None),
        }
    }

    /// Notes that the watch works.
    fn works(&self) {
        let mut watch = self.watch.lock();
        (watch.is_listed, watch.failure) = (true, None);
        if watch.log.works() {
            tracing::info!("the watch of Services works again");
        }
    }
}

impl WatchSink<Service> for ServiceStore {
    fn receive(
        &self,
        _kind: &'static str,
        relist: &mut RelistDiff<Service>,
        event: Event<DeserializeGuard<Service>>,
    ) -> RelistOutcome {
        let outcome = relist.fold(event, &mut *self.services.lock());
        match outcome {
            RelistOutcome::Listing | RelistOutcome::Updated { changed: false } => {}
            RelistOutcome::Listed { .. } => {
                self.works();
                self.changed.notify_one();
            }
            RelistOutcome::Updated { changed: true } => self.changed.notify_one(),
        }
        outcome
    }

    fn report_failure(&self, _kind: &'static str, error: &WatchError) -> Duration {
        let reason = error.to_string();
        let mut watch = self.watch.lock();
        if watch.log.fails(Instant::now()) {
            tracing::warn!(%reason, "the watch of Services failed; the last known ones stay, and it is tried again");
        }
        watch.failure = Some(reason.into());
        drop(watch);
        self.changed.notify_one();
        Duration::ZERO
    }
}
