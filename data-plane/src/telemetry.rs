//! What is measured and recorded of requests.

pub(crate) mod access_log;
pub(crate) mod metrics;
pub(crate) mod usage;
