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
    compile::{CompiledObjects, compile},
    kind::ObjectKind,
    metrics::ObjectMetrics,
    page::ObjectsPage,
    status::{self, StatusBoard},
    store::{KindSink, ObjectStore, WatchKey},
};
use crate::{
    config::{Config, InferencePoolsConfig, ObjectNamespaces},
    discovery::{self, Pace, WATCH_SECONDS, follow, spread},
};

/// How long changes gather after one was published.
const SETTLE: Duration = Duration::from_millis(100);

/// Time between two full lists of objects.
const RESYNC: Duration = Duration::from_secs(300);

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
}

// === ObjectFeed ===

impl ObjectFeed {
    /// Runs until the file has no watcher anymore. It spawns nothing.
    pub(crate) async fn run(mut self) {
        loop {
            let config = Arc::clone(&self.file.borrow_and_update());
            let Some(pools) = &config.inference_pools else {
                self.note.clear();
                self.metrics.count(&BTreeMap::new());
                self.page.send_replace(Arc::default());
                self.publish(config);
                if self.file.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let client = Arc::clone(&self.client);
            let client = client
                .get_or_init(|| discovery::client::await_client("the watch of objects"))
                .await
                .clone();
            let watches = watches(pools, client.default_namespace());
            let store = ObjectStore::new(&watches, self.metrics.clone());
            let pace = Pace {
                list: pools.timeout,
                resync: spread(RESYNC),
            };
            let watching = join_all(
                watches
                    .iter()
                    .map(|watch| objects(&store, &client, watch, pace)),
            );
            let (statuses, boards) = watch::channel(Arc::default());
            let metrics = self.metrics.clone();
            let home = client.default_namespace();
            tokio::select! {
                _never = watching => return,
                () = status::write(&client, boards, &metrics) => return,
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
            let pools = (config.inference_pools.as_ref())
                .filter(|pools| self::watches(pools, home) == watches);
            let Some(pools) = pools else { return true };
            match store.read(|catalog| compile(catalog, pools)) {
                Ok(compiled) => {
                    statuses.send_replace(Arc::new(compiled.statuses.clone()));
                    self.merge(&config, compiled);
                }
                Err(missing) => self.note.say(format!("waiting: {missing}")),
            }
            sleep(SETTLE).await;
            tokio::select! {
                () = store.changed() => {}
                changed = self.file.changed() => if changed.is_err() { return false },
            }
        }
    }

    /// Publishes the configuration of the file with the objects.
    fn merge(&self, config: &Config, compiled: CompiledObjects) {
        self.metrics.count(&compiled.verdicts);
        self.page
            .send_replace(Arc::new(ObjectsPage::of(&compiled.verdicts)));
        let CompiledObjects { fragments, .. } = compiled;
        let (merged, refused) = config.with_objects(fragments);
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
        self.merged.send_if_modified(|newest| {
            let is_news = newest.as_ref() != Some(&config);
            if is_news {
                *newest = Some(config);
            }
            is_news
        });
    }
}

/// Each kind in each namespace. `home` is the control plane's own.
fn watches(pools: &InferencePoolsConfig, home: &str) -> Vec<WatchKey> {
    let namespaces = match &pools.namespaces {
        ObjectNamespaces::Own => vec![Some(Arc::from(home))],
        ObjectNamespaces::Named(names) => names.iter().cloned().map(Some).collect(),
        ObjectNamespaces::All => vec![None],
    };
    let of_kind = |kind| {
        namespaces
            .iter()
            .map(move |namespace| (kind, namespace.clone()))
    };
    ObjectKind::ALL.into_iter().flat_map(of_kind).collect()
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
