//! A static source: the endpoints whose URLs are in the configuration.

use hermes_core::snapshot::Role;

use super::DiscoveredEndpoint;

/// The endpoints at these URLs.
pub(crate) fn static_endpoints<'a>(
    urls: impl IntoIterator<Item = &'a str>,
) -> Vec<DiscoveredEndpoint> {
    urls.into_iter().map(endpoint).collect()
}

fn endpoint(url: &str) -> DiscoveredEndpoint {
    let authority = url
        .split_once("://")
        .map_or(url, |(_, authority)| authority);
    // A static endpoint has no UID: two processes at one address are one endpoint.
    DiscoveredEndpoint {
        url: url.to_owned(),
        uid: String::new(),
        name: authority.to_owned(),
        role: Role::Aggregate,
        group: None,
        kv_events: None,
    }
}
