//! The results of one strategy, so far or in the end.

use hermes_bench::load::Report;

/// The error kind of requests that were cut off at the end of a load.
const CUT_OFF: &str = "interrupted";

/// A strategy and the measurements of its clients.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    /// Its name.
    pub(super) strategy: &'static str,
    /// Latencies, errors and cached tokens, as the clients measured them.
    pub(super) report: Report,
}

impl Outcome {
    /// Share of all prompt tokens that were cached on the engine that got them, in percent.
    pub(super) fn hit_percent(&self) -> f64 {
        self.report.hit_rate.unwrap_or(0.0) * 100.0
    }

    /// Requests in flight at the end of the phase: neither errors, nor part of a latency.
    pub(super) fn unfinished(&self) -> u64 {
        self.report.errors.get(CUT_OFF).copied().unwrap_or(0)
    }

    /// Requests that failed.
    pub(super) fn errors(&self) -> u64 {
        (self.report.requests - self.report.ok).saturating_sub(self.unfinished())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn requests_cut_off_at_the_end_are_not_errors() {
        let errors = BTreeMap::from([("interrupted".to_owned(), 3), ("status 503".to_owned(), 2)]);
        let report = Report {
            requests: 10,
            ok: 5,
            errors,
            hit_rate: Some(0.5),
            ..Report::default()
        };
        let outcome = Outcome {
            strategy: "kv-aware",
            report,
        };
        assert_eq!((outcome.unfinished(), outcome.errors()), (3, 2));
        assert!((outcome.hit_percent() - 50.0).abs() < 1e-9);
    }
}
