//! What the data plane adds to the admin port: `/debug/snapshot`, `/debug/route` and
//! `/debug/records`.

use std::{convert::Infallible, sync::Arc};

use futures::StreamExt;
use hermes_core::route_table::{NoHeaders, RouteInput, RouteLookup};
use hermes_runtime::admin::{Admin, AdminQuery, AdminResponse};
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
    let shown = routing.clone();
    let admin = admin.route("/debug/snapshot", move |_query, _body| {
        let answer = snapshot(&shown);
        async move { answer }
    });
    let admin = admin.route("/debug/route", move |query, _body| {
        let answer = explain_route(&routing, &query);
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
        "ports": **routing.ports.load(),
        "pools": loads,
    });
    AdminResponse::json(body.to_string())
}

/// Which rule a request without headers would follow, and by which of its matches.
fn explain_route(routing: &RoutingState, query: &AdminQuery) -> AdminResponse {
    let Some(view) = routing.view.load_full() else {
        return AdminResponse::error(StatusCode::SERVICE_UNAVAILABLE, "no snapshot has come yet");
    };
    let named = query.get("listener");
    let listener = named.and_then(|name| view.snapshot.listeners.find(name));
    if named.is_some() && listener.is_none() {
        return AdminResponse::error(StatusCode::NOT_FOUND, "no listener has this name\n");
    }
    let asked = query.get("path").unwrap_or("/");
    let (path, parameters) = asked.split_once('?').unzip();
    let head = RouteInput {
        authority: query.get("host").unwrap_or_default(),
        path: path.unwrap_or(asked),
        query: parameters,
        method: query.get("method").unwrap_or("GET"),
        headers: &NoHeaders,
    };
    let port = listener.map(|listener| &listener.address);
    let found = match view.routes.table.find(port, &head) {
        RouteLookup::Unrouted => json!({"result": "by_model"}),
        RouteLookup::NotFound => json!({"result": "not_found"}),
        RouteLookup::Found(found) => json!({
            "result": "found",
            "listener": found.listener.map(|listener| &listener.name),
            "route": found.route.name,
            "hostnames": found.route.hostnames,
            "rule_position": found.rule_position,
            "match": found.rule().matches.get(found.match_position),
            "rule": found.rule(),
        }),
    };
    AdminResponse::json(found.to_string())
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
