//! The comparison at the end of a demo: a table and a sentence.

use std::fmt;

use hermes_integration::load::Report;

use super::{STRATEGIES, phase::Phase};

/// What all phases together show.
pub(super) struct Summary<'a>(pub(super) &'a [Phase]);

/// Mean TTFTs closer than this are called equal.
const NOTABLE: f64 = 1.05;

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phases = self.0;
        row(f, "", phases, |phase| phase.strategy.to_owned())?;
        row(f, "TTFT mean", phases, |phase| ms(phase.report.ttft.mean_ms))?;
        row(f, "TTFT p50", phases, |phase| ms(phase.report.ttft.p50_ms))?;
        row(f, "TTFT p99", phases, |phase| ms(phase.report.ttft.p99_ms))?;
        row(f, "cache hit rate", phases, |phase| format!("{:.0} %", hits(&phase.report)))?;
        row(f, "requests", phases, |phase| phase.report.requests.to_string())?;
        row(f, "errors", phases, |phase| errors(&phase.report).to_string())?;
        writeln!(f)?;
        self.write_sentence(f)
    }
}

impl Summary<'_> {
    fn write_sentence(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = self.0 else {
            return write!(f, "Ended before {} could be compared.", STRATEGIES[1]);
        };
        let (before, after) = (&first.report, &second.report);
        if before.ttft.count == 0 || after.ttft.count == 0 {
            return write!(f, "Ended before there was enough to compare.");
        }
        let (name, other) = (second.strategy, first.strategy);
        let (hits_before, hits_after) = (hits(before), hits(after));
        let gain = before.ttft.mean_ms / after.ttft.mean_ms.max(f64::MIN_POSITIVE);
        if gain > NOTABLE {
            return write!(
                f,
                "With {name} the first token came {gain:.1} times as soon as with {other}: {hits_after:.0} % of all prompt tokens \
                 were already cached where they were sent, instead of {hits_before:.0} %."
            );
        }
        write!(
            f,
            "This time {name} brought no faster first token than {other} (hit rate {hits_after:.0} % and {hits_before:.0} %)."
        )
    }
}

fn row(f: &mut fmt::Formatter<'_>, label: &str, phases: &[Phase], cell: impl Fn(&Phase) -> String) -> fmt::Result {
    write!(f, "\n{label:<16}")?;
    phases.iter().try_for_each(|phase| write!(f, "{:>14}", cell(phase)))
}

fn ms(time: f64) -> String {
    format!("{time:.0} ms")
}

fn hits(report: &Report) -> f64 {
    report.hit_rate.unwrap_or(0.0) * 100.0
}

/// Requests that were cut off by the end of the demo are nobody's error.
fn errors(report: &Report) -> u64 {
    let interrupted = report.errors.get("interrupted").copied().unwrap_or(0);
    (report.requests - report.ok).saturating_sub(interrupted)
}

#[cfg(test)]
mod tests {
    use hermes_integration::load::Summary as Times;

    use super::*;

    fn phase(strategy: &'static str, mean_ms: f64, hit_rate: f64) -> Phase {
        let ttft = Times { count: 9, mean_ms, ..Times::default() };
        let errors = std::collections::BTreeMap::from([("interrupted".to_owned(), 1)]);
        Phase {
            strategy,
            report: Report { requests: 10, ok: 9, ttft, errors, hit_rate: Some(hit_rate), ..Report::default() },
        }
    }

    #[test]
    fn a_gain_is_told_with_its_reason() {
        let text = Summary(&[phase("round-robin", 900.0, 0.25), phase("kv-aware", 300.0, 0.9)]).to_string();
        for part in ["900 ms        300 ms", "3.0 times as soon", "90 % of all prompt tokens", "instead of 25 %"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let errors = text.lines().find(|line| line.starts_with("errors")).expect("a row");
        assert_eq!(errors.split_whitespace().collect::<Vec<_>>(), ["errors", "0", "0"]);
    }

    #[test]
    fn no_gain_and_an_early_end_are_told_as_they_are() {
        let text = Summary(&[phase("round-robin", 300.0, 0.5), phase("kv-aware", 300.0, 0.5)]).to_string();
        assert!(text.contains("no faster"), "{text}");
        assert!(Summary(&[phase("round-robin", 1.0, 0.0)]).to_string().contains("Ended before kv-aware"));
        assert!(Summary(&[]).to_string().contains("Ended before"));
    }
}
