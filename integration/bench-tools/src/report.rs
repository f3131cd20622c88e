//! What several policies made of one and the same traffic, side by side.
//!
//! ```text
//! simulate ─┐               ┌─▶ table    for people
//!           ├─▶ outcomes ───┼─▶ JSON     for programs
//! replay ───┘               └─▶ page     one HTML file with plots, nothing to fetch
//! ```
//!
//! Everything is worked out from what happened to each request ([`Served`]), so that a simulation
//! and a replay over HTTP are judged alike. Pure: no clock, no file; callers write the result where
//! they want it.

mod args;
mod chart;
mod objectives;
mod outcome;
mod page;
mod scale;
mod served;
mod style;
mod table;
mod timeline;

use std::fmt::Display;
use std::io::{self, Write};

use serde::Serialize;

pub use self::args::{ComparisonArgs, WriteError};
pub(crate) use self::objectives::time;
pub use self::objectives::{Goodput, ObjectiveArgs, Objectives};
pub use self::outcome::{Outcome, Quantiles};
pub use self::served::Served;
pub use self::timeline::{Interval, Timeline};

/// Outcomes to compare, and what they have in common.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// What was done, in a few words.
    pub title: String,
    /// Under which circumstances: a name and a value each.
    pub facts: Vec<(&'static str, String)>,
    /// One for each policy, in the order in which they were asked for.
    pub rows: Vec<Row>,
}

/// One policy's outcome.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The policy's name.
    pub policy: String,
    /// How its servers were split, where several splits are compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fleet: Option<String>,
    /// The load, as a multiple of the trace's, where the highest one was searched for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<HighestLoad>,
    /// What it made of the traffic.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Its mean time to first token over a lower bound of it, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over_bound: Option<f64>,
}

/// The highest load at which enough requests met the objectives, as a multiple of the trace's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct HighestLoad(
    /// `None`: too few did so even at the lowest load that was tried.
    pub Option<f64>,
);

impl Row {
    /// What `policy` made of the traffic, without a bound.
    #[must_use]
    pub fn new(policy: &str, outcome: Outcome) -> Self {
        Self {
            policy: policy.to_owned(),
            fleet: None,
            load: None,
            outcome,
            over_bound: None,
        }
    }

    /// What the row is called in plots.
    #[must_use]
    pub fn label(&self) -> String {
        match &self.fleet {
            Some(fleet) => format!("{} {fleet}", self.policy),
            None => self.policy.clone(),
        }
    }

    /// The same row beside a lower bound of the mean time to first token, in seconds.
    #[must_use]
    pub fn over_bound(self, bound: f64) -> Self {
        let over_bound = (bound > 0.0).then(|| self.outcome.ttft.mean / bound);
        Self { over_bound, ..self }
    }
}

/// A count as people read it: `1,024,000`.
pub(crate) fn grouped(count: usize) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl Comparison {
    /// Writes one JSON array with an object for each policy; times in seconds.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_json(&self, out: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, &self.rows)?;
        writeln!(out)
    }

    /// Writes a table of figures.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_table(&self, out: &mut dyn Write) -> io::Result<()> {
        write!(out, "{}", table::Table(self))
    }

    /// The comparison as one HTML page: figures and plots, in the color scheme of the reader's
    /// system.
    #[must_use]
    pub fn page(&self) -> impl Display {
        page::Page(self)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn comparison() -> Comparison {
        let served = |at: u64| Served {
            arrived: Duration::from_secs(at),
            placed: Duration::from_secs(at),
            server: Some(0),
            decode: None,
            prefilled: None,
            first_token: Duration::from_millis(at * 1_000 + 250),
            finished: Duration::from_secs(at + 2),
            prompt_tokens: 1_000,
            cached_tokens: 500,
            output_tokens: 8,
        };
        let row = |policy: &str, requests: u64| {
            let served = (0..requests).map(served).collect();
            Row::new(policy, Outcome::new(served, 2, Objectives::default()))
        };
        Comparison {
            title: "a <trace>".to_owned(),
            facts: vec![("servers", "2".to_owned())],
            rows: vec![row("one", 300), row("none", 0)],
        }
    }

    #[test]
    fn counts_are_grouped_by_thousands() {
        assert_eq!(
            [0, 999, 1_000, 1_024_000].map(grouped),
            ["0", "999", "1,000", "1,024,000"]
        );
    }

    #[test]
    fn json_is_an_array_with_an_object_for_each_policy() {
        let mut out = Vec::new();
        comparison().write_json(&mut out).unwrap();
        let rows: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let keys: Vec<&str> = rows[0]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(
            keys,
            [
                "goodput", "hit_rate", "hotspot", "policy", "split", "tpot", "ttft"
            ]
        );
        assert_eq!(
            (&rows[0]["policy"], &rows[0]["hit_rate"]),
            (&"one".into(), &0.5.into())
        );
        assert_eq!(
            (&rows[0]["ttft"]["p99"], &rows[0]["tpot"]["mean"]),
            (&0.25.into(), &0.25.into())
        );
        assert_eq!(rows[1]["ttft"]["mean"], 0.0);
    }

    #[test]
    fn the_table_is_aligned() {
        let mut out = Vec::new();
        comparison().write_table(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let rows: Vec<&str> = text.lines().filter(|line| line.contains('%')).collect();
        assert_eq!(rows.len(), 2, "{text}");
        assert!(
            rows.iter().all(|row| row.find('%') == rows[0].find('%')),
            "{text}"
        );
    }

    #[test]
    fn the_distance_to_a_bound_is_shown_where_there_is_one() {
        let written = |comparison: &Comparison| {
            let mut out = Vec::new();
            comparison.write_table(&mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        let without = comparison();
        assert!(!written(&without).contains("bound"));
        let rows = without.rows.clone().into_iter();
        let with = Comparison {
            rows: rows.map(|row| row.over_bound(0.2)).collect(),
            ..without
        };
        assert!(written(&with).contains("× bound") && written(&with).contains("1.25"));
        assert_eq!(with.rows[0].over_bound, Some(1.25));
    }

    #[test]
    fn the_page_stands_alone_and_escapes_what_it_is_given() {
        let page = comparison().page().to_string();
        assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
        assert!(page.contains("a &lt;trace&gt;") && !page.contains("<trace>"));
        assert!(
            !page.contains("<script") && !page.contains("http"),
            "nothing is fetched and nothing runs"
        );
        assert_eq!(page.matches("role=img").count(), 3);
        assert!(!page.contains("NaN") && !page.contains("inf"));
    }
}
