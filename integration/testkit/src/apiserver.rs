//! A Kubernetes API server that tests script: real HTTP, objects in memory, and every failure on
//! demand.
//!
//! ```text
//!   test ──apply, delete, stop, …──▶ Store (objects, versions, history)
//!   client ──HTTP list──▶ answer     │
//!          ──HTTP watch─▶ stream ◀───┘ woken by every change
//! ```
//!
//! It serves what watchers need: lists with label selectors and pages, watches from a version with
//! bookmarks and time limits, and the `Status` objects of refusals, for namespaced and
//! namespace-less paths of any kind. It is as strict as a server without the WatchList feature. It
//! has no schemas, admission, authentication or TLS. Clients can create Events, apply conditions, and
//! apply and delete whole objects, as one field manager.
//!
//! Everything lives in the process and on `127.0.0.1`; dropping the server closes all its sockets.

mod collection;
mod connections;
mod query;
mod refusal;
mod reply;
mod selector;
mod serve;
mod store;
mod stream;
mod write;

use std::{collections::BTreeSet, io, net::SocketAddr, sync::Arc, time::Duration};

use k8s_openapi::{
    Metadata, NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;
use tokio::{net::TcpListener, sync::watch};

pub use self::collection::Collection;
use self::{connections::Connections, store::Store};

/// A scripted API server. Methods that change objects take effect before they return; watchers get
/// the event at once.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    running: tokio::sync::Mutex<Option<Connections>>,
}

/// How often clients asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Lists; each page counts.
    pub lists: u64,
    /// Watches that were begun or refused.
    pub watches: u64,
    /// Conditions that were applied to an object's status.
    pub applied_statuses: u64,
    /// Objects that were applied or deleted, or were to be.
    pub writes: u64,
}

/// What every connection sees.
#[derive(Debug)]
struct Shared {
    store: Mutex<Store>,
    faults: Mutex<Faults>,
    requests: Mutex<Requests>,
    /// The single objects that clients listed or watched.
    selected: Mutex<BTreeSet<(Collection, String)>>,
    /// What clients applied last.
    applied: Mutex<write::AppliedObjects>,
    /// The newest version; wakes watches.
    version: watch::Sender<u64>,
}

/// What the test wants to go wrong.
#[derive(Debug, Default)]
struct Faults {
    list_delay: Duration,
    /// Ends watches before the time that clients ask for.
    longest_watch: Option<Duration>,
    /// Collections whose lists and watches are answered with 403.
    forbidden: Vec<Collection>,
    /// Collections whose objects may not be applied or deleted.
    read_only: Vec<Collection>,
    /// Collections that are answered with 404, as kinds are whose definition is not installed.
    undefined: Vec<Collection>,
    /// Watches that began under an earlier number never say anything again.
    frozen: u64,
}

// === ApiServer ===

impl ApiServer {
    /// Starts an empty server on a free port of `127.0.0.1`.
    ///
    /// # Errors
    ///
    /// When no port can be bound.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let store = Store::default();
        let version = watch::Sender::new(store.version());
        let store = Mutex::new(store);
        let shared = Arc::new(Shared {
            store,
            version,
            faults: Mutex::default(),
            requests: Mutex::default(),
            selected: Mutex::default(),
            applied: Mutex::default(),
        });
        let running = Connections::accept(listener, Arc::clone(&shared));
        Ok(Self {
            address,
            shared,
            running: tokio::sync::Mutex::new(Some(running)),
        })
    }

    /// The address clients connect to: `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A kubeconfig file, for programs that read one.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        let url = self.url();
        let cluster = format!("clusters: [{{name: scripted, cluster: {{server: \"{url}\"}}}}]");
        let context = "contexts: [{name: scripted, context: {cluster: scripted, user: scripted}}]";
        let rest = "users: [{name: scripted, user: {}}]\ncurrent-context: scripted";
        format!("apiVersion: v1\nkind: Config\n{cluster}\n{context}\n{rest}\n")
    }

    /// Creates or replaces an object, and fills in UID, creation time, and version as a server
    /// does.
    pub fn apply<K>(&self, object: &K)
    where
        K: k8s_openapi::Resource<Scope = NamespaceResourceScope>
            + Metadata<Ty = ObjectMeta>
            + Serialize,
    {
        let value = serde_json::to_value(object).expect("API types have string keys only");
        self.apply_value(&Collection::of::<K>(), value);
    }

    /// Like [`ApiServer::apply`] for any JSON, however malformed outside of `metadata`.
    pub fn apply_value(&self, collection: &Collection, object: Value) {
        self.shared.edit(|store| store.put(collection, object));
    }

    /// Like [`ApiServer::delete`] for any collection.
    pub fn delete_value(&self, collection: &Collection, namespace: &str, name: &str) -> bool {
        self.shared
            .edit(|store| store.remove(collection, namespace, name))
    }

    /// Deletes an object; `false` when there was none.
    pub fn delete<K>(&self, namespace: &str, name: &str) -> bool
    where
        K: k8s_openapi::Resource<Scope = NamespaceResourceScope>,
    {
        self.shared
            .edit(|store| store.remove(&Collection::of::<K>(), namespace, name))
    }

    /// Forgets all history: running watches end with 410 `Expired`, and so does every watch from an
    /// earlier version.
    pub fn expire_watches(&self) {
        self.shared.edit(Store::expire);
    }

    /// Running watches fall silent for ever and keep their sockets, as when packets are lost. New
    /// ones work.
    pub fn freeze_watches(&self) {
        self.shared.faults.lock().frozen += 1;
    }

    /// Every list waits this long before it is answered.
    pub fn delay_lists(&self, delay: Duration) {
        self.shared.faults.lock().list_delay = delay;
    }

    /// Ends every watch that begins from now on after at most this time, in the ordinary way.
    pub fn limit_watches(&self, longest: Duration) {
        self.shared.faults.lock().longest_watch = Some(longest);
    }

    /// Refuses lists and watches of a kind with 403, as when a role lacks a rule.
    pub fn forbid<K: k8s_openapi::Resource>(&self) {
        self.forbid_collection(&Collection::of::<K>());
    }

    /// Like [`ApiServer::forbid`] for any collection.
    pub fn forbid_collection(&self, collection: &Collection) {
        self.shared.faults.lock().forbidden.push(collection.clone());
    }

    /// Refuses to apply and to delete objects of a kind with 403.
    pub fn forbid_writes<K: k8s_openapi::Resource>(&self) {
        let collection = Collection::of::<K>();
        self.shared.faults.lock().read_only.push(collection);
    }

    /// Takes back every [`ApiServer::forbid`] and [`ApiServer::forbid_writes`].
    pub fn permit_all(&self) {
        let mut faults = self.shared.faults.lock();
        faults.forbidden.clear();
        faults.read_only.clear();
    }

    /// Has no such kind from now on, as if its definition was not installed.
    pub fn undefine(&self, collection: &Collection) {
        self.shared.faults.lock().undefined.push(collection.clone());
    }

    /// Takes back every [`ApiServer::undefine`].
    pub fn define_all(&self) {
        self.shared.faults.lock().undefined.clear();
    }

    /// Closes every connection in the middle of whatever it was doing. New ones are accepted.
    pub async fn drop_connections(&self) {
        if let Some(running) = &*self.running.lock().await {
            running.drop_all().await;
        }
    }

    /// Stops listening and closes every connection. Objects stay, and can be changed while it is
    /// away.
    pub async fn stop(&self) {
        if let Some(running) = self.running.lock().await.take() {
            running.stop().await;
        }
    }

    /// Listens on the same port again. Does nothing while it runs.
    ///
    /// # Errors
    ///
    /// When another process took the port meanwhile.
    pub async fn start_again(&self) -> io::Result<()> {
        let mut running = self.running.lock().await;
        if running.is_none() {
            let listener = TcpListener::bind(self.address).await?;
            *running = Some(Connections::accept(listener, Arc::clone(&self.shared)));
        }
        Ok(())
    }

    /// Every object of a kind, as clients and the test wrote them.
    #[must_use]
    pub fn objects<K: k8s_openapi::Resource>(&self) -> Vec<Value> {
        self.shared.store.lock().all(&Collection::of::<K>())
    }

    /// Like [`ApiServer::objects`] for any collection.
    #[must_use]
    pub fn objects_in(&self, collection: &Collection) -> Vec<Value> {
        self.shared.store.lock().all(collection)
    }

    /// Of which objects of a kind clients have asked, `namespace/name` each in order; `*` where they
    /// asked for all of a namespace.
    #[must_use]
    pub fn selected<K: k8s_openapi::Resource>(&self) -> Vec<String> {
        let collection = Collection::of::<K>();
        let selected = self.shared.selected.lock();
        let of_kind = selected.iter().filter(|(of, _)| *of == collection);
        of_kind.map(|(_, name)| name.clone()).collect()
    }

    /// How often clients asked since the start.
    #[must_use]
    pub fn requests(&self) -> Requests {
        *self.shared.requests.lock()
    }
}

// === Shared ===

impl Shared {
    /// Changes the store and wakes the watches.
    fn edit<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let mut store = self.store.lock();
        let answer = change(&mut store);
        self.version.send_replace(store.version());
        answer
    }
}
