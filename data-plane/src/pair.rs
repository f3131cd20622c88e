//! What the endpoints of a prefill/decode pair are sent: one file for each dialect, without I/O.
//!
//! ```text
//!   plan ─┬─ Serial:  the prefill leg ─▶ its answer ─▶ after_prefill ─▶ the decode leg ─▶ client
//!         ├─ AtOnce:  both legs; the decode's answer ─▶ client
//!         └─ Through: one endpoint gets the request and the names of both, and sends the legs itself
//! ```
//!
//! | dialect | order | what the prefill gets | what the decode gets | lease |
//! |---|---|---|---|---|
//! | `vllm-nixl` | serial | one token, `do_remote_decode` | the request with what the prefill answered, once | vLLM's `kv_lease_duration` |
//! | `vllm-mooncake` | at once | one token, `do_remote_decode` and a transfer id | the request with the transfer id, and where the prefill is | the engines' |
//! | `trtllm` | serial | the request as `context_only` | the request with what the prefill answered, once | `kv_transfer_timeout_ms` |
//! | `shared-storage` | serial | one token | the request | none |
//! | `sglang` | at once | the request with a bootstrap address and a room | the same bytes | the engines' |
//! | `leader-headers` | through the group's leader | | | the leader's |
//! | `llm-d-sidecar` | through the decode's sidecar | | | the sidecar's |
//!
//! Bodies are spliced: what is not edited keeps its bytes. What a prefill answers for its decode is
//! copied as it is: its form differs between releases of an engine. The exchange is in
//! `exchange/pair.rs`.

mod answer_fields;
mod final_answer;
mod leader_headers;
pub mod leg_bodies;
mod llm_d_sidecar;
mod object_fields;
mod one_token;
mod sglang;
mod shared_storage;
mod trtllm;
mod vllm_mooncake;
mod vllm_nixl;

use std::time::Duration;

use bytes::Bytes;
use hermes_core::{
    policy::{DisaggregationPolicy, PairDialect},
    snapshot::Endpoint,
};
use http::{HeaderName, HeaderValue};

pub(crate) use self::final_answer::FinalAnswer;
use crate::{
    request::{api::Api, body_edit::BodyEdit},
    telemetry::usage,
};

/// How a pair is sent one request.
#[derive(Debug)]
pub(crate) enum PairPlan {
    /// The prefill leg with these edits; then the decode leg, with those of its [`Handoff`].
    Serial(LegEdits),
    /// Both legs at once.
    AtOnce(ConcurrentLegs),
    /// One leg to this endpoint, which sends both itself.
    Through(PairEntry, LegEdits),
}

/// Two legs that are sent at once.
#[derive(Debug)]
pub(crate) struct ConcurrentLegs {
    pub(crate) prefill: LegEdits,
    pub(crate) decode: LegEdits,
    /// The prefill leg is not cut off when the decode leg is answered first, and how it ended
    /// ([`after_prefill`]) is a part of the result.
    pub(crate) must_end: bool,
}

/// The endpoint that sends both legs of a pair itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PairEntry {
    /// The leader of the pair's group.
    Leader,
    /// The decode endpoint, or the sidecar before it.
    Decode,
}

/// How a leg differs from what the client sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct LegEdits {
    pub(crate) body: Vec<BodyEdit>,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// The endpoint is not sent it twice: a second leg would meet the first one, or read memory
    /// that is freed by then.
    pub(crate) is_for_once: bool,
}

/// What follows from the whole answer of a prefill leg.
#[derive(Debug)]
pub(crate) enum PrefillResult {
    /// The decode leg, which takes this over.
    HandOver(Handoff),
    /// Nothing: it is the client's answer.
    Final(FinalAnswer),
    /// Nothing can: why.
    Unusable(&'static str),
}

/// What a decode leg takes over from the prefill leg before it.
#[derive(Debug, Default)]
pub(crate) struct Handoff {
    pub(crate) edits: LegEdits,
    /// There is a KV cache to take over. If not, the decode endpoint computes the prompt itself.
    pub(crate) is_taken: bool,
    /// Tokens of the prompt that the prefill endpoint had in its cache, if it states them and the
    /// decode endpoint does not: that one would report all that it took over.
    pub(crate) cached_tokens: Option<u32>,
}

/// The two endpoints of a pair.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PairEndpoints<'a> {
    pub(crate) prefill: &'a Endpoint,
    pub(crate) decode: &'a Endpoint,
}

/// Time before the end of a lease in which nothing is handed over: the decode has to begin within
/// it.
const LEASE_MARGIN: Duration = Duration::from_secs(5);

/// How the pair is sent a request of this API. `room` is a number that no other request has.
///
/// # Errors
///
/// What is not known of the prefill endpoint yet.
pub(crate) fn plan(
    rules: &DisaggregationPolicy,
    api: Api,
    pair: PairEndpoints<'_>,
    room: u64,
) -> Result<PairPlan, &'static str> {
    let bootstrap_port = pair.prefill.pairing.bootstrap_port;
    let bootstrap_port = bootstrap_port.unwrap_or(rules.bootstrap_port);
    Ok(match rules.dialect {
        PairDialect::VllmNixl => PairPlan::Serial(vllm_nixl::prefill(api)),
        PairDialect::VllmMooncake => {
            let legs = vllm_mooncake::legs(api, pair.prefill, bootstrap_port, room);
            PairPlan::AtOnce(legs.ok_or("no rank of the prefill endpoint has a name yet")?)
        }
        PairDialect::Trtllm => PairPlan::Serial(trtllm::prefill(room)),
        PairDialect::SharedStorage => PairPlan::Serial(shared_storage::prefill(api)),
        PairDialect::Sglang => PairPlan::AtOnce(sglang::legs(pair.prefill, bootstrap_port, room)),
        PairDialect::LeaderHeaders => {
            PairPlan::Through(PairEntry::Leader, leader_headers::request(pair))
        }
        PairDialect::LlmDSidecar => {
            PairPlan::Through(PairEntry::Decode, llm_d_sidecar::request(pair))
        }
    })
}

/// Whether requests of this API may be split in this dialect.
pub(crate) const fn carries(dialect: PairDialect, api: Api) -> bool {
    match dialect {
        PairDialect::Trtllm => trtllm::carries(api),
        _ => true,
    }
}

/// What follows from the whole answer of the prefill leg.
pub(crate) fn after_prefill(dialect: PairDialect, api: Api, answer: &Bytes) -> PrefillResult {
    match dialect {
        PairDialect::VllmNixl => PrefillResult::HandOver(vllm_nixl::handoff(answer)),
        PairDialect::VllmMooncake => vllm_mooncake::after_prefill(api, answer),
        PairDialect::Trtllm => trtllm::after_prefill(api, answer),
        PairDialect::SharedStorage => PrefillResult::HandOver(shared_storage::handoff(answer)),
        // Nothing is read of their prefill legs.
        PairDialect::Sglang | PairDialect::LeaderHeaders | PairDialect::LlmDSidecar => {
            PrefillResult::HandOver(Handoff::default())
        }
    }
}

/// How long after the prefill's answer a decode leg may still take it over; `None` without a bound.
pub(crate) fn handover_limit(rules: &DisaggregationPolicy) -> Option<Duration> {
    match rules.dialect {
        PairDialect::VllmNixl | PairDialect::Trtllm => {
            Some(rules.lease.saturating_sub(LEASE_MARGIN))
        }
        _ => None,
    }
}

/// Cached tokens by the usage of a prefill's answer.
fn cached_tokens(answer: &Bytes) -> Option<u32> {
    let [usage] = answer_fields::of(answer, ["usage"])?;
    usage::of_json(&usage?)?.cached_tokens
}

impl LegEdits {
    /// One header more, and the client's body.
    fn header(name: &'static str, value: &str) -> Self {
        let value = HeaderValue::from_str(value).ok();
        let headers = value.map(|value| (HeaderName::from_static(name), value));
        Self {
            headers: headers.into_iter().collect(),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests;
