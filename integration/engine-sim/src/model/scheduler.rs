//! Continuous batching over a bounded block cache, as a pure state machine in the manner of vLLM's
//! V1 scheduler.
//!
//! ```text
//! submit ─▶ waiting (FIFO) ─admit─▶ running ─last token─▶ finished
//!              ▲                       │
//!              └──────preempt──────────┘     no block left for a decode: the newest running sequence goes back
//! ```
//!
//! One step computes, within a token budget, one token for each decoding sequence and pieces of the
//! prompts of others; that is where prefill and decode disturb each other. Where sequences share
//! the time of the machine, there is no budget, and every prompt advances by the same number of
//! tokens. The caller says what time it is and waits as long as `Step` says. Invariants: blocks
//! never exceed the cache; a sequence that fits the cache alone finishes; order of admission is
//! FIFO.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::model::cache::BlockCache;
use crate::model::cache_events::{CacheEvent, CacheEventLog};
use crate::model::meters::{Finished, Meters};
use crate::model::sequence::{Job, Sequence, SequenceId};

/// The size of the simulated machine.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// KV blocks in memory.
    pub blocks: usize,
    /// Tokens of a block.
    pub block_size: usize,
    /// Most tokens computed in one step.
    pub step_budget: usize,
    /// Sequences in a batch at once.
    pub max_running: usize,
    /// Longest sequence, prompt and output, in tokens.
    pub max_model_len: usize,
}

/// What one step computes; its duration follows from this.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Prompt tokens computed.
    pub prefill_tokens: usize,
    /// Sequences that generate a token.
    pub decodes: usize,
}

/// How far one sequence has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Tokens generated.
    pub generated: u32,
    /// Prompt tokens found in the cache.
    pub cached: usize,
    /// Whether this was the last token.
    pub done: bool,
}

/// Continuous batching with chunked prefill, stepped by its owner.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    cache: BlockCache,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    /// Sequences that have finished, and whose blocks stay allocated until they are released.
    held: HashMap<SequenceId, Sequence>,
    meters: Meters,
    submitted: SequenceId,
    cache_events: CacheEventLog,
    /// Tokens of each prompt in one step, where running sequences share the time.
    share: Option<usize>,
}

impl Scheduler {
    /// An idle scheduler with an empty cache.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            cache: BlockCache::new(limits.blocks),
            waiting: VecDeque::new(),
            running: Vec::new(),
            held: HashMap::new(),
            meters: Meters::new(limits.max_model_len),
            submitted: 0,
            cache_events: CacheEventLog::default(),
            share: None,
        }
    }

    /// From now on every running prompt advances by `tokens` in a step, beside the others and
    /// whatever the step's budget.
    #[must_use]
    pub fn sharing_time(self, tokens: usize) -> Self {
        let share = Some(tokens);
        Self { share, ..self }
    }

    /// From now on writes down what happens in the cache.
    pub fn record(&mut self) {
        self.cache_events.start();
    }

    /// What happened in the cache since the last call.
    pub(crate) fn take_events(&mut self) -> Vec<CacheEvent> {
        self.cache_events.take()
    }

    /// Empties the cache, if nothing runs; answers whether it did.
    pub fn reset_cache(&mut self) -> bool {
        let done = self.cache.reset();
        if done {
            self.cache_events.cleared();
        }
        done
    }

    /// Queues a job. It must fit the cache alone: `prompt + output ≤ blocks × block size`.
    pub fn submit(&mut self, job: Job, now: Duration) -> SequenceId {
        debug_assert!(
            job.prompt_tokens + job.output_tokens as usize
                <= self.limits.blocks * self.limits.block_size
        );
        self.submitted += 1;
        self.waiting
            .push_back(Sequence::new(self.submitted, job, now));
        self.submitted
    }

    /// The blocks of a sequence that was just submitted stay allocated after its end, until it is
    /// aborted: another engine is to read them.
    pub(crate) fn hold(&mut self, id: SequenceId) {
        if let Some(sequence) = self.waiting.back_mut().filter(|last| last.id == id) {
            sequence.is_held = true;
        }
    }

    /// Decides what the next step computes; `None` when there is nothing to do.
    pub fn plan(&mut self, now: Duration) -> Option<Step> {
        let mut budget = self.limits.step_budget;
        let preempted = self.schedule_running(&mut budget);
        if !preempted {
            self.admit_waiting(&mut budget, now);
        }
        self.cache_events.removed(self.cache.take_evicted());
        let mut step = Step::default();
        for sequence in &self.running {
            if sequence.is_decoding() {
                step.decodes += sequence.scheduled;
            } else {
                step.prefill_tokens += sequence.scheduled;
            }
        }
        (step != Step::default()).then_some(step)
    }

    /// Ends the planned step: tokens come out, full blocks become shared, finished sequences leave.
    pub fn commit(&mut self, now: Duration, mut emit: impl FnMut(SequenceId, Progress)) {
        let mut computed = 0;
        for sequence in &mut self.running {
            computed += sequence.scheduled;
            if advance(
                sequence,
                &mut self.cache,
                &mut self.cache_events,
                self.limits.block_size,
            ) {
                count_token(sequence, &mut self.meters, now);
                let Sequence {
                    id,
                    generated,
                    cached,
                    ..
                } = *sequence;
                emit(
                    id,
                    Progress {
                        generated,
                        cached,
                        done: sequence.is_done(),
                    },
                );
            }
        }
        self.meters.iteration_tokens.observe(computed as f64);
        let Self {
            running,
            held,
            cache,
            meters,
            ..
        } = self;
        for sequence in running.extract_if(.., |sequence| sequence.is_done()) {
            count_finish(&sequence, meters, now);
            if sequence.is_held {
                held.insert(sequence.id, sequence);
            } else {
                leave(&sequence, cache);
            }
        }
    }

    /// Forgets a sequence whose client left, or whose blocks are not needed any more. No counter
    /// moves, as in vLLM.
    pub fn abort(&mut self, id: SequenceId) {
        self.waiting.retain(|sequence| sequence.id != id);
        if let Some(position) = self.running.iter().position(|sequence| sequence.id == id) {
            let sequence = self.running.remove(position);
            leave(&sequence, &mut self.cache);
        }
        if let Some(sequence) = self.held.remove(&id) {
            leave(&sequence, &mut self.cache);
        }
    }

    /// Its block cache.
    pub fn cache(&self) -> &BlockCache {
        &self.cache
    }

    pub(crate) fn meters(&self) -> &Meters {
        &self.meters
    }

    /// Sequences in the batch.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Sequences that wait for a place in the batch or for memory.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Prompt tokens still to be computed: for what runs, what is left; for what waits, what
    /// `expected` says.
    pub fn pending_prefill(&self, expected: impl Fn(SequenceId) -> usize) -> usize {
        let running = self
            .running
            .iter()
            .filter(|sequence| !sequence.is_decoding());
        let running: usize = running
            .map(|sequence| sequence.len() - sequence.computed)
            .sum();
        running
            + self
                .waiting
                .iter()
                .map(|sequence| expected(sequence.id))
                .sum::<usize>()
    }

    /// The adapters of running and of waiting sequences.
    pub(crate) fn adapters(&self) -> [BTreeSet<Arc<str>>; 2] {
        let running = self
            .running
            .iter()
            .filter_map(|sequence| sequence.job.adapter.clone())
            .collect();
        [
            running,
            self.waiting
                .iter()
                .filter_map(|sequence| sequence.job.adapter.clone())
                .collect(),
        ]
    }

    /// Gives each running sequence its share of the step, oldest first. Answers whether one had to
    /// be preempted.
    fn schedule_running(&mut self, budget: &mut usize) -> bool {
        let mut preempted = false;
        let mut index = 0;
        while index < self.running.len() {
            let sequence = &mut self.running[index];
            let missing = sequence
                .len()
                .div_ceil(self.limits.block_size)
                .saturating_sub(sequence.held_blocks());
            if self.cache.allocate(missing) {
                sequence.private += missing;
                sequence.scheduled = share_of(sequence, self.share, budget);
                index += 1;
                continue;
            }
            preempted = true;
            if let Some(victim) = self.running.pop() {
                self.preempt(victim);
            }
        }
        preempted
    }

    fn preempt(&mut self, mut sequence: Sequence) {
        leave(&sequence, &mut self.cache);
        sequence.computed = 0;
        sequence.job.received = 0;
        sequence.scheduled = 0;
        sequence.shared = 0;
        sequence.private = 0;
        sequence.preemptions += 1;
        self.meters.preemptions += 1;
        self.waiting.push_front(sequence);
    }

    /// Admits from the head of the queue while tokens, seats and blocks last; the head blocks those
    /// behind it.
    fn admit_waiting(&mut self, budget: &mut usize, now: Duration) {
        while *budget > 0 && self.running.len() < self.limits.max_running {
            let Some(mut sequence) = self.waiting.pop_front() else {
                return;
            };
            let Limits { block_size, .. } = self.limits;
            let hit = self.cache.prefix_len(sequence.reusable(block_size));
            let fresh = sequence.len().div_ceil(block_size) - hit;
            if !self.cache.admit(&sequence.job.chain.hashes()[..hit], fresh) {
                self.waiting.push_front(sequence);
                return;
            }
            sequence.shared = hit;
            sequence.private = fresh;
            sequence.computed = hit * block_size;
            if sequence.admitted.is_none() {
                sequence.admitted = Some(now);
                sequence.cached = sequence.computed;
                self.meters.prefix_queries += sequence.len() as u64;
                self.meters.prefix_hits += sequence.cached as u64;
            }
            // Its last token is computed here, as its output is needed.
            let received = sequence.job.received.min(sequence.len() - 1);
            sequence.computed = sequence.computed.max(received);
            sequence.scheduled = share_of(&sequence, self.share, budget);
            self.running.push(sequence);
        }
    }
}

/// Tokens of the sequence in the next step: its share, or what is left of the budget.
fn share_of(sequence: &Sequence, share: Option<usize>, budget: &mut usize) -> usize {
    let missing = sequence.len() - sequence.computed;
    if let Some(share) = share {
        return missing.min(share);
    }
    let scheduled = missing.min(*budget);
    *budget -= scheduled;
    scheduled
}

/// Applies what the step computed. Answers whether a token came out.
fn advance(
    sequence: &mut Sequence,
    cache: &mut BlockCache,
    cache_events: &mut CacheEventLog,
    block_size: usize,
) -> bool {
    let worked = std::mem::take(&mut sequence.scheduled);
    sequence.computed += worked;
    while sequence.shared < sequence.computed / block_size {
        let Job { chain, adapter, .. } = &sequence.job;
        if cache.publish(chain.hashes()[sequence.shared]) {
            cache_events.stored(chain, sequence.shared, adapter.as_ref());
        }
        sequence.shared += 1;
        sequence.private -= 1;
    }
    let emits = worked > 0 && sequence.computed == sequence.len();
    if emits {
        sequence.generate();
    }
    emits
}

fn leave(sequence: &Sequence, cache: &mut BlockCache) {
    cache.release(
        &sequence.job.chain.hashes()[..sequence.shared],
        sequence.private,
    );
}

fn count_token(sequence: &mut Sequence, meters: &mut Meters, now: Duration) {
    meters.generation_tokens += 1;
    if sequence.generated == 1 {
        sequence.first_token = now;
        meters.first_token(
            now.saturating_sub(sequence.arrived),
            sequence.job.prompt_tokens,
        );
    } else {
        meters
            .inter_token_latency
            .observe(now.saturating_sub(sequence.last_token).as_secs_f64());
    }
    sequence.last_token = now;
}

fn count_finish(sequence: &Sequence, meters: &mut Meters, now: Duration) {
    let finished = Finished {
        arrived: sequence.arrived,
        admitted: sequence.admitted.unwrap_or(sequence.arrived),
        first_token: sequence.first_token,
        now,
        prompt_tokens: sequence.job.prompt_tokens,
        cached_tokens: sequence.cached,
        generated: sequence.generated,
        preemptions: sequence.preemptions,
        stopped: sequence.job.stops,
    };
    meters.finish(&finished, sequence.job.output_tokens);
}

#[cfg(test)]
mod tests;
