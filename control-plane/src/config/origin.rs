//! Where a fragment of the configuration is from.

use std::{fmt, sync::Arc};

use serde::Serialize;

/// Where a fragment is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigOrigin {
    /// At this path of the configuration file.
    File(String),
    /// On the command line.
    Flags,
    /// By an object of Kubernetes.
    Object(ObjectReference),
}

/// An object of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectReference {
    /// Its kind, such as `InferencePool`.
    pub kind: &'static str,
    /// The API group of its kind.
    pub group: &'static str,
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for ConfigOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.write_str(path),
            Self::Flags => f.write_str("the command line"),
            Self::Object(object) => object.fmt(f),
        }
    }
}

impl fmt::Display for ObjectReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            group,
            namespace,
            name,
        } = self;
        write!(f, "{kind}.{group} {namespace}/{name}")
    }
}
