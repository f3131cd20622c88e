//! Goodput: the requests that are served within a time to first token and a time per token.

use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::served::Served;

/// What a request has to meet to count as good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Objectives {
    /// The longest time to first token.
    pub ttft: Duration,
    /// The longest time per output token after the first, as a mean over the answer.
    pub per_token: Duration,
}

/// The requests that met the objectives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Goodput {
    /// How many of them arrived in a second, in the mean.
    pub per_second: f64,
    /// Their share of all, `0.0..=1.0`.
    pub share: f64,
}

/// The objectives, as a command line.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Objectives")]
pub struct ObjectiveArgs {
    /// A request is good if its first token comes within this time, such as 2s or 500ms
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = time)]
    pub ttft: Duration,
    /// And if its other tokens take at most this time each, in the mean
    #[arg(long, value_name = "TIME", default_value = "40ms", value_parser = time)]
    pub per_token: Duration,
}

impl Default for Objectives {
    fn default() -> Self {
        Self {
            ttft: Duration::from_secs(2),
            per_token: Duration::from_millis(40),
        }
    }
}

impl Objectives {
    /// Whether a request is good.
    #[must_use]
    pub fn are_met_by(&self, served: &Served) -> bool {
        let per_token = self.per_token.as_secs_f64();
        served.ttft() <= self.ttft.as_secs_f64()
            && served.tpot().is_none_or(|seconds| seconds <= per_token)
    }

    /// The objectives in words, for a report.
    #[must_use]
    pub fn fact(&self) -> (&'static str, String) {
        let Self { ttft, per_token } = self;
        let text = format!("first token in {ttft:?}, others in {per_token:?}");
        ("objectives", text)
    }
}

impl Goodput {
    /// The goodput of these requests; their order does not matter.
    pub(super) fn of(served: &[Served], objectives: Objectives) -> Self {
        let good = served.iter().filter(|one| objectives.are_met_by(one));
        let good = good.count() as f64;
        let arrivals = || served.iter().map(|one| one.arrived);
        let first = arrivals().min().unwrap_or_default();
        let span = arrivals().max().unwrap_or_default() - first;
        let seconds = span.as_secs_f64();
        Self {
            per_second: if seconds > 0.0 { good / seconds } else { 0.0 },
            share: good / served.len().max(1) as f64,
        }
    }
}

impl From<ObjectiveArgs> for Objectives {
    fn from(args: ObjectiveArgs) -> Self {
        let ObjectiveArgs { ttft, per_token } = args;
        Self { ttft, per_token }
    }
}

/// Reads a time above zero in seconds or milliseconds.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let parse = || {
        let (number, unit) = match text.strip_suffix("ms") {
            Some(number) => (number, 1e-3),
            None => (text.strip_suffix('s')?, 1.0),
        };
        let seconds = number.parse::<f64>().ok()? * unit;
        Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|time| !time.is_zero())
    };
    parse().ok_or_else(|| "expected a time above zero, such as 2s or 40ms".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn served(at: u64, ttft_ms: u64, per_token_ms: u64, output_tokens: u32) -> Served {
        let arrived = Duration::from_secs(at);
        let first_token = arrived + Duration::from_millis(ttft_ms);
        let decoding = Duration::from_millis(per_token_ms) * (output_tokens - 1);
        Served {
            arrived,
            first_token,
            finished: first_token + decoding,
            output_tokens,
            ..Served::default()
        }
    }

    #[test]
    fn a_request_is_good_if_it_meets_both_objectives() {
        let objectives = Objectives::default();
        let good =
            |ttft, per_token, tokens| objectives.are_met_by(&served(0, ttft, per_token, tokens));
        assert_eq!(
            [
                good(2_000, 40, 5),
                good(2_001, 1, 5),
                good(1, 41, 5),
                good(1, 41, 1)
            ],
            [true, false, false, true]
        );
    }

    #[test]
    fn goodput_is_the_rate_at_which_good_requests_arrive() {
        let served = [
            served(0, 1, 1, 2),
            served(3, 9_000, 1, 2),
            served(4, 1, 1, 2),
        ];
        let Goodput { per_second, share } = Goodput::of(&served, Objectives::default());
        assert_eq!((per_second, share), (0.5, 2.0 / 3.0));
        assert_eq!(Goodput::of(&[], Objectives::default()), Goodput::default());
    }

    #[test]
    fn times_have_a_unit() {
        let ms = Duration::from_millis;
        assert_eq!(
            [time("2s"), time("40ms"), time("0.5s")],
            [Ok(ms(2_000)), Ok(ms(40)), Ok(ms(500))]
        );
        for wrong in ["", "2", "s", "-1s", "0ms", "NaNs", "1h", "infs"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
