//! One endpoint as a machine: how fast it is, how far it is with what was sent there, and what its memory holds.

use std::time::Duration;

use crate::{
    ledger::InFlightTotals,
    load::EngineSample,
    scheduler::speed::{DecodeSpeed, PrefillFit, PrefillSpeed},
};

/// Of the head of what an engine computes, this share may be believed to be done before its first byte says so. The rest
/// keeps an engine that stands still from looking idle.
const MOST_DONE: f64 = 0.9;

/// How far back [`EngineModel::recent_prefill`] looks: older work counts for less, by a factor e.
const LATELY: Duration = Duration::from_secs(60);

/// What a request in an engine's queue that is not ours is taken to have, in uncached tokens.
const FOREIGN_TOKENS: f64 = 1_000.0;

/// Share of the KV cache that may be full before a prompt has to wait: beyond it engines preempt what runs.
const FULL: f64 = 0.95;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct EngineModel {
    pub(super) prefill: PrefillSpeed,
    pub(super) decode: DecodeSpeed,
    /// Since when it computes the prompt that it computes now: the latest first byte, or the first prompt after idling.
    busy_since: Duration,
    memory: KvMemory,
    /// Requests in its queue that are not ours, when it told last.
    foreign: u32,
    /// Seconds of prefill that it was given lately: fades, and says whose cache was overwritten most.
    recent_prefill: f64,
}

/// The KV cache's memory, in tokens.
#[derive(Clone, Copy, Debug, Default)]
struct KvMemory {
    /// All of it, if the engine told.
    capacity: Option<u64>,
    /// Tokens in use when the engine told last; `None` when its figures are missing or stale.
    used: Option<u64>,
    /// Tokens of prompts sent since, or sent before and not yet begun then.
    added: u64,
}

// === Engine ===

impl EngineModel {
    /// What is known of its speed, or the usual.
    pub(super) fn fit(&self, prior: PrefillFit) -> PrefillFit {
        self.prefill.fit().unwrap_or(prior)
    }

    /// A prompt goes there; `before` is what was in flight there.
    pub(super) fn sent(
        &mut self,
        prompt_tokens: u32,
        seconds: f64,
        before: InFlightTotals,
        now: Duration,
    ) {
        self.recent_prefill += seconds;
        if before.unanswered == 0 {
            self.busy_since = now;
        }
        self.memory.added += u64::from(prompt_tokens);
    }

    /// Seconds of prefill that it was given within the last minute or so.
    pub(super) const fn recent_prefill(&self) -> f64 {
        self.recent_prefill
    }

    /// Lets so much time pass for what was lately.
    pub(super) fn fade(&mut self, elapsed: Duration) {
        self.recent_prefill *= (-elapsed.as_secs_f64() / LATELY.as_secs_f64()).exp();
    }

    /// The first byte of an answer came.
    pub(super) fn answered(&mut self, now: Duration, ttft: Duration, uncached: u32) {
        self.prefill.answered(now, ttft, uncached);
        self.busy_since = self.busy_since.max(now);
    }

    /// A prompt is taken to be done, of which nothing was heard.
    pub(super) fn done(&mut self, now: Duration) {
        self.busy_since = self.busy_since.max(now);
    }

    /// Seconds until it has computed what it was sent, by us and by others.
    pub(super) fn queue_delay(
        &self,
        in_flight: InFlightTotals,
        fit: PrefillFit,
        now: Duration,
    ) -> f64 {
        self.pending(in_flight, fit, now) + f64::from(self.foreign) * FOREIGN_TOKENS / fit.rate
    }

    /// Seconds until it has computed what we sent there.
    pub(super) fn pending(&self, in_flight: InFlightTotals, fit: PrefillFit, now: Duration) -> f64 {
        let InFlightTotals {
            tokens, unanswered, ..
        } = in_flight;
        if unanswered == 0 {
            return 0.0;
        }
        let whole = tokens as f64 / fit.rate;
        let head = whole / f64::from(unanswered);
        let done = now.saturating_sub(self.busy_since).as_secs_f64();
        whole - done.min(head * MOST_DONE)
    }

    /// Whether its memory takes this prompt without taking it from what runs. Unknown memory does.
    pub(super) fn fits(&self, prompt_tokens: u32) -> bool {
        let KvMemory {
            capacity,
            used,
            added,
        } = self.memory;
        let (Some(capacity), Some(used)) = (capacity, used) else {
            return true;
        };
        let wanted = used + added + u64::from(prompt_tokens);
        // Alone it goes anywhere: nothing that runs could be hurt.
        used + added == 0 || wanted as f64 <= capacity as f64 * FULL
    }

    /// The engine's own figures, and what was in flight there by our own count.
    pub(super) fn sampled(&mut self, sample: Option<EngineSample>, ours: InFlightTotals) {
        // Somebody else uses the engine too, or it took back what it had begun.
        let waiting = sample.and_then(|sample| sample.waiting).unwrap_or(0);
        self.foreign = waiting.saturating_sub(ours.unanswered);
        let usage = sample
            .and_then(|sample| sample.kv_usage)
            .filter(|usage| (0.0..=1.0).contains(usage));
        self.memory.used = self
            .memory
            .capacity
            .zip(usage)
            .map(|(capacity, usage)| (capacity as f64 * f64::from(usage)) as u64);
        self.memory.added = ours.tokens;
    }

    /// The size of its KV cache in tokens.
    pub(super) fn set_capacity(&mut self, tokens: Option<u64>) {
        self.memory.capacity = tokens.filter(|tokens| *tokens > 0);
    }

    /// Another process answers at its address now.
    pub(super) fn restarted(&mut self) {
        self.prefill.clear();
        self.memory = KvMemory {
            capacity: self.memory.capacity,
            ..KvMemory::default()
        };
    }
}
