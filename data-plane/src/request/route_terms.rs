//! What the route of a request wants of the legs that are sent for it.

use super::{leg_host::LegHost, time_limits::TimeLimits};

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct RouteTerms {
    /// What endpoints get as `Host`.
    pub(crate) host: LegHost,
    /// How long the request may take, beside the timeouts of its pool.
    pub(crate) limits: TimeLimits,
}
