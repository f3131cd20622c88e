//! Objects, their versions, and the history that watches replay: pure and synchronous.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use serde_json::{Value, json};

use super::{
    collection::Collection,
    query::{Page, Scope},
    refusal::Refusal,
};

/// How many changes are kept. Like a real server's watch cache, older ones are forgotten.
const HISTORY: usize = 20_000;

/// Everything the server knows.
#[derive(Debug)]
pub(crate) struct Store {
    /// Begins at one, because a client that says zero means "any version". Grows by one with every
    /// change, over all collections.
    version: u64,
    /// The oldest version from which a watch can be served.
    oldest: u64,
    /// Collection, then (namespace, name).
    objects: BTreeMap<Collection, BTreeMap<(String, String), Arc<Value>>>,
    history: VecDeque<Change>,
}

#[derive(Debug)]
struct Change {
    version: u64,
    collection: Collection,
    namespace: String,
    before: Option<Arc<Value>>,
    after: Option<Arc<Value>>,
}

/// One page of a list.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) version: u64,
    pub(crate) items: Vec<Arc<Value>>,
    /// Set when there is more.
    pub(crate) next: Option<Page>,
}

/// One event of a watch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) kind: &'static str,
    pub(crate) object: Value,
}

// === Store ===

impl Default for Store {
    fn default() -> Self {
        Self {
            version: 1,
            oldest: 1,
            objects: BTreeMap::new(),
            history: VecDeque::new(),
        }
    }
}

impl Store {
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Creates or replaces an object.
    pub(crate) fn put(&mut self, collection: &Collection, mut object: Value) {
        self.version += 1;
        let version = self.version;
        let metadata = &mut object["metadata"];
        if !metadata["namespace"].is_string() {
            metadata["namespace"] = json!("default");
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let key = (text(&metadata["namespace"]), text(&metadata["name"]));
        let before = self
            .objects
            .get(collection)
            .and_then(|objects| objects.get(&key))
            .cloned();
        metadata["resourceVersion"] = json!(version.to_string());
        for (field, fresh) in [
            ("uid", format!("uid-{version}")),
            ("creationTimestamp", "2026-01-01T00:00:00Z".into()),
        ] {
            if metadata[field].is_string() {
                continue;
            }
            let kept = before
                .as_ref()
                .map(|before| before["metadata"][field].clone());
            metadata[field] = kept.unwrap_or(json!(fresh));
        }
        let after = Arc::new(object);
        self.objects
            .entry(collection.clone())
            .or_default()
            .insert(key.clone(), Arc::clone(&after));
        self.remember(collection, key.0, before, Some(after));
    }

    /// Deletes an object; `false` when there was none.
    pub(crate) fn remove(&mut self, collection: &Collection, namespace: &str, name: &str) -> bool {
        let key = (namespace.to_owned(), name.to_owned());
        let Some(before) = self
            .objects
            .get_mut(collection)
            .and_then(|objects| objects.remove(&key))
        else {
            return false;
        };
        self.version += 1;
        self.remember(collection, key.0, Some(before), None);
        true
    }

    /// Forgets all history.
    pub(crate) fn expire(&mut self) {
        self.version += 1;
        self.oldest = self.version;
        self.history.clear();
    }

    fn remember(
        &mut self,
        collection: &Collection,
        namespace: String,
        before: Option<Arc<Value>>,
        after: Option<Arc<Value>>,
    ) {
        let (version, collection) = (self.version, collection.clone());
        self.history.push_back(Change {
            version,
            collection,
            namespace,
            before,
            after,
        });
        if self.history.len() > HISTORY
            && let Some(forgotten) = self.history.pop_front()
        {
            self.oldest = forgotten.version;
        }
    }

    /// Every object of a collection, by namespace and name.
    pub(crate) fn all(&self, collection: &Collection) -> Vec<Value> {
        let objects = self
            .objects
            .get(collection)
            .into_iter()
            .flat_map(BTreeMap::values);
        objects.map(|object| Value::clone(object)).collect()
    }

    /// One object.
    pub(crate) fn find(&self, collection: &Collection, key: &(String, String)) -> Option<Value> {
        let object = self.objects.get(collection)?.get(key)?;
        Some(Value::clone(object))
    }

    /// One page of the objects in `scope`; `limit` zero means all.
    ///
    /// # Errors
    ///
    /// When `page` continues a list that is older than the history.
    pub(crate) fn list(
        &self,
        scope: &Scope,
        limit: usize,
        page: Option<&Page>,
    ) -> Result<Listed, Refusal> {
        let version = page.map_or(self.version, |page| page.version);
        if version < self.oldest {
            return Err(Refusal::expired(version, self.oldest));
        }
        let from = page.map_or(Bound::Unbounded, |page| Bound::Excluded(page.after.clone()));
        let objects = self.objects.get(&scope.collection);
        let mut selected = objects
            .into_iter()
            .flat_map(|objects| objects.range((from.clone(), Bound::Unbounded)))
            .filter(|((namespace, _), object)| {
                scope.spans(&scope.collection, namespace) && scope.selects(object)
            });
        let most = if limit == 0 { usize::MAX } else { limit };
        let first: Vec<_> = selected.by_ref().take(most).collect();
        let next = match (first.last(), selected.next()) {
            (Some((last, _)), Some(_)) => Some(Page {
                version,
                after: (*last).clone(),
            }),
            _ => None,
        };
        let items = first
            .into_iter()
            .map(|(_, object)| Arc::clone(object))
            .collect();
        Ok(Listed {
            version,
            items,
            next,
        })
    }

    /// What happened in `scope` after `version`.
    ///
    /// # Errors
    ///
    /// When the history does not reach back that far.
    pub(crate) fn since(&self, scope: &Scope, version: u64) -> Result<Vec<Event>, Refusal> {
        if version < self.oldest {
            return Err(Refusal::expired(version, self.oldest));
        }
        let begin = self
            .history
            .partition_point(|change| change.version <= version);
        let changes = self.history.range(begin..);
        let spanned = changes.filter(|change| scope.spans(&change.collection, &change.namespace));
        Ok(spanned.filter_map(|change| change.event(scope)).collect())
    }
}

// === Listed ===

impl Listed {
    /// The list as the first events of a watch that begins at no particular version.
    pub(crate) fn into_events(self) -> Vec<Event> {
        let added = |object: Arc<Value>| Event {
            kind: "ADDED",
            object: Value::clone(&object),
        };
        self.items.into_iter().map(added).collect()
    }
}

// === Change ===

impl Change {
    /// How a watch on `scope` sees it: an object that ceases to match the selector is deleted for
    /// that watch.
    fn event(&self, scope: &Scope) -> Option<Event> {
        let before = self.before.as_ref().filter(|object| scope.selects(object));
        let after = self.after.as_ref().filter(|object| scope.selects(object));
        let (kind, object) = match (before, after) {
            (None, None) => return None,
            (None, Some(after)) => ("ADDED", after),
            (Some(_), Some(after)) => ("MODIFIED", after),
            (Some(before), None) => ("DELETED", before),
        };
        let mut object = Value::clone(object);
        // A deletion shows the last state that matched, under the version of the deletion.
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        Some(Event { kind, object })
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::{super::selector::Selector, *};

    fn pods() -> Collection {
        Collection::of::<Pod>()
    }

    fn scope(selector: &str) -> Scope {
        let selector = Selector::parse(selector).unwrap();
        Scope {
            collection: pods(),
            namespace: Some("ai".to_owned()),
            selector,
            name: None,
        }
    }

    fn pod(name: &str, app: &str) -> Value {
        json!({"metadata": {"name": name, "namespace": "ai", "labels": {"app": app}}})
    }

    fn seen(store: &Store, version: u64) -> Vec<&'static str> {
        store
            .since(&scope("app=a"), version)
            .unwrap()
            .into_iter()
            .map(|event| event.kind)
            .collect()
    }

    #[test]
    fn a_watch_sees_objects_come_into_and_leave_its_selection() {
        let mut store = Store::default();
        store.put(&pods(), pod("x", "a"));
        store.put(&pods(), pod("x", "a"));
        store.put(&pods(), pod("x", "b"));
        store.put(&pods(), pod("x", "a"));
        assert!(store.remove(&pods(), "ai", "x"));
        assert_eq!(
            seen(&store, 1),
            ["ADDED", "MODIFIED", "DELETED", "ADDED", "DELETED"]
        );
        assert_eq!(seen(&store, 4), ["ADDED", "DELETED"]);
        let last = store.since(&scope("app=a"), 3).unwrap().remove(0);
        assert_eq!(
            last.object["metadata"]["labels"]["app"], "a",
            "the last state that matched"
        );
        assert_eq!(last.object["metadata"]["resourceVersion"], "4");
    }

    #[test]
    fn an_updated_object_keeps_its_uid_and_a_recreated_one_does_not() {
        let mut store = Store::default();
        let uid = |store: &Store| {
            store.list(&scope(""), 0, None).unwrap().items[0]["metadata"]["uid"].clone()
        };
        store.put(&pods(), pod("x", "a"));
        let first = uid(&store);
        store.put(&pods(), pod("x", "b"));
        assert_eq!(uid(&store), first);
        store.remove(&pods(), "ai", "x");
        store.put(&pods(), pod("x", "a"));
        assert_ne!(uid(&store), first);
    }

    #[test]
    fn pages_cover_the_list_once_under_one_version() {
        let mut store = Store::default();
        for name in ["a", "b", "c", "d", "e"] {
            store.put(&pods(), pod(name, "a"));
        }
        store.put(&pods(), pod("other", "b"));
        let mut names = Vec::new();
        let mut page = None;
        loop {
            let listed = store.list(&scope("app=a"), 2, page.as_ref()).unwrap();
            assert_eq!(listed.version, 7);
            names.extend(
                listed
                    .items
                    .iter()
                    .map(|object| object["metadata"]["name"].clone()),
            );
            store.put(&pods(), pod("late", "b"));
            page = listed.next;
            if page.is_none() {
                break;
            }
        }
        assert_eq!(names, ["a", "b", "c", "d", "e"]);
    }

    #[test]
    fn what_was_forgotten_is_refused_and_not_skipped() {
        let mut store = Store::default();
        store.put(&pods(), pod("x", "a"));
        store.expire();
        assert_eq!(
            store.since(&scope(""), 2).unwrap_err().status().as_u16(),
            410
        );
        assert_eq!(store.since(&scope(""), store.version()).unwrap(), []);
        let page = Page {
            version: 1,
            after: (String::new(), String::new()),
        };
        assert_eq!(
            store
                .list(&scope(""), 0, Some(&page))
                .unwrap_err()
                .status()
                .as_u16(),
            410
        );
    }
}
