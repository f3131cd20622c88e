//! A writer for one Prometheus exposition, in the manner of Python's `prometheus_client` in
//! multiprocess-free mode: every counter and histogram is followed by a gauge `…_created`, and
//! numbers look as Python prints them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::model::meters::Histogram;

/// The text of an exposition while it is written.
#[derive(Debug)]
pub(crate) struct Page {
    text: String,
    /// Labels of nearly every series: `engine`, the data-parallel rank, and `model_name`.
    engine: usize,
    model: String,
    /// When the engine started, in seconds since the Unix epoch.
    created: f64,
    /// Values that replace the real ones, by full sample name.
    overrides: BTreeMap<String, f64>,
}

/// The label that distinguishes the series of one family, and where the alphabet puts it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Label<'a> {
    None,
    /// After `model_name`.
    Reason(&'a str),
    /// After `model_name`.
    Source(&'a str),
    /// After `model_name`.
    SleepState(&'a str),
    /// Between `engine` and `model_name`.
    Finished(&'a str),
    /// `model_name` and `reason`, without `engine`.
    Rejection(&'a str),
    /// All labels, written out.
    Whole(&'a str),
}

impl Page {
    pub(crate) fn new(
        engine: usize,
        model: &str,
        created: f64,
        overrides: BTreeMap<String, f64>,
    ) -> Self {
        Self {
            text: String::with_capacity(64 << 10),
            engine,
            model: escape(model),
            created,
            overrides,
        }
    }

    /// The data-parallel rank that it is of.
    pub(crate) const fn engine(&self) -> usize {
        self.engine
    }

    pub(crate) fn into_text(self) -> String {
        self.text
    }

    /// A gauge with its series.
    pub(crate) fn gauge(&mut self, name: &str, help: &str, series: &[(Label<'_>, f64)]) {
        self.family(name, help, "gauge");
        for (label, value) in series {
            self.sample(name, *label, *value);
        }
    }

    /// A counter, named without `_total`, with its series.
    pub(crate) fn counter(&mut self, name: &str, help: &str, series: &[(Label<'_>, u64)]) {
        let total = format!("{name}_total");
        self.family(&total, help, "counter");
        for (label, value) in series {
            self.sample(&total, *label, *value as f64);
        }
        self.created(name, help, series.iter().map(|(label, _)| *label));
    }

    pub(crate) fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.family(name, help, "histogram");
        let bucket = format!("{name}_bucket");
        for (bound, count) in histogram.cumulative() {
            self.bucket(&bucket, &number(bound), count);
        }
        self.bucket(&bucket, "+Inf", histogram.count());
        self.sample(
            &format!("{name}_count"),
            Label::None,
            histogram.count() as f64,
        );
        self.sample(&format!("{name}_sum"), Label::None, histogram.sum());
        self.created(name, help, [Label::None].into_iter());
    }

    fn created<'a>(&mut self, name: &str, help: &str, labels: impl Iterator<Item = Label<'a>>) {
        let name = format!("{name}_created");
        self.family(&name, help, "gauge");
        for label in labels {
            self.sample(&name, label, self.created);
        }
    }

    fn family(&mut self, name: &str, help: &str, kind: &str) {
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn bucket(&mut self, name: &str, bound: &str, count: u64) {
        let Self { engine, model, .. } = self;
        let count = number(count as f64);
        let _ = writeln!(
            self.text,
            r#"{name}{{engine="{engine}",le="{bound}",model_name="{model}"}} {count}"#
        );
    }

    fn sample(&mut self, name: &str, label: Label<'_>, value: f64) {
        let value = number(self.overrides.get(name).copied().unwrap_or(value));
        let Self { engine, model, .. } = self;
        let _ = match label {
            Label::None => writeln!(
                self.text,
                r#"{name}{{engine="{engine}",model_name="{model}"}} {value}"#
            ),
            Label::Reason(reason) => {
                writeln!(
                    self.text,
                    r#"{name}{{engine="{engine}",model_name="{model}",reason="{reason}"}} {value}"#
                )
            }
            Label::Source(source) => {
                writeln!(
                    self.text,
                    r#"{name}{{engine="{engine}",model_name="{model}",source="{source}"}} {value}"#
                )
            }
            Label::SleepState(state) => {
                writeln!(
                    self.text,
                    r#"{name}{{engine="{engine}",model_name="{model}",sleep_state="{state}"}} {value}"#
                )
            }
            Label::Finished(reason) => {
                writeln!(
                    self.text,
                    r#"{name}{{engine="{engine}",finished_reason="{reason}",model_name="{model}"}} {value}"#
                )
            }
            Label::Rejection(reason) => {
                writeln!(
                    self.text,
                    r#"{name}{{model_name="{model}",reason="{reason}"}} {value}"#
                )
            }
            Label::Whole(labels) => writeln!(self.text, "{name}{{{labels}}} {value}"),
        };
    }
}

/// How the text of a family begins.
const FAMILY: &str = "# HELP ";

/// One page of the pages of all ranks, which have the same families: each family once, with the
/// samples of every rank.
pub(crate) fn merge(pages: Vec<String>) -> String {
    if pages.len() < 2 {
        return pages.into_iter().next().unwrap_or_default();
    }
    let families = pages.iter().map(|page| page.split_inclusive(FAMILY));
    let mut families: Vec<_> = families.collect();
    let mut merged = String::new();
    while let Some(first) = families[0].next() {
        let followed = first.strip_suffix(FAMILY);
        merged.push_str(followed.unwrap_or(first));
        for rank in &mut families[1..] {
            let samples = rank.next().unwrap_or_default().lines();
            // Series without the label `engine` are the same on every page.
            for sample in samples.filter(|line| line.contains("engine=\"")) {
                merged.push_str(sample);
                merged.push('\n');
            }
        }
        if followed.is_some() {
            merged.push_str(FAMILY);
        }
    }
    merged
}

/// A label value with the escapes of the text format.
pub(crate) fn escape(value: &str) -> String {
    value
        .replace('\\', r"\\")
        .replace('"', r#"\""#)
        .replace('\n', r"\n")
}

/// A number as `prometheus_client` prints it: Python's `repr`, and from seven digits before the
/// point on with an exponent.
fn number(value: f64) -> String {
    if value.is_nan() || value.is_infinite() {
        return if value.is_nan() {
            "NaN"
        } else if value > 0.0 {
            "+Inf"
        } else {
            "-Inf"
        }
        .to_owned();
    }
    let plain = format!("{value:?}");
    let Some(point) = plain.find('.').filter(|point| value > 0.0 && *point > 6) else {
        return plain;
    };
    let digits = format!(
        "{}.{}{}",
        &plain[..1],
        &plain[1..point],
        &plain[point + 1..]
    );
    let mantissa = digits.trim_end_matches(['0', '.']);
    format!("{mantissa}e+{:02}", point - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_look_as_python_prints_them() {
        let printed = [
            0.0,
            972.0,
            0.5252525252525253,
            13267.0,
            1_795_320_072.343_682_3,
            4_903_780_352.0,
        ]
        .map(number);
        assert_eq!(
            printed,
            [
                "0.0",
                "972.0",
                "0.5252525252525253",
                "13267.0",
                "1.7953200723436823e+09",
                "4.903780352e+09"
            ]
        );
        assert_eq!(
            number(8.072e-05),
            "8.072e-5",
            "smaller than Python writes it, and the same number"
        );
    }

    #[test]
    fn a_faulty_value_replaces_every_sample_of_its_name() {
        let overrides = BTreeMap::from([("vllm:x".to_owned(), 7.0)]);
        let mut page = Page::new(0, "m", 0.0, overrides);
        page.gauge(
            "vllm:x",
            "X.",
            &[(Label::None, 1.0), (Label::Reason("a"), 2.0)],
        );
        let text = page.into_text();
        assert!(text.ends_with(
            "vllm:x{engine=\"0\",model_name=\"m\"} 7.0\nvllm:x{engine=\"0\",model_name=\"m\",reason=\"a\"} 7.0\n"
        ));
    }

    #[test]
    fn the_pages_of_two_ranks_become_one_with_each_family_once() {
        let page = |rank: usize| {
            let mut page = Page::new(rank, "m", 0.0, BTreeMap::new());
            page.gauge("vllm:x", "X.", &[(Label::None, rank as f64)]);
            page.gauge("vllm:y", "Y.", &[(Label::Rejection("a"), 5.0)]);
            page.gauge("vllm:z", "Z.", &[(Label::Reason("b"), 7.0)]);
            page.into_text()
        };
        assert_eq!(
            merge(vec![page(0), page(1)]),
            "# HELP vllm:x X.\n# TYPE vllm:x gauge\n\
             vllm:x{engine=\"0\",model_name=\"m\"} 0.0\nvllm:x{engine=\"1\",model_name=\"m\"} 1.0\n\
             # HELP vllm:y Y.\n# TYPE vllm:y gauge\n\
             vllm:y{model_name=\"m\",reason=\"a\"} 5.0\n\
             # HELP vllm:z Z.\n# TYPE vllm:z gauge\n\
             vllm:z{engine=\"0\",model_name=\"m\",reason=\"b\"} 7.0\n\
             vllm:z{engine=\"1\",model_name=\"m\",reason=\"b\"} 7.0\n"
        );
        assert_eq!(merge(vec![page(3)]), page(3));
    }
}
