//! A choice, as it is sent.

use hermes_core::{
    pick::Nobody,
    query::{Choice, Ranked},
};
use hermes_proto::v1::{Candidate, Chosen, Refused, ScoreResponse, refused::Reason, score_response::Answer};

/// The answer to request `id`.
pub(super) fn answer(id: u64, result: Result<Choice, Nobody>) -> ScoreResponse {
    match result {
        Ok(choice) => {
            let ranked = choice.ranked.iter().map(candidate).collect();
            ScoreResponse { id, answer: Some(Answer::Chosen(Chosen { ranked, ..Default::default() })) }
        }
        Err(nobody) => refused(id, reason(nobody)),
    }
}

/// A refusal of request `id`.
pub(super) fn refused(id: u64, reason: Reason) -> ScoreResponse {
    ScoreResponse { id, answer: Some(Answer::Refused(Refused { reason: reason.into(), retry_after_ms: 0 })) }
}

fn candidate(ranked: &Ranked) -> Candidate {
    let Ranked { position: _, endpoint, cached_tokens } = *ranked;
    Candidate { endpoint: endpoint.0, prefill: None, cached_tokens, expected_ttft_ms: None }
}

fn reason(nobody: Nobody) -> Reason {
    match nobody {
        Nobody::Empty | Nobody::OnlyDisaggregated => Reason::Empty,
        Nobody::AllTried => Reason::AllTried,
        Nobody::ModelNotLoaded => Reason::ModelNotLoaded,
    }
}
