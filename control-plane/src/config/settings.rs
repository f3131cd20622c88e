//! What applies to every request before its pool is known.

use std::{collections::BTreeSet, sync::Arc};

use hermes_core::policy::ProxySettings;

use super::{
    address::is_path,
    reader::{Fields, Node},
    sections::LIMITS,
};

/// Most paths besides the known ones.
const MAX_PATHS: usize = 64;

/// The settings among the keys of the top level.
pub(super) fn read(top: &Fields<'_>) -> ProxySettings {
    let defaults = ProxySettings::default();
    let limits = top.node("limits").and_then(|node| node.fields(&LIMITS));
    let limits = limits.as_ref();
    ProxySettings {
        max_body_bytes: limits
            .and_then(|l| l.size("maxBodyBytes"))
            .unwrap_or(defaults.max_body_bytes),
        max_concurrent: limits
            .and_then(|l| l.count("maxConcurrent"))
            .unwrap_or(defaults.max_concurrent),
        client_timeout: limits
            .and_then(|l| l.duration("clientTimeout"))
            .unwrap_or(defaults.client_timeout),
        expose_endpoint: top
            .flag("exposeEndpoint")
            .unwrap_or(defaults.expose_endpoint),
        extra_paths: top
            .node("extraPaths")
            .and_then(|node| read_paths(&node))
            .unwrap_or(defaults.extra_paths),
    }
}

fn read_paths(node: &Node<'_>) -> Option<Vec<Arc<str>>> {
    let items = node.items(0, MAX_PATHS, "paths such as /v2/embed")?;
    let mut seen = BTreeSet::new();
    let mut paths: Vec<Arc<str>> = Vec::with_capacity(items.len());
    for item in &items {
        let Some(path) = item.text("a path such as /v2/embed") else {
            continue;
        };
        if !is_path(path) {
            item.wrong::<()>("give a path such as /v2/embed, without a query");
        } else if seen.insert(path) {
            paths.push(path.into());
        } else {
            item.wrong::<()>("leave it out: it is in the list already");
        }
    }
    Some(paths)
}
