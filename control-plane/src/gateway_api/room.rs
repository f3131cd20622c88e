//! How much of what objects ask for proxies can have.

use std::collections::BTreeSet;

use super::{name::NamespacedName, route_draft::RouteDraft};

/// How much there may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GatewayRoom {
    pub(crate) listeners: usize,
    pub(crate) routes: usize,
    /// Regular expressions in all routes.
    pub(crate) patterns: usize,
    /// Ports of Services, each of which is a pool.
    pub(crate) services: usize,
}

/// What is left for the routes that are yet to come, younger than those that have taken their part.
#[derive(Debug)]
pub(super) struct RouteRoom {
    left: GatewayRoom,
    /// Ports of Services that are pools already.
    services: BTreeSet<(NamespacedName, u16)>,
}

impl RouteRoom {
    pub(super) fn new(left: GatewayRoom) -> Self {
        Self {
            left,
            services: BTreeSet::new(),
        }
    }

    /// Takes the part of a route. Returns whether there was room; if not, nothing is taken.
    pub(super) fn take(&mut self, route: &RouteDraft<'_>) -> bool {
        let services = route.used.services.iter();
        let new: Vec<_> = services
            .filter(|service| !self.services.contains(*service))
            .collect();
        let fewer = (
            self.left.routes.checked_sub(1),
            self.left.patterns.checked_sub(route.patterns()),
            self.left.services.checked_sub(new.len()),
        );
        let (Some(routes), Some(patterns), Some(services)) = fewer else {
            return false;
        };
        self.left = GatewayRoom {
            routes,
            patterns,
            services,
            ..self.left
        };
        self.services.extend(new.into_iter().cloned());
        true
    }
}
