//! The task: follows the configuration file and the objects, and publishes both together.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::join_all;
use hermes_runtime::readiness::Note;
use kube::{
    Api, Client,
    core::{DeserializeGuard, DynamicObject},
    runtime::watcher::{self, watcher},
};
use tokio::{
    sync::{OnceCell, watch},
    time::sleep,
};

use super::{
    gateway_links::GatewayLinks,
    kind::ObjectKind,
    meaning::ObjectsMeaning,
    metrics::ObjectMetrics,
    page::ObjectsPage,
    status::{self, StatusBoard},
    store::{KindSink, ObjectStore, WatchKey},
};
use crate::{
    config::{Config, ObjectNamespaces},
    discovery::{self, Pace, WATCH_SECONDS, follow, spread},
    news::send_news,
};

/// How long changes gather after one was published.
const SETTLE: Duration = Duration::from_millis(100);

/// Time between two full lists of objects.
const RESYNC: Duration = Duration::from_secs(300);

/// How long one response of the API server may take where nothing says it.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The configuration with its objects; nothing before it is complete.
pub(crate) type MergedConfig = Option<Arc<Config>>;

/// Follows the file and the objects. Clones share everything, so that another one can go on.
#[derive(Clone)]
pub(crate) struct ObjectFeed {
    /// The configuration of the file.
    pub(crate) file: watch::Receiver<Arc<Config>>,
    /// Where the configuration with its objects goes.
    pub(crate) merged: Arc<watch::Sender<MergedConfig>>,
    /// The API server, as soon as it is needed.
    pub(crate) client: Arc<OnceCell<Client>>,
    /// What became of each object, for `/debug/objects`.
    pub(crate) page: Arc<watch::Sender<Arc<ObjectsPage>>>,
    /// What is awaited, on `/readyz`.
    pub(crate) note: Arc<Note>,
    pub(crate) metrics: ObjectMetrics,
    /// What Gateways need of others.
    pub(crate) gateways: GatewayLinks,
}

// === ObjectFeed ===

impl ObjectFeed {
    /// Runs until the file has no watcher anymore. It spawns nothing.
    pub(crate) async fn run(mut self) {
        loop {
            let config = Arc::clone(&self.file.borrow_and_update());
            if config.inference_pools.is_none() && config.gateway_api.is_none() {
                self.note.clear();
                self.metrics.count(&BTreeMap::new());
                self.page.send_replace(Arc::default());
                self.gateways.want(&config, None);
                self.publish(config);
                if self.file.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let client = Arc::clone(&self.client);
            let client = client
                .get_or_init(|| discovery::client::await_client("the watch of objects"))
                .await
                .clone();
            let watches = watches(&config, client.default_namespace());
            let store = ObjectStore::new(&watches, self.metrics.clone());
            let watching = join_all(watches.iter().map(|watch| {
                let pace = Pace {
                    list: timeout(&config, watch.0),
                    resync: spread(RESYNC),
                };
                objects(&store, &client, watch, pace)
            }));
            let (statuses, boards) = watch::channel(Arc::default());
            let metrics = self.metrics.clone();
            let home = client.default_namespace();
            tokio::select! {
                _never = watching => return,
                () = status::write(&client, boards, &metrics, || store.read_again()) => return,
                open = self.follow(&store, &watches, home, &statuses) => if !open { return },
            }
        }
    }

    /// Publishes until other objects are to be watched. Returns whether the file still has a
    /// watcher.
    async fn follow(
        &mut self,
        store: &ObjectStore,
        watches: &[WatchKey],
        home: &str,
        statuses: &watch::Sender<Arc<StatusBoard>>,
    ) -> bool {
        loop {
            let config = Arc::clone(&self.file.borrow_and_update());
            if self::watches(&config, home) != watches {
                return true;
            }
            let facts = self.gateways.facts();
            match store.read(|catalog| ObjectsMeaning::new(catalog, &config, &facts)) {
                Ok(meaning) => self.take(&config, meaning, statuses),
                Err(missing) => self.note.say(format!("waiting: {missing}")),
            }
            sleep(SETTLE).await;
            tokio::select! {
                () = store.changed() => {}
                () = self.gateways.changed() => {}
                changed = self.file.changed() => if changed.is_err() { return false },
            }
        }
    }

    /// Passes on what the objects mean, and publishes the configuration of the file with them.
    fn take(
        &self,
        config: &Config,
        meaning: ObjectsMeaning,
        statuses: &watch::Sender<Arc<StatusBoard>>,
    ) {
        let ObjectsMeaning {
            pools,
            listeners,
            routes,
            needs,
            verdicts,
            statuses: board,
        } = meaning;
        self.metrics.count(&verdicts);
        self.page.send_replace(Arc::new(ObjectsPage::of(&verdicts)));
        self.gateways.want(config, needs.as_ref());
        // What a replica that starts would write and publish before that would take addresses and
        // ports from Gateways that others serve.
        let is_first = self.merged.borrow().is_none();
        if is_first && !self.gateways.are_known() {
            let missing = "waiting: ports and certificates of Gateways are not known yet";
            self.note.say(missing.to_owned());
            return;
        }
        statuses.send_replace(Arc::new(board));
        let (merged, refused) = config.with_objects(pools, listeners, routes);
        match &refused[..] {
            [] => self.note.clear(),
            [first, ..] => {
                let count = refused.len();
                self.note.say(format!(
                    "{count} left out, such as {}: {}",
                    first.origin, first.reason
                ));
            }
        }
        self.publish(Arc::new(merged));
    }

    fn publish(&self, config: Arc<Config>) {
        send_news(&self.merged, Some(config));
    }
}

/// Each kind in each namespace. `home` is the control plane's own.
fn watches(config: &Config, home: &str) -> Vec<WatchKey> {
    let pools = config.inference_pools.as_ref();
    let pools = pools.map(|pools| (&pools.namespaces, false));
    let gateways = config.gateway_api.as_ref();
    let gateways = gateways.map(|gateways| (&gateways.namespaces, true));
    let mut watches = Vec::new();
    for (namespaces, is_of_gateways) in pools.into_iter().chain(gateways) {
        let places = match namespaces {
            ObjectNamespaces::Own => vec![Some(Arc::from(home))],
            ObjectNamespaces::Named(names) => names.iter().cloned().map(Some).collect(),
            ObjectNamespaces::All => vec![None],
        };
        let kinds = ObjectKind::ALL.into_iter();
        for kind in kinds.filter(|kind| kind.is_of_gateways() == is_of_gateways) {
            if kind.is_cluster_wide() {
                watches.push((kind, None));
            } else {
                watches.extend(places.iter().map(|place| (kind, place.clone())));
            }
        }
    }
    watches
}

/// How long one response of the API server may take for this kind.
fn timeout(config: &Config, kind: ObjectKind) -> Duration {
    let pools = config.inference_pools.as_ref().map(|pools| pools.timeout);
    let gateways = config.gateway_api.as_ref().map(|gateways| gateways.timeout);
    let own = if kind.is_of_gateways() {
        gateways
    } else {
        pools
    };
    own.or(pools).or(gateways).unwrap_or(TIMEOUT)
}

/// Watches the objects of one kind.
async fn objects(store: &ObjectStore, client: &Client, watch: &WatchKey, pace: Pace) {
    let (kind, namespace) = watch;
    let resource = kind.resource();
    let api: Api<DeserializeGuard<DynamicObject>> = match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let config = watcher::Config::default().timeout(WATCH_SECONDS);
    let sink = KindSink {
        store,
        watch: watch.clone(),
    };
    let open = || watcher(api.clone(), config.clone());
    follow(&sink, kind.definition(), pace, open).await;
}
