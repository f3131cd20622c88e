//! How a choice came about, as plain data: what pickers and the scheduler fill in, and what is
//! printed for people.
//!
//! Nothing here decides. `/debug/score` and the call `Explain` serialize an [`Explanation`] as it
//! is, so its field names are documented names.

use std::{collections::HashMap, sync::Arc, time::Duration};

use serde::Serialize;

use crate::{
    load::Health,
    query::{CacheSource, MAX_RANKED},
    snapshot::EndpointId,
};

/// A choice, and everything that led to it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// The pool's name.
    pub pool: Arc<str>,
    /// The strategy's name.
    pub strategy: &'static str,
    /// Why the first endpoint was chosen, or why none was, in one sentence.
    pub reason: String,
    /// Ids of the chosen endpoints, best first; empty when there is none.
    pub ranked: Vec<EndpointId>,
    /// Only endpoints that are down were left.
    pub panic_mode: bool,
    /// Every endpoint of the pool, in its order.
    pub candidates: Vec<CandidateExplanation>,
    /// How costs were weighed; only of `kv-aware` in the control plane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueExplanation>,
    /// Whether the request is split between two endpoints, and why; only in the control plane, of
    /// pools with `disaggregation`.
    pub split: Option<SplitExplanation>,
}

/// Whether a request is split, and why. Costs are in seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SplitExplanation {
    /// The endpoint that costs least only computes the prompt.
    pub is_split: bool,
    /// The name of the endpoint that would decode, if it is.
    pub decode: Option<Arc<str>>,
    /// The least cost of a pair; `None` if none was compared.
    pub pair_s: Option<f64>,
    /// The least cost of an endpoint alone; `None` if none was compared.
    pub alone_s: Option<f64>,
    /// Finished pairs have shown how long transfers take.
    pub are_transfers_known: bool,
    /// In one sentence.
    pub reason: String,
}

/// One endpoint in an [`Explanation`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CandidateExplanation {
    /// Which.
    pub endpoint: EndpointId,
    /// Its name for people.
    pub name: Arc<str>,
    /// Prompt tokens expected to be cached there.
    pub cached_tokens: u32,
    /// Share of its KV cache in use, 0..=1, if the engine says.
    pub kv_usage: Option<f32>,
    /// Requests in the engine's queue, if it says.
    pub waiting: Option<u32>,
    /// Requests in flight there, fleet-wide.
    pub in_flight: u32,
    /// Prefill tokens booked there and not yet answered.
    pub pending_tokens: u64,
    /// Whether it may be chosen.
    pub health: Health,
    /// What it was compared by, lower is better; `None` if it was not.
    pub score: Option<f32>,
    /// What the score is made of, for `hermes-classic`.
    pub terms: Option<ScoreTerms>,
    /// Its place in the choice, from 0.
    pub rank: Option<usize>,
    /// Why it was no candidate; `None` if it was one.
    pub excluded: Option<ExclusionReason>,
}

/// Why an endpoint was no candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExclusionReason {
    /// It does prefill or decode only.
    Role,
    /// It does not hold the model.
    Model,
    /// It was tried for this request already.
    Tried,
    /// It is down.
    Down,
    /// It warms up, and it was not its turn.
    Warming,
    /// The strategy looks at some endpoints only, and not at this one.
    NotSampled,
}

/// The weighted terms of a classic score, which is their sum; all zero for other strategies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ScoreTerms {
    /// For what is not cached there.
    pub miss: f32,
    /// For the use of its KV cache.
    pub usage: f32,
    /// For its queue.
    pub waiting: f32,
    /// For prefill work booked there.
    pub in_flight: f32,
}

/// What was expected of the endpoint that was chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ExpectedCosts {
    /// Until the prompt is begun there.
    pub queue_delay: Duration,
    /// Until its first token.
    pub ttft: Duration,
    /// Prefill that another endpoint would have been spared, at the mean rate.
    pub wasted_prefill: Duration,
    /// What waste was weighed with.
    pub gamma: f32,
    /// Where it would have cost second least.
    pub runner_up: Option<EndpointId>,
}

/// How `kv-aware` weighed the candidates of one request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QueueExplanation {
    /// What waste is weighed with: the mean over the candidates.
    pub gamma: f32,
    /// Share of time in which the endpoints that may serve the request compute prompts, 0..=1.
    pub utilization: f32,
    /// Requests that wait, in the whole pool.
    pub queued_requests: usize,
    /// Those of them that wait for one of the candidates.
    pub waiting_requests: u32,
    /// Whether the request would be bound at once.
    pub binds_now: bool,
    /// Every endpoint that may be chosen, the one with the least cost first.
    pub candidates: Vec<CandidateCosts>,
}

/// One endpoint of a [`QueueExplanation`]; times in seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CandidateCosts {
    /// Its name.
    pub name: Arc<str>,
    /// Its id.
    pub endpoint: EndpointId,
    /// Prompt tokens taken to be cached there.
    pub cached_tokens: u32,
    /// The source of that; `null` when no source reports this endpoint.
    pub source: Option<CacheSource>,
    /// Confidence in each source there, 0..=1: learned, KV manager, KV events.
    pub confidence: [f32; 3],
    /// Until a prompt that is sent now begins, those included who wait for the endpoint.
    pub queue_delay_s: f64,
    /// Until the request's first token.
    pub ttft_s: f64,
    /// Prefill that another endpoint would be spared, at the mean rate.
    pub wasted_prefill_s: f64,
    /// What waste is weighed with there.
    pub gamma: f32,
    /// Queued requests that wait for it: where each cost least when it was examined last.
    pub queued_requests: u32,
    /// What earlier requests have paid of a copy of its common prefix there.
    pub spared_s: f64,
    /// The name of the endpoint that would take the prompt over; `None` where the whole request
    /// would be served.
    pub decode: Option<Arc<str>>,
    /// Seconds of `ttft_s` that the prompt would be on its way there.
    pub transfer_s: f64,
    /// What it costs answers, its own and those that are generated at the same endpoint; and later
    /// prompts, if a decode endpoint computes it.
    pub answers_s: f64,
    /// `ttft_s + gamma * wasted_prefill_s - spared_s + answers_s`, and a little for requests in
    /// flight.
    pub cost_s: f64,
    /// How much a prompt delays the next there, from 0, not at all, to 1, by all of its time.
    pub interference: f32,
    /// Prompts that it computes at once: independent schedulers behind its URL.
    pub lanes: u32,
    /// Learned prompt tokens a second of one lane; the usual ones while nothing is learned.
    pub rate: f64,
    /// Learned seconds per output token.
    pub decode_s: Option<f32>,
    /// Whether a request may be sent there now.
    pub has_room: bool,
}

// === Explanation ===

impl Explanation {
    /// Adds the costs that `kv-aware` compared, and takes its order and its reason from them.
    pub(crate) fn with_queue(mut self, queue: QueueExplanation) -> Self {
        let first = &queue.candidates[0];
        let CandidateCosts {
            name,
            cached_tokens,
            ttft_s,
            queue_delay_s,
            ..
        } = first;
        let verdict = if queue.binds_now {
            "and has room"
        } else {
            "and has no room yet, so that the request waits"
        };
        self.reason = format!(
            "{name} costs least, {:.3} s, of {} compared, {verdict}: first token in {ttft_s:.3} s, of which {queue_delay_s:.3} s \
             are before its turn, with {cached_tokens} prompt tokens cached",
            first.cost_s,
            queue.candidates.len(),
        );
        self.ranked = queue
            .candidates
            .iter()
            .take(MAX_RANKED)
            .map(|site| site.endpoint)
            .collect();
        let places = queue.candidates.iter().enumerate();
        let places: HashMap<EndpointId, usize> =
            places.map(|(place, site)| (site.endpoint, place)).collect();
        for candidate in &mut self.candidates {
            let Some(&place) = places.get(&candidate.endpoint) else {
                continue;
            };
            candidate.rank = (place < MAX_RANKED).then_some(place);
            candidate.score = Some(queue.candidates[place].cost_s as f32);
            candidate.cached_tokens = queue.candidates[place].cached_tokens;
            candidate.excluded = None;
        }
        self.queue = Some(queue);
        self
    }
}
