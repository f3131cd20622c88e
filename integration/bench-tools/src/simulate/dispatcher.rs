//! What every policy implements: it gets the events that a router would see, and places requests on
//! servers.
//!
//! A dispatcher places each request exactly once, at its arrival or at any later callback. What it
//! wants to know of servers it learns from these callbacks; [`Moment::fleet`] is the exact state,
//! for public facts and for omniscience.

use std::time::Duration;

use super::fleet::Fleet;
pub use super::sample::{RequestIndex, Sample};

/// A policy at work.
pub trait Dispatcher {
    /// A request arrived. Without a placement now it waits inside the dispatcher.
    fn arrived(&mut self, at: Moment<'_>, arrival: &Arrival<'_>, placements: &mut Vec<Placement>);

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
    /// Which server, `0..fleet.servers()`.
    pub server: usize,
}

/// What a router learns from the first token of an answer.
#[derive(Clone, Copy, Debug)]
pub struct FirstToken {
    /// Whose.
    pub request: RequestIndex,
    /// Who computed it.
    pub server: usize,
    /// Since the request was placed.
    pub after: Duration,
    /// Prompt tokens that the server took from its cache, as engines report them in `usage`.
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
}
