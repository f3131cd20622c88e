//! The input and the result of a selection.

use std::{sync::Arc, time::Duration};

use hermes_core::{
    placement::Placement,
    query::{CacheSource, MAX_RANKED, Query},
};
use opentelemetry::Context;
use smallvec::SmallVec;

use crate::{
    endpoint::Upstream, request::inference_request::InferenceRequest,
    telemetry::metrics::FallbackLevel, view::RoutingPool,
};

/// Placements for a request, and how they were selected.
#[derive(Default)]
pub(crate) struct EndpointSelection {
    /// Best first.
    pub(crate) ranked: RankedPlacements,
    pub(crate) level: FallbackLevel,
    pub(crate) why: SelectionDetails,
}

/// Best first.
pub(crate) type RankedPlacements = SmallVec<[Placement<SelectedEndpoint>; MAX_RANKED]>;

/// One endpoint of a selection.
#[derive(Clone)]
pub(crate) struct SelectedEndpoint {
    pub(crate) upstream: Arc<Upstream>,
    /// Prompt tokens that it is to compute and that its cache is expected to hold.
    pub(crate) cached_tokens: u32,
    /// The source of that expectation.
    pub(crate) source: Option<CacheSource>,
}

/// What explains a selection, for traces and logs.
#[derive(Default)]
pub(crate) struct SelectionDetails {
    /// Time in the control plane's queue.
    pub(crate) waited: Duration,
    /// Expected time between sending and the start of the prefill.
    pub(crate) expected_wait: Option<Duration>,
    /// Time to the first token expected there.
    pub(crate) expected_ttft: Option<Duration>,
    /// The weight of wasted prefill work in the cost.
    pub(crate) gamma: Option<f32>,
    /// The second-best endpoint.
    pub(crate) runner_up: Option<Arc<Upstream>>,
    /// The prompt's length as the control plane counts it, at level `score`.
    pub(crate) prompt_tokens: Option<u32>,
}

/// A request that needs an endpoint.
pub(crate) struct SelectionRequest<'a> {
    pub(crate) pool: &'a RoutingPool,
    pub(crate) request: &'a InferenceRequest,
    /// Unique in this run of the proxy.
    pub(crate) id: u64,
    pub(crate) query: &'a Query,
    /// The request can be sent to a pair. Otherwise pairs are left out.
    pub(crate) accepts_pairs: bool,
    /// Trace context of the route span.
    pub(crate) context: Context,
}
