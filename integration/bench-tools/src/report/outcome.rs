//! What a policy made of the traffic: figures over all requests, from what happened to each.

use std::time::Duration;

use serde::Serialize;

/// What happened to one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// When it arrived, since the start of the trace.
    pub arrived: Duration,
    /// When it was placed on a server.
    pub placed: Duration,
    /// On which.
    pub server: Option<usize>,
    /// When its first token came out.
    pub first_token: Duration,
    /// When its last token came out.
    pub finished: Duration,
    /// Length of its prompt.
    pub prompt_tokens: usize,
    /// How much of its prompt was in the server's cache.
    pub cached_tokens: usize,
    /// Length of its answer.
    pub output_tokens: u32,
}

/// The figures of one policy. Times are in seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Cached over all prompt tokens.
    pub hit_rate: f64,
    /// From arrival to first token, waiting in the dispatcher included.
    pub ttft: Quantiles,
    /// Time per output token after the first, of each answer with more than one.
    pub tpot: Quantiles,
    /// The largest share of prompt tokens computed by one server, over the mean share: 1 is even.
    pub hotspot: f64,
    /// Everything behind the figures, one entry a request, in order of arrival.
    #[serde(skip)]
    pub served: Vec<Served>,
}

/// A distribution of times in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Quantiles {
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
}

impl Served {
    pub(crate) fn arrived(now: Duration, prompt_tokens: usize) -> Self {
        Self {
            arrived: now,
            prompt_tokens,
            ..Self::default()
        }
    }

    /// Seconds from arrival to first token.
    #[must_use]
    pub fn ttft(&self) -> f64 {
        self.first_token.saturating_sub(self.arrived).as_secs_f64()
    }

    /// Seconds per token after the first; `None` for an answer of one token.
    #[must_use]
    pub fn tpot(&self) -> Option<f64> {
        let decoding = self.finished.saturating_sub(self.first_token).as_secs_f64();
        (self.output_tokens > 1).then(|| decoding / f64::from(self.output_tokens - 1))
    }
}

impl Outcome {
    /// The figures of these requests on this number of servers.
    #[must_use]
    pub fn new(served: Vec<Served>, servers: usize) -> Self {
        let prompt: usize = served.iter().map(|request| request.prompt_tokens).sum();
        let cached: usize = served.iter().map(|request| request.cached_tokens).sum();
        let mut computed = vec![0usize; servers];
        for request in &served {
            if let Some(computed) = request.server.and_then(|server| computed.get_mut(server)) {
                *computed += request.prompt_tokens - request.cached_tokens;
            }
        }
        let busiest = computed.iter().max().copied().unwrap_or_default();
        Self {
            hit_rate: ratio(cached, prompt),
            ttft: Quantiles::of(served.iter().map(Served::ttft).collect()),
            tpot: Quantiles::of(served.iter().filter_map(Served::tpot).collect()),
            hotspot: ratio(busiest * servers, computed.iter().sum()),
            served,
        }
    }
}

impl Quantiles {
    /// The distribution of `values`; all zero without any.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Self {
        if values.is_empty() {
            return Self::default();
        }
        values.sort_by(f64::total_cmp);
        let at = |quantile: f64| values[((values.len() - 1) as f64 * quantile).round() as usize];
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        Self {
            mean,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
        }
    }
}

fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(server: usize, ttft: u64, prompt_tokens: usize, cached_tokens: usize) -> Served {
        let second = Duration::from_secs(1);
        Served {
            arrived: second,
            placed: second,
            server: Some(server),
            first_token: second * (ttft as u32 + 1),
            finished: second * (ttft as u32 + 3),
            prompt_tokens,
            cached_tokens,
            output_tokens: 5,
        }
    }

    #[test]
    fn figures_are_those_of_the_requests() {
        let outcome = Outcome::new(vec![served(0, 1, 100, 40), served(1, 3, 100, 0)], 2);
        assert_eq!(
            (
                outcome.hit_rate,
                outcome.ttft.mean,
                outcome.ttft.p99,
                outcome.tpot.mean
            ),
            (0.2, 2.0, 3.0, 0.5)
        );
        assert_eq!(
            outcome.hotspot, 1.25,
            "100 of 160 tokens on one of two servers"
        );
    }

    #[test]
    fn nothing_served_is_all_zero() {
        assert_eq!(Outcome::new(Vec::new(), 2).ttft, Quantiles::default());
    }
}
