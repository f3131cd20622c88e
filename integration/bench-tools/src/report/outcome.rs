//! What a policy made of the traffic: figures over all requests, from what happened to each.

use serde::Serialize;

use super::objectives::{Goodput, Objectives};
use super::served::Served;

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
    /// The requests that met the objectives.
    pub goodput: Goodput,
    /// The share of requests that were split between two servers.
    pub split: f64,
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
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
}

impl Outcome {
    /// The figures of these requests on this number of servers, with these objectives.
    #[must_use]
    pub fn new(served: Vec<Served>, servers: usize, objectives: Objectives) -> Self {
        let prompt: usize = served.iter().map(|request| request.prompt_tokens).sum();
        let cached: usize = served.iter().map(|request| request.cached_tokens).sum();
        let mut computed = vec![0usize; servers];
        for request in &served {
            if let Some(computed) = request.server.and_then(|server| computed.get_mut(server)) {
                *computed += request.prompt_tokens - request.cached_tokens;
            }
        }
        let is_split = |request: &&Served| request.decode.is_some();
        let split = served.iter().filter(is_split).count();
        let busiest = computed.iter().max().copied().unwrap_or_default();
        Self {
            hit_rate: ratio(cached, prompt),
            ttft: Quantiles::of(served.iter().map(Served::ttft).collect()),
            tpot: Quantiles::of(served.iter().filter_map(Served::tpot).collect()),
            hotspot: ratio(busiest * servers, computed.iter().sum()),
            goodput: Goodput::of(&served, objectives),
            split: ratio(split, served.len()),
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
            p95: at(0.95),
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
    use std::time::Duration;

    use super::*;

    fn served(server: usize, ttft: u64, prompt_tokens: usize, cached_tokens: usize) -> Served {
        let second = Duration::from_secs(1);
        Served {
            arrived: second,
            placed: second,
            server: Some(server),
            decode: None,
            prefilled: None,
            first_token: second * (ttft as u32 + 1),
            finished: second * (ttft as u32 + 3),
            prompt_tokens,
            cached_tokens,
            output_tokens: 5,
        }
    }

    #[test]
    fn figures_are_those_of_the_requests() {
        let served = vec![served(0, 1, 100, 40), served(1, 3, 100, 0)];
        let outcome = Outcome::new(served, 2, Objectives::default());
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
        let outcome = Outcome::new(Vec::new(), 2, Objectives::default());
        assert_eq!(outcome.ttft, Quantiles::default());
    }
}
