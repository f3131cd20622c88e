//! Which rule of which route a request follows: routes and listeners, compiled once per snapshot.
//!
//! ```text
//!   port ─▶ listener, by host ─▶ hosts of its routes, the most specific first ─▶ path ─▶ method, headers, query
//! ```
//!
//! The precedence is that of the Gateway API (`HTTPRouteSpec.hostnames`, `HTTPRouteRule.matches`).
//! Of all matches that hold for a request, that one counts which has, in this order:
//!
//! 1. a hostname of its route that is the host; else the longest one with a star; else none;
//! 2. an exact path; else an expression for the path, the longest first (the specification leaves
//!    its place open); else the longest prefix;
//! 3. a method;
//! 4. the most headers; 5. the most query parameters;
//! 6. the oldest route; 7. the first route by name; 8. the first rule; 9. the first match.
//!
//! A request belongs to the listener of its port whose hostname is the most specific one for its
//! host, and follows routes of that listener only. What costs time is the number of distinct
//! lengths of prefixes, and of matches with one host and one path; the number of routes does
//! not. Nothing is allocated, unless a header that is matched has several fields or a parameter is
//! escaped.

mod host_index;
mod path_index;
mod route_input;

use std::{collections::HashMap, net::SocketAddr, sync::Arc};

pub use self::route_input::{HeaderValues, NoHeaders, RouteInput};
use self::{host_index::HostIndex, path_index::PathIndex};
use crate::{
    collection::Collection,
    listener::Listener,
    route::{HostPattern, PathMatch, Route, RouteMatch, RouteRule, has_dot_segment},
    route_table::{host_index::HostBuffer, path_index::RankedMatch},
};

/// See the module.
#[derive(Debug, Default)]
pub struct RouteTable {
    routes: Collection<Route>,
    /// Of the proxies' usual port.
    usual: ListenerRoutes,
    ports: HashMap<SocketAddr, HostIndex<ListenerRoutes>>,
}

/// The routes of one listener.
#[derive(Debug, Default)]
struct ListenerRoutes {
    /// `None`: of the usual port.
    listener: Option<Arc<Listener>>,
    hosts: HostIndex<PathIndex>,
}

/// What a table has for a request.
#[derive(Debug)]
pub enum RouteLookup<'t> {
    /// Its listener has no routes: it is served by its model.
    Unrouted,
    /// No rule, or no listener of the port, takes it.
    NotFound,
    /// It follows this rule.
    Found(MatchedRule<'t>),
}

/// The rule that a request follows.
#[derive(Clone, Copy, Debug)]
pub struct MatchedRule<'t> {
    /// The listener that took the request; `None`: the usual port.
    pub listener: Option<&'t Arc<Listener>>,
    /// The rule's route.
    pub route: &'t Arc<Route>,
    /// Where that is in the snapshot's routes.
    pub route_position: usize,
    /// Where the rule is in its route.
    pub rule_position: usize,
    /// Which of the rule's matches held; without any, 0.
    pub match_position: usize,
}

// === RouteTable ===

impl RouteTable {
    /// The table of these routes and listeners. A route that names a listener which is not there is
    /// not attached to it.
    #[must_use]
    pub fn compile(routes: &Collection<Route>, listeners: &Collection<Listener>) -> Self {
        let mut table = Self {
            routes: routes.clone(),
            ..Self::default()
        };
        for listener in listeners {
            let port = table.ports.entry(listener.address).or_default();
            let entry = port.entry(listener.hostname.as_ref());
            // Two that cannot be distinguished: the first by name counts.
            if entry.listener.is_none() {
                *entry = ListenerRoutes::of(Some(listener), routes);
            }
        }
        table.usual = ListenerRoutes::of(None, routes);
        table
    }

    /// Whether routes are attached to the proxies' usual port.
    #[must_use]
    pub fn has_usual_routes(&self) -> bool {
        !self.usual.is_unrouted()
    }

    /// The rule that a request on this port follows; `port` is the address of a listener as it is
    /// configured, or `None` for the usual one.
    #[must_use]
    pub fn find<H: HeaderValues>(
        &self,
        port: Option<&SocketAddr>,
        head: &RouteInput<'_, H>,
    ) -> RouteLookup<'_> {
        if port.is_none() && self.usual.is_unrouted() {
            return RouteLookup::Unrouted;
        }
        let mut buffer = HostBuffer::default();
        let host = buffer.host_of(head.authority);
        let listener = match port {
            None => Some(&self.usual),
            Some(port) => {
                let listeners = self.ports.get(port);
                listeners.and_then(|listeners| listeners.matching(host).next())
            }
        };
        match listener {
            None => RouteLookup::NotFound,
            Some(listener) if listener.is_unrouted() => RouteLookup::Unrouted,
            // Before a prefix that is open, a path may stand that leads elsewhere.
            Some(_) if has_dot_segment(head.path) => RouteLookup::NotFound,
            Some(listener) => {
                let found = self.find_among(listener, host, head);
                found.map_or(RouteLookup::NotFound, RouteLookup::Found)
            }
        }
    }

    fn find_among<'t, H: HeaderValues>(
        &'t self,
        listener: &'t ListenerRoutes,
        host: &str,
        head: &RouteInput<'_, H>,
    ) -> Option<MatchedRule<'t>> {
        let holds = |candidate: &RankedMatch| {
            let rule = &self.routes[candidate.route].rules[candidate.rule];
            let wanted = rule.matches.get(candidate.match_position);
            wanted.is_none_or(|wanted| head.fulfils(wanted))
        };
        let mut hosts = listener.hosts.matching(host);
        let found = hosts.find_map(|paths| paths.find(head.path, holds))?;
        Some(MatchedRule {
            listener: listener.listener.as_ref(),
            route: &self.routes[found.route],
            route_position: found.route,
            rule_position: found.rule,
            match_position: found.match_position,
        })
    }
}

// === ListenerRoutes ===

impl ListenerRoutes {
    /// The routes that are attached to the listener, or to the usual port.
    fn of(listener: Option<&Arc<Listener>>, routes: &Collection<Route>) -> Self {
        let mut hosts = HostIndex::<PathIndex>::default();
        for (position, route) in routes.iter().enumerate() {
            let is_attached = match listener {
                None => route.listeners.is_empty(),
                Some(listener) => route.listeners.contains(&listener.name),
            };
            if !is_attached {
                continue;
            }
            let mut add = |hostname: Option<&HostPattern>| {
                let paths = hosts.entry(hostname);
                add_rules(paths, position, route);
            };
            if route.hostnames.is_empty() {
                add(None);
            }
            route
                .hostnames
                .iter()
                .for_each(|hostname| add(Some(hostname)));
        }
        hosts.values_mut().for_each(PathIndex::sort);
        Self {
            listener: listener.cloned(),
            hosts,
        }
    }

    /// Whether requests are served by their model.
    fn is_unrouted(&self) -> bool {
        let is_strict = |listener: &Arc<Listener>| listener.routes_only;
        self.hosts.is_empty() && !self.listener.as_ref().is_some_and(is_strict)
    }
}

fn add_rules(paths: &mut PathIndex, position: usize, route: &Route) {
    for (rule_position, rule) in route.rules.iter().enumerate() {
        let candidate = |match_position: usize, of: &RouteMatch| RankedMatch {
            has_no_method: of.method.is_none(),
            headers: std::cmp::Reverse(of.headers.len()),
            query: std::cmp::Reverse(of.query.len()),
            created: route.created,
            route: position,
            rule: rule_position,
            match_position,
        };
        if rule.matches.is_empty() {
            let any = RouteMatch::default();
            paths.add(&any.path, candidate(0, &any));
        }
        for (index, wanted) in rule.matches.iter().enumerate() {
            paths.add(&wanted.path, candidate(index, wanted));
        }
    }
}

// === MatchedRule ===

impl<'t> MatchedRule<'t> {
    /// The rule.
    #[must_use]
    pub fn rule(&self) -> &'t RouteRule {
        &self.route.rules[self.rule_position]
    }

    /// The prefix by which the path was matched, if it was.
    #[must_use]
    pub fn prefix(&self) -> Option<&'t str> {
        match self.rule().matches.get(self.match_position) {
            None => Some("/"),
            Some(wanted) => match &wanted.path {
                PathMatch::Prefix(prefix) => Some(prefix),
                PathMatch::Exact(_) | PathMatch::Pattern(_) => None,
            },
        }
    }
}

#[cfg(test)]
mod tests;
