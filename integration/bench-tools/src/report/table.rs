//! The comparison as text.

use std::fmt::{self, Write as _};

use super::outcome::{Outcome, Quantiles};
use super::{Comparison, HighestLoad, Row};

pub(super) struct Table<'a>(pub(super) &'a Comparison);

/// Which columns there are besides those that every table has, and how wide the names are.
struct Layout {
    policy: usize,
    fleet: usize,
    has_splits: bool,
    has_loads: bool,
    has_bounds: bool,
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Comparison { title, facts, rows } = self.0;
        let facts: Vec<String> = facts
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        writeln!(out, "{title}\n{}\n", facts.join(", "))?;
        let layout = Layout::of(rows);
        layout.head(out)?;
        rows.iter().try_for_each(|row| layout.row(row, out))
    }
}

impl Layout {
    fn of(rows: &[Row]) -> Self {
        let longest = |text: fn(&Row) -> &str, head: &str| {
            let texts = rows.iter().map(|row| text(row).chars().count());
            texts.max().unwrap_or_default().max(head.len())
        };
        let has_fleets = rows.iter().any(|row| row.fleet.is_some());
        let fleet = longest(|row| row.fleet.as_deref().unwrap_or_default(), "split") + 1;
        Self {
            policy: longest(|row| &row.policy, "policy"),
            fleet: if has_fleets { fleet } else { 0 },
            has_splits: rows.iter().any(|row| row.outcome.split > 0.0),
            has_loads: rows.iter().any(|row| row.load.is_some()),
            has_bounds: rows.iter().any(|row| row.over_bound.is_some()),
        }
    }

    fn head(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, fleet, .. } = *self;
        let (ttft, tpot) = ("time to first token, s", "time per token, ms");
        writeln!(
            out,
            "{:policy$}{:fleet$} {:>9}  {ttft:^40}  {tpot:^40}",
            "", "", ""
        )?;
        let split = if fleet > 0 { "split" } else { "" };
        write!(
            out,
            "{:policy$}{split:>fleet$} {:>9}  {:>10}{:>10}{:>10}{:>10}  {:>10}{:>10}{:>10}{:>10} {:>9} {:>10}{:>8}",
            "policy",
            "hit rate",
            "mean",
            "p50",
            "p90",
            "p99",
            "mean",
            "p50",
            "p95",
            "p99",
            "hotspot",
            "goodput/s",
            "share",
        )?;
        let optional = [
            (self.has_splits, "pairs"),
            (self.has_loads, "load"),
            (self.has_bounds, "× bound"),
        ];
        for (_, name) in optional.iter().filter(|(is_there, _)| *is_there) {
            write!(out, " {name:>9}")?;
        }
        out.write_char('\n')
    }

    fn row(&self, row: &Row, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row {
            policy,
            fleet,
            load,
            outcome,
            over_bound,
        } = row;
        let Outcome {
            hit_rate,
            ttft,
            tpot,
            hotspot,
            goodput,
            split,
            ..
        } = outcome;
        let (wide, narrow) = (self.policy, self.fleet);
        let fleet = fleet.as_deref().unwrap_or_default();
        let percent = hit_rate * 100.0;
        write!(out, "{policy:wide$}{fleet:>narrow$} {percent:>7.1} %")?;
        let Quantiles {
            mean,
            p50,
            p90,
            p99,
            ..
        } = ttft;
        write!(out, "  {mean:>10.3}{p50:>10.3}{p90:>10.3}{p99:>10.3}  ")?;
        for seconds in [tpot.mean, tpot.p50, tpot.p95, tpot.p99] {
            write!(out, "{:>10.1}", seconds * 1e3)?;
        }
        let (rate, share) = (goodput.per_second, goodput.share * 100.0);
        write!(out, " {hotspot:>9.2} {rate:>10.3}{share:>6.1} %")?;
        if self.has_splits {
            write!(out, " {:>7.1} %", split * 100.0)?;
        }
        match load {
            Some(HighestLoad(Some(scale))) => write!(out, " {scale:>9.3}")?,
            Some(HighestLoad(None)) => write!(out, " {:>9}", "none")?,
            None => {}
        }
        match over_bound {
            Some(times) => writeln!(out, " {times:>9.2}"),
            None => out.write_char('\n'),
        }
    }
}
