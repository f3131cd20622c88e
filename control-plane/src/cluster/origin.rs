//! What a configured source is: a fixed list of endpoints, or a place to watch.

use hermes_core::snapshot::Role;

use crate::{config::Source, discovery::Discovered};

/// The endpoints of a static source; nothing when it has to be watched.
pub(super) fn fixed(source: &Source) -> Option<Vec<Discovered>> {
    match source {
        Source::Static(urls) => Some(urls.iter().map(|url| endpoint(url)).collect()),
        Source::Services(_) | Source::Pods(_) => None,
    }
}

fn endpoint(url: &str) -> Discovered {
    let authority = url
        .split_once("://")
        .map_or(url, |(_, authority)| authority);
    // Nothing tells one incarnation at a static address from the next.
    Discovered {
        url: url.to_owned(),
        uid: String::new(),
        name: authority.to_owned(),
        role: Role::Aggregate,
        group: None,
        kv_events: None,
    }
}
