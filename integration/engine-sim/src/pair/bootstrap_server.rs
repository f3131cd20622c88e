//! What a prefill engine of vLLM's `MooncakeConnector` answers at `GET /query`: its data-parallel
//! ranks, each with an id of its own and with where decode engines find it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::engine::PairEngine;

/// How a question begins.
pub(super) const QUERY: &[u8] = b"GET /query ";

/// Ranks by number.
pub(super) type RegisteredRanks = BTreeMap<u32, RegisteredRank>;

/// A rank, as it is listed.
#[derive(Deserialize, Serialize)]
pub(super) struct RegisteredRank {
    pub(super) engine_id: String,
    /// By tensor-parallel and then by pipeline-parallel rank.
    pub(super) worker_addr: BTreeMap<u32, BTreeMap<u32, String>>,
}

/// The ranks of an engine.
fn registered(engine: &PairEngine) -> RegisteredRanks {
    let PairEngine {
        host, port, ranks, ..
    } = engine;
    let worker = format!("tcp://{host}:{port}");
    let ranks = (0..*ranks).map(|rank| {
        let workers = BTreeMap::from([(0, worker.clone())]);
        let registered = RegisteredRank {
            engine_id: format!("{}_dp{rank}", engine.identity.engine_id),
            worker_addr: BTreeMap::from([(0, workers)]),
        };
        (rank, registered)
    });
    ranks.collect()
}

/// The whole response of HTTP to a question.
pub(super) fn answer(engine: &PairEngine) -> String {
    let page = serde_json::to_string(&registered(engine)).unwrap_or_default();
    let length = page.len();
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{page}"
    )
}
