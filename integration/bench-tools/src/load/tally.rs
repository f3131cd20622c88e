//! Adds exchanges up while a run goes on, and turns the sums into a [`Report`].
//!
//! Memory does not grow with the run: histograms of three significant digits, and at most
//! [`MAX_NAMES`] names of endpoints. Latencies are those of successful requests; failures are
//! counted by kind instead, since a fast 503 is not a good latency.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::exchange::{Exchange, Outcome};
use super::report::{Report, Share, Summary};

/// Endpoints with a row of their own in the report; the rest is counted as `other`.
const MAX_NAMES: usize = 1_024;

/// Longest time that a histogram resolves: one hour, in microseconds.
const MAX_MICROS: u64 = 3_600_000_000;

/// The sums of a run so far.
#[derive(Debug)]
pub struct Tally {
    started: u64,
    outcomes: BTreeMap<Outcome, u64>,
    endpoints: BTreeMap<String, u64>,
    chunks: u64,
    prompt_tokens: u64,
    cached_tokens: u64,
    completion_tokens: u64,
    reported: u64,
    ttft: Times,
    latency: Times,
    tpot: Times,
    gap: Times,
    lag: Times,
}

#[derive(Debug)]
struct Times(Histogram<u64>);

impl Times {
    fn new() -> Self {
        Self(
            Histogram::new_with_bounds(1, MAX_MICROS, 3)
                .expect("bounds and digits are within the histogram's range"),
        )
    }

    fn add(&mut self, time: Duration) {
        self.0
            .saturating_record(u64::try_from(time.as_micros()).unwrap_or(MAX_MICROS));
    }

    fn summary(&self) -> Summary {
        let ms = |micros: u64| micros as f64 / 1_000.0;
        Summary {
            count: self.0.len(),
            mean_ms: self.0.mean() / 1_000.0,
            p50_ms: ms(self.0.value_at_quantile(0.50)),
            p90_ms: ms(self.0.value_at_quantile(0.90)),
            p99_ms: ms(self.0.value_at_quantile(0.99)),
            max_ms: ms(self.0.max()),
        }
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            started: 0,
            outcomes: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            chunks: 0,
            prompt_tokens: 0,
            cached_tokens: 0,
            completion_tokens: 0,
            reported: 0,
            ttft: Times::new(),
            latency: Times::new(),
            tpot: Times::new(),
            gap: Times::new(),
            lag: Times::new(),
        }
    }
}

impl Tally {
    /// Counts one request that starts.
    pub fn start(&mut self) {
        self.started += 1;
    }

    /// Counts one request that has ended.
    pub fn add(&mut self, exchange: &Exchange) {
        *self.outcomes.entry(exchange.outcome).or_default() += 1;
        self.chunks += u64::from(exchange.chunks);
        self.lag
            .add(exchange.sent.duration_since(exchange.intended));
        self.add_endpoint(exchange);
        if let Some(usage) = &exchange.usage {
            self.reported += 1;
            self.prompt_tokens += usage.prompt_tokens;
            self.cached_tokens += usage.cached_tokens();
            self.completion_tokens += usage.completion_tokens;
        }
        if exchange.outcome == Outcome::Ok {
            self.add_times(exchange);
        }
    }

    /// Counts those that have started and not ended: they were cut off when the run was stopped.
    pub fn add_interrupted(&mut self) {
        let (_, ended) = self.progress();
        let interrupted = self.started.saturating_sub(ended);
        if interrupted > 0 {
            *self.outcomes.entry(Outcome::Interrupted).or_default() += interrupted;
        }
    }

    /// Requests that have ended so far: successful ones and all.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        (
            self.outcomes.get(&Outcome::Ok).copied().unwrap_or(0),
            self.outcomes.values().sum(),
        )
    }

    /// The report of a run that took `duration`.
    #[must_use]
    pub fn report(&self, duration: Duration) -> Report {
        let (ok, requests) = self.progress();
        let errors = self
            .outcomes
            .iter()
            .filter(|&(&outcome, _)| outcome != Outcome::Ok);
        let seconds = duration.as_secs_f64();
        Report {
            requests,
            ok,
            errors: errors
                .map(|(outcome, &count)| (outcome.to_string(), count))
                .collect(),
            duration_s: seconds,
            rps: if seconds > 0.0 {
                requests as f64 / seconds
            } else {
                0.0
            },
            ttft: self.ttft.summary(),
            latency: self.latency.summary(),
            tpot: self.tpot.summary(),
            gap: self.gap.summary(),
            lag: self.lag.summary(),
            chunks: self.chunks,
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            completion_tokens: self.completion_tokens,
            hit_rate: (self.prompt_tokens > 0)
                .then(|| self.cached_tokens as f64 / self.prompt_tokens as f64),
            usage_reported: self.reported,
            endpoints: self.shares(),
            cpu_s: BTreeMap::new(),
        }
    }

    fn add_endpoint(&mut self, exchange: &Exchange) {
        let Some(name) = exchange
            .endpoint
            .as_ref()
            .and_then(|value| value.to_str().ok())
        else {
            return;
        };
        let known = self.endpoints.contains_key(name) || self.endpoints.len() < MAX_NAMES;
        let name = if known { name } else { "other" };
        *self.endpoints.entry(name.to_owned()).or_default() += 1;
    }

    fn add_times(&mut self, exchange: &Exchange) {
        let since = |instant: Instant| instant.duration_since(exchange.intended);
        self.latency.add(since(exchange.ended));
        if let Some(first) = exchange.first_token {
            self.ttft.add(since(first));
            self.add_tpot(exchange, first);
        }
        for &gap in &exchange.gaps {
            self.gap.add(gap);
        }
    }

    /// Time per output token: from the first token to the end, over the tokens after the first.
    fn add_tpot(&mut self, exchange: &Exchange, first: Instant) {
        if exchange.chunks == 0 {
            return;
        }
        let reported = exchange
            .usage
            .map(|usage| usage.completion_tokens)
            .filter(|&tokens| tokens > 0);
        let tokens = reported.unwrap_or(u64::from(exchange.chunks));
        let rest = u32::try_from(tokens.saturating_sub(1)).unwrap_or(u32::MAX);
        if let Some(tpot) = exchange.ended.duration_since(first).checked_div(rest) {
            self.tpot.add(tpot);
        }
    }

    fn shares(&self) -> BTreeMap<String, Share> {
        let total: u64 = self.endpoints.values().sum();
        let share = |requests: u64| Share {
            requests,
            share: requests as f64 / total as f64,
        };
        self.endpoints
            .iter()
            .map(|(name, &requests)| (name.clone(), share(requests)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn exchange(outcome: Outcome, latency_ms: u64) -> Exchange {
        let intended = Instant::now();
        let mut exchange = Exchange::starting(intended);
        exchange.sent = intended;
        exchange.ended = intended + Duration::from_millis(latency_ms);
        exchange.outcome = outcome;
        exchange
    }

    #[test]
    fn a_failure_is_counted_by_kind_and_not_as_a_latency() {
        let mut tally = Tally::default();
        for _ in 0..4 {
            tally.start();
        }
        tally.add(&exchange(Outcome::Ok, 10));
        tally.add(&exchange(Outcome::Status(503), 5_000));
        tally.add_interrupted();
        let report = tally.report(Duration::from_secs(2));
        assert_eq!(
            (report.requests, report.ok, report.latency.count),
            (4, 1, 1)
        );
        assert_eq!(
            report.errors,
            BTreeMap::from([("status 503".to_owned(), 1), ("interrupted".to_owned(), 2)])
        );
        assert!(report.latency.max_ms < 11.0);
        assert!((report.rps - 2.0).abs() < 1e-9);
    }

    #[test]
    fn time_per_token_leaves_out_the_first() {
        let mut tally = Tally::default();
        let mut stream = exchange(Outcome::Ok, 110);
        stream.first_token = Some(stream.intended + Duration::from_millis(10));
        stream.chunks = 11;
        tally.add(&stream);
        let report = tally.report(Duration::from_secs(1));
        assert!((report.tpot.p50_ms - 10.0).abs() < 0.1, "{:?}", report.tpot);
        assert!((report.ttft.p50_ms - 10.0).abs() < 0.1, "{:?}", report.ttft);
    }

    #[test]
    fn endpoints_have_shares_of_the_answers_that_name_one() {
        let mut tally = Tally::default();
        for name in ["a", "a", "a", "b"] {
            let mut named = exchange(Outcome::Ok, 1);
            named.endpoint = Some(HeaderValue::from_static(name));
            tally.add(&named);
        }
        tally.add(&exchange(Outcome::Ok, 1));
        let shares = tally.report(Duration::from_secs(1)).endpoints;
        assert!(
            (shares["a"].share - 0.75).abs() < 1e-9 && shares["b"].requests == 1,
            "{shares:?}"
        );
    }
}
