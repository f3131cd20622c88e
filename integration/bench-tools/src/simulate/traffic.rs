//! The requests of a trace, in order of arrival.
//!
//! Whole in memory, since rules are compared on one and the same traffic: about 200 bytes a request
//! and 8 a block.

use std::io::BufRead;
use std::path::Path;
use std::time::Duration;

use hermes_core::rng::SeededRng;

use crate::chats::{ChatRequest, Chats};
use crate::load::trace::{Record, Trace, TraceError};
use crate::report::grouped;

/// Requests in order of arrival.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    requests: Vec<Request>,
    block_tokens: usize,
}

/// Tokens in a block of made-up chats, as in vLLM.
pub const CHAT_BLOCK: usize = 16;

/// One request of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Since the first request of the trace, in milliseconds.
    pub at_ms: u64,
    /// Length of the prompt.
    pub prompt_tokens: usize,
    /// Length of the answer.
    pub output_tokens: u32,
    /// The prompt's full blocks.
    pub blocks: Box<[u64]>,
    /// The tenant that sent it, if the trace names one.
    pub tenant: Option<Box<str>>,
}

/// Why a trace cannot be simulated.
#[derive(Debug, thiserror::Error)]
pub enum TrafficError {
    /// It cannot be read.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// There is no request in it.
    #[error("the trace holds no request, or none for that model")]
    Empty,
    /// Blocks of very different sizes cannot be compared.
    #[error(
        "request {request} has blocks of {found} tokens, the mean is {expected}; a trace has one size of blocks"
    )]
    MixedBlocks {
        /// From one, in the order of the file.
        request: usize,
        /// Its `block_tokens`.
        found: f64,
        /// The mean of all.
        expected: usize,
    },
}

impl Traffic {
    /// Reads a trace file: at most `limit` of its requests, and only those for `model` if one is
    /// given.
    ///
    /// # Errors
    /// A file that is not there, a bad line (named), no request at all, or blocks of different
    /// sizes.
    pub fn open(path: &Path, model: Option<&str>, limit: usize) -> Result<Self, TrafficError> {
        Self::read(Trace::open(path)?, model, limit)
    }

    /// The traffic of `trace`: at most `limit` of its requests, and only those for `model` if one
    /// is given.
    ///
    /// # Errors
    /// As of [`Traffic::open`].
    pub fn read<R: BufRead>(
        trace: Trace<R>,
        model: Option<&str>,
        limit: usize,
    ) -> Result<Self, TrafficError> {
        let mut records = Vec::new();
        for record in trace {
            let record = record?;
            if model.is_none() || record.model.as_deref() == model {
                records.push(record);
            }
            if records.len() == limit {
                break;
            }
        }
        Self::new(records)
    }

    /// The traffic of these records, in any order.
    ///
    /// # Errors
    /// No record, or blocks of different sizes.
    pub fn new(mut records: Vec<Record>) -> Result<Self, TrafficError> {
        if records.is_empty() {
            return Err(TrafficError::Empty);
        }
        // Where blocks are of bytes, each prompt has its own tokens per block: they are brought to
        // one size.
        let sum: f64 = records.iter().map(Record::block_tokens).sum();
        let block_tokens = (sum / records.len() as f64).round() as usize;
        for (index, record) in records.iter().enumerate() {
            let found = record.block_tokens();
            if !(0.5..=2.0).contains(&(found / block_tokens as f64)) {
                return Err(TrafficError::MixedBlocks {
                    request: index + 1,
                    found,
                    expected: block_tokens,
                });
            }
        }
        // Stable: requests of one moment keep their order in the file.
        records.sort_by_key(|record| record.timestamp);
        let start = records.first().map_or(0, |record| record.timestamp);
        let requests = records
            .into_iter()
            .map(|record| Request::new(record, start, block_tokens))
            .collect();
        Ok(Self {
            requests,
            block_tokens,
        })
    }

    /// The first `limit` requests of `chats`, in blocks of [`CHAT_BLOCK`] tokens. Questions come at
    /// their times, even where a user would still wait for the answer before.
    ///
    /// # Errors
    /// `limit` is zero.
    pub fn of_chats(chats: &Chats, limit: usize) -> Result<Self, TrafficError> {
        let record = |ChatRequest { at, prompt }| Record {
            timestamp: u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
            input_length: chats.prompt_tokens(prompt),
            output_length: chats.answer_tokens,
            hash_ids: chats.blocks(prompt, CHAT_BLOCK),
            block_tokens: Some(CHAT_BLOCK as f64),
            ..Record::default()
        };
        Self::new(chats.requests().take(limit).map(record).collect())
    }

    /// The same requests, each later by a time of up to `most` that is drawn by lot: where the times of a
    /// trace are rounded, many requests come at once that came one after the other.
    #[must_use]
    pub fn spread(mut self, most: Duration, seed: u64) -> Self {
        let mut rng = SeededRng::new(seed);
        let most = most.as_secs_f64() * 1e3;
        for request in &mut self.requests {
            request.at_ms += (f64::from(rng.unit()) * most) as u64;
        }
        self.requests.sort_by_key(|request| request.at_ms);
        let start = self.requests.first().map_or(0, |request| request.at_ms);
        let requests = self.requests.iter_mut();
        requests.for_each(|request| request.at_ms -= start);
        self
    }

    /// The requests, the first one first.
    #[must_use]
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// The traffic in words, for a report.
    #[must_use]
    pub fn facts(&self, scale: f64) -> Vec<(&'static str, String)> {
        let minutes = self
            .requests
            .last()
            .map_or(0.0, |last| last.arrival(scale).as_secs_f64() / 60.0);
        let tokens: usize = self
            .requests
            .iter()
            .map(|request| request.prompt_tokens)
            .sum();
        vec![
            (
                "requests",
                format!("{} in {minutes:.1} min", grouped(self.requests.len())),
            ),
            ("prompts", format!("{:.1} M tokens", tokens as f64 / 1e6)),
            ("scale", scale.to_string()),
        ]
    }

    /// Tokens in one block.
    #[must_use]
    pub fn block_tokens(&self) -> usize {
        self.block_tokens
    }
}

impl Request {
    fn new(record: Record, start_ms: u64, block_tokens: usize) -> Self {
        let scale = block_tokens as f64 / record.block_tokens();
        let Record {
            timestamp,
            input_length,
            output_length,
            mut hash_ids,
            tenant,
            ..
        } = record;
        let input_length = (input_length as f64 * scale).round() as usize;
        hash_ids.truncate(input_length / block_tokens);
        Self {
            at_ms: timestamp - start_ms,
            prompt_tokens: input_length,
            output_tokens: output_length.try_into().unwrap_or(u32::MAX),
            blocks: hash_ids.into_boxed_slice(),
            tenant: tenant.map(String::into_boxed_str),
        }
    }

    /// The lengths of prompt and answer as a server with room for `memory` tokens can serve them.
    ///
    /// An answer takes at most half the memory and a prompt what is left then; each has at least
    /// one token. The prompt loses its end. This depends on the request alone, so that every policy
    /// serves the same work.
    #[must_use]
    pub fn clipped(&self, memory: usize) -> (usize, u32) {
        let output = (self.output_tokens as usize).clamp(1, (memory / 2).max(1));
        let prompt = self
            .prompt_tokens
            .clamp(1, memory.saturating_sub(output).max(1));
        (prompt, output.try_into().unwrap_or(u32::MAX))
    }

    /// When it arrives if the trace runs `scale` times as fast.
    #[must_use]
    pub fn arrival(&self, scale: f64) -> Duration {
        crate::load::arrivals::scaled(self.at_ms, scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Traffic, TrafficError> {
        Traffic::read(Trace::new(text.as_bytes()), None, usize::MAX)
    }

    #[test]
    fn requests_come_in_order_of_time_and_with_their_full_blocks() {
        let traffic = read(concat!(
            "{\"timestamp\":9000,\"input_length\":1030,\"output_length\":5,\"hash_ids\":[1,2,3]}\n",
            "{\"timestamp\":6000,\"input_length\":100,\"output_length\":0,\"hash_ids\":[4],\"tenant\":\"a\"}\n",
        ))
        .unwrap();
        let [first, second] = traffic.requests() else {
            panic!("two requests")
        };
        assert_eq!(
            (first.at_ms, first.blocks.len(), first.tenant.as_deref()),
            (0, 0, Some("a"))
        );
        assert_eq!((second.at_ms, second.blocks.to_vec()), (3_000, vec![1, 2]));
        assert_eq!(second.arrival(2.0), Duration::from_millis(1_500));
    }

    #[test]
    fn arrivals_that_are_spread_stay_within_the_time_and_in_order() {
        let line = |at: u64, tokens: usize| {
            format!("{{\"timestamp\":{at},\"input_length\":{tokens},\"output_length\":1}}\n")
        };
        let text: String = (0..40).map(|index| line(index / 10 * 3_000, 100)).collect();
        let spread = |seed| read(&text).unwrap().spread(Duration::from_secs(3), seed);
        let times = |traffic: &Traffic| {
            let requests = traffic.requests().iter();
            requests.map(|request| request.at_ms).collect::<Vec<_>>()
        };
        let once = times(&spread(1));
        assert!(once.is_sorted() && once[0] == 0 && once[39] < 12_000);
        assert!(once.windows(2).filter(|pair| pair[0] == pair[1]).count() < 5);
        assert_eq!(once, times(&spread(1)));
        assert_ne!(once, times(&spread(2)));
    }

    #[test]
    fn one_model_of_a_trace_can_be_taken() {
        let line = |model: &str| {
            format!(
                "{{\"timestamp\":1,\"input_length\":9,\"output_length\":1,\"model\":\"{model}\"}}\n"
            )
        };
        let text = line("a") + &line("b") + &line("a");
        let of = |limit| {
            Traffic::read(Trace::new(text.as_bytes()), Some("a"), limit)
                .unwrap()
                .requests()
                .len()
        };
        assert_eq!((of(usize::MAX), of(1)), (2, 1));
        assert!(matches!(
            Traffic::read(Trace::new(text.as_bytes()), Some("c"), 9),
            Err(TrafficError::Empty)
        ));
    }

    #[test]
    fn what_cannot_be_simulated_says_why() {
        assert!(matches!(read(""), Err(TrafficError::Empty)));
        let line = |more: &str| {
            format!("{{\"timestamp\":0,\"input_length\":1,\"output_length\":1{more}}}\n")
        };
        let mixed = read(&(line("") + &line(",\"block_tokens\":64"))).unwrap_err();
        assert!(
            mixed
                .to_string()
                .starts_with("request 2 has blocks of 64 tokens, the mean is 288"),
            "{mixed}"
        );
        let wrong = read(&(line("") + &line(",\"block_tokens\":0"))).unwrap_err();
        assert!(wrong.to_string().starts_with("line 2 "), "{wrong}");
    }

    #[test]
    fn what_is_too_long_for_the_memory_is_cut() {
        let of = |prompt_tokens, output_tokens| {
            Request {
                at_ms: 0,
                prompt_tokens,
                output_tokens,
                blocks: Box::default(),
                tenant: None,
            }
            .clipped(100)
        };
        assert_eq!(
            [of(80, 10), of(500, 10), of(500, 500), of(0, 0)],
            [(80, 10), (90, 10), (50, 50), (1, 1)]
        );
    }
}
