//! A keyed collection: the one container of what a snapshot has many of.
//!
//! Values are shared, and so is the list of them: a copy of a collection is a pointer, and the next
//! version of it shares every value that did not change. [`CollectionDelta`] is what travels
//! between two versions.
//!
//! Invariant: sorted by key, each key once. Readers use it as a slice, and may identify a value by
//! its position while they keep the collection.

mod delta;

use std::{borrow::Borrow, fmt, ops::Deref, sync::Arc};

use serde::Serialize;

pub use self::delta::{CollectionDelta, OutOfOrder, ValueChange, WrongBase, shared};

/// A value that a collection can hold.
pub trait Keyed {
    /// Identifies the value in its collection.
    type Key: Ord + Clone + fmt::Debug + fmt::Display;

    /// What it is, for messages: `endpoint`.
    const KIND: &'static str;

    /// The key.
    fn key(&self) -> &Self::Key;
}

/// See the module. Its size is bounded where it is made: by the configuration and by discovery in
/// the control plane, by the size of a message in a proxy.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Collection<T>(Arc<[Arc<T>]>);

// === Collection ===

impl<T: Keyed> Collection<T> {
    /// Where the value with this key stands.
    #[must_use]
    pub fn position<Q>(&self, key: &Q) -> Option<usize>
    where
        T::Key: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.0
            .binary_search_by(|item| item.key().borrow().cmp(key))
            .ok()
    }

    /// The value with this key.
    #[must_use]
    pub fn find<Q>(&self, key: &Q) -> Option<&Arc<T>>
    where
        T::Key: Borrow<Q>,
        Q: Ord + ?Sized,
    {
        self.position(key).map(|position| &self.0[position])
    }
}

impl<T> Collection<T> {
    /// Whether both are one list in memory.
    #[must_use]
    pub fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Deref for Collection<T> {
    type Target = [Arc<T>];

    fn deref(&self) -> &[Arc<T>] {
        &self.0
    }
}

impl<'a, T> IntoIterator for &'a Collection<T> {
    type Item = &'a Arc<T>;
    type IntoIter = std::slice::Iter<'a, Arc<T>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// Sorts; of several values with one key the last stays.
impl<T: Keyed> FromIterator<Arc<T>> for Collection<T> {
    fn from_iter<I: IntoIterator<Item = Arc<T>>>(items: I) -> Self {
        let mut items: Vec<Arc<T>> = items.into_iter().collect();
        items.sort_by(|a, b| a.key().cmp(b.key()));
        items.dedup_by(|later, earlier| {
            let is_replaced = later.key() == earlier.key();
            if is_replaced {
                std::mem::swap(later, earlier);
            }
            is_replaced
        });
        Self(items.into())
    }
}

/// As from an iterator.
impl<T: Keyed> From<Vec<Arc<T>>> for Collection<T> {
    fn from(items: Vec<Arc<T>>) -> Self {
        items.into_iter().collect()
    }
}

impl<T> Clone for Collection<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Collection<T> {
    fn default() -> Self {
        Self(Arc::new([]))
    }
}

/// Compares addresses first: values are read only where these differ.
impl<T: PartialEq> PartialEq for Collection<T> {
    fn eq(&self, other: &Self) -> bool {
        let is_same = |(a, b): (&Arc<T>, &Arc<T>)| Arc::ptr_eq(a, b) || **a == **b;
        self.is_shared_with(other)
            || (self.len() == other.len() && self.iter().zip(other.iter()).all(is_same))
    }
}

#[cfg(test)]
mod tests;
