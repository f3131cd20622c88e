//! What exact sources know about a prompt, asked before the choice and within the proxy's patience:
//! its tokens first, because some sources go by them, then the index of KV events, then the pool's
//! KV manager.

use std::{sync::Arc, time::Duration};

use hermes_core::{block_index::CacheIdentity, query::CacheHit, snapshot::Pool};
use hermes_proto::{
    convert::Ask,
    v1::{PromptText, prompt_text::Kind},
};
use tokio::time::{Instant, timeout_at};

use super::{CallEnd, PendingCall, Step};
use crate::{
    cache_sources::kv_manager::{self, LookupCandidate, Text},
    pools::PoolHandle,
};

/// How long people who ask for an explanation wait.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kept of the proxy's patience for the choice itself and the way back.
const RESERVE: Duration = Duration::from_millis(5);

/// Whether there is anyone to ask, and anything to ask with.
pub(super) fn is_worthwhile(pending: &PendingCall) -> bool {
    let PendingCall {
        ask, pool_handle, ..
    } = pending;
    has_sources(pool_handle) && ask.lookup.is_some() && !ask.query.recomputes_prompt
}

fn has_sources(pool_handle: &PoolHandle) -> bool {
    pool_handle.resources.kv_manager.is_some() || pool_handle.resources.kv_events.is_some()
}

/// Asks for `pending`, and gives it back with what was found in time.
pub(super) fn begin(mut pending: PendingCall) -> Step {
    Box::pin(async move {
        let found = find(&pending.pool_handle, &mut pending.ask).await;
        (pending, CallEnd::Found(found))
    })
}

/// What is known of the prompt of `ask`, whose length is counted where its tokens are. Nothing
/// known, an error and a deadline are the same: no hint.
pub(in crate::serve) async fn find(pool_handle: &PoolHandle, ask: &mut Ask) -> Vec<CacheHit> {
    let Some(text) = ask.lookup.take().filter(|_| has_sources(pool_handle)) else {
        return Vec::new();
    };
    let deadline = match ask.deadline_ms {
        // Tokens and the manager have budgets of their own.
        0 => Instant::now() + PATIENCE,
        ms => Instant::now() + Duration::from_millis(ms.into()).saturating_sub(RESERVE),
    };
    let pool = pool_handle.scheduler.pool();
    let (model, lora) = model(&pool, ask.model.as_deref());
    let salt: Option<Arc<str>> = serde_json::from_slice(&text.cache_salt).ok();
    let token_ids = match &pool_handle.resources.tokenizer {
        Some(tokens) => timeout_at(deadline, tokens.ids(&text, ask.model.as_deref()))
            .await
            .ok()
            .flatten(),
        None => None,
    };
    let mut hits = Vec::new();
    if let Some(ids) = &token_ids {
        (ask.query.prompt_tokens, ask.query.exact_tokens) =
            (u32::try_from(ids.len()).unwrap_or(u32::MAX).max(1), true);
        if let Some(events) = &pool_handle.resources.kv_events {
            hits = events.hits(
                ids,
                &CacheIdentity {
                    adapter: lora.clone(),
                    salt: salt.clone(),
                },
            );
        }
    }
    if let Some(manager) = &pool_handle.resources.kv_manager {
        let lookup = kv_manager::Lookup {
            model,
            lora,
            text: read(&text),
            token_ids,
            prefix: ask.query.blocks.last().copied(),
            cache_salt: salt,
            block_size: pool_handle.scheduler.block_size(),
            candidates: candidates(&pool),
            prompt_tokens: ask.query.prompt_tokens,
        };
        hits.extend(
            timeout_at(deadline, manager.lookup(lookup))
                .await
                .iter()
                .flat_map(|found| found.iter()),
        );
    }
    hits
}

/// The base model that `named` means, and the adapter if it is one.
fn model(pool: &Pool, named: Option<&str>) -> (Arc<str>, Option<Arc<str>>) {
    let known = named.and_then(|name| pool.model(name));
    match known.and_then(|model| Some((model, model.parent.as_ref()?))) {
        Some((adapter, parent)) => (Arc::clone(parent), Some(Arc::clone(&adapter.name))),
        None => (named.unwrap_or_default().into(), None),
    }
}

fn read(text: &PromptText) -> Text {
    match text.kind() {
        Kind::Prompt => Text::Prompt(text.json.clone()),
        Kind::Messages => Text::Messages(text.json.clone()),
    }
}

fn candidates(pool: &Pool) -> Vec<LookupCandidate> {
    let candidate = |endpoint: &Arc<hermes_core::snapshot::Endpoint>| LookupCandidate {
        endpoint: endpoint.id,
        authority: Arc::clone(endpoint.address.authority()),
        name: Arc::clone(&endpoint.name),
    };
    pool.endpoints.iter().map(candidate).collect()
}
