//! Score requests and answers.

use std::time::Duration;

use hermes_core::{
    placement::Placement,
    prefix::MAX_BLOCKS,
    query::{CacheSource, MAX_RANKED, Query},
    snapshot::EndpointId,
    stored_responses::ResponseKey,
};
use smallvec::SmallVec;

use super::Invalid;
use crate::v1::{self, score_response::Answer as WireAnswer};

/// A [`v1::ScoreRequest`], checked. What identifies it (id, proxy, pool) stays with the wire
/// message's owner.
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
    /// How long the proxy waits for the first answer, in milliseconds.
    pub deadline_ms: u32,
    /// How long the request has waited already, at a replica whose stream broke.
    pub waited: Duration,
    /// The first answer may be [`Answer::Queued`].
    pub may_wait: bool,
    /// The prompt for a KV manager that matches on text.
    pub lookup: Option<v1::PromptText>,
    /// The stored response that the request refers to, and whether nothing but its endpoint will
    /// do.
    pub response: Option<(ResponseKey, bool)>,
    /// W3C trace context, empty when there is none.
    pub traceparent: String,
    /// W3C trace state.
    pub tracestate: String,
}

/// What a proxy reads from a [`v1::ScoreResponse`].
#[derive(Clone, Debug, PartialEq)]
#[expect(
    clippy::large_enum_variant,
    reason = "most answers are the large one, and a box would cost an allocation for each"
)]
pub enum Answer {
    /// Where to send the request.
    Chosen(Chosen),
    /// The request waits at the replica, and the final answer follows.
    Queued(Queued),
    /// The replica cannot choose.
    Refused {
        /// Why, for metrics and logs.
        reason: v1::rejected::Reason,
        /// When the client should come back; known for the reasons of the queue.
        retry_after: Option<Duration>,
    },
}

/// A choice, and what explains it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chosen {
    /// Placements to try, best first, the first one booked. Not empty.
    pub ranked: SmallVec<[Candidate; MAX_RANKED]>,
    /// How long the request waited at replicas before it was bound.
    pub waited: Duration,
    /// How long it is expected to wait at the first endpoint before its prompt is computed.
    pub expected_wait: Option<Duration>,
    /// What wasted work was weighed with.
    pub gamma: Option<f32>,
    /// The endpoint that came closest to being chosen instead.
    pub runner_up: Option<EndpointId>,
    /// Who says that the first endpoint has the tokens cached.
    pub source: Option<CacheSource>,
    /// The prompt's length in the tokens in which the cached ones are counted, if the replica knows
    /// it better.
    pub prompt_tokens: Option<u32>,
}

/// One placement of a [`Chosen`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The endpoints that are to serve the request.
    pub placement: Placement<EndpointId>,
    /// Prompt tokens expected to be cached where the prompt is computed.
    pub cached_tokens: u32,
    /// Time to the first token expected there.
    pub expected_ttft: Option<Duration>,
}

/// A place in a replica's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queued {
    /// Until the request is expected to be bound.
    pub expected: Option<Duration>,
    /// The final answer comes within this time.
    pub limit: Duration,
    /// Requests that wait before it.
    pub position: u32,
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
            waited_ms,
            may_wait,
            non_streaming,
            recomputes_prompt,
            accepts_pairs,
            only_cached,
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
            exact_tokens: false,
            blocks: blocks.into(),
            block_bytes,
            session,
            priority,
            tenant,
            non_streaming,
            recomputes_prompt,
            only_cached,
            split: accepts_pairs,
            exclude: exclude.into_iter().map(EndpointId).collect(),
        };
        let model = (!model.is_empty()).then_some(model);
        let response = response.map(|key| (ResponseKey(key), response_only));
        let waited = millis(waited_ms);
        Ok(Self {
            id,
            proxy,
            pool,
            model,
            query,
            deadline_ms,
            waited,
            may_wait,
            lookup,
            response,
            traceparent,
            tracestate,
        })
    }
}

// === Answer ===

impl TryFrom<v1::ScoreResponse> for Answer {
    type Error = Invalid;

    fn try_from(wire: v1::ScoreResponse) -> Result<Self, Invalid> {
        Ok(match super::required(wire.answer, "answer")? {
            WireAnswer::Selected(chosen) => Self::Chosen(chosen.try_into()?),
            WireAnswer::Queued(queued) => Self::Queued(queued.into()),
            WireAnswer::Rejected(refused) => {
                let v1::Rejected {
                    reason: _,
                    retry_after_ms,
                } = refused;
                let retry_after = (retry_after_ms > 0).then(|| millis(retry_after_ms));
                Self::Refused {
                    reason: refused.reason(),
                    retry_after,
                }
            }
        })
    }
}

// === Chosen ===

impl TryFrom<v1::Selected> for Chosen {
    type Error = Invalid;

    /// What only explains the choice is dropped where it cannot be read: it must not cost the
    /// choice.
    fn try_from(wire: v1::Selected) -> Result<Self, Invalid> {
        let source = wire.source();
        let v1::Selected {
            ranked,
            waited_ms,
            expected_wait_ms,
            gamma,
            runner_up,
            source: _,
            prompt_tokens,
        } = wire;
        if ranked.is_empty() {
            return Err(Invalid::new(
                "chosen.ranked",
                "is empty; a choice names at least one endpoint",
            ));
        }
        Ok(Self {
            ranked: ranked.into_iter().map(Candidate::from).collect(),
            waited: millis(waited_ms),
            expected_wait: expected_wait_ms.map(millis),
            gamma: gamma.filter(|gamma| gamma.is_finite()),
            runner_up: runner_up.map(EndpointId),
            source: source.into(),
            prompt_tokens: (prompt_tokens > 0).then_some(prompt_tokens),
        })
    }
}

impl From<v1::Candidate> for Candidate {
    fn from(wire: v1::Candidate) -> Self {
        let v1::Candidate {
            endpoint,
            prefill,
            cached_tokens,
            expected_ttft_ms,
        } = wire;
        let decode = EndpointId(endpoint);
        let placement = match prefill.map(EndpointId) {
            // An endpoint that computes the prompt for itself serves the whole request.
            Some(prefill) if prefill != decode => Placement::Pair { prefill, decode },
            Some(_) | None => Placement::One(decode),
        };
        Self {
            placement,
            cached_tokens,
            expected_ttft: expected_ttft_ms.map(millis),
        }
    }
}

impl From<Option<CacheSource>> for v1::CacheSource {
    fn from(source: Option<CacheSource>) -> Self {
        match source {
            None => Self::None,
            Some(CacheSource::Learned) => Self::Learned,
            Some(CacheSource::KvManager) => Self::KvManager,
            Some(CacheSource::KvEvents) => Self::KvEvents,
        }
    }
}

impl From<v1::CacheSource> for Option<CacheSource> {
    fn from(wire: v1::CacheSource) -> Self {
        match wire {
            v1::CacheSource::None => None,
            v1::CacheSource::Learned => Some(CacheSource::Learned),
            v1::CacheSource::KvManager => Some(CacheSource::KvManager),
            v1::CacheSource::KvEvents => Some(CacheSource::KvEvents),
        }
    }
}

// === Queued ===

impl From<v1::Queued> for Queued {
    fn from(wire: v1::Queued) -> Self {
        let v1::Queued {
            expected_ms,
            limit_ms,
            position,
        } = wire;
        Self {
            expected: expected_ms.map(millis),
            limit: millis(limit_ms),
            position,
        }
    }
}

fn millis(millis: u32) -> Duration {
    Duration::from_millis(u64::from(millis))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;
    use smallvec::smallvec;

    use super::*;

    fn response(answer: WireAnswer) -> v1::ScoreResponse {
        v1::ScoreResponse {
            id: 1,
            answer: Some(answer),
        }
    }

    #[test]
    fn a_choice_of_an_older_replica_explains_nothing() {
        let ranked = vec![v1::Candidate {
            endpoint: 7,
            cached_tokens: 5,
            ..Default::default()
        }];
        let wire = response(WireAnswer::Selected(v1::Selected {
            ranked,
            ..Default::default()
        }));
        let first = Candidate {
            placement: Placement::One(EndpointId(7)),
            cached_tokens: 5,
            expected_ttft: None,
        };
        let expected = Chosen {
            ranked: smallvec![first],
            ..Default::default()
        };
        assert_eq!(Answer::try_from(wire), Ok(Answer::Chosen(expected)));
    }

    #[test]
    fn a_candidate_with_a_prefill_endpoint_is_a_pair_unless_both_are_one() {
        let placement = |prefill| {
            let wire = v1::Candidate {
                endpoint: 7,
                prefill,
                ..Default::default()
            };
            Candidate::from(wire).placement
        };
        let (prefill, decode) = (EndpointId(3), EndpointId(7));
        assert_eq!(placement(Some(3)), Placement::Pair { prefill, decode });
        assert_eq!(placement(Some(7)), Placement::One(decode));
        assert_eq!(placement(None), Placement::One(decode));
    }

    #[test]
    fn an_explanation_that_cannot_be_read_does_not_cost_the_choice() {
        let ranked = vec![v1::Candidate::default()];
        let chosen = v1::Selected {
            ranked,
            gamma: Some(f32::NAN),
            source: 99,
            ..Default::default()
        };
        let Ok(Answer::Chosen(chosen)) = Answer::try_from(response(WireAnswer::Selected(chosen)))
        else {
            panic!("the choice is good");
        };
        assert_eq!((chosen.gamma, chosen.source), (None, None));
    }

    #[test]
    fn a_rejection_carries_retry_after_when_it_is_known() {
        let refused = |retry_after_ms| v1::Rejected {
            reason: v1::rejected::Reason::QueueFull.into(),
            retry_after_ms,
        };
        let read =
            |refused| Answer::try_from(response(WireAnswer::Rejected(refused))).expect("valid");
        let reason = v1::rejected::Reason::QueueFull;
        assert_eq!(
            read(refused(0)),
            Answer::Refused {
                reason,
                retry_after: None
            }
        );
        assert_eq!(
            read(refused(1_500)),
            Answer::Refused {
                reason,
                retry_after: Some(millis(1_500))
            }
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_name_what_is_wrong(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Ok(wire) = v1::ScoreResponse::decode(&bytes[..]) {
                let _ = Answer::try_from(wire);
            }
        }
    }
}
