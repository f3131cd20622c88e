//! `llm-d-sidecar`: llm-d's routing sidecar at the decode endpoint's port, which sends the prefill
//! leg to the endpoint that a header names.

use super::{LegEdits, PairEndpoints};

const PREFILLER: &str = "x-prefiller-host-port";

pub(super) fn request(pair: PairEndpoints<'_>) -> LegEdits {
    LegEdits::header(PREFILLER, pair.prefill.address.authority())
}
