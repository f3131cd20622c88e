//! What every policy implements: it gets the events that a router would see, and places requests on
//! servers.
//!
//! A dispatcher places each request exactly once, at its arrival or at any later callback. What it
//! wants to know of servers it learns from these callbacks; [`Moment::fleet`] is the exact state,
//! for public facts and for omniscience.

use std::time::Duration;

use hermes_core::snapshot::Role;

use super::fleet::Fleet;
use super::roles::FleetRoles;
pub use super::sample::{RequestIndex, Sample};

/// A policy at work.
pub trait Dispatcher {
    /// A request arrived. Without a placement now it waits inside the dispatcher.
    fn arrived(&mut self, at: Moment<'_>, arrival: &Arrival<'_>, placements: &mut Vec<Placement>);

    /// The prompt of a request that is split is computed: its KV cache moves to the server that
    /// generates.
    fn prefilled(&mut self, _at: Moment<'_>, _seen: Prefilled, _placements: &mut Vec<Placement>) {}

    /// The first token of a request passed the router.
    fn first_token(
        &mut self,
        _at: Moment<'_>,
        _seen: FirstToken,
        _placements: &mut Vec<Placement>,
    ) {
    }

    /// The last token of a request passed the router; comes after its first token, at the same time
    /// if it has only one.
    fn finished(&mut self, _at: Moment<'_>, _seen: Finished, _placements: &mut Vec<Placement>) {}

    /// How often it scrapes the servers' metrics; `None` when it reads none.
    fn sample_interval(&self) -> Option<Duration> {
        None
    }

    /// The servers' metrics, one sample a server, every [`sample_interval`](Self::sample_interval)
    /// from the start.
    fn sampled(&mut self, _at: Moment<'_>, _samples: &[Sample], _placements: &mut Vec<Placement>) {}

    /// When it wants to be woken if nothing else happens. Asked after each callback; the latest
    /// answer counts. A time that has passed means at once, though never sooner than a millisecond
    /// after the last waking.
    fn wake_at(&self) -> Option<Duration> {
        None
    }

    /// The waking that it asked for.
    fn wake(&mut self, _at: Moment<'_>, _placements: &mut Vec<Placement>) {}
}

/// When something happens, and to which servers.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// Since the start of the trace.
    pub now: Duration,
    /// The servers as they truly are.
    pub fleet: &'a Fleet,
}

/// A request, as far as a router can see it.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Which one.
    pub request: RequestIndex,
    /// Length of the prompt.
    pub prompt_tokens: usize,
    /// The prompt's full blocks of [`Fleet::block_tokens`] tokens: equal names, equal prefixes.
    pub blocks: &'a [u64],
    /// The tenant that sent it, if the trace names one.
    pub tenant: Option<&'a str>,
}

/// A request goes to a server now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Which request.
    pub request: RequestIndex,
    /// Which server, `0..fleet.servers()`; if the request is split, the one that computes its
    /// prompt.
    pub server: usize,
    /// If the request is split, the server that generates its answer.
    pub decode: Option<usize>,
}

impl Placement {
    /// The whole request on one server.
    #[must_use]
    pub const fn whole(request: RequestIndex, server: usize) -> Self {
        Self {
            request,
            server,
            decode: None,
        }
    }

    /// Its prompt on one server, and its answer on another one.
    #[must_use]
    pub const fn pair(request: RequestIndex, prefill: usize, decode: usize) -> Self {
        Self {
            request,
            server: prefill,
            decode: Some(decode),
        }
    }

    /// Whether its servers exist and do what it wants of them.
    pub(super) fn fits(self, roles: FleetRoles) -> bool {
        let Self { server, decode, .. } = self;
        let exists = |server: usize| server < roles.servers();
        let Some(decode) = decode else {
            return exists(server) && roles.role(server) != Role::Prefill;
        };
        let exist = exists(server) && exists(decode) && server != decode;
        exist && roles.role(server) != Role::Decode && roles.role(decode) != Role::Prefill
    }
}

/// What a router learns from the end of a prefill leg.
#[derive(Clone, Copy, Debug)]
pub struct Prefilled {
    /// Whose.
    pub request: RequestIndex,
    /// Who computed it.
    pub server: usize,
    /// Since the request was placed.
    pub after: Duration,
}

/// What a router learns from the first token of an answer.
#[derive(Clone, Copy, Debug)]
pub struct FirstToken {
    /// Whose.
    pub request: RequestIndex,
    /// Who generated it.
    pub server: usize,
    /// Since the request was placed; if it is split, since its prompt was computed.
    pub after: Duration,
    /// Prompt tokens that the server that computed the prompt took from its cache, as engines
    /// report them in `usage`.
    pub cached_tokens: usize,
}

/// What a router learns from the end of an answer.
#[derive(Clone, Copy, Debug)]
pub struct Finished {
    /// Which request.
    pub request: RequestIndex,
    /// Who served it.
    pub server: usize,
    /// Length of the answer.
    pub output_tokens: u32,
    /// From its first token to its last.
    pub decoding: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_placement_has_to_fit_the_roles() {
        let roles = FleetRoles {
            aggregated: 1,
            does_both: false,
            prefill: 2,
            decode: 1,
        };
        let whole = |server| Placement::whole(0, server).fits(roles);
        assert_eq!(
            [0, 1, 2, 3, 4].map(whole),
            [true, false, false, true, false]
        );
        let pair = |(prefill, decode)| Placement::pair(0, prefill, decode).fits(roles);
        assert_eq!(
            [(1, 3), (0, 3), (2, 0), (3, 0), (1, 2), (0, 0), (1, 4)].map(pair),
            [true, true, true, false, false, false, false]
        );
    }
}
