//! The turn of one endpoint in the list of those that a request is tried at.

use hermes_core::load::Health;

use crate::{choose::SelectedEndpoint, clock::uptime, endpoint::Upstream};

/// A request's turn at an endpoint. An endpoint that recovers admits one trial at a time.
pub(super) struct EndpointTurn<'a> {
    upstream: &'a Upstream,
    is_admitted: bool,
}

impl<'a> EndpointTurn<'a> {
    /// `None` when the endpoint admits no request and one of those that follow is in better health:
    /// of those that are equally bad, the best in rank is tried first.
    pub(super) fn take(
        endpoint: &'a SelectedEndpoint,
        mut later: impl Iterator<Item = &'a SelectedEndpoint>,
    ) -> Option<Self> {
        let upstream = &*endpoint.upstream;
        let is_admitted = upstream.admit(uptime());
        let mut is_passed_over = || {
            let own = tier(upstream);
            later.any(|later| tier(&later.upstream) > own)
        };
        (is_admitted || !is_passed_over()).then_some(Self {
            upstream,
            is_admitted,
        })
    }

    /// Nothing is sent: what the request was admitted to is left to the next one.
    pub(super) fn give_up(self) {
        if self.is_admitted {
            self.upstream.abandoned(uptime());
        }
    }
}

/// Greater for better health.
fn tier(upstream: &Upstream) -> u8 {
    match upstream.own_load(uptime()).health {
        Health::Down => 0,
        health if health.is_cooling() => 1,
        Health::Warming(_) | Health::Up => 2,
    }
}
