//! The comparison as one HTML page: figures, distributions, and how it went over time.
//!
//! Nothing is fetched and no script runs: series are shown and hidden by check boxes and the style
//! sheet alone.

use std::fmt;
use std::time::Duration;

use super::chart::{Axis, Chart, Line, escaped};
use super::outcome::Outcome;
use super::scale::Scale;
use super::served::Served;
use super::style;
use super::timeline::{Interval, Timeline};
use super::{Comparison, Row};

/// Points of a distribution.
const QUANTILES: u32 = 200;

/// Intervals of the charts over time.
const INTERVALS: usize = 60;

/// A column of the table of figures.
struct Column {
    name: &'static str,
    value: fn(&Outcome) -> f64,
    digits: usize,
    unit: &'static str,
    /// The more, the better; otherwise the less.
    is_gain: bool,
}

/// A column of which less is better.
const fn cost(name: &'static str, digits: usize, value: fn(&Outcome) -> f64) -> Column {
    Column {
        name,
        value,
        digits,
        unit: "",
        is_gain: false,
    }
}

/// A column of which more is better.
const fn gain(
    name: &'static str,
    digits: usize,
    unit: &'static str,
    value: fn(&Outcome) -> f64,
) -> Column {
    Column {
        name,
        value,
        digits,
        unit,
        is_gain: true,
    }
}

const COLUMNS: [Column; 12] = [
    gain("hit rate", 1, " %", |outcome| outcome.hit_rate * 100.0),
    cost("mean", 3, |outcome| outcome.ttft.mean),
    cost("p50", 3, |outcome| outcome.ttft.p50),
    cost("p90", 3, |outcome| outcome.ttft.p90),
    cost("p99", 3, |outcome| outcome.ttft.p99),
    cost("mean", 1, |outcome| outcome.tpot.mean * 1e3),
    cost("p50", 1, |outcome| outcome.tpot.p50 * 1e3),
    cost("p95", 1, |outcome| outcome.tpot.p95 * 1e3),
    cost("p99", 1, |outcome| outcome.tpot.p99 * 1e3),
    cost("hotspot", 2, |outcome| outcome.hotspot),
    gain("goodput/s", 3, "", |outcome| outcome.goodput.per_second),
    gain("share", 1, " %", |outcome| outcome.goodput.share * 100.0),
];

pub(super) struct Page<'a>(pub(super) &'a Comparison);

impl fmt::Display for Page<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Comparison { title, facts, rows } = self.0;
        let title = escaped(title);
        write!(
            out,
            "<!doctype html>\n<html lang=en>\n<meta charset=utf-8>\n<title>{title}</title>\n"
        )?;
        write!(
            out,
            "<meta name=viewport content='width=device-width'>\n<style>{}</style>\n",
            style::sheet(rows.len())
        )?;
        write!(out, "<body>\n<main>\n<h1>{title}</h1>\n<p class=facts>")?;
        for (name, value) in facts {
            write!(
                out,
                "<span>{} <b>{}</b></span>",
                escaped(name),
                escaped(value)
            )?;
        }
        write!(out, "</p>\n<section class='card scroll'>")?;
        figures(rows, out)?;
        write!(out, "</section>\n<section class=card>\n<div class=keys>")?;
        for (series, row) in rows.iter().enumerate() {
            let policy = escaped(&row.label());
            write!(
                out,
                "<label><input type=checkbox id=k{series} checked><svg viewBox='0 0 26 10'>"
            )?;
            write!(
                out,
                "<path class='line s{series}' d='M1 5H25'/></svg>{policy}</label>"
            )?;
        }
        writeln!(out, "</div>\n<div class=charts>")?;
        section(
            "Time to first token",
            "The share of requests that had their first token in time.",
            &first_tokens(rows),
            out,
        )?;
        section(
            "Waiting requests",
            "Requests without a first token, wherever they wait.",
            &waiting(rows),
            out,
        )?;
        section(
            "Hit rate",
            "Prompt tokens found in a cache, by time of arrival.",
            &hit_rate(rows),
            out,
        )?;
        writeln!(
            out,
            "</div>\n</section>\n<footer>Made by hermes.</footer>\n</main>\n</body>\n</html>"
        )
    }
}

fn section(title: &str, about: &str, chart: &Chart, out: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(out, "<h2>{title}</h2><p>{about}</p>\n{chart}")
}

fn figures(rows: &[Row], out: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(
        out,
        "<table><tr><th><th><th colspan=4>time to first token, s<th colspan=4>time per token, ms<th><th colspan=2>"
    )?;
    write!(out, "<tr><th>policy")?;
    for Column { name, .. } in &COLUMNS {
        write!(out, "<th>{name}")?;
    }
    let best = COLUMNS.map(|column| {
        let values = rows.iter().map(|row| (column.value)(&row.outcome));
        if column.is_gain {
            values.fold(f64::NEG_INFINITY, f64::max)
        } else {
            values.fold(f64::INFINITY, f64::min)
        }
    });
    for row in rows {
        write!(out, "<tr><td>{}", escaped(&row.label()))?;
        for (column, best) in COLUMNS.iter().zip(best) {
            let Column { digits, unit, .. } = *column;
            let value = (column.value)(&row.outcome);
            let class = if rows.len() > 1 && value == best {
                " class=best"
            } else {
                ""
            };
            write!(out, "<td{class}>{value:.digits$}{unit}")?;
        }
    }
    write!(out, "</table>")
}

fn first_tokens(rows: &[Row]) -> Chart {
    let distributions: Vec<Vec<(f64, f64)>> = rows
        .iter()
        .map(|row| distribution(&row.outcome.served))
        .collect();
    let all = || distributions.iter().flatten().map(|(seconds, _)| *seconds);
    let from = all().fold(f64::INFINITY, f64::min).clamp(1e-3, 1.0);
    let to = all().fold(0.0, f64::max).max(from * 10.0);
    let line = |(series, points): (usize, Vec<(f64, f64)>)| Line {
        series,
        name: rows[series].label(),
        points: points.into_iter().map(Some).collect(),
    };
    Chart {
        about: "distribution of the time to first token".to_owned(),
        x: Axis {
            label: "time to first token",
            scale: Scale::Log { from, to },
            unit: " s",
        },
        y: Axis {
            label: "requests",
            scale: Scale::Linear {
                from: 0.0,
                to: 100.0,
            },
            unit: " %",
        },
        lines: distributions.into_iter().enumerate().map(line).collect(),
    }
}

/// Points of the cumulative distribution of times to first token: seconds, percent.
fn distribution(served: &[Served]) -> Vec<(f64, f64)> {
    let mut times: Vec<f64> = served.iter().map(Served::ttft).collect();
    times.sort_by(f64::total_cmp);
    let Some(last) = times.len().checked_sub(1) else {
        return Vec::new();
    };
    let at = |step: u32| {
        let share = f64::from(step) / f64::from(QUANTILES);
        (times[(last as f64 * share).round() as usize], share * 100.0)
    };
    (0..=QUANTILES).map(at).collect()
}

fn waiting(rows: &[Row]) -> Chart {
    let lines = over_time(rows, |interval| Some(interval.waiting));
    let to = most(&lines).max(1.0);
    Chart {
        about: "waiting requests over time".to_owned(),
        x: minutes(rows),
        y: Axis {
            label: "waiting",
            scale: Scale::Counts { to },
            unit: "",
        },
        lines,
    }
}

fn hit_rate(rows: &[Row]) -> Chart {
    let lines = over_time(rows, |interval| interval.hit_rate.map(|rate| rate * 100.0));
    let to = (most(&lines) / 10.0).ceil().max(1.0) * 10.0;
    Chart {
        about: "hit rate over time".to_owned(),
        x: minutes(rows),
        y: Axis {
            label: "hit rate",
            scale: Scale::Linear { from: 0.0, to },
            unit: " %",
        },
        lines,
    }
}

/// The largest value of all lines.
fn most(lines: &[Line]) -> f64 {
    lines
        .iter()
        .flat_map(|line| line.points.iter().flatten())
        .map(|(_, value)| *value)
        .fold(0.0, f64::max)
}

fn over_time(rows: &[Row], value: impl Fn(&Interval) -> Option<f64>) -> Vec<Line> {
    let end = last_arrival(rows);
    let line = |(series, row): (usize, &Row)| {
        let timeline = Timeline::of(&row.outcome.served, end, INTERVALS);
        let middle = |index: usize| (index as f64 + 0.5) * timeline.step.as_secs_f64() / 60.0;
        let points = timeline.intervals.iter().enumerate();
        let points = points
            .map(|(index, interval)| value(interval).map(|value| (middle(index), value)))
            .collect();
        Line {
            series,
            name: row.label(),
            points,
        }
    };
    rows.iter().enumerate().map(line).collect()
}

fn minutes(rows: &[Row]) -> Axis {
    let to = (last_arrival(rows).as_secs_f64() / 60.0).max(0.01);
    Axis {
        label: "minutes since the first arrival",
        scale: Scale::Linear { from: 0.0, to },
        unit: "",
    }
}

/// Where the charts over time end: after the last arrival nothing new happens, and a bad policy
/// drains for long.
fn last_arrival(rows: &[Row]) -> Duration {
    let arrivals = rows
        .iter()
        .flat_map(|row| &row.outcome.served)
        .map(|request| request.arrived);
    arrivals.max().unwrap_or_default() + Duration::from_millis(1)
}
