//! Observers of finished requests: each sink is one file with one function over the summary.

mod access_record;
mod endpoint_health;
mod log;
mod metrics;
mod report;
mod span;

use std::sync::Arc;

use super::summary::RequestSummary;
use crate::{
    link::report::Reporter,
    telemetry::{access_log::AccessLog, metrics::ModelHandles},
};

/// Where observers write.
pub(super) struct Sinks {
    pub(super) reporter: Arc<Reporter>,
    pub(super) access_log: Arc<AccessLog>,
    pub(super) model: Arc<ModelHandles>,
}

/// Passes the summary to every observer, once.
pub(super) fn observe(summary: &RequestSummary<'_>, sinks: &Sinks) {
    metrics::observe(summary, &sinks.model);
    span::observe(summary);
    log::observe(summary);
    endpoint_health::observe(summary);
    access_record::observe(summary, &sinks.access_log);
    report::observe(summary, &sinks.reporter);
}
