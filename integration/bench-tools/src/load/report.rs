//! The outcome of a run, for people (a table) and for programs (JSON).

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

/// What a run of requests looked like from the client.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Requests that ended, in whatever way.
    pub requests: u64,
    /// Requests that ended well.
    pub ok: u64,
    /// The others, by kind.
    pub errors: BTreeMap<String, u64>,
    /// Wall time of the run in seconds.
    pub duration_s: f64,
    /// Requests a second, the failed ones included.
    pub rps: f64,
    /// From the intended start to the first event with text; of an answer that is not a stream, to
    /// its first byte.
    pub ttft: Summary,
    /// From the intended start to the last byte.
    pub latency: Summary,
    /// Mean time per output token after the first, of each stream.
    pub tpot: Summary,
    /// Times between consecutive frames with tokens.
    pub gap: Summary,
    /// From the intended start to the moment the client sent: how far an open loop fell behind.
    pub lag: Summary,
    /// Events in all streams, without `[DONE]`.
    pub chunks: u64,
    /// As reported by the engines.
    pub prompt_tokens: u64,
    /// Prompt tokens that the engines took from a cache.
    pub cached_tokens: u64,
    /// As reported by the engines.
    pub completion_tokens: u64,
    /// Cached over prompt tokens; absent when no answer carried usage.
    pub hit_rate: Option<f64>,
    /// Answers that carried usage.
    pub usage_reported: u64,
    /// Who answered, where the router names it in `x-hermes-endpoint`.
    pub endpoints: BTreeMap<String, Share>,
    /// Seconds of CPU time that the processes that were to be measured used during the run, by
    /// process id; those of their children included.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub cpu_s: BTreeMap<u32, f64>,
}

/// A distribution of times, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Summary {
    /// How many times were measured.
    pub count: u64,
    /// Arithmetic mean.
    pub mean_ms: f64,
    /// Median.
    pub p50_ms: f64,
    /// 90th percentile.
    pub p90_ms: f64,
    /// 99th percentile.
    pub p99_ms: f64,
    /// Largest.
    pub max_ms: f64,
}

/// One endpoint's part of the answers.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Share {
    /// Answers.
    pub requests: u64,
    /// Of the answers that name an endpoint, `0.0..=1.0`.
    pub share: f64,
}

impl Report {
    /// Writes the report as a table, or as one line of JSON.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, json: bool, out: &mut dyn Write) -> io::Result<()> {
        if !json {
            return write!(out, "{self}");
        }
        serde_json::to_writer(&mut *out, self)?;
        writeln!(out)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            requests,
            ok,
            duration_s,
            rps,
            ..
        } = self;
        writeln!(
            out,
            "requests {requests}   ok {ok}   failed {}   {duration_s:.1} s   {rps:.1}/s",
            requests - ok
        )?;
        for (kind, count) in &self.errors {
            writeln!(out, "  {kind}: {count}")?;
        }
        self.write_times(out)?;
        self.write_tokens(out)?;
        for (name, Share { requests, share }) in &self.endpoints {
            writeln!(out, "  {name:<32} {requests:>8} {:>6.1} %", share * 100.0)?;
        }
        for (pid, seconds) in &self.cpu_s {
            let each = seconds * 1e3 / self.requests.max(1) as f64;
            writeln!(out, "CPU of {pid}: {seconds:.2} s, {each:.2} ms a request")?;
        }
        Ok(())
    }
}

impl Report {
    fn write_times(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "\n{:<10}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "ms", "mean", "p50", "p90", "p99", "max"
        )?;
        let rows = [
            ("ttft", self.ttft),
            ("latency", self.latency),
            ("tpot", self.tpot),
            ("gap", self.gap),
            ("lag", self.lag),
        ];
        for (
            name,
            Summary {
                count,
                mean_ms,
                p50_ms,
                p90_ms,
                p99_ms,
                max_ms,
            },
        ) in rows
        {
            if count > 0 {
                writeln!(
                    out,
                    "{name:<10}{mean_ms:>10.2}{p50_ms:>10.2}{p90_ms:>10.2}{p99_ms:>10.2}{max_ms:>10.2}"
                )?;
            }
        }
        Ok(())
    }

    fn write_tokens(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(hit_rate) = self.hit_rate else {
            return Ok(());
        };
        let Self {
            prompt_tokens,
            cached_tokens,
            completion_tokens,
            ..
        } = self;
        writeln!(
            out,
            "\nprompt tokens {prompt_tokens}   cached {cached_tokens} ({:.1} %)   answer tokens {completion_tokens}",
            hit_rate * 100.0
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Report {
        Report {
            requests: 10,
            ok: 9,
            errors: BTreeMap::from([("status 503".to_owned(), 1)]),
            ttft: Summary {
                count: 9,
                p50_ms: 12.5,
                ..Summary::default()
            },
            prompt_tokens: 1_000,
            cached_tokens: 250,
            hit_rate: Some(0.25),
            endpoints: BTreeMap::from([(
                "10.0.0.7:8000".to_owned(),
                Share {
                    requests: 9,
                    share: 1.0,
                },
            )]),
            ..Report::default()
        }
    }

    #[test]
    fn the_table_shows_failures_times_hit_rate_and_shares() {
        let table = sample().to_string();
        for part in [
            "failed 1",
            "status 503: 1",
            "12.50",
            "cached 250 (25.0 %)",
            "10.0.0.7:8000",
        ] {
            assert!(table.contains(part), "{part} in\n{table}");
        }
        assert!(
            !table.contains("tpot"),
            "a row without measurements\n{table}"
        );
    }

    #[test]
    fn json_is_one_line_that_reads_back() {
        let mut out = Vec::new();
        sample().write(true, &mut out).unwrap();
        assert_eq!(out.iter().filter(|&&byte| byte == b'\n').count(), 1);
        let back: Report = serde_json::from_slice(&out).unwrap();
        assert_eq!((back.ok, back.hit_rate), (9, Some(0.25)));
    }
}
