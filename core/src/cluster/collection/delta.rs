//! The difference of two versions of one collection: which values are set, which keys are gone.

use std::{fmt, sync::Arc};

use super::{Collection, Keyed};
use crate::cluster::version::{Epoch, Version};

/// How a change of one value travels: as the whole value ([`Arc`] of it), or as less where values
/// are large.
pub trait ValueChange: Sized {
    /// What changes.
    type Value: Keyed;

    /// What turns `old`, if it was there, into `new`, which has the same key. `None` when they are
    /// the same; never for a value that was not there.
    fn between(old: Option<&Arc<Self::Value>>, new: &Arc<Self::Value>) -> Option<Self>;

    /// The key of the value that changes.
    fn key(&self) -> &<Self::Value as Keyed>::Key;

    /// The new value, with the key of the change.
    ///
    /// # Errors
    /// When the change was not made for `base`.
    fn apply(&self, base: Option<&Arc<Self::Value>>) -> Result<Arc<Self::Value>, WrongBase>;
}

/// What happened to a collection between two versions.
///
/// Both lists are sorted by key, and no key is there twice, in one list or in both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectionDelta<K, C> {
    set: Vec<C>,
    gone: Vec<K>,
}

/// A delta's lists are not what [`CollectionDelta`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{list}[{index}] is out of order, or its key is there twice")]
pub struct OutOfOrder {
    /// `set` or `gone`.
    pub list: &'static str,
    /// Position in the list.
    pub index: usize,
}

/// A delta met a snapshot that it was not made for; only a whole snapshot helps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongBase {
    /// The snapshot has another version, or belongs to another epoch.
    #[error("the delta applies to version {} of epoch {:x}, not to the version {} at hand", .wanted.0, .epoch.0, .found.0)]
    Version {
        /// The delta's epoch.
        epoch: Epoch,
        /// The version it applies to.
        wanted: Version,
        /// The version it met, perhaps of another epoch.
        found: Version,
    },
    /// The delta changes or removes a value that the snapshot does not have.
    #[error("the delta changes the {kind} {key}, which is not there")]
    Missing {
        /// [`Keyed::KIND`].
        kind: &'static str,
        /// The value's key.
        key: String,
    },
    /// The delta changes a part of a value that is not as it expects.
    #[error("the delta changes the {kind} {key}, which is another one than it expects")]
    Different {
        /// [`Keyed::KIND`].
        kind: &'static str,
        /// The value's key.
        key: String,
    },
}

// === CollectionDelta ===

impl<C: ValueChange> CollectionDelta<<C::Value as Keyed>::Key, C> {
    /// A delta of these lists.
    ///
    /// # Errors
    /// When a list is not sorted, or has a key twice, or both lists have it.
    pub fn new(set: Vec<C>, gone: Vec<<C::Value as Keyed>::Key>) -> Result<Self, OutOfOrder> {
        if let Some(index) = disorder(set.iter().map(C::key)) {
            return Err(OutOfOrder { list: "set", index });
        }
        let is_set = |key: &_| set.binary_search_by(|change| change.key().cmp(key)).is_ok();
        match disorder(gone.iter()).or_else(|| gone.iter().position(is_set)) {
            Some(index) => Err(OutOfOrder {
                list: "gone",
                index,
            }),
            None => Ok(Self { set, gone }),
        }
    }

    /// What turns `old` into `new`: one pass over addresses, which reads keys and values only where
    /// addresses differ.
    #[must_use]
    pub fn between(old: &Collection<C::Value>, new: &Collection<C::Value>) -> Self {
        let mut delta = Self::default();
        if old.is_shared_with(new) {
            return delta;
        }
        let (mut before, mut after) = (&old[..], &new[..]);
        while let ([was, later @ ..], [is, next @ ..]) = (before, after) {
            if Arc::ptr_eq(was, is) {
                (before, after) = (later, next);
                continue;
            }
            let order = was.key().cmp(is.key());
            if order.is_lt() {
                delta.gone.push(was.key().clone());
            } else {
                delta
                    .set
                    .extend(C::between(order.is_eq().then_some(was), is));
            }
            before = if order.is_le() { later } else { before };
            after = if order.is_ge() { next } else { after };
        }
        delta
            .gone
            .extend(before.iter().map(|was| was.key().clone()));
        delta
            .set
            .extend(after.iter().filter_map(|is| C::between(None, is)));
        delta
    }

    /// The new collection; shares with `base` what did not change.
    ///
    /// # Errors
    /// When the delta was not made for `base`.
    pub fn apply(&self, base: &Collection<C::Value>) -> Result<Collection<C::Value>, WrongBase> {
        if self.is_empty() {
            return Ok(base.clone());
        }
        let changed = self.set.iter().map(|change| (change.key(), Some(change)));
        let mut edits: Vec<_> = changed
            .chain(self.gone.iter().map(|key| (key, None)))
            .collect();
        edits.sort_by_key(|(key, _)| *key);
        let mut items = Vec::with_capacity(base.len() + self.set.len());
        let mut rest = &base[..];
        for (key, change) in edits {
            let (kept, from) = rest.split_at(rest.partition_point(|item| item.key() < key));
            items.extend_from_slice(kept);
            let old = from.first().filter(|item| item.key() == key);
            rest = &from[usize::from(old.is_some())..];
            match (change, old) {
                (Some(change), old) => items.push(change.apply(old)?),
                (None, Some(_)) => {}
                (None, None) => return Err(WrongBase::missing::<C::Value>(key)),
            }
        }
        items.extend_from_slice(rest);
        Ok(Collection(items.into()))
    }
}

impl<K, C> CollectionDelta<K, C> {
    /// Values that are new or changed, sorted by key.
    #[must_use]
    pub fn set(&self) -> &[C] {
        &self.set
    }

    /// Keys that are gone, sorted.
    #[must_use]
    pub fn gone(&self) -> &[K] {
        &self.gone
    }

    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.gone.is_empty()
    }
}

impl<K, C> Default for CollectionDelta<K, C> {
    fn default() -> Self {
        Self {
            set: Vec::new(),
            gone: Vec::new(),
        }
    }
}

// === WrongBase ===

impl WrongBase {
    /// No value of this key is there.
    pub(crate) fn missing<T: Keyed>(key: &T::Key) -> Self {
        Self::Missing {
            kind: T::KIND,
            key: key.to_string(),
        }
    }

    /// The value of this key is not what the change was made for.
    pub(crate) fn different<T: Keyed>(key: &T::Key) -> Self {
        Self::Different {
            kind: T::KIND,
            key: key.to_string(),
        }
    }
}

// === Parts of a change ===

/// The whole value.
impl<T: Keyed + PartialEq> ValueChange for Arc<T> {
    type Value = T;

    fn between(old: Option<&Self>, new: &Self) -> Option<Self> {
        let is_same = old.is_some_and(|old| Self::ptr_eq(old, new) || **old == **new);
        (!is_same).then(|| Self::clone(new))
    }

    fn key(&self) -> &T::Key {
        T::key(self)
    }

    fn apply(&self, _base: Option<&Self>) -> Result<Self, WrongBase> {
        Ok(Self::clone(self))
    }
}

/// `new`, sharing with `old` what is equal: `old` itself when all of it is.
#[must_use]
pub fn shared<C: ValueChange>(old: Option<&Arc<C::Value>>, new: Arc<C::Value>) -> Arc<C::Value> {
    let Some(old) = old else { return new };
    match C::between(Some(old), &new) {
        None => Arc::clone(old),
        // It was made for this base.
        Some(change) => change.apply(Some(old)).unwrap_or(new),
    }
}

/// The first position whose key does not follow the one before it.
fn disorder<'a, K: Ord + fmt::Debug + 'a>(mut keys: impl Iterator<Item = &'a K>) -> Option<usize> {
    let mut before = keys.next()?;
    for (index, key) in keys.enumerate() {
        if key <= before {
            return Some(index + 1);
        }
        before = key;
    }
    None
}
