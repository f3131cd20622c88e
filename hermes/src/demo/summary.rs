//! The comparison at the end of a demo: a table and a sentence.

use std::fmt;

use super::{STRATEGIES, outcome::Outcome};

/// What all phases together show.
pub(super) struct Summary<'a>(pub(super) &'a [Outcome]);

/// Mean TTFTs closer than this are called equal.
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
    fn write_sentence(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = self.0 else {
            return write!(f, "Ended before {} could be compared.", STRATEGIES[1]);
        };
        let (before, after) = (first.report.ttft, second.report.ttft);
        if before.count == 0 || after.count == 0 {
            return write!(f, "Ended before there was enough to compare.");
        }
        let (name, other) = (second.strategy, first.strategy);
        let (hits, hits_before) = (second.hit_percent(), first.hit_percent());
        let gain = before.mean_ms / after.mean_ms.max(f64::MIN_POSITIVE);
        if gain <= NOTABLE {
            return write!(
                f,
                "This time {name} brought no faster first token than {other} (hit rate {hits:.0} % and {hits_before:.0} %)."
            );
        }
        write!(
            f,
            "With {name} the first token came {gain:.1} times as fast as with {other}: {hits:.0} % of all prompt tokens \
             were already cached where they were sent, instead of {hits_before:.0} %."
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
    fn a_gain_is_told_with_its_reason() {
        let text = Summary(&[
            outcome("round-robin", 900.0, 0.25),
            outcome("kv-aware", 300.0, 0.9),
        ])
        .to_string();
        for part in [
            "900 ms        300 ms",
            "3.0 times as fast",
            "90 % of all prompt tokens",
            "instead of 25 %",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn no_gain_and_an_early_end_are_told_as_they_are() {
        let text = Summary(&[
            outcome("round-robin", 300.0, 0.5),
            outcome("kv-aware", 300.0, 0.5),
        ])
        .to_string();
        assert!(text.contains("no faster"), "{text}");
        let early = Summary(&[outcome("round-robin", 1.0, 0.0)]).to_string();
        assert!(early.contains("Ended before kv-aware"), "{early}");
        assert!(Summary(&[]).to_string().contains("Ended before"));
    }
}
