//! The comparison at the end of a demo: a table and its reading.

use std::fmt;

use super::{STRATEGIES, outcome::Outcome};

/// The results of all phases.
pub(super) struct Summary<'a>(pub(super) &'a [Outcome]);

/// Ratio of mean TTFTs up to which they are called equal.
const NOTABLE: f64 = 1.05;

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcomes = self.0;
        row(f, "", outcomes, |one| one.strategy.to_owned())?;
        row(f, "TTFT mean", outcomes, |one| ms(one.report.ttft.mean_ms))?;
        row(f, "TTFT p50", outcomes, |one| ms(one.report.ttft.p50_ms))?;
        row(f, "TTFT p99", outcomes, |one| ms(one.report.ttft.p99_ms))?;
        row(f, "cache hit rate", outcomes, |one| {
            format!("{:.0} %", one.hit_percent())
        })?;
        row(f, "requests", outcomes, |one| {
            one.report.requests.to_string()
        })?;
        row(f, "  unfinished", outcomes, |one| {
            one.unfinished().to_string()
        })?;
        row(f, "  errors", outcomes, |one| one.errors().to_string())?;
        write!(f, "\n\n")?;
        self.write_sentence(f)
    }
}

impl Summary<'_> {
    /// Compares the last strategy with each of the others.
    fn write_sentence(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [others @ .., last] = self.0 else {
            return write!(f, "Ended before there was enough to compare.");
        };
        if self.0.len() < STRATEGIES.len() {
            let missing = STRATEGIES[STRATEGIES.len() - 1];
            return write!(f, "Ended before {missing} could be compared.");
        }
        if self.0.iter().any(|one| one.report.ttft.count == 0) {
            return write!(f, "Ended before there was enough to compare.");
        }
        let name = last.strategy;
        for (at, other) in others.iter().enumerate() {
            let separator = if at == 0 { "" } else { "\n" };
            let gain = other.report.ttft.mean_ms / last.report.ttft.mean_ms.max(f64::MIN_POSITIVE);
            let other = other.strategy;
            if gain <= NOTABLE {
                write!(
                    f,
                    "{separator}The first token was no faster with {name} than with {other}."
                )?;
            } else {
                write!(
                    f,
                    "{separator}The first token was {gain:.1} times as fast with {name} as with {other}."
                )?;
            }
        }
        let hits: Vec<String> = others
            .iter()
            .map(|other| format!("{:.0} % with {}", other.hit_percent(), other.strategy))
            .collect();
        write!(
            f,
            "\n{:.0} % of all prompt tokens were cached on the engine that got them; {}.",
            last.hit_percent(),
            hits.join(", ")
        )
    }
}

fn row(
    f: &mut fmt::Formatter<'_>,
    label: &str,
    outcomes: &[Outcome],
    cell: impl Fn(&Outcome) -> String,
) -> fmt::Result {
    write!(f, "\n{label:<16}")?;
    outcomes
        .iter()
        .try_for_each(|one| write!(f, "{:>14}", cell(one)))
}

fn ms(time: f64) -> String {
    format!("{time:.0} ms")
}

#[cfg(test)]
mod tests {
    use hermes_bench::load::Report;
    use hermes_bench::load::Summary as Times;

    use super::*;

    fn outcome(strategy: &'static str, mean_ms: f64, hit_rate: f64) -> Outcome {
        let ttft = Times {
            count: 9,
            mean_ms,
            ..Times::default()
        };
        Outcome {
            strategy,
            report: Report {
                requests: 9,
                ok: 9,
                ttft,
                hit_rate: Some(hit_rate),
                ..Report::default()
            },
        }
    }

    #[test]
    fn a_gain_is_reported_for_each_other_strategy_with_the_hit_rates() {
        let text = Summary(&[
            outcome("round-robin", 900.0, 0.25),
            outcome("least-request", 600.0, 0.3),
            outcome("kv-aware", 300.0, 0.9),
        ])
        .to_string();
        for part in [
            "900 ms        600 ms        300 ms",
            "3.0 times as fast with kv-aware as with round-robin",
            "2.0 times as fast with kv-aware as with least-request",
            "90 % of all prompt tokens",
            "25 % with round-robin, 30 % with least-request",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn no_gain_and_an_early_end_are_reported() {
        let text = Summary(&[
            outcome("round-robin", 300.0, 0.5),
            outcome("least-request", 300.0, 0.5),
            outcome("kv-aware", 300.0, 0.5),
        ])
        .to_string();
        assert!(text.contains("no faster"), "{text}");
        let early = Summary(&[outcome("round-robin", 1.0, 0.0)]).to_string();
        assert!(early.contains("Ended before kv-aware"), "{early}");
        assert!(Summary(&[]).to_string().contains("Ended before"));
    }
}
