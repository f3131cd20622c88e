//! Why a request is split, or is not.

use crate::{
    explanation::{CandidateCosts, SplitExplanation},
    scheduler::fleet::Fleet,
};

/// What is known of one request's split before endpoints are compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct SplitFigures {
    /// The request and its door accept pairs.
    pub(super) is_accepted: bool,
    /// It has enough uncached tokens, and some pair is up.
    pub(super) may_be_split: bool,
    min_uncached_tokens: u32,
    are_transfers_known: bool,
}

impl SplitFigures {
    /// `None` in a pool without pairs.
    pub(super) fn of(fleet: &Fleet, is_accepted: bool, may_be_split: bool) -> Option<Self> {
        let policy = &fleet.pool().spec.policy;
        let rules = policy.disaggregation.as_ref()?;
        Some(Self {
            is_accepted,
            may_be_split,
            min_uncached_tokens: rules.min_uncached_tokens,
            are_transfers_known: fleet.are_transfers_known(),
        })
    }

    /// With the candidates that were compared, the one with the least cost first; none under other
    /// strategies than `kv-aware`.
    pub(super) fn explain(self, candidates: &[CandidateCosts]) -> SplitExplanation {
        let Self {
            is_accepted,
            may_be_split,
            min_uncached_tokens: least,
            are_transfers_known,
        } = self;
        let best = |is_pair: bool| {
            let mut of_kind = candidates
                .iter()
                .filter(|one| one.decode.is_some() == is_pair);
            of_kind.find(|one| one.cost_s.is_finite())
        };
        let (pair, alone) = (best(true), best(false));
        let first = candidates.first();
        let is_split = first.map_or(may_be_split, |first| first.decode.is_some());
        let reason = match (pair, alone) {
            _ if !is_accepted => "requests like this one are never split".to_owned(),
            _ if !may_be_split => format!(
                "fewer than {least} tokens are uncached at an endpoint that serves it alone, or no pair is up"
            ),
            (Some(pair), Some(alone)) => format!(
                "a pair costs {:.3} s, of which {:.3} s are the transfer and {:.3} s the answers; {} alone costs {:.3} s",
                pair.cost_s, pair.transfer_s, pair.answers_s, alone.name, alone.cost_s
            ),
            _ if !are_transfers_known => format!(
                "{least} tokens or more are uncached, and how long transfers take is not known yet"
            ),
            _ => "only one of both ways is there".to_owned(),
        };
        SplitExplanation {
            is_split,
            decode: pair
                .and_then(|pair| pair.decode.clone())
                .filter(|_| is_split),
            pair_s: pair.map(|pair| pair.cost_s),
            alone_s: alone.map(|alone| alone.cost_s),
            are_transfers_known,
            reason,
        }
    }
}
