//! What routes refer to: pools, listeners, and each other.

use std::{collections::BTreeMap, sync::Arc};

use hermes_core::{
    nearest::nearest,
    route::{BackendTarget, Route, RouteRule},
};

use super::RouteFragment;
use crate::config::{MAX_PATTERNS, diagnostics::Diagnostics};

/// What routes may refer to.
pub(in crate::config) struct KnownNames<'a> {
    /// The pools of the file.
    pub(in crate::config) pools: Vec<&'a str>,
    /// Objects of Kubernetes are pools, too, which come and go: until one is there, requests for it
    /// are answered with 500.
    pub(in crate::config) has_other_pools: bool,
    /// The listeners of the file.
    pub(in crate::config) listeners: Vec<&'a str>,
}

/// The routes. Records names that are used twice, and references to what is not there.
pub(in crate::config) fn merge(
    fragments: Vec<RouteFragment>,
    known: &KnownNames<'_>,
    diagnostics: &Diagnostics,
) -> Vec<Arc<Route>> {
    let mut names = BTreeMap::new();
    for RouteFragment { path, route } in &fragments {
        if let Some(first) = names.insert(&route.name, path) {
            let found = format!("the name `{}` is used by {first}", route.name);
            diagnostics.error(path, found, "give every route its own name");
        }
        for (index, listener) in route.listeners.iter().enumerate() {
            let at = format!("{path}.listeners[{index}]");
            check(&at, "listener", listener, &known.listeners, diagnostics);
        }
        for (at, target) in targets(route) {
            if let Some(pool) = target.pool().filter(|_| !known.has_other_pools) {
                check(
                    &format!("{path}.{at}.pool"),
                    "pool",
                    pool,
                    &known.pools,
                    diagnostics,
                );
            }
        }
    }
    let rules = fragments.iter().flat_map(|fragment| &fragment.route.rules);
    let patterns: usize = rules.map(RouteRule::patterns).sum();
    if patterns > MAX_PATTERNS {
        let found = format!("{patterns} regular expressions");
        diagnostics.error("routes", found, format!("the limit is {MAX_PATTERNS}"));
    }
    fragments
        .into_iter()
        .map(|fragment| fragment.route)
        .collect()
}

/// Every reference to a pool, with its path in the route.
fn targets(route: &Route) -> impl Iterator<Item = (String, &BackendTarget)> {
    route.rules.iter().enumerate().flat_map(|(rule, content)| {
        let at = move |list: &str, index| format!("rules[{rule}].{list}[{index}]");
        let backends = content.backends.iter().enumerate();
        let backends =
            backends.map(move |(index, backend)| (at("backends", index), &backend.target));
        let mirrors = content.filters.mirrors.iter().enumerate();
        backends.chain(mirrors.map(move |(index, mirror)| (at("mirrors", index), &mirror.target)))
    })
}

fn check(path: &str, kind: &str, name: &str, known: &[&str], diagnostics: &Diagnostics) {
    if known.contains(&name) {
        return;
    }
    let fix = match nearest(name, known.iter().copied()).first() {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("name one of the {kind}s of this file"),
    };
    diagnostics.error(path, format!("no {kind} is named `{name}`"), fix);
}
