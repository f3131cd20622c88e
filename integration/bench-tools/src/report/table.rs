//! The comparison as text.

use std::fmt;

use super::outcome::{Outcome, Quantiles};
use super::{Comparison, Row};

pub(super) struct Table<'a>(pub(super) &'a Comparison);

impl fmt::Display for Table<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Comparison { title, facts, rows } = self.0;
        let facts: Vec<String> = facts
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        writeln!(out, "{title}\n{}\n", facts.join(", "))?;
        let name = rows
            .iter()
            .map(|row| row.policy.len())
            .max()
            .unwrap_or_default()
            .max("policy".len());
        let (ttft, tpot) = ("time to first token, s", "time per token, ms");
        writeln!(out, "{:name$} {:>9}  {ttft:^40}  {tpot:>20}", "", "")?;
        write!(
            out,
            "{:name$} {:>9}  {:>10}{:>10}{:>10}{:>10}  {:>10}{:>10} {:>9}",
            "policy", "hit rate", "mean", "p50", "p90", "p99", "mean", "p99", "hotspot",
        )?;
        let is_bounded = rows.iter().any(|row| row.over_bound.is_some());
        writeln!(out, "{}", if is_bounded { "   × bound" } else { "" })?;
        for row in rows {
            let Row {
                policy,
                outcome,
                over_bound,
            } = row;
            let Outcome {
                hit_rate,
                ttft,
                tpot,
                hotspot,
                ..
            } = outcome;
            let Quantiles {
                mean,
                p50,
                p90,
                p99,
            } = ttft;
            let percent = hit_rate * 100.0;
            write!(
                out,
                "{policy:name$} {percent:>7.1} %  {mean:>10.3}{p50:>10.3}{p90:>10.3}{p99:>10.3}"
            )?;
            write!(
                out,
                "  {:>10.1}{:>10.1} {hotspot:>9.2}",
                tpot.mean * 1e3,
                tpot.p99 * 1e3
            )?;
            match over_bound {
                Some(times) => writeln!(out, " {times:>9.2}")?,
                None => writeln!(out)?,
            }
        }
        Ok(())
    }
}
