//! Traces in the format that the Mooncake project publishes: one JSON object a line, in order of
//! arrival.
//!
//! `{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, …]}`,
//! where `timestamp` is in milliseconds from the start, lengths are in tokens, and each hash id
//! names one block of 512 prompt tokens (equal ids, equal prefixes). Source: FAST25 release of the
//! Mooncake traces.
//!
//! Access records are the same lines with `block_tokens` where blocks are of another size, and with
//! `tenant` and `model` where they are known; their hash ids are the hashes of the prompt's blocks.
//!
//! Reading is lazy and line by line: a trace of any length costs the memory of one line.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::{Deserialize, Deserializer, de::Error as _};

use super::synthesis::TOKENS_PER_BLOCK;

/// Longest line taken; the longest of the published traces is under 3 KiB.
const MAX_LINE: usize = 1 << 20;

/// One request of a trace.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Record {
    /// Arrival, in milliseconds from the start of the trace. Other tools write fractions, which are
    /// rounded down.
    #[serde(deserialize_with = "whole_millis")]
    pub timestamp: u64,
    /// Prompt length in tokens.
    pub input_length: usize,
    /// Answer length in tokens.
    pub output_length: usize,
    /// Identities of the prompt's blocks; empty in traces without them.
    #[serde(default)]
    pub hash_ids: Vec<u64>,
    /// Tokens in one block, in the mean over the prompt where blocks are of bytes; absent in the
    /// Mooncake traces, which have 512.
    #[serde(default, deserialize_with = "at_least_one")]
    pub block_tokens: Option<f64>,
    /// Who sent it, in access records.
    #[serde(default)]
    pub tenant: Option<String>,
    /// The model it was for, in access records.
    #[serde(default)]
    pub model: Option<String>,
}

impl Record {
    /// Tokens in one block.
    #[must_use]
    pub fn block_tokens(&self) -> f64 {
        self.block_tokens.unwrap_or(TOKENS_PER_BLOCK as f64)
    }
}

fn whole_millis<'de, D: Deserializer<'de>>(timestamp: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Timestamp {
        Whole(u64),
        Fractional(f64),
    }
    match Timestamp::deserialize(timestamp) {
        Ok(Timestamp::Whole(millis)) => Ok(millis),
        Ok(Timestamp::Fractional(millis)) if (0.0..=1e15).contains(&millis) => Ok(millis as u64),
        _ => Err(D::Error::custom(
            "timestamp must be a number of milliseconds, 0 or more",
        )),
    }
}

fn at_least_one<'de, D: Deserializer<'de>>(tokens: D) -> Result<Option<f64>, D::Error> {
    let tokens = Option::<f64>::deserialize(tokens)?;
    if tokens.is_some_and(|tokens| !(1.0..=1e9).contains(&tokens)) {
        return Err(D::Error::custom("block_tokens must be 1 or more"));
    }
    Ok(tokens)
}

/// Why a trace could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file cannot be opened.
    #[error("cannot open the trace {path}: {source}")]
    Open {
        /// As given.
        path: String,
        /// From the operating system.
        source: std::io::Error,
    },
    /// The file breaks off or holds bytes that are not text.
    #[error("line {line} of the trace cannot be read: {source}")]
    Read {
        /// From one.
        line: usize,
        /// From the operating system.
        source: std::io::Error,
    },
    /// A line is longer than any trace's.
    #[error("line {line} of the trace is longer than 1 MiB; expected one JSON object a line")]
    TooLong {
        /// From one.
        line: usize,
    },
    /// A line is not a record.
    #[error(
        "line {line} of the trace is not {{timestamp, input_length, output_length, hash_ids}}: {source}"
    )]
    Parse {
        /// From one.
        line: usize,
        /// What is missing or wrong.
        source: serde_json::Error,
    },
}

/// The records of a trace, in file order.
#[derive(Debug)]
pub struct Trace<R> {
    reader: R,
    line: usize,
}

impl Trace<BufReader<File>> {
    /// Opens a trace file.
    ///
    /// # Errors
    /// [`TraceError::Open`] when the file is not there or not readable.
    pub fn open(path: &Path) -> Result<Self, TraceError> {
        let file = File::open(path).map_err(|source| TraceError::Open {
            path: path.display().to_string(),
            source,
        })?;
        Ok(Self::new(BufReader::new(file)))
    }
}

impl<R: BufRead> Trace<R> {
    /// A trace read from `reader`.
    pub fn new(reader: R) -> Self {
        Self { reader, line: 0 }
    }

    fn read_line(&mut self) -> Result<Option<String>, TraceError> {
        let mut text = String::new();
        self.line += 1;
        let read = std::io::Read::take(&mut self.reader, MAX_LINE as u64 + 1)
            .read_line(&mut text)
            .map_err(|source| TraceError::Read {
                line: self.line,
                source,
            })?;
        match read {
            0 => Ok(None),
            read if read > MAX_LINE => Err(TraceError::TooLong { line: self.line }),
            _ => Ok(Some(text)),
        }
    }
}

impl<R: BufRead> Iterator for Trace<R> {
    type Item = Result<Record, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let text = match self.read_line() {
                Ok(text) => text?,
                Err(error) => return Some(Err(error)),
            };
            if text.trim().is_empty() {
                continue;
            }
            let line = self.line;
            return Some(
                serde_json::from_str(&text).map_err(|source| TraceError::Parse { line, source }),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Vec<Result<Record, TraceError>> {
        Trace::new(text.as_bytes()).take(100).collect()
    }

    #[test]
    fn a_published_line_is_read_field_by_field() {
        let records = read(
            "{\"timestamp\": 3000, \"input_length\": 1030, \"output_length\": 5, \"hash_ids\": [0, 46, 9]}\n\n",
        );
        let expected = Record {
            timestamp: 3_000,
            input_length: 1_030,
            output_length: 5,
            hash_ids: vec![0, 46, 9],
            ..Record::default()
        };
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].as_ref().ok(), Some(&expected));
    }

    #[test]
    fn timestamps_with_fractions_are_rounded_down_and_others_are_refused() {
        let timestamp = |text: &str| {
            let line = format!(r#"{{"timestamp":{text},"input_length":1,"output_length":1}}"#);
            let record = read(&line).pop().expect("a line");
            record.ok().map(|record| record.timestamp)
        };
        assert_eq!(timestamp("12.5"), Some(12));
        assert_eq!(timestamp("12.0"), Some(12));
        assert_eq!(timestamp("1.25e3"), Some(1_250));
        assert_eq!(timestamp("9007199254740993"), Some(9_007_199_254_740_993));
        for wrong in ["-1", "-0.5", "1e300", "\"12\"", "null", "[1]"] {
            assert_eq!(timestamp(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_bad_line_is_named_by_its_number() {
        let records = read(
            "{\"timestamp\":0,\"input_length\":1,\"output_length\":1}\n{\"timestamp\":\"soon\"}\n",
        );
        assert!(records[0].is_ok());
        assert!(
            records[1]
                .as_ref()
                .is_err_and(|error| error.to_string().starts_with("line 2 "))
        );
    }

    #[test]
    fn a_line_without_end_is_refused_instead_of_filling_memory() {
        let endless = "1".repeat(MAX_LINE + 10);
        assert!(matches!(
            read(&endless)[0],
            Err(TraceError::TooLong { line: 1 })
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let lines = bytes.split(|&byte| byte == b'\n').count();
            prop_assert!(Trace::new(bytes.as_slice()).take(1_000).count() <= lines);
        }
    }
}
