//! One server of the fleet: the scheduler of the simulated engine, and the step that it computes.

use std::time::Duration;

use super::backlog::Backlog;
use super::sample::{RequestIndex, Sample};
use hermes_engine_sim::EngineConfig;
use hermes_engine_sim::model::chain::Chain;
use hermes_engine_sim::model::scheduler::{Progress, Scheduler};
use hermes_engine_sim::model::sequence::Job;
use hermes_engine_sim::model::text::Answer;

/// A request as a server gets it, lengths already clipped to its memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Work<'a> {
    pub(super) request: RequestIndex,
    pub(super) prompt_tokens: usize,
    pub(super) output_tokens: u32,
    pub(super) blocks: &'a [u64],
    /// Another server has computed the prompt.
    pub(super) is_received: bool,
}

/// A simulated engine without its sockets.
#[derive(Debug)]
pub(super) struct Server {
    config: EngineConfig,
    scheduler: Scheduler,
    backlog: Backlog,
    /// Requests by sequence id, which the scheduler counts from one.
    requests: Vec<RequestIndex>,
    stepping: bool,
    /// KV caches on their way here.
    expected: usize,
}

impl Server {
    pub(super) fn new(config: EngineConfig) -> Self {
        let scheduler = config.scheduler();
        Self {
            config,
            scheduler,
            backlog: Backlog::default(),
            requests: Vec::new(),
            stepping: false,
            expected: 0,
        }
    }

    /// Takes a request into its queue.
    pub(super) fn submit(&mut self, work: Work<'_>, now: Duration) {
        let Work {
            request,
            prompt_tokens,
            output_tokens,
            blocks,
            is_received,
        } = work;
        let own = request as u64;
        let job = Job {
            received: if is_received { prompt_tokens } else { 0 },
            chain: Chain::named(self.config.block_size, blocks, prompt_tokens, own),
            prompt_tokens,
            output_tokens,
            stops: false,
            answer: Answer::new(own, 0),
            adapter: None,
        };
        let id = self.scheduler.submit(job, now);
        let block_size = self.config.block_size;
        let held = self.promised_prefix(reusable(blocks, prompt_tokens, block_size)) * block_size;
        // The last token of a prompt is computed where its output is needed.
        let uncached = if is_received { 1 } else { prompt_tokens - held };
        let full = &blocks[..blocks.len().min(prompt_tokens / block_size)];
        self.backlog.add(id, full, uncached);
        self.requests.push(request);
    }

    /// The KV cache of a prompt is on its way here. Answers how many of its tokens are not here yet.
    pub(super) fn expect(&mut self, prompt_tokens: usize, blocks: &[u64]) -> usize {
        self.expected += 1;
        let block_size = self.config.block_size;
        let blocks = reusable(blocks, prompt_tokens, block_size);
        prompt_tokens - self.cached_prefix(blocks) * block_size
    }

    /// Takes a request whose KV cache has arrived into its queue.
    pub(super) fn receive(&mut self, work: Work<'_>, now: Duration) {
        self.expected -= 1;
        self.submit(work, now);
    }

    /// Begins a step if it is idle and has something to do. Answers how long the step takes.
    pub(super) fn begin(&mut self, now: Duration) -> Option<Duration> {
        if self.stepping {
            return None;
        }
        let step = self.scheduler.plan(now)?;
        self.stepping = true;
        Some(self.config.duration(step, self.scheduler.running(), 1.0))
    }

    /// Ends the step: `emit` is called for each request that got a token.
    pub(super) fn end(&mut self, now: Duration, mut emit: impl FnMut(RequestIndex, Progress)) {
        let Self {
            scheduler,
            requests,
            stepping,
            backlog,
            ..
        } = self;
        *stepping = false;
        scheduler.commit(now, |id, progress| {
            if progress.generated == 1 {
                backlog.remove(id);
            }
            emit(requests[id as usize - 1], progress);
        });
    }

    pub(super) fn is_idle(&self) -> bool {
        !self.stepping && self.expected == 0
    }

    pub(super) fn sample(&self) -> Sample {
        let cache = self.scheduler.cache();
        Sample {
            // Engines count those that wait for a KV cache among the waiting ones.
            waiting: self.scheduler.waiting() + self.expected,
            running: self.scheduler.running(),
            kv_usage: cache.used() as f64 / cache.capacity() as f64,
        }
    }

    /// How many of these blocks, from the first, are cached.
    pub(super) fn cached_prefix(&self, blocks: &[u64]) -> usize {
        self.scheduler.cache().prefix_len(blocks)
    }

    /// How many of these blocks, from the first, are cached or will be when a prompt that comes now
    /// has its turn.
    pub(super) fn promised_prefix(&self, blocks: &[u64]) -> usize {
        self.backlog.prefix_len(blocks, self.scheduler.cache())
    }

    /// Prompt tokens still to be computed.
    pub(super) fn pending_prefill(&self) -> usize {
        self.backlog.tokens(&self.scheduler)
    }

    /// Prompt tokens a second, by the configured rate and speed.
    pub(super) fn prefill_rate(&self) -> f64 {
        self.config.prefill_rate * self.config.speed
    }
}

/// The blocks of a prompt that may come from a cache: the last token of a prompt is always
/// computed.
pub(super) fn reusable(blocks: &[u64], prompt_tokens: usize, block_size: usize) -> &[u64] {
    &blocks[..blocks
        .len()
        .min(prompt_tokens.saturating_sub(1) / block_size)]
}
