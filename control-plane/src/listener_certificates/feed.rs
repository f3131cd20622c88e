//! The task: follows the Secrets that are allowed, and publishes what they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use hermes_core::certificate::MAX_CERTIFICATES;
use hermes_runtime::tasks::RestartedTask;
use kube::{
    Api, Client,
    core::{ApiResource, DeserializeGuard, DynamicObject, GroupVersionKind},
    runtime::watcher::{self, watcher},
};
use tokio::{
    sync::{OnceCell, watch},
    time::sleep,
};

use super::{
    AllowedSecrets, NewestCertificates, SecretName, SecretState, SecretStates,
    metrics::SecretMetrics,
    store::{SecretSink, SecretStore},
};
use crate::{
    discovery::{self, Pace, WATCH_SECONDS, follow, spread},
    news::send_news,
};

/// How long changes gather after some were published.
const SETTLE: Duration = Duration::from_millis(20);

/// How long a list may make no progress.
const LIST: Duration = Duration::from_secs(10);

/// Time between two full lists of a Secret.
const RESYNC: Duration = Duration::from_secs(300);

/// Follows Secrets. Clones share everything, so that another one can go on.
#[derive(Clone)]
pub struct CertificateFeed {
    /// The Secrets that listeners may use.
    pub allowed: watch::Receiver<AllowedSecrets>,
    /// Where it goes what is known of them.
    pub states: Arc<watch::Sender<SecretStates>>,
    /// Where it goes what proxies are sent.
    pub certificates: Arc<watch::Sender<NewestCertificates>>,
    /// The API server, as soon as it is needed.
    pub client: Arc<OnceCell<Client>>,
    /// Counters.
    pub metrics: SecretMetrics,
}

/// The watches, one for each Secret; they end when it is dropped.
type SecretWatches = BTreeMap<SecretName, RestartedTask>;

// === CertificateFeed ===

impl CertificateFeed {
    /// Runs until the channel of names is closed. While no Secret is allowed it asks nothing of the
    /// API server.
    pub async fn run(mut self) {
        let store = Arc::new(SecretStore::default());
        let mut watches = SecretWatches::new();
        loop {
            let allowed = self.allowed.borrow_and_update().clone();
            let names = allowed.as_deref().map(bounded);
            self.follow(names.as_ref(), &store, &mut watches).await;
            self.publish(allowed.as_deref(), &store);
            sleep(SETTLE).await;
            tokio::select! {
                () = store.changed() => {}
                changed = self.allowed.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Follows these Secrets and no others.
    async fn follow(
        &self,
        names: Option<&BTreeSet<SecretName>>,
        store: &Arc<SecretStore>,
        watches: &mut SecretWatches,
    ) {
        let none = BTreeSet::new();
        let names = names.unwrap_or(&none);
        watches.retain(|name, _| names.contains(name));
        store.retain(names);
        for name in names {
            if watches.contains_key(name) {
                continue;
            }
            let awaited = discovery::client::await_client("the watch of Secrets");
            let client = self.client.get_or_init(|| awaited).await.clone();
            let sink = SecretSink {
                store: Arc::clone(store),
                name: name.clone(),
            };
            let watch = move || watch_secret(sink.clone(), client.clone());
            watches.insert(name.clone(), RestartedTask::spawn("secret", watch));
        }
    }

    fn publish(&self, allowed: Option<&BTreeSet<SecretName>>, store: &SecretStore) {
        let mut states = store.states();
        let certificates = allowed.map(|_| store.certificates());
        // The rest is not followed.
        for name in allowed.into_iter().flatten().skip(MAX_CERTIFICATES) {
            let reason: Arc<str> =
                format!("listeners name more than {MAX_CERTIFICATES} Secrets").into();
            states.insert(name.clone(), SecretState::Invalid(Arc::clone(&reason)));
        }
        self.metrics.count(&states);
        send_news(&self.states, Arc::new(states));
        send_news(&self.certificates, certificates.map(Arc::new));
    }
}

/// As many of the names as are followed.
fn bounded(names: &BTreeSet<SecretName>) -> BTreeSet<SecretName> {
    names.iter().take(MAX_CERTIFICATES).cloned().collect()
}

/// Follows one Secret for ever.
async fn watch_secret(sink: SecretSink, client: Client) {
    let resource =
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", "Secret"), "secrets");
    let SecretName { namespace, name } = &sink.name;
    let api: Api<DeserializeGuard<DynamicObject>> =
        Api::namespaced_with(client, namespace, &resource);
    let config = watcher::Config::default()
        .fields(&format!("metadata.name={name}"))
        .timeout(WATCH_SECONDS);
    let pace = Pace {
        list: LIST,
        resync: spread(RESYNC),
    };
    let open = || watcher(api.clone(), config.clone());
    follow(&sink, "secrets", pace, open).await;
}
