//! The admin port's own pages: what this replica knows, and why a choice falls as it does.
//!
//! | path | answer |
//! |---|---|
//! | `/debug/snapshot` | the newest snapshot, and every endpoint's load, health and age of figures |
//! | `/debug/score?pool=NAME[&model=NAME][&prompt_bytes=N]` | what a request like this would be answered, with every number; books nothing |
//! | `/debug/kv-events` | how every stream of KV events is doing |
//! | `/debug/objects` | what became of each object that is configuration |
//! | `POST /debug/kv-events?pool=NAME` with `{"tokens": […]}` | what these streams know of a prompt, by endpoint and tier |
//!
//! Probes and metrics are `hermes_runtime`'s. No page holds a secret: URLs carry no credentials,
//! and prompts are not here.

mod kv_events;
mod state_metrics;

use std::{sync::Arc, time::Duration};

use hermes_core::{
    ledger::{ProxyId, RequestId, RequestKey},
    query::Query as ScoreQuery,
    scheduler::ScheduleRequest,
    snapshot::Snapshot,
};
use hermes_runtime::admin::{Admin, AdminQuery, AdminResponse};
use http::StatusCode;
use serde::Serialize;
use tokio::sync::watch;

use crate::{objects::ObjectsPage, pools::PoolDirectory};

pub(crate) use self::state_metrics::StateCollector;

/// What the pages show.
#[derive(Clone, Debug)]
pub(crate) struct DebugPages {
    /// The newest snapshot.
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Loads and choices.
    pub(crate) pools: Arc<PoolDirectory>,
    /// What became of each object.
    pub(crate) objects: watch::Receiver<Arc<ObjectsPage>>,
    /// This replica's name.
    pub(crate) replica: Arc<str>,
}

#[derive(Serialize)]
struct SnapshotPage<'a, V> {
    replica: &'a str,
    snapshot: &'a Snapshot,
    /// How busy and how healthy, by pool.
    loads: V,
}

/// Bytes of text per token, roughly: enough for a page that people ask.
const BYTES_PER_TOKEN: u64 = 4;

// === DebugPages ===

impl DebugPages {
    /// Adds the pages to `admin`.
    #[must_use]
    pub(crate) fn add_to(self, admin: Admin) -> Admin {
        let (world, score, objects, events) = (self.clone(), self.clone(), self.clone(), self);
        admin
            .route("/debug/snapshot", move |_query, _body| {
                std::future::ready(world.snapshot())
            })
            .route("/debug/score", move |query, _body| {
                std::future::ready(score.score(&query))
            })
            .route("/debug/objects", move |_query, _body| {
                let page = Arc::clone(&objects.objects.borrow());
                std::future::ready(json(&*page))
            })
            .route("/debug/kv-events", move |query, body| {
                std::future::ready(kv_events::page(&events.pools, &query, body.as_ref()))
            })
    }

    fn snapshot(&self) -> AdminResponse {
        let snapshot = Arc::clone(&self.snapshots.borrow());
        let world = SnapshotPage {
            replica: &self.replica,
            snapshot: &snapshot,
            loads: self.pools.view(),
        };
        json(&world)
    }

    fn score(&self, query: &AdminQuery) -> AdminResponse {
        let Some(pool) = query.get("pool") else {
            return bad_request(
                "name a pool: /debug/score?pool=NAME[&model=NAME][&prompt_bytes=N]\n",
            );
        };
        let Some(pool_handle) = self.pools.pool(pool) else {
            return AdminResponse::error(
                StatusCode::NOT_FOUND,
                format!("no pool is named `{pool}`\n"),
            );
        };
        let Ok(prompt_bytes) = query.get("prompt_bytes").unwrap_or("0").parse::<u64>() else {
            return bad_request("prompt_bytes must be a number of bytes\n");
        };
        let prompt_tokens = u32::try_from(prompt_bytes / BYTES_PER_TOKEN).unwrap_or(u32::MAX);
        let asked = ScoreQuery {
            prompt_bytes,
            prompt_tokens,
            ..ScoreQuery::default()
        };
        let key = RequestKey {
            proxy: ProxyId(0),
            request: RequestId(0),
        };
        let (model, waited) = (query.get("model"), Duration::ZERO);
        let arrival = ScheduleRequest {
            key,
            query: &asked,
            model,
            hits: &[],
            waited,
            may_wait: true,
        };
        json(&pool_handle.scheduler.explain(arrival, self.pools.now()))
    }
}

fn bad_request(message: &'static str) -> AdminResponse {
    AdminResponse::error(StatusCode::BAD_REQUEST, message)
}

fn json(page: &impl Serialize) -> AdminResponse {
    match serde_json::to_vec(page) {
        Ok(body) => AdminResponse::json(body),
        Err(error) => AdminResponse::error(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}
