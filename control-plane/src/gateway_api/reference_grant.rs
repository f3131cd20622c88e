//! What a `ReferenceGrant` says: which objects of other namespaces may refer to those of its own.

use std::sync::Arc;

use serde::Deserialize;

use super::gateway::{GATEWAY_GROUP, ObjectRef};

/// The specification of a `ReferenceGrant`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct ReferenceGrantSpec {
    from: Vec<GrantedSource>,
    to: Vec<GrantedTarget>,
}

/// Which objects may refer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct GrantedSource {
    group: Arc<str>,
    kind: Arc<str>,
    namespace: Arc<str>,
}

/// To which of the grant's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct GrantedTarget {
    group: Arc<str>,
    kind: Arc<str>,
    /// All of the kind unless it is set.
    name: Option<Arc<str>>,
}

// === ReferenceGrantSpec ===

impl ReferenceGrantSpec {
    /// Whether objects of this kind of the Gateway API's group in a namespace may refer to an object
    /// of the grant's namespace. `target` has its group and its kind.
    pub(crate) fn permits(&self, (kind, namespace): (&str, &str), target: &ObjectRef) -> bool {
        let is_from = |from: &GrantedSource| {
            (&*from.group, &*from.kind, &*from.namespace) == (GATEWAY_GROUP, kind, namespace)
        };
        let is_to = |to: &GrantedTarget| {
            Some(&to.group) == target.group.as_ref()
                && Some(&to.kind) == target.kind.as_ref()
                && to.name.as_ref().is_none_or(|name| *name == target.name)
        };
        self.from.iter().any(is_from) && self.to.iter().any(is_to)
    }
}
