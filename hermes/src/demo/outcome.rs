//! What one strategy achieved, so far or in the end.

use hermes_bench::load::Report;

/// The kind under which a load counts requests that were cut off when it ended.
const CUT_OFF: &str = "interrupted";

/// A strategy and what its clients saw.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    /// Its name.
    pub(super) strategy: &'static str,
    /// What the clients saw.
    pub(super) report: Report,
}

impl Outcome {
    /// Of all prompt tokens, those that were cached where they were sent, in percent.
    pub(super) fn hit_percent(&self) -> f64 {
        self.report.hit_rate.unwrap_or(0.0) * 100.0
    }

    /// Requests that had not ended when the phase did: nobody's error, and in no latency.
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
    fn requests_that_were_cut_off_are_no_errors() {
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
