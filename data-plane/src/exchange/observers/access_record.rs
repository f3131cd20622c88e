//! Publishes the access record of a finished request, if a listener was connected when it was
//! routed.

use std::sync::Arc;

use crate::{
    exchange::summary::RequestSummary,
    telemetry::access_log::{AccessLog, AccessRecord},
};

pub(super) fn observe(summary: &RequestSummary<'_>, access_log: &AccessLog) {
    let Some(model) = summary.recorded_model else {
        return;
    };
    let RequestSummary {
        pool,
        query,
        usage,
        timeline,
        ..
    } = *summary;
    access_log.publish(AccessRecord {
        arrived: timeline.arrived(),
        model: model.into(),
        pool: Arc::clone(pool.name()),
        tenant: query.tenant,
        block_bytes: pool.pool.spec.policy.block_bytes,
        prompt_bytes: query.prompt_bytes,
        blocks: Arc::clone(&query.blocks),
        prompt_tokens: usage.map_or(query.prompt_tokens, |usage| usage.prompt_tokens),
        completion_tokens: summary.output_tokens(),
        cached_tokens: usage.and_then(|usage| usage.cached_tokens),
        ttft: timeline.time_to_first_token(),
        endpoint: summary
            .attempt
            .map(|attempt| Arc::clone(&attempt.upstream.endpoint.name)),
        outcome: summary.outcome.name(),
    });
}
