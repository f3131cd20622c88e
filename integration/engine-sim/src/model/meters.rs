//! The numbers that vLLM counts: counters and histograms, with vLLM's buckets.
//!
//! Written by the scheduler, read by `exposition`. Times are wall-clock seconds as a client would
//! see them, so a scaled engine reports scaled times.

use std::time::Duration;

/// vLLM's buckets for times to first token, in seconds.
const TTFT: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
/// vLLM's buckets for times per token, in seconds.
const PER_TOKEN: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
/// vLLM's buckets for the phases of a request, in seconds.
const PHASE: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];
/// vLLM's buckets for tokens per step.
const ITERATION: &[f64] = &[
    1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0,
];
/// Buckets in steps 1, 2, 5; vLLM ends them at `max_model_len`.
const ONE_TWO_FIVE: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5,
    5e5, 1e6, 2e6, 5e6, 1e7,
];
const PREEMPTIONS: &[f64] = &[1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 20.0];
const CHOICES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];

/// A cumulative histogram with fixed bounds.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    bounds: &'static [f64],
    counts: Vec<u64>,
    sum: f64,
    count: u64,
}

/// Everything that an engine counts since it started.
#[derive(Clone, Debug)]
pub(crate) struct Meters {
    pub(crate) prefix_queries: u64,
    pub(crate) prefix_hits: u64,
    pub(crate) prompt_tokens: u64,
    pub(crate) generation_tokens: u64,
    pub(crate) preemptions: u64,
    pub(crate) finished_stop: u64,
    pub(crate) finished_length: u64,
    pub(crate) time_to_first_token: Histogram,
    pub(crate) inter_token_latency: Histogram,
    pub(crate) time_per_output_token: Histogram,
    pub(crate) e2e_latency: Histogram,
    pub(crate) queue_time: Histogram,
    pub(crate) prefill_time: Histogram,
    pub(crate) decode_time: Histogram,
    pub(crate) inference_time: Histogram,
    pub(crate) request_prompt_tokens: Histogram,
    pub(crate) request_generation_tokens: Histogram,
    pub(crate) request_max_tokens: Histogram,
    pub(crate) request_choices: Histogram,
    pub(crate) request_preemptions: Histogram,
    pub(crate) request_computed_tokens: Histogram,
    pub(crate) iteration_tokens: Histogram,
}

/// What is known about a request when its last token is out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Finished {
    pub(crate) arrived: Duration,
    pub(crate) admitted: Duration,
    pub(crate) first_token: Duration,
    pub(crate) now: Duration,
    pub(crate) prompt_tokens: usize,
    pub(crate) cached_tokens: usize,
    pub(crate) generated: u32,
    pub(crate) preemptions: u32,
    /// Whether the model ended by itself, rather than at `max_tokens`.
    pub(crate) stopped: bool,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len()],
            sum: 0.0,
            count: 0,
        }
    }

    /// A histogram of token counts: its last bucket is the largest step that a sequence of `max`
    /// tokens reaches.
    fn tokens_up_to(max: usize) -> Self {
        let used = ONE_TWO_FIVE.partition_point(|bound| *bound <= max as f64);
        Self::new(&ONE_TWO_FIVE[..used])
    }

    pub(crate) fn observe(&mut self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum += value;
        self.count += 1;
    }

    /// `(upper bound, observations up to it)`, without the last, infinite bucket, which is `count`.
    pub(crate) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        self.bounds
            .iter()
            .zip(&self.counts)
            .scan(0, |total, (bound, count)| {
                *total += count;
                Some((*bound, *total))
            })
    }

    pub(crate) fn sum(&self) -> f64 {
        self.sum
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}

impl Meters {
    pub(crate) fn new(max_model_len: usize) -> Self {
        let tokens = Histogram::tokens_up_to(max_model_len);
        Self {
            prefix_queries: 0,
            prefix_hits: 0,
            prompt_tokens: 0,
            generation_tokens: 0,
            preemptions: 0,
            finished_stop: 0,
            finished_length: 0,
            time_to_first_token: Histogram::new(TTFT),
            inter_token_latency: Histogram::new(PER_TOKEN),
            time_per_output_token: Histogram::new(PER_TOKEN),
            e2e_latency: Histogram::new(PHASE),
            queue_time: Histogram::new(PHASE),
            prefill_time: Histogram::new(PHASE),
            decode_time: Histogram::new(PHASE),
            inference_time: Histogram::new(PHASE),
            request_prompt_tokens: tokens.clone(),
            request_generation_tokens: tokens.clone(),
            request_max_tokens: tokens.clone(),
            request_choices: Histogram::new(CHOICES),
            request_preemptions: Histogram::new(PREEMPTIONS),
            request_computed_tokens: tokens,
            iteration_tokens: Histogram::new(ITERATION),
        }
    }

    /// Counts the first token of a request, when its prompt counts as processed.
    pub(crate) fn first_token(&mut self, waited: Duration, prompt_tokens: usize) {
        self.prompt_tokens += prompt_tokens as u64;
        self.time_to_first_token.observe(waited.as_secs_f64());
    }

    /// Counts a request that ran to its end; requests that clients left are not counted, as in
    /// vLLM.
    pub(crate) fn finish(&mut self, finished: &Finished, max_tokens: u32) {
        let Finished {
            arrived,
            admitted,
            first_token,
            now,
            prompt_tokens,
            cached_tokens,
            generated,
            preemptions,
            stopped,
        } = *finished;
        let between = |from: Duration, to: Duration| to.saturating_sub(from).as_secs_f64();
        let reason = if stopped {
            &mut self.finished_stop
        } else {
            &mut self.finished_length
        };
        *reason += 1;
        self.e2e_latency.observe(between(arrived, now));
        self.queue_time.observe(between(arrived, admitted));
        self.prefill_time.observe(between(admitted, first_token));
        self.decode_time.observe(between(first_token, now));
        self.inference_time.observe(between(admitted, now));
        self.time_per_output_token
            .observe(between(first_token, now) / f64::from(generated.max(2) - 1));
        self.request_prompt_tokens.observe(prompt_tokens as f64);
        self.request_generation_tokens.observe(f64::from(generated));
        self.request_max_tokens.observe(f64::from(max_tokens));
        self.request_choices.observe(1.0);
        self.request_preemptions.observe(f64::from(preemptions));
        self.request_computed_tokens
            .observe((prompt_tokens - cached_tokens) as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_counts_everything_up_to_its_bound() {
        let mut histogram = Histogram::new(CHOICES);
        for value in [1.0, 2.0, 3.0, 100.0] {
            histogram.observe(value);
        }
        let buckets: Vec<_> = histogram.cumulative().collect();
        assert_eq!(
            buckets,
            [(1.0, 1), (2.0, 2), (5.0, 3), (10.0, 3), (20.0, 3)]
        );
        assert_eq!((histogram.count(), histogram.sum()), (4, 106.0));
    }

    #[test]
    fn token_buckets_end_at_the_context_length_as_in_vllm() {
        let bounds = |max| {
            Histogram::tokens_up_to(max)
                .cumulative()
                .map(|(bound, _)| bound)
                .last()
        };
        assert_eq!(bounds(4096), Some(2000.0));
        assert_eq!(bounds(32_768), Some(20_000.0));
    }
}
