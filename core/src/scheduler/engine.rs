//! One endpoint as a machine: its lanes and their speed, how much prompts delay each other there,
//! its progress with those that were sent, and its memory.

mod interference;
mod lanes;
mod occupancy;
mod terms;

use std::time::Duration;

use interference::PrefillInterference;
use lanes::{PendingPrefill, PrefillLanes};
pub(super) use occupancy::{Occupancy, OccupancyMark};
pub(super) use terms::EndpointTerms;

use crate::{
    ledger::{InFlightTotals, LegKey, RequestKey},
    load::EngineSample,
    scheduler::speed::{DecodeSpeed, MeanOccupancy, PrefillFit, PrefillSpeed, UsualSpeed},
};

/// Time constant of [`EngineModel::recent_prefill`]: older work counts for less, by a factor e.
const LATELY: Duration = Duration::from_secs(60);

/// First bytes of the pool, for each endpoint, after which one without any is tried again: rarely
/// enough that endpoints which are slow get a hundredth of their share.
const RETRY: u64 = 100;

/// Where prompts are computed beside each other, one that was delayed by more than this part of its
/// time shows nothing of the speed.
const MOST_DELAY: f64 = 0.2;

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
    pub(super) occupancy: Occupancy,
    lanes: PrefillLanes,
    interference: PrefillInterference,
    memory: KvMemory,
    /// Legs that take over what another endpoint computes, and did not begin to answer, with the
    /// memory that is reserved for each.
    reserved: Vec<(LegKey, u32)>,
    /// Requests of other clients in its queue, as of the last sample.
    foreign: u32,
    /// Seconds of recent prefill, with exponential decay: shows whose cache was overwritten most.
    recent_prefill: f64,
    /// First bytes of the pool when its own last one came.
    answered_at: u64,
}

/// A prompt on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct SentPrompt {
    pub(super) leg: LegKey,
    /// Tokens that it needs memory for.
    pub(super) memory: u32,
    /// Tokens of it that are expected to be uncached.
    pub(super) uncached: u32,
    /// It has no room, and is sent to learn how much others delay it.
    pub(super) explores: bool,
}

/// The first byte of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct FirstByte {
    pub(super) leg: LegKey,
    /// Since its request was sent.
    pub(super) ttft: Duration,
    /// Tokens of its prompt that were expected to be uncached.
    pub(super) uncached: u32,
}

/// A prompt that is not open there any more, in tokens of memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct EndedPrompt {
    /// Its length.
    pub(super) tokens: u32,
    /// What it was sent with: all but what it shared with earlier ones.
    pub(super) charged: u32,
    /// Its beginning that later ones share and still need.
    pub(super) later: u32,
    /// Nothing else is open there.
    pub(super) is_last: bool,
}

/// The KV cache's memory, in tokens.
#[derive(Clone, Copy, Debug, Default)]
struct KvMemory {
    /// Its size, if the engine reports it.
    capacity: Option<u64>,
    /// Tokens in use as of the last sample; `None` when figures are missing or stale.
    used: Option<u64>,
    /// Tokens that prompts sent since need, or sent before and not begun at that time, less those
    /// of requests that ended since.
    added: i64,
    /// Tokens of prompts that ended since the last sample and others may still need.
    inherited: u32,
    /// A prompt did not fit that would have been sent to explore, and nothing changed since.
    refused: bool,
}

// === EngineModel ===

impl EngineModel {
    /// Its speed, as it counts in a pool whose speed is `usual`.
    pub(super) fn fit(&self, usual: UsualSpeed) -> PrefillFit {
        self.prefill.among(usual)
    }

    /// How much a prompt delays the next there, 0..=1; 1 while that is unknown.
    pub(super) fn interference(&self) -> f64 {
        self.interference.share()
    }

    /// Whether one more prompt has room behind those that are `in_flight`, as it begins within
    /// `window`. They are `pending` seconds of work.
    ///
    /// To wait here costs the part of `pending` in which the engine would compute it beside the
    /// others, `1 − φ`. To wait there costs the chance to go elsewhere for the rest, φ. Room is
    /// where the second is no more than the first and the window: the whole of `pending` at φ = 1,
    /// and any at φ ≤ ½, where nothing is won by waiting here, as far as φ
    /// [reaches](PrefillInterference::reach).
    pub(super) fn has_room(
        &self,
        in_flight: InFlightTotals,
        pending: f64,
        window: Duration,
    ) -> bool {
        let window = window.as_secs_f64();
        pending < window
            || ((2.0 * self.interference() - 1.0) * pending < window
                && in_flight.prompts <= self.interference.reach())
    }

    /// Whether a prompt without room may be sent behind one other, to learn how much that delays
    /// it.
    pub(super) fn may_explore(&self, in_flight: InFlightTotals) -> bool {
        in_flight.prompts == self.lanes()
            && self.prefill.is_measured()
            && self.interference.is_due()
    }

    /// Whether [such a prompt](Self::may_explore) is worth a plan: not while memory refuses it.
    pub(super) fn is_worth_exploring(&self, in_flight: InFlightTotals) -> bool {
        self.may_explore(in_flight) && !self.memory.refused
    }

    /// Its memory does not take a prompt that would explore.
    pub(super) fn refuse_exploration(&mut self) {
        self.memory.refused = true;
    }

    /// The pool, `endpoints` of them, has given `answers` first bytes so far. An engine that gave
    /// none for long is taken for a usual one until it is tried again: it may only have looked
    /// slow.
    pub(super) fn review(&mut self, answers: u64, endpoints: usize) {
        if answers.saturating_sub(self.answered_at) > RETRY * endpoints as u64 {
            self.answered_at = answers;
            self.prefill.outdate();
        }
    }

    /// It is back after the pool gave `answers` first bytes, some of them without it.
    pub(super) fn returned(self, answers: u64) -> Self {
        Self {
            answered_at: answers,
            ..self
        }
    }

    /// A prompt is sent there; `before` is what was in flight there.
    pub(super) fn sent(
        &mut self,
        prompt: SentPrompt,
        usual: UsualSpeed,
        before: InFlightTotals,
        now: Duration,
    ) {
        let SentPrompt {
            leg,
            memory,
            uncached,
            explores,
        } = prompt;
        self.memory.added += i64::from(memory);
        if uncached == 0 {
            self.reserved.push((leg, memory));
            return;
        }
        let fit = self.fit(usual);
        let ahead = self.pending(before, fit).at(now.as_secs_f64()) * fit.rate;
        self.interference.sent(leg, ahead, before.prompts, explores);
        self.recent_prefill += f64::from(uncached) / fit.rate;
        self.lanes.sent(before.prompts, now);
    }

    /// Decays the recent prefill.
    pub(super) fn fade(&mut self, elapsed: Duration) {
        self.recent_prefill *= (-elapsed.as_secs_f64() / LATELY.as_secs_f64()).exp();
    }

    /// The first byte of an answer came, the `answers`th of the pool; `before` is what was in
    /// flight until then.
    pub(super) fn answered(
        &mut self,
        first: FirstByte,
        before: InFlightTotals,
        usual: UsualSpeed,
        answers: u64,
        now: Duration,
    ) {
        let FirstByte {
            leg,
            ttft,
            uncached,
        } = first;
        let request = leg.request;
        self.answered_at = answers;
        let sent = now.saturating_sub(ttft);
        let began = self.lanes.computed(before.prompts, sent, now);
        let fit = self.prefill.fit(usual.fit());
        let sent = self.interference.answered(leg, uncached, ttft, fit);
        let share = self.interference();
        let delay = match (fit, sent) {
            (Some(fit), Some(sent)) => share * sent.ahead / fit.rate,
            _ => 0.0,
        };
        if share < 1.0 && sent.is_none() {
            // It is not known how much it was delayed.
            self.prefill.passed(now);
        } else if share < 1.0 {
            // What is left of the whole time is mostly its own, or shows nothing of that.
            if delay <= MOST_DELAY * ttft.as_secs_f64() {
                let began = now.saturating_sub(ttft) + Duration::from_secs_f64(delay);
                self.prefill.computed(request, began, now, uncached);
            }
        } else if !self.interference.is_known() && sent.is_some_and(|sent| sent.explores) {
            self.prefill.passed(now);
        } else if self.lanes.count() == 1 {
            self.prefill.answered(request, now, ttft, uncached);
        } else {
            self.prefill.computed(request, began, now, uncached);
        }
    }

    /// The engine reported that `tokens` of this prompt were uncached.
    pub(super) fn corrected(&mut self, request: RequestKey, tokens: u32) {
        self.prefill.corrected(request, tokens);
        self.interference.corrected(request, tokens);
    }

    /// A prompt without a report, sent at `sent`, is assumed to be computed.
    pub(super) fn done(
        &mut self,
        leg: LegKey,
        before: InFlightTotals,
        sent: Duration,
        now: Duration,
    ) {
        self.left(leg);
        self.lanes.computed(before.prompts, sent, now);
    }

    /// A prompt ended there, or was sent elsewhere.
    pub(super) fn left(&mut self, leg: LegKey) {
        self.interference.left(leg);
        self.reserved.retain(|(reserved, _)| *reserved != leg);
    }

    /// Legs that it keeps memory for.
    #[cfg(test)]
    pub(super) const fn reserved_legs(&self) -> usize {
        self.reserved.len()
    }

    /// Prompts ended there, or were sent elsewhere: those that are not `unanswered` there.
    pub(super) fn retain(&mut self, unanswered: impl Fn(LegKey) -> bool) {
        self.reserved.retain(|(leg, _)| unanswered(*leg));
        self.interference.retain(unanswered);
    }

    /// What a choice reads of it, with `in_flight` there. To be computed again when anything of it
    /// changes, or the usual speed.
    pub(super) fn terms(&self, in_flight: InFlightTotals, usual: UsualSpeed) -> EndpointTerms {
        let fit = self.fit(usual);
        EndpointTerms {
            in_flight: in_flight.requests,
            pending: self.pending(in_flight, fit),
            foreign: f64::from(self.foreign) * FOREIGN_TOKENS / fit.rate,
            lane_share: self.lanes.share(),
            interference: self.interference(),
            recent_prefill: self.recent_prefill,
            fit,
            per_token: 1.0 / fit.rate,
        }
    }

    /// The prompts of ours before one that is sent now, if one is computed after the other.
    fn pending(&self, in_flight: InFlightTotals, fit: PrefillFit) -> PendingPrefill {
        let whole = in_flight.tokens as f64 / fit.rate;
        self.lanes.pending(in_flight.prompts, whole)
    }

    /// Prompts that it computes at once.
    pub(super) fn lanes(&self) -> u32 {
        self.lanes.count()
    }

    /// Sets how many prompts it computes at once; 0 counts as 1.
    pub(super) fn set_lanes(&mut self, lanes: u32) {
        self.lanes.set_count(lanes);
    }

    /// The share of it that computes prompts, 0..=1.
    pub(super) fn busy_share(&self, in_flight: InFlightTotals) -> f64 {
        f64::from(in_flight.prompts.min(self.lanes())) * self.lanes.share()
    }

    /// What it does at once, with `in_flight` there, from now on.
    pub(super) fn occupied(&mut self, in_flight: InFlightTotals, now: Duration) {
        let present = MeanOccupancy {
            batch: f64::from(in_flight.requests - in_flight.unanswered),
            context: self.context(),
            prefill: self.busy_share(in_flight),
        };
        self.occupancy.set(present, now);
    }

    /// How scarce its memory is, from 1: the time for which an answer holds it is dearer the less
    /// is free. 1 if it reports none.
    pub(super) fn scarcity(&self) -> f64 {
        let used = self.used_share().unwrap_or(0.0);
        1.0 / (1.0 - used.powi(4)).max(1.0 - FULL)
    }

    /// The share in use, 0..=1, of what its memory takes without preempting requests, if it reports
    /// that.
    pub(super) fn used_share(&self) -> Option<f64> {
        let capacity = self.memory.capacity?;
        self.memory.used?;
        Some((self.context() / (FULL * capacity as f64)).min(1.0))
    }

    /// Tokens in use of its KV cache; 0 if it reports none.
    pub(super) fn context(&self) -> f64 {
        let used = self.memory.used.filter(|_| self.memory.capacity.is_some());
        used.map_or(0, |used| used.saturating_add_signed(self.memory.added)) as f64
    }

    /// A prompt ended, and frees what no other one needs.
    pub(super) fn freed(&mut self, ended: EndedPrompt) {
        self.memory.freed(ended);
    }

    /// Whether it reports its memory.
    pub(super) fn reports_memory(&self) -> bool {
        self.memory.capacity.is_some() && self.memory.used.is_some()
    }

    /// Tokens of its KV cache that the answers hold which it generates: those in use, without what
    /// is reserved for prompts that others compute.
    pub(super) fn held_by_answers(&self) -> f64 {
        let reserved: f64 = self
            .reserved
            .iter()
            .map(|&(_, memory)| f64::from(memory))
            .sum();
        (self.context() - reserved).max(0.0)
    }

    /// Whether its memory takes `memory` more tokens without preempting others. True if its memory
    /// is unknown.
    pub(super) fn fits(&self, memory: u32) -> bool {
        self.fits_after(0, memory)
    }

    /// The same, once `freed` of the tokens in use are free.
    pub(super) fn fits_after(&self, freed: u32, memory: u32) -> bool {
        let KvMemory {
            capacity,
            used,
            added,
            ..
        } = self.memory;
        let (Some(capacity), Some(used)) = (capacity, used) else {
            return true;
        };
        let used = used.saturating_add_signed(added);
        let used = used.saturating_sub(freed.into());
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
        let reserved = self.reserved.iter().map(|(_, memory)| i64::from(*memory));
        self.memory.added = ours.tokens.cast_signed() + reserved.sum::<i64>();
        (self.memory.inherited, self.memory.refused) = (0, false);
    }

    /// The size of its KV cache in tokens.
    pub(super) fn set_capacity(&mut self, tokens: Option<u64>) {
        self.memory.capacity = tokens.filter(|tokens| *tokens > 0);
    }

    /// What stays true of it while nothing of ours is in flight there.
    pub(super) fn idle(mut self) -> Self {
        self.retain(|_| false);
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
        self.interference = PrefillInterference::default();
        self.memory = KvMemory {
            capacity: self.memory.capacity,
            ..KvMemory::default()
        };
    }
}

// === KvMemory ===

impl KvMemory {
    /// Frees what the prompt was charged, except for what later ones still need. Which prompts run
    /// is only known by their number, so too little may be freed; the next sample corrects that.
    fn freed(&mut self, ended: EndedPrompt) {
        let EndedPrompt {
            tokens,
            charged,
            later,
            is_last,
        } = ended;
        let earlier = tokens.saturating_sub(charged);
        let freed = if is_last {
            charged.saturating_add(std::mem::take(&mut self.inherited))
        } else {
            let kept = later.saturating_sub(earlier).min(charged);
            self.inherited = self.inherited.saturating_add(kept);
            charged - kept
        };
        self.added -= i64::from(freed);
        self.refused = false;
    }
}
