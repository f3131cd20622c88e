//! What the data plane adds to the admin port: `/debug/snapshot` and `/debug/records`.

use std::{convert::Infallible, sync::Arc};

use futures::StreamExt;
use hermes_runtime::admin::{Admin, AdminResponse};
use http::StatusCode;
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::{Value, json};

use crate::{
    clock::uptime,
    sync::RoutingState,
    telemetry::access_log::{AccessLog, MAX_LISTENERS},
    view::RoutingPool,
};

/// Adds the routes.
pub(crate) fn routes(admin: Admin, routing: RoutingState, access_log: Arc<AccessLog>) -> Admin {
    let admin = admin.route("/debug/snapshot", move |_query, _body| {
        let answer = snapshot(&routing);
        async move { answer }
    });
    admin.route("/debug/records", move |_query, body| {
        let answer = if body.is_some() {
            AdminResponse::method_not_allowed("GET")
        } else {
            listen(&access_log)
        };
        async move { answer }
    })
}

/// Streams one line per finished request until the listener disconnects.
fn listen(access_log: &Arc<AccessLog>) -> AdminResponse {
    let Some(lines) = access_log.listen() else {
        let message = format!(
            "{MAX_LISTENERS} listeners are connected already; try again when one has left\n"
        );
        return AdminResponse::error(StatusCode::SERVICE_UNAVAILABLE, message);
    };
    let frames = lines.map(|line| Ok::<_, Infallible>(Frame::data(line)));
    AdminResponse::stream("application/x-ndjson", StreamBody::new(frames))
}

fn snapshot(routing: &RoutingState) -> AdminResponse {
    let Some(view) = routing.view.load_full() else {
        return AdminResponse::error(StatusCode::SERVICE_UNAVAILABLE, "no snapshot has come yet");
    };
    let replicas: Vec<Value> = routing
        .replicas
        .load()
        .iter()
        .map(|replica| json!({"name": replica.name, "undiscovered_pools": replica.lacking}))
        .collect();
    let loads: Vec<Value> = view.pools.iter().map(|pool| loads(pool)).collect();
    let body = json!({
        "snapshot": &*view.snapshot,
        "replicas": replicas,
        "load_is_fresh": routing.freshness.is_fresh(uptime()),
        "pools": loads,
    });
    AdminResponse::json(body.to_string())
}

fn loads(pool: &RoutingPool) -> Value {
    let endpoints: Vec<Value> = pool
        .upstreams
        .iter()
        .map(|upstream| {
            json!({
                "endpoint": upstream.endpoint.id.to_string(),
                "url": upstream.endpoint.address.to_string(),
                "own_in_flight": upstream.in_flight(),
                "load": upstream.load(uptime()),
            })
        })
        .collect();
    json!({"pool": pool.name(), "retries_left": pool.budget.retries(), "endpoints": endpoints})
}
