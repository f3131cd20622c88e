//! `omniscient`: places each request where it would be prefilled soonest, given the true state of
//! every server.
//!
//! `argmin over k of (pending_k + uncached_k) / rate_k`, where `pending_k` is what server `k` has
//! still to compute of the prompts it was given, `uncached_k` what it would have to compute of this
//! one, and `rate_k` its true speed. No router can know these; being greedy it is still no upper
//! bound.

use crate::simulate::dispatcher::{Arrival, Dispatcher, Moment, Placement};
use crate::simulate::fleet::Prospect;

/// Sees everything and decides at once.
#[derive(Debug)]
pub(super) struct Omniscient;

impl Dispatcher for Omniscient {
    fn arrived(&mut self, at: Moment<'_>, arrival: &Arrival<'_>, placements: &mut Vec<Placement>) {
        let Arrival {
            request,
            prompt_tokens,
            blocks,
            ..
        } = *arrival;
        let Moment { fleet, .. } = at;
        let wait = |server| {
            let Prospect {
                pending_tokens,
                uncached_tokens,
            } = fleet.prospect(server, blocks, prompt_tokens);
            (pending_tokens + uncached_tokens) as f64 / fleet.prefill_rate(server)
        };
        let best = (0..fleet.servers())
            .map(|server| (wait(server), server))
            .min_by(|a, b| a.0.total_cmp(&b.0));
        placements.extend(best.map(|(_, server)| Placement { request, server }));
    }
}
