//! What is measured of a server, and how requests are numbered.

/// Names a request: its position in order of arrival.
pub type RequestIndex = usize;

/// The metrics of one server, as a scrape reads them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// `vllm:num_requests_waiting`.
    pub waiting: usize,
    /// `vllm:num_requests_running`.
    pub running: usize,
    /// `vllm:kv_cache_usage_perc`, `0.0..=1.0`.
    pub kv_usage: f64,
}
