//! `omniscient`: places each request where it would be prefilled soonest, given the true state of
//! every server.
//!
//! `argmin over k of (pending_k + uncached_k) / rate_k`, where `pending_k` is what server `k` has
//! still to compute of the prompts it was given, `uncached_k` what it would have to compute of this
//! one, and `rate_k` its true speed. No router can know these; being greedy it is still no upper
//! bound. A prompt that is computed by a prefill server goes to the decode server with the fewest
//! requests.

use crate::simulate::dispatcher::{Arrival, Dispatcher, Moment, Placement, Sample};
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
        let roles = fleet.roles();
        let best = roles
            .firsts()
            .map(|server| (wait(server), server))
            .min_by(|a, b| a.0.total_cmp(&b.0));
        let Some((_, server)) = best else {
            return;
        };
        if !roles.prefills().contains(&server) {
            placements.push(Placement::whole(request, server));
            return;
        }
        let requests = |server: &usize| {
            let Sample {
                waiting, running, ..
            } = fleet.sample(*server);
            waiting + running
        };
        let decode = roles.decodes().min_by_key(requests);
        placements.extend(decode.map(|decode| Placement::pair(request, server, decode)));
    }
}
