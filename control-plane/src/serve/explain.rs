//! What Score would answer, with every candidate's numbers; nothing is booked.

use hermes_core::{
    ledger::{ProxyId, RequestId, RequestKey},
    query::CacheHit,
    scheduler::ScheduleRequest,
};
use hermes_proto::{
    convert::Ask,
    v1::{Explanation, ScoreRequest},
};
use tonic::Status;

use super::score::find_hits;
use crate::pools::PoolDirectory;

/// Explains the choice for `request`.
pub(super) async fn explain(
    pools: &PoolDirectory,
    request: ScoreRequest,
) -> Result<Explanation, Status> {
    let mut ask =
        Ask::try_from(request).map_err(|invalid| Status::invalid_argument(invalid.to_string()))?;
    let pool_handle = pools
        .pool(&ask.pool)
        .ok_or_else(|| Status::not_found(format!("no pool is named `{}`", ask.pool)))?;
    let hits: Vec<CacheHit> = find_hits(&pool_handle, &mut ask).await;
    let key = RequestKey {
        proxy: ProxyId(ask.proxy),
        request: RequestId(ask.id),
    };
    let (model, waited) = (ask.model.as_deref(), ask.waited);
    let arrival = ScheduleRequest {
        key,
        query: &ask.query,
        model,
        hits: &hits,
        waited,
        may_wait: true,
    };
    let explanation = pool_handle.scheduler.explain(arrival, pools.now());
    let json =
        serde_json::to_string(&explanation).map_err(|error| Status::internal(error.to_string()))?;
    Ok(Explanation {
        pool: explanation.pool.to_string(),
        strategy: explanation.strategy.to_owned(),
        json,
    })
}
