//! The page about KV events: how their streams are doing, and what they know of a prompt.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use hermes_core::{block_index::CacheIdentity, query::CacheHit};
use hermes_runtime::admin::{AdminQuery, AdminResponse};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{bad_request, json};
use crate::pools::PoolDirectory;

/// A prompt as an engine sees it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PromptQuery {
    tokens: Vec<u32>,
    adapter: Option<Arc<str>>,
    salt: Option<Arc<str>>,
}

#[derive(Serialize)]
struct PromptHits {
    hits: Vec<CacheHit>,
}

/// The streams of all pools, or what those of one pool know of the prompt in `body`.
pub(super) fn page(
    directory: &PoolDirectory,
    query: &AdminQuery,
    body: Option<&Bytes>,
) -> AdminResponse {
    let pools: BTreeMap<_, _> = directory.kv_events().into_iter().collect();
    let Some(body) = body else {
        let views: BTreeMap<_, _> = pools
            .iter()
            .map(|(pool, events)| (pool, events.view()))
            .collect();
        return json(&views);
    };
    let Some(pool) = query.get("pool") else {
        return bad_request("name a pool: POST /debug/kv-events?pool=NAME\n");
    };
    let Some(events) = pools.get(pool) else {
        return AdminResponse::error(
            StatusCode::NOT_FOUND,
            format!("no pool `{pool}` follows KV events\n"),
        );
    };
    let Ok(PromptQuery {
        tokens,
        adapter,
        salt,
    }) = serde_json::from_slice(body)
    else {
        return bad_request(
            "send {\"tokens\": [1, 2, …]}, and \"adapter\" and \"salt\" if there are any\n",
        );
    };
    json(&PromptHits {
        hits: events.hits(&tokens, &CacheIdentity { adapter, salt }),
    })
}
