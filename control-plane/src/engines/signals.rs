//! Folds the samples of one page into what the control plane wants to know about one server.
//!
//! One page may speak for several schedulers (data-parallel ranks). Counts of different ranks add
//! up. Their KV usage is averaged and not maximized: the server itself spreads requests over its
//! ranks, so its room is what they have together. Tensor-, pipeline- and expert-parallel ranks
//! share a scheduler and repeat its figures, so of samples that differ in nothing else the largest
//! counts.
//!
//! A value that cannot be true (a negative count, a usage above 1, NaN) takes its whole signal
//! away, because a sum without one of its parts is wrong too. It is counted in
//! [`Scraped::refused`].

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use hermes_core::load::EngineSample;
use memchr::memmem;

use super::{
    exposition::{self, SampleLabels},
    metric_names::{MetricRow, SampleValue, Signal, TABLE, is_wanted},
};

/// Most series of one signal in a page. The largest data-parallel servers have fewer ranks than
/// that.
const MAX_SERIES: usize = 1_024;

/// Most adapter names that are kept of one server.
const MAX_ADAPTERS: usize = 256;

/// Usage above 1 by no more than this is rounding.
const ROUNDING: f64 = 1e-3;

/// Labels that only distinguish ranks of one scheduler.
const SAME_SCHEDULER: [&str; 3] = ["tp_rank", "pp_rank", "moe_ep_rank"];

/// Labels that name a scheduler: vLLM's data-parallel rank, and SGLang's.
const SCHEDULER: [&str; 2] = ["engine", "dp_rank"];

/// Most schedulers that are counted of one server.
const MAX_SCHEDULERS: usize = 64;

/// What one server said about itself in its metrics. All absent for a server that gives none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scraped {
    /// The figures that choices read.
    pub sample: EngineSample,
    /// The shape of its KV cache.
    pub cache: CacheInfo,
    /// Schedulers that it has, 1..=64: each computes prompts by itself. `None` if its series name
    /// none.
    pub schedulers: Option<u32>,
    /// Prompt tokens looked up in its prefix cache since it started.
    pub prefix_queries: Option<f64>,
    /// Prompt tokens found there since it started.
    pub prefix_hits: Option<f64>,
    /// Its LoRA adapters, when it serves any.
    pub adapters: Option<Adapters>,
    /// Its page names LoRA somewhere: adapters may be loaded and unloaded at any time. vLLM names
    /// it from the start if LoRA is enabled, and not at all otherwise.
    pub may_load_adapters: bool,
    /// Whether it sleeps: its memory is given back, and a request would fail or wake it.
    pub asleep: Option<bool>,
    /// Unix time in seconds at which its process started: a change means that its cache is empty.
    pub started: Option<f64>,
    /// Signals that were taken away because a value could not be true.
    pub refused: u32,
    /// Lines of the page that were not understood.
    pub skipped_lines: u64,
}

/// The shape of a KV cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheInfo {
    /// Tokens in one block.
    pub block_size: Option<u32>,
    /// Blocks, over all ranks.
    pub num_blocks: Option<u64>,
}

/// LoRA adapters of one server at its last change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adapters {
    /// Names with requests in the running batch.
    pub running: Vec<Arc<str>>,
    /// Names with requests in the queue.
    pub waiting: Vec<Arc<str>>,
    /// How many fit in one batch.
    pub max: Option<u32>,
}

/// The figures of one signal, while the page is read.
#[derive(Debug, Default)]
struct Series {
    /// Position in [`TABLE`] of the row that is read: the first that the page has.
    row: usize,
    /// One figure per scheduler, with the hash of the labels that name it.
    figures: Vec<(u64, f64)>,
    /// A value could not be true.
    refused: bool,
}

/// Everything of one page, while it is read.
#[derive(Debug, Default)]
struct SignalTotals {
    series: [Series; Signal::COUNT],
    /// Hashes of the labels that name a scheduler, each once, of the figures that each has.
    schedulers: Vec<u64>,
    adapters: Option<(f64, Adapters)>,
}

/// The page is in no format that this crate reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the page has not one line of the Prometheus text format")]
pub struct NotAnExposition;

// === Scraped ===

impl Scraped {
    /// Reads one page of an engine's metrics. A page with none that is known is not an error:
    /// nothing is known then.
    ///
    /// # Errors
    /// When the page has lines, and not one of them is a sample: HTML or JSON at the same path.
    pub fn read(page: &[u8]) -> Result<Self, NotAnExposition> {
        let mut tally = SignalTotals::default();
        let mut lines = exposition::samples(page, is_wanted);
        for sample in lines.by_ref() {
            for (at, row) in TABLE
                .iter()
                .enumerate()
                .filter(|(_, row)| row.name == sample.name)
            {
                tally.add(at, row, &sample);
            }
        }
        if lines.named() == 0 && lines.skipped() > 0 {
            return Err(NotAnExposition);
        }
        Ok(Self {
            skipped_lines: lines.skipped(),
            may_load_adapters: memmem::find(page, b"lora").is_some(),
            ..tally.finish()
        })
    }
}

// === SignalTotals ===

impl SignalTotals {
    fn add(&mut self, at: usize, row: &MetricRow, sample: &exposition::ExpositionSample<'_>) {
        let labels = sample.labels;
        if row
            .only
            .is_some_and(|(label, value)| labels.get(label).as_deref() != Some(value))
        {
            return;
        }
        if row.signal == Signal::Adapters {
            self.adapters_at(sample.value, labels);
            return;
        }
        let value = match row.place {
            SampleValue::Value => Some(sample.value),
            // "None" while the engine still measures how much memory it has.
            SampleValue::Label(name) => labels.get(name).and_then(|text| text.parse().ok()),
        };
        if matches!(
            row.signal,
            Signal::Waiting | Signal::Running | Signal::KvUsage
        ) {
            self.count_scheduler(labels);
        }
        if let Some(value) = value {
            self.series[row.signal as usize].add(at, row.signal, labels, value);
        }
    }

    fn count_scheduler(&mut self, labels: SampleLabels<'_>) {
        let names = SCHEDULER.map(|label| labels.get(label).filter(|name| !name.is_empty()));
        if names.iter().all(Option::is_none) {
            return;
        }
        let scheduler = hash_of(&names);
        if self.schedulers.len() < MAX_SCHEDULERS && !self.schedulers.contains(&scheduler) {
            self.schedulers.push(scheduler);
        }
    }

    /// Series of former states stay in the page: the newest is true.
    fn adapters_at(&mut self, time: f64, labels: SampleLabels<'_>) {
        if time.is_nan()
            || self
                .adapters
                .as_ref()
                .is_some_and(|(newest, _)| *newest >= time)
        {
            return;
        }
        let names = |label| {
            labels
                .get(label)
                .map(|text| split_names(&text))
                .unwrap_or_default()
        };
        let adapters = Adapters {
            running: names("running_lora_adapters"),
            waiting: names("waiting_lora_adapters"),
            max: labels.get("max_lora").and_then(|text| text.parse().ok()),
        };
        self.adapters = Some((time, adapters));
    }

    fn finish(self) -> Scraped {
        let of = |signal: Signal| &self.series[signal as usize];
        let count = |signal| {
            of(signal)
                .sum()
                .map(|sum| sum.min(f64::from(u32::MAX)) as u32)
        };
        Scraped {
            sample: EngineSample {
                waiting: count(Signal::Waiting),
                running: count(Signal::Running),
                kv_usage: of(Signal::KvUsage).mean().map(|mean| mean.min(1.0) as f32),
            },
            cache: CacheInfo {
                block_size: of(Signal::BlockSize)
                    .max()
                    .map(|max| max.min(f64::from(u32::MAX)) as u32),
                num_blocks: of(Signal::NumBlocks).sum().map(|sum| sum as u64),
            },
            schedulers: Some(self.schedulers.len() as u32).filter(|count| *count > 0),
            prefix_queries: of(Signal::PrefixQueries).sum(),
            prefix_hits: of(Signal::PrefixHits).sum(),
            adapters: self.adapters.map(|(_, adapters)| adapters),
            may_load_adapters: false,
            asleep: of(Signal::Awake).min().map(|awake| awake == 0.0),
            started: of(Signal::Started).max(),
            refused: self.series.iter().filter(|series| series.refused).count() as u32,
            skipped_lines: 0,
        }
    }
}

// === Series ===

impl Series {
    fn add(&mut self, row: usize, signal: Signal, labels: SampleLabels<'_>, value: f64) {
        // SGLang repeats its totals per priority.
        if labels
            .get("priority")
            .is_some_and(|priority| !priority.is_empty())
        {
            return;
        }
        if self.is_empty() || row < self.row {
            *self = Self {
                row,
                ..Self::default()
            };
        }
        if row > self.row {
            return;
        }
        if !signal.is_plausible(value) || self.figures.len() == MAX_SERIES {
            self.refused = true;
            return;
        }
        let scheduler = scheduler_of(labels);
        match self
            .figures
            .iter_mut()
            .find(|(known, _)| *known == scheduler)
        {
            Some((_, largest)) => *largest = largest.max(value),
            None => self.figures.push((scheduler, value)),
        }
    }

    fn is_empty(&self) -> bool {
        self.figures.is_empty() && !self.refused
    }

    /// The usable figures: none when one of them is invalid.
    fn values(&self) -> impl Iterator<Item = f64> {
        let usable: &[_] = if self.refused { &[] } else { &self.figures };
        usable.iter().map(|(_, value)| *value)
    }

    fn sum(&self) -> Option<f64> {
        self.values().reduce(|sum, value| sum + value)
    }

    fn mean(&self) -> Option<f64> {
        self.sum().map(|sum| sum / self.figures.len() as f64)
    }

    fn max(&self) -> Option<f64> {
        self.values().reduce(f64::max)
    }

    fn min(&self) -> Option<f64> {
        self.values().reduce(f64::min)
    }
}

// === Signal ===

impl Signal {
    /// Whether a server can be in the state that this value describes.
    fn is_plausible(self, value: f64) -> bool {
        match self {
            Self::KvUsage => (0.0..=1.0 + ROUNDING).contains(&value),
            Self::BlockSize => (1.0..=f64::from(u32::MAX)).contains(&value),
            Self::Waiting | Self::Running => (0.0..=f64::from(u32::MAX)).contains(&value),
            Self::NumBlocks
            | Self::PrefixQueries
            | Self::PrefixHits
            | Self::Adapters
            | Self::Awake
            | Self::Started => value.is_finite() && value >= 0.0,
        }
    }
}

// === Steps ===

/// Names the scheduler that a sample speaks for: everything in its labels but ranks that share one.
fn scheduler_of(labels: SampleLabels<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (name, value) in labels
        .iter()
        .filter(|(name, _)| !SAME_SCHEDULER.contains(name))
    {
        (name, value).hash(&mut hasher);
    }
    hasher.finish()
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn split_names(text: &str) -> Vec<Arc<str>> {
    text.split(',')
        .map(str::trim)
        .filter(|name| !name.is_empty())
        .take(MAX_ADAPTERS)
        .map(Arc::from)
        .collect()
}

#[cfg(test)]
mod tests;
