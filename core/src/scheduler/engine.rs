//! One endpoint as a machine: its lanes and their speed, its progress with the prompts sent there,
//! and its memory.

mod lanes;

use std::time::Duration;

use lanes::PrefillLanes;

use crate::{
    ledger::{InFlightTotals, RequestKey},
    load::EngineSample,
    scheduler::speed::{DecodeSpeed, PrefillFit, PrefillSpeed},
};

/// Time constant of [`EngineModel::recent_prefill`]: older work counts for less, by a factor e.
const LATELY: Duration = Duration::from_secs(60);

/// First bytes of the pool, for each endpoint, after which one without any is tried again: rarely
/// enough that endpoints which are slow get a hundredth of their share.
const RETRY: u64 = 100;

/// Assumed uncached tokens of a request of another client in an engine's queue.
const FOREIGN_TOKENS: f64 = 1_000.0;

/// Share of the KV cache that may be full before a prompt has to wait: beyond it engines preempt
/// what runs.
const FULL: f64 = 0.95;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct EngineModel {
    /// Of one lane.
    pub(super) prefill: PrefillSpeed,
    pub(super) decode: DecodeSpeed,
    lanes: PrefillLanes,
    memory: KvMemory,
    /// Requests of other clients in its queue, as of the last sample.
    foreign: u32,
    /// Seconds of recent prefill, with exponential decay: shows whose cache was overwritten most.
    recent_prefill: f64,
    /// First bytes of the pool when its own last one came.
    answered_at: u64,
}

/// The first byte of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct FirstByte {
    pub(super) request: RequestKey,
    /// Since its request was sent.
    pub(super) ttft: Duration,
    /// Tokens of its prompt that were expected to be uncached.
    pub(super) uncached: u32,
}

/// The KV cache's memory, in tokens.
#[derive(Clone, Copy, Debug, Default)]
struct KvMemory {
    /// Its size, if the engine reports it.
    capacity: Option<u64>,
    /// Tokens in use as of the last sample; `None` when figures are missing or stale.
    used: Option<u64>,
    /// Tokens that prompts sent since need, or sent before and not begun at that time, less those of
    /// requests that ended since.
    added: i64,
}

// === Engine ===

impl EngineModel {
    /// Its learned speed, or `prior`.
    pub(super) fn fit(&self, prior: PrefillFit) -> PrefillFit {
        self.prefill.fit(prior).unwrap_or(prior)
    }

    /// The pool, `endpoints` of them, has given `answers` first bytes so far. An engine that gave
    /// none for long is taken for a usual one until it is tried again: it may only have looked slow.
    pub(super) fn review(&mut self, answers: u64, endpoints: usize) {
        if answers.saturating_sub(self.answered_at) > RETRY * endpoints as u64 {
            self.answered_at = answers;
            self.prefill.outdate();
        }
    }

    /// A prompt is sent there that needs memory for `memory` tokens; `before` is what was in flight
    /// there.
    pub(super) fn sent(
        &mut self,
        memory: u32,
        seconds: f64,
        before: InFlightTotals,
        now: Duration,
    ) {
        self.recent_prefill += seconds;
        self.lanes.sent(before.unanswered, now);
        self.memory.added += i64::from(memory);
    }

    /// Seconds of prefill within about the last minute.
    pub(super) const fn recent_prefill(&self) -> f64 {
        self.recent_prefill
    }

    /// Decays the recent prefill.
    pub(super) fn fade(&mut self, elapsed: Duration) {
        self.recent_prefill *= (-elapsed.as_secs_f64() / LATELY.as_secs_f64()).exp();
    }

    /// The first byte of an answer came, the `answers`th of the pool; `before` is what was in flight
    /// until then.
    pub(super) fn answered(
        &mut self,
        first: FirstByte,
        before: InFlightTotals,
        answers: u64,
        now: Duration,
    ) {
        let FirstByte {
            request,
            ttft,
            uncached,
        } = first;
        self.answered_at = answers;
        let sent = now.saturating_sub(ttft);
        let began = self.lanes.computed(before.unanswered, sent, now);
        if self.lanes.count() == 1 {
            self.prefill.answered(request, now, ttft, uncached);
        } else {
            self.prefill.computed(request, began, now, uncached);
        }
    }

    /// A prompt without a report, sent at `sent`, is assumed to be computed.
    pub(super) fn done(&mut self, before: InFlightTotals, sent: Duration, now: Duration) {
        self.lanes.computed(before.unanswered, sent, now);
    }

    /// Seconds until a prompt that is sent now begins, behind ours and those of other clients.
    pub(super) fn queue_delay(
        &self,
        in_flight: InFlightTotals,
        fit: PrefillFit,
        now: Duration,
    ) -> f64 {
        let foreign = f64::from(self.foreign) * FOREIGN_TOKENS / fit.rate;
        self.pending(in_flight, fit, now) + foreign * self.lanes.share()
    }

    /// Seconds until a prompt that is sent now begins, behind ours.
    pub(super) fn pending(&self, in_flight: InFlightTotals, fit: PrefillFit, now: Duration) -> f64 {
        let whole = in_flight.tokens as f64 / fit.rate;
        self.lanes.pending(in_flight.unanswered, whole, now)
    }

    /// Prompts that it computes at once.
    pub(super) fn lanes(&self) -> u32 {
        self.lanes.count()
    }

    /// The share of it that one lane is.
    pub(super) const fn lane_share(&self) -> f64 {
        self.lanes.share()
    }

    /// Sets how many prompts it computes at once; 0 counts as 1.
    pub(super) fn set_lanes(&mut self, lanes: u32) {
        self.lanes.set_count(lanes);
    }

    /// The share of it that computes prompts, 0..=1.
    pub(super) fn busy_share(&self, in_flight: InFlightTotals) -> f64 {
        f64::from(in_flight.unanswered.min(self.lanes())) * self.lanes.share()
    }

    /// A request ended that needed memory for `memory` tokens.
    pub(super) fn freed(&mut self, memory: u32) {
        self.memory.added -= i64::from(memory);
    }

    /// Whether it reports its memory.
    pub(super) fn reports_memory(&self) -> bool {
        self.memory.capacity.is_some() && self.memory.used.is_some()
    }

    /// Whether its memory takes `memory` more tokens without preempting others. True if its memory
    /// is unknown.
    pub(super) fn fits(&self, memory: u32) -> bool {
        let KvMemory {
            capacity,
            used,
            added,
        } = self.memory;
        let (Some(capacity), Some(used)) = (capacity, used) else {
            return true;
        };
        let used = used.saturating_add_signed(added);
        // An otherwise empty engine takes any prompt: no other request could be preempted.
        used == 0 || (used + u64::from(memory)) as f64 <= capacity as f64 * FULL
    }

    /// The engine's own figures, and our own count of what is in flight there.
    pub(super) fn sampled(&mut self, sample: Option<EngineSample>, ours: InFlightTotals) {
        // Other clients use the engine too, or it preempted what it had begun.
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
        self.memory.added = ours.tokens.cast_signed();
    }

    /// The size of its KV cache in tokens.
    pub(super) fn set_capacity(&mut self, tokens: Option<u64>) {
        self.memory.capacity = tokens.filter(|tokens| *tokens > 0);
    }

    /// What stays true of it while nothing of ours is in flight there.
    pub(super) fn idle(self) -> Self {
        let mut lanes = PrefillLanes::default();
        lanes.set_count(self.lanes.count());
        let memory = KvMemory {
            capacity: self.memory.capacity,
            ..KvMemory::default()
        };
        Self {
            lanes,
            memory,
            foreign: 0,
            ..self
        }
    }

    /// The process at its address was replaced.
    pub(super) fn restarted(&mut self) {
        self.prefill.clear();
        self.memory = KvMemory {
            capacity: self.memory.capacity,
            ..KvMemory::default()
        };
    }
}
