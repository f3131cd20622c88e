//! What exact sources know about a prompt, asked before the choice and within the proxy's patience: its tokens first,
//! because some sources go by them, then the pool's KV manager.

use std::{pin::Pin, sync::Arc, time::Duration};

use hermes_core::{query::Hit, snapshot::Pool};
use hermes_proto::{
    convert::Ask,
    v1::{LookupText, lookup_text::Kind},
};
use tokio::time;

use super::Pending;
use crate::{
    brain::Home,
    kvmanager::{self, Candidate, KvManager, Text},
};

/// Kept of the proxy's patience for the choice itself and the way back.
const RESERVE: Duration = Duration::from_millis(5);

/// A request, and what was found for it.
pub(super) type Lookup = Pin<Box<dyn Future<Output = (Pending, Vec<Hit>)> + Send>>;

/// Whether there is anyone to ask, and anything to ask with.
pub(super) fn is_worthwhile(pending: &Pending) -> bool {
    let Home { kv_manager, .. } = &pending.home;
    kv_manager.is_some() && pending.ask.lookup.is_some()
}

/// Asks for `pending`, and gives it back with what was found in time.
pub(super) fn begin(mut pending: Pending) -> Lookup {
    Box::pin(async move {
        let found = find(&pending.home, &mut pending.ask).await;
        (pending, found)
    })
}

/// What is known of the prompt of `ask`. Nothing known, an error and a deadline are the same: no hint.
pub(in crate::serve) async fn find(home: &Home, ask: &mut Ask) -> Vec<Hit> {
    let Some(text) = ask.lookup.take() else {
        return Vec::new();
    };
    let asked = ask_sources(home, ask, &text);
    if ask.deadline_ms == 0 {
        // Tokens and the manager have budgets of their own.
        return asked.await;
    }
    let patience = Duration::from_millis(ask.deadline_ms.into()).saturating_sub(RESERVE);
    time::timeout(patience, asked).await.unwrap_or_default()
}

async fn ask_sources(home: &Home, ask: &Ask, text: &LookupText) -> Vec<Hit> {
    let Some(manager) = &home.kv_manager else { return Vec::new() };
    let token_ids = match &home.tokens {
        Some(tokens) => tokens.ids(text, ask.model.as_deref()).await,
        None => None,
    };
    ask_manager(home, manager, ask, text, token_ids).await
}

async fn ask_manager(
    home: &Home,
    manager: &KvManager,
    ask: &Ask,
    text: &LookupText,
    token_ids: Option<Arc<[u32]>>,
) -> Vec<Hit> {
    let pool = home.brain.pool();
    let (model, lora) = model(&pool, ask.model.as_deref());
    let lookup = kvmanager::Lookup {
        model,
        lora,
        text: read(text),
        token_ids,
        prefix: ask.query.blocks.last().copied(),
        cache_salt: serde_json::from_slice(&text.cache_salt).ok(),
        block_size: home.brain.block_size(),
        candidates: candidates(&pool),
        prompt_tokens: ask.query.prompt_tokens,
    };
    manager.lookup(lookup).await.to_vec()
}

/// The base model that `named` means, and the adapter if it is one.
fn model(pool: &Pool, named: Option<&str>) -> (Arc<str>, Option<Arc<str>>) {
    let known = named.and_then(|name| pool.model(name));
    match known.and_then(|model| Some((model, model.parent.as_ref()?))) {
        Some((adapter, parent)) => (Arc::clone(parent), Some(Arc::clone(&adapter.name))),
        None => (named.unwrap_or_default().into(), None),
    }
}

fn read(text: &LookupText) -> Text {
    match text.kind() {
        Kind::Prompt => Text::Prompt(text.json.clone()),
        Kind::Messages => Text::Messages(text.json.clone()),
    }
}

fn candidates(pool: &Pool) -> Vec<Candidate> {
    let candidate = |endpoint: &Arc<hermes_core::snapshot::Endpoint>| Candidate {
        endpoint: endpoint.id,
        authority: endpoint.url.strip_prefix("http://").unwrap_or(&endpoint.url).into(),
        name: Arc::clone(&endpoint.name),
    };
    pool.endpoints.iter().map(candidate).collect()
}
