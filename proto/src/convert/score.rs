//! Score requests and answers.

use hermes_core::{
    query::{MAX_RANKED, Query},
    responses::ResponseKey,
    snapshot::EndpointId,
};
use smallvec::SmallVec;

use super::Invalid;
use crate::v1::{self, score_response::Answer as WireAnswer};

/// Most block hashes that one request may carry: a megabyte of prompt in blocks of 128 bytes.
const MAX_BLOCKS: usize = 8_192;

/// A [`v1::ScoreRequest`], checked. What identifies it (id, proxy, pool) stays with the wire message's owner.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// The request's id in its proxy.
    pub id: u64,
    /// The proxy's run.
    pub proxy: u64,
    /// Pool to choose in.
    pub pool: String,
    /// Model as the client wrote it; `None` when it wrote none.
    pub model: Option<String>,
    /// What the choice may read.
    pub query: Query,
    /// How long the proxy waits, in milliseconds.
    pub deadline_ms: u32,
    /// The prompt for a KV manager that matches on text.
    pub lookup: Option<v1::LookupText>,
    /// The stored response that the request refers to, and whether nothing but its endpoint will do.
    pub response: Option<(ResponseKey, bool)>,
    /// W3C trace context, empty when there is none.
    pub traceparent: String,
    /// W3C trace state.
    pub tracestate: String,
}

/// What a proxy reads from a [`v1::ScoreResponse`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Endpoints to try, best first, the first one booked; with the tokens expected to be cached there. Not empty.
    Chosen(SmallVec<[(EndpointId, u32); MAX_RANKED]>),
    /// The replica cannot choose; the reason, for metrics and logs.
    Refused(v1::refused::Reason),
}

// === Ask ===

impl TryFrom<v1::ScoreRequest> for Ask {
    type Error = Invalid;

    fn try_from(wire: v1::ScoreRequest) -> Result<Self, Invalid> {
        let v1::ScoreRequest {
            id,
            proxy,
            pool,
            model,
            prompt_bytes,
            prompt_tokens,
            blocks,
            block_bytes,
            priority,
            session,
            tenant,
            deadline_ms,
            exclude,
            lookup,
            traceparent,
            tracestate,
            response,
            response_only,
        } = wire;
        if pool.is_empty() {
            return Err(Invalid::new("pool", "is empty; name the pool to choose in"));
        }
        if blocks.len() > MAX_BLOCKS {
            return Err(Invalid::new("blocks", "holds more than 8192 hashes"));
        }
        let query = Query {
            prompt_bytes,
            prompt_tokens,
            blocks: blocks.into(),
            block_bytes,
            session,
            priority,
            tenant,
            exclude: exclude.into_iter().map(EndpointId).collect(),
        };
        let model = (!model.is_empty()).then_some(model);
        let response = response.map(|key| (ResponseKey(key), response_only));
        Ok(Self { id, proxy, pool, model, query, deadline_ms, lookup, response, traceparent, tracestate })
    }
}

// === Answer ===

impl TryFrom<v1::ScoreResponse> for Answer {
    type Error = Invalid;

    fn try_from(wire: v1::ScoreResponse) -> Result<Self, Invalid> {
        match super::required(wire.answer, "answer")? {
            WireAnswer::Refused(refused) => Ok(Self::Refused(refused.reason())),
            WireAnswer::Chosen(v1::Chosen { ranked }) if ranked.is_empty() => {
                Err(Invalid::new("chosen.ranked", "is empty; a choice names at least one endpoint"))
            }
            WireAnswer::Chosen(v1::Chosen { ranked }) => {
                Ok(Self::Chosen(ranked.iter().map(|c| (EndpointId(c.endpoint), c.cached_tokens)).collect()))
            }
        }
    }
}
