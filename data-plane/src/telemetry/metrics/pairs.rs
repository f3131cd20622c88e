//! Prefill/decode pairs that requests were sent to.

use std::sync::Arc;

use hermes_runtime::{
    label_set,
    metrics::{Bounds, HistogramFamily, PerValue, PoolLabels, SeriesScope, family},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

/// Time that a prompt takes, in seconds: up to two minutes.
const PREFILL: Bounds = Bounds(&[
    0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0,
]);

/// Time between two legs in the proxy, in seconds: from twenty microseconds to a busy machine.
const HANDOVER: Bounds = Bounds(&[
    0.000_02, 0.000_05, 0.0001, 0.0002, 0.0003, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1,
]);

/// Time of a transfer and one decode step, in seconds; a decode endpoint may queue the leg as well.
const DECODE: Bounds = Bounds(&[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
]);

label_set! {
    /// How an attempt at a pair ended.
    pub(crate) enum PairEnd {
        /// With tokens of the decode endpoint.
        Answered = "answered",
        /// The prefill leg failed, or was refused.
        PrefillFailed = "prefill_failed",
        /// The decode leg failed, or was refused.
        DecodeFailed = "decode_failed",
    }
}

/// The families of pairs.
pub(super) struct PairFamilies {
    ends: Family<PairEndLabels, Counter>,
    prefill: HistogramFamily<PoolLabels>,
    handover: HistogramFamily<PoolLabels>,
    decode: HistogramFamily<PoolLabels>,
}

/// One pool's handles.
pub(crate) struct PairMetrics {
    pub(crate) ends: PerValue<PairEnd, Counter>,
    /// From sending the prefill leg to its answer.
    pub(crate) prefill: Histogram,
    /// From that answer to the sending of the decode leg, where it is sent afterwards.
    pub(crate) handover: Histogram,
    /// From both to the first token of a stream.
    pub(crate) decode: Histogram,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PairEndLabels {
    pool: Arc<str>,
    outcome: PairEnd,
}

impl PairFamilies {
    pub(super) fn register(registry: &mut Registry) -> Self {
        Self {
            ends: family(
                registry,
                "hermes_pairs",
                "Attempts at prefill/decode pairs, by outcome",
            ),
            prefill: PREFILL.family(
                registry,
                "hermes_pair_prefill_duration_seconds",
                "Time from sending a prefill leg to its answer",
            ),
            handover: HANDOVER.family(
                registry,
                "hermes_pair_handover_duration_seconds",
                "Time in the proxy from the last byte of a prefill leg's answer until the decode leg is ready to be sent",
            ),
            decode: DECODE.family(
                registry,
                "hermes_pair_decode_first_token_duration_seconds",
                "Time from sending a decode leg, or from its prefill's answer if that comes later, to the first token of a streamed response: the transfer and the first step",
            ),
        }
    }

    pub(super) fn of_pool(&self, pool: &Arc<str>, series: &mut SeriesScope) -> PairMetrics {
        PairMetrics {
            ends: PerValue::new(|outcome| {
                let pool = Arc::clone(pool);
                series.handle(&self.ends, PairEndLabels { pool, outcome })
            }),
            prefill: series.handle(&self.prefill, PoolLabels::new(pool)),
            handover: series.handle(&self.handover, PoolLabels::new(pool)),
            decode: series.handle(&self.decode, PoolLabels::new(pool)),
        }
    }
}
