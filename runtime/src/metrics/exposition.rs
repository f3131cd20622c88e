//! A registry as text, in the two formats that scrapers ask for, and what it holds, for the check
//! of the docs.
//!
//! OpenMetrics 1.0 is what the metrics library writes. The older Prometheus text format 0.0.4
//! differs in a few lines: a counter's type line carries the `_total` of its samples, info and
//! unknown are types it does not have, and exemplars, units and the end marker are absent.

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use std::fmt::{self, Write};

/// A text format of `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposition {
    /// `application/openmetrics-text`, version 1.0.0.
    OpenMetrics,
    /// `text/plain`, version 0.0.4.
    Prometheus,
}

/// A metric as a reader of the docs knows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Description {
    /// The full name as in the Prometheus text format, with unit and `_total`; a histogram without
    /// `_bucket`.
    pub name: String,
    /// `counter`, `gauge`, `histogram` or `untyped`.
    pub kind: String,
    /// The help text, which ends in a full stop.
    pub help: String,
}

/// Every metric of `registry`, by name.
///
/// A family without any label set writes nothing, so the caller first touches each of its families
/// once.
#[must_use]
pub fn describe(registry: &Registry) -> Vec<Description> {
    let mut openmetrics = String::new();
    // A string takes all text, so an error could only come from a collector, whose metrics are then
    // missing below.
    let _complete = text::encode_registry(&mut openmetrics, registry);
    let mut descriptions: Vec<Description> = headers(&openmetrics).collect();
    descriptions.sort();
    descriptions
}

// === Exposition ===

impl Exposition {
    /// The format that an `Accept` header asks for; Prometheus text when it does not say.
    #[must_use]
    pub fn accepted(accept: Option<&str>) -> Self {
        let takes_openmetrics =
            accept.is_some_and(|accept| accept.contains("application/openmetrics-text"));
        if takes_openmetrics {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// The value of the `Content-Type` header.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Writes all metrics.
    ///
    /// # Errors
    ///
    /// When a collector fails.
    pub fn encode(self, registry: &Registry) -> Result<String, fmt::Error> {
        let mut openmetrics = String::new();
        text::encode(&mut openmetrics, registry)?;
        match self {
            Self::OpenMetrics => Ok(openmetrics),
            Self::Prometheus => to_prometheus(&openmetrics),
        }
    }
}

fn to_prometheus(openmetrics: &str) -> Result<String, fmt::Error> {
    let mut out = String::with_capacity(openmetrics.len());
    let mut headers = headers(openmetrics);
    for line in openmetrics.lines() {
        if line.starts_with("# TYPE ") {
            let Description { name, kind, help } = headers.next().ok_or(fmt::Error)?;
            writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}")?;
        } else if !line.starts_with('#') {
            writeln!(out, "{}", without_exemplar(line))?;
        }
    }
    Ok(out)
}

/// One description per `# TYPE` line, with the help of the line before it.
fn headers(openmetrics: &str) -> impl Iterator<Item = Description> {
    let mut last_help = "";
    openmetrics.lines().filter_map(move |line| {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            last_help = rest.split_once(' ').map_or("", |(_, help)| help);
            return None;
        }
        let (name, kind) = line.strip_prefix("# TYPE ")?.rsplit_once(' ')?;
        let (suffix, kind) = match kind {
            "counter" => ("_total", "counter"),
            "info" => ("_info", "gauge"),
            "unknown" => ("", "untyped"),
            other => ("", other),
        };
        Some(Description {
            name: format!("{name}{suffix}"),
            kind: kind.to_owned(),
            help: last_help.to_owned(),
        })
    })
}

/// Cuts ` # {…} value` off a sample. A `#` inside a label's value is not an exemplar.
fn without_exemplar(sample: &str) -> &str {
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in sample.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'#' if !quoted => return sample[..at].trim_end(),
            _ => {}
        }
    }
    sample
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::exemplar::HistogramWithExemplars;
    use prometheus_client::metrics::gauge::Gauge;
    use prometheus_client::metrics::info::Info;
    use prometheus_client::registry::Unit;

    fn registry() -> Registry {
        let mut registry = Registry::default();
        registry.register("requests", "Requests taken", Counter::<u64>::default());
        registry.register(
            "build",
            "The build",
            Info::new([("note", "a \" # {quote}")]),
        );
        registry.register_with_unit(
            "memory",
            "Memory in use",
            Unit::Bytes,
            Gauge::<i64>::default(),
        );
        let wait =
            HistogramWithExemplars::<[(&'static str, &'static str); 1]>::new([1.0].into_iter());
        wait.observe(0.5, Some([("trace_id", "abc")]), None);
        registry.register("wait", "Time in queue", wait);
        registry
    }

    #[test]
    fn prometheus_text_has_types_that_match_its_samples() {
        let text = Exposition::Prometheus.encode(&registry()).expect("encodes");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "# HELP requests_total Requests taken.",
                "# TYPE requests_total counter",
                "requests_total 0",
                "# HELP build_info The build.",
                "# TYPE build_info gauge",
                r#"build_info{note="a \" # {quote}"} 1"#,
                "# HELP memory_bytes Memory in use.",
                "# TYPE memory_bytes gauge",
                "memory_bytes 0",
                "# HELP wait Time in queue.",
                "# TYPE wait histogram",
                "wait_sum 0.5",
                "wait_count 1",
                "wait_bucket{le=\"1.0\"} 1",
                "wait_bucket{le=\"+Inf\"} 1",
            ]
        );
    }

    #[test]
    fn openmetrics_text_keeps_exemplars_and_ends_with_its_marker() {
        let text = Exposition::OpenMetrics
            .encode(&registry())
            .expect("encodes");
        assert!(
            text.contains("wait_bucket{le=\"1.0\"} 1 # {trace_id=\"abc\"} 0.5"),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn the_accept_header_chooses_the_format() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        assert_eq!(
            Exposition::accepted(Some(prometheus)),
            Exposition::OpenMetrics
        );
        assert_eq!(Exposition::accepted(Some("*/*")), Exposition::Prometheus);
        assert_eq!(Exposition::accepted(None), Exposition::Prometheus);
    }

    #[test]
    fn descriptions_name_every_metric_with_kind_and_help() {
        let names: Vec<String> = describe(&registry())
            .into_iter()
            .map(|metric| metric.name)
            .collect();
        assert_eq!(
            names,
            ["build_info", "memory_bytes", "requests_total", "wait"]
        );
        let requests = &describe(&registry())[2];
        assert_eq!(
            (requests.kind.as_str(), requests.help.as_str()),
            ("counter", "Requests taken.")
        );
    }
}
