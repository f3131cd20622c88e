//! Routes, prepared for requests: which rule takes one, and what the rule changes, as HTTP types.

mod header_edits;

use std::{borrow::Cow, net::SocketAddr, sync::Arc};

use hermes_core::{
    collection::Collection,
    listener::Listener,
    route::{Route, RouteRule},
    route_table::{HeaderValues, MatchedRule, RouteInput, RouteLookup, RouteTable},
    snapshot::Snapshot,
};
use hermes_runtime::metrics::Handles;
use http::{HeaderMap, HeaderValue, header, request};

use self::header_edits::PreparedEdits;
use crate::telemetry::metrics::{ProxyMetrics, RouteMetrics};

/// The routes of a snapshot.
pub(crate) struct RouteMap {
    routes: Collection<Route>,
    listeners: Collection<Listener>,
    pub(crate) table: RouteTable,
    /// Of each route its rules, in the snapshot's order.
    rules: Vec<Vec<Arc<PreparedRule>>>,
}

/// A rule of a route.
pub(crate) struct PreparedRule {
    route: Arc<Route>,
    position: usize,
    pub(crate) metrics: Arc<Handles<RouteMetrics>>,
    pub(crate) request_headers: PreparedEdits,
    pub(crate) response_headers: PreparedEdits,
}

/// What the routes have for a request.
pub(crate) enum RouteAnswer<'m> {
    /// It is served by its model.
    Unrouted,
    /// Nothing takes it.
    NotFound,
    /// It follows this rule; and the prefix by which its path was matched, if it was.
    Rule(&'m Arc<PreparedRule>, Option<&'m str>),
}

/// The headers of a request.
struct ClientHeaders<'a>(&'a HeaderMap);

// === RouteMap ===

impl RouteMap {
    /// The routes of `snapshot`; `previous` itself if they are the same.
    pub(super) fn build(
        snapshot: &Snapshot,
        previous: Option<&Arc<Self>>,
        metrics: &ProxyMetrics,
    ) -> Arc<Self> {
        let Snapshot {
            routes, listeners, ..
        } = snapshot;
        let is_same = |map: &&Arc<Self>| map.routes == *routes && map.listeners == *listeners;
        if let Some(same) = previous.filter(is_same) {
            return Arc::clone(same);
        }
        let prepared = |route: &Arc<Route>| {
            let handles = metrics.route(&route.name);
            let rule = |(position, rule): (usize, &RouteRule)| {
                Arc::new(PreparedRule {
                    route: Arc::clone(route),
                    position,
                    metrics: Arc::clone(&handles),
                    request_headers: PreparedEdits::from(&rule.filters.request_headers),
                    response_headers: PreparedEdits::from(&rule.filters.response_headers),
                })
            };
            route.rules.iter().enumerate().map(rule).collect()
        };
        Arc::new(Self {
            rules: routes.iter().map(prepared).collect(),
            table: RouteTable::compile(routes, listeners),
            routes: routes.clone(),
            listeners: listeners.clone(),
        })
    }

    /// What the routes of a port have for a request.
    pub(crate) fn find(&self, port: Option<&SocketAddr>, head: &request::Parts) -> RouteAnswer<'_> {
        if port.is_none() && !self.table.has_usual_routes() {
            return RouteAnswer::Unrouted;
        }
        let head = RouteInput {
            authority: authority(head),
            path: head.uri.path(),
            query: head.uri.query(),
            method: head.method.as_str(),
            headers: &ClientHeaders(&head.headers),
        };
        match self.table.find(port, &head) {
            RouteLookup::Unrouted => RouteAnswer::Unrouted,
            RouteLookup::NotFound => RouteAnswer::NotFound,
            RouteLookup::Found(found) => {
                let MatchedRule {
                    route_position,
                    rule_position,
                    ..
                } = found;
                RouteAnswer::Rule(&self.rules[route_position][rule_position], found.prefix())
            }
        }
    }
}

/// The host that the client asks: `:authority` of HTTP/2, or `Host`; empty if neither is there.
pub(crate) fn authority(head: &request::Parts) -> &str {
    let host = || head.headers.get(header::HOST).map(HeaderValue::to_str);
    match head.uri.authority() {
        Some(authority) => authority.as_str(),
        None => host().and_then(Result::ok).unwrap_or_default(),
    }
}

// === PreparedRule ===

impl PreparedRule {
    /// The rule as the snapshot has it.
    pub(crate) fn rule(&self) -> &RouteRule {
        &self.route.rules[self.position]
    }

    /// The name of its route.
    pub(crate) fn route(&self) -> &Arc<str> {
        &self.route.name
    }
}

// === ClientHeaders ===

impl HeaderValues for ClientHeaders<'_> {
    fn value(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let mut values = self.0.get_all(name).iter().map(HeaderValue::as_bytes);
        let first = values.next()?;
        let Some(second) = values.next() else {
            return Some(first.into());
        };
        let all = [first, second].into_iter().chain(values);
        Some(all.collect::<Vec<_>>().join(&b","[..]).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_one_name_are_one_value() {
        let mut headers = HeaderMap::new();
        headers.append("x-a", HeaderValue::from_static("1"));
        assert_eq!(
            ClientHeaders(&headers).value("x-a").as_deref(),
            Some(&b"1"[..])
        );
        headers.append("x-a", HeaderValue::from_static("2"));
        assert_eq!(
            ClientHeaders(&headers).value("x-a").as_deref(),
            Some(&b"1,2"[..])
        );
        assert_eq!(ClientHeaders(&headers).value("x-b"), None);
    }

    #[test]
    fn the_authority_of_http2_goes_before_the_host() {
        let asked = |uri: &str, host: Option<&str>| {
            let request = http::Request::get(uri);
            let request = host
                .into_iter()
                .fold(request, |request, host| request.header("host", host));
            let (head, ()) = request.body(()).expect("valid").into_parts();
            authority(&head).to_owned()
        };
        assert_eq!(asked("http://a:1/x", Some("b")), "a:1");
        assert_eq!(asked("/x", Some("b:2")), "b:2");
        assert_eq!(asked("/x", None), "");
    }
}
