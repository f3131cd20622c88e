//! What an object of a namespace is called.

use std::{fmt, sync::Arc};

/// What an object of a namespace is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NamespacedName {
    /// Its namespace.
    pub(crate) namespace: Arc<str>,
    /// Its name there.
    pub(crate) name: Arc<str>,
}

// === NamespacedName ===

impl NamespacedName {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, name } = self;
        write!(f, "{namespace}/{name}")
    }
}
