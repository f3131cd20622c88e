//! What is asked of a choice, and what it says.

use std::{sync::Arc, time::Duration};

use hermes_core::query::{MAX_RANKED, Query, Source};
use opentelemetry::Context;
use smallvec::SmallVec;

use crate::{
    endpoint::Upstream, request::inference_request::InferenceRequest, telemetry::metrics::Rung,
    view::RoutingPool,
};

/// Where to send a request, and how that was found.
#[derive(Default)]
pub(crate) struct Selection {
    /// Best first.
    pub(crate) ranked: SmallVec<[SelectedEndpoint; MAX_RANKED]>,
    pub(crate) rung: Rung,
    pub(crate) why: SelectionDetails,
}

/// One endpoint of a plan.
#[derive(Clone)]
pub(crate) struct SelectedEndpoint {
    pub(crate) upstream: Arc<Upstream>,
    /// Prompt tokens that it is expected to have cached.
    pub(crate) cached_tokens: u32,
    /// Who says so.
    pub(crate) source: Option<Source>,
}

/// What explains a choice, for traces and logs.
#[derive(Default)]
pub(crate) struct SelectionDetails {
    /// How long the request waited at the control plane.
    pub(crate) waited: Duration,
    /// How long it is expected to wait at its endpoint before its prompt is computed.
    pub(crate) expected_wait: Option<Duration>,
    /// Time to the first token expected there.
    pub(crate) expected_ttft: Option<Duration>,
    /// What wasted work was weighed with.
    pub(crate) gamma: Option<f32>,
    /// The endpoint that came closest to being chosen instead.
    pub(crate) runner_up: Option<Arc<Upstream>>,
    /// The prompt's length as the control plane reckons it, if it chose.
    pub(crate) prompt_tokens: Option<u32>,
}

/// A request that needs an endpoint.
pub(crate) struct SelectionRequest<'a> {
    pub(crate) pool: &'a RoutingPool,
    pub(crate) call: &'a InferenceRequest,
    /// Unique in this run of the proxy.
    pub(crate) id: u64,
    pub(crate) query: &'a Query,
    /// Trace context of the route span.
    pub(crate) context: Context,
}
