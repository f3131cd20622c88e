//! What a pool's KV manager knows about a prompt, asked before the choice and within the proxy's patience.

use std::{sync::Arc, time::Duration};

use hermes_core::{query::Hit, snapshot::Pool};
use hermes_proto::{
    convert::Ask,
    v1::{LookupText, lookup_text::Kind},
};
use tokio::time;

use super::{Done, Pending, Step};
use crate::{
    brain::Home,
    kvmanager::{self, Candidate, Text},
};

/// Kept of the proxy's patience for the choice itself and the way back.
const RESERVE: Duration = Duration::from_millis(5);

/// Whether there is anyone to ask, and anything to ask with.
pub(super) fn is_worthwhile(pending: &Pending) -> bool {
    pending.home.kv_manager.is_some() && pending.ask.lookup.is_some()
}

/// Asks for `pending`, and gives it back with what was found in time.
pub(super) fn begin(mut pending: Pending) -> Step {
    Box::pin(async move {
        let found = find(&pending.home, &mut pending.ask).await;
        (pending, Done::Found(found))
    })
}

/// What the KV manager of `home` knows about the prompt of `ask`. Nothing known, an error and a deadline are the same:
/// no hint.
pub(in crate::serve) async fn find(home: &Home, ask: &mut Ask) -> Vec<Hit> {
    let (Some(manager), Some(text)) = (&home.kv_manager, ask.lookup.take()) else {
        return Vec::new();
    };
    let lookup = kvmanager::Lookup {
        model: ask.model.as_deref().unwrap_or_default().into(),
        text: read(text),
        candidates: candidates(&home.brain.pool()),
        prompt_tokens: ask.query.prompt_tokens,
    };
    let asked = manager.lookup(lookup);
    if ask.deadline_ms == 0 {
        // The manager has a budget of its own.
        return asked.await;
    }
    let patience = Duration::from_millis(ask.deadline_ms.into()).saturating_sub(RESERVE);
    time::timeout(patience, asked).await.unwrap_or_default()
}

fn read(text: LookupText) -> Text {
    let kind = text.kind();
    match kind {
        Kind::Prompt => Text::Prompt(text.json),
        Kind::Messages => Text::Messages(text.json),
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
