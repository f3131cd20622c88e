//! What the data plane adds to the admin port: `/debug/snapshot`.

use std::sync::Arc;

use hermes_runtime::admin::{Admin, AdminResponse};
use http::StatusCode;
use serde_json::{Value, json};

use crate::{app::uptime, sync::Knowledge, view::PoolView};

/// Adds the routes.
pub(crate) fn routes(admin: Admin, knowledge: Knowledge) -> Admin {
    admin.route("/debug/snapshot", move |_query, _body| {
        let answer = snapshot(&knowledge);
        async move { answer }
    })
}

fn snapshot(knowledge: &Knowledge) -> AdminResponse {
    let Some(view) = knowledge.view.load_full() else {
        return AdminResponse::error(StatusCode::SERVICE_UNAVAILABLE, "no snapshot has come yet");
    };
    let replicas: Vec<Arc<str>> = knowledge.replicas.load().iter().map(|ready| Arc::clone(&ready.name)).collect();
    let loads: Vec<Value> = view.pools.iter().map(|pool| loads(pool)).collect();
    let body = json!({
        "snapshot": &*view.snapshot,
        "replicas": replicas,
        "load_is_fresh": knowledge.freshness.is_fresh(uptime()),
        "pools": loads,
    });
    AdminResponse::json(body.to_string())
}

fn loads(pool: &PoolView) -> Value {
    let endpoints: Vec<Value> = pool
        .upstreams
        .iter()
        .map(|upstream| {
            json!({
                "endpoint": upstream.endpoint.id.to_string(),
                "url": upstream.endpoint.url,
                "own_in_flight": upstream.in_flight(),
                "load": upstream.load(uptime()),
            })
        })
        .collect();
    json!({"pool": pool.name(), "retries_left": pool.budget.retries(), "endpoints": endpoints})
}
