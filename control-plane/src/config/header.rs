//! Places in a request that identify someone: `key`, a word, or `header:NAME`.

use std::sync::Arc;

use super::node::Node;

/// The part of a value after `header:`, in lower case, if a proxy may read this header.
pub(super) fn read(node: &Node<'_>, name: &str, expected: &str) -> Option<Arc<str>> {
    if name.eq_ignore_ascii_case("authorization") {
        return node.wrong("use `key`: the credential, hashed before it leaves the proxy");
    }
    if http::HeaderName::try_from(name).is_err() {
        return node.wrong(format!("expected {expected}"));
    }
    Some(name.to_ascii_lowercase().into())
}
