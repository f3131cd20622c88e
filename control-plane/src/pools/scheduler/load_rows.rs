//! The loads of a pool as one subscriber sees them, and as people do.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use hermes_core::{
    address::ServerAddress,
    ledger::{InFlightTotals, ProxyId},
    load::Load,
    refusals::AnswerCounts,
    snapshot::{EndpointId, Pool},
};
use hermes_proto::{Message, v1};
use serde::Serialize;

use super::{PoolScheduler, shared_load_rows::LoadTick};

/// One endpoint's load, for one proxy.
#[derive(Clone, Copy, Debug, PartialEq)]
struct LoadRow {
    /// Of the whole fleet.
    load: Load,
    /// The proxy's own part of it.
    own: InFlightTotals,
}

/// What one subscriber was sent of the loads of one pool.
#[derive(Debug, Default)]
pub(crate) struct PoolLoadCursor {
    /// The tick of the rows that are the same for all.
    tick: LoadTick,
    /// The last rows of the endpoints where the proxy has something open. They were sent after
    /// those that are the same for all, and count instead.
    own: HashMap<EndpointId, LoadRow>,
}

/// One endpoint, for people.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct EndpointLoadView {
    id: String,
    #[serde(flatten)]
    address: ServerAddress,
    name: Arc<str>,
    load: Load,
    /// Milliseconds since the engine's figures came; absent when they never did.
    sample_age_ms: Option<u64>,
    /// What it served and refused in the last minute.
    answers: AnswerCounts,
    /// Its health page says that it serves nothing yet.
    loading: bool,
}

// === PoolScheduler ===

impl PoolScheduler {
    /// What `proxy` lacks of the loads of its pool `known`, as pieces of a `v1.LoadUpdate` that are
    /// appended to `pieces`. Nothing while this scheduler has another pool: the proxy is sent that
    /// one first.
    pub(crate) fn next_loads(
        &self,
        proxy: ProxyId,
        known: &Arc<Pool>,
        cursor: &mut PoolLoadCursor,
        now: Duration,
        pieces: &mut Vec<Bytes>,
    ) {
        let mut shared = self.shared_rows.lock();
        shared.refresh(known, now, |loads| {
            let state = self.state.lock();
            loads.extend_from_slice(state.scheduler.loads());
            Arc::clone(state.scheduler.pool())
        });
        if !shared.is_of(known) || cursor.tick == shared.tick() {
            return;
        }
        let changed = shared.since(cursor.tick);
        let fresh = self.own_rows(proxy);
        let ended = cursor
            .own
            .keys()
            .filter(|endpoint| !fresh.contains_key(endpoint));
        // Of what ended the row that is the same for all counts again.
        let ended = ended.filter_map(|&endpoint| {
            let load = shared.load(known.position(endpoint)?);
            let own = InFlightTotals::default();
            Some((endpoint, LoadRow { load, own }))
        });
        let is_news = |(endpoint, row): &(EndpointId, LoadRow)| {
            !changed.is_empty() || cursor.own.get(endpoint) != Some(row)
        };
        let own = fresh.iter().map(|(endpoint, row)| (*endpoint, *row));
        let own: Vec<v1::EndpointLoad> = own
            .chain(ended)
            .filter(is_news)
            .map(|(endpoint, LoadRow { load, own })| {
                v1::EndpointLoad::row(endpoint, &load, own.requests, own.tokens)
            })
            .collect();
        cursor.tick = shared.tick();
        drop(shared);
        cursor.own = fresh;
        pieces.push(changed);
        pieces.push(v1::LoadUpdate { loads: own }.encode_to_vec().into());
        pieces.retain(|piece| !piece.is_empty());
    }

    /// The rows of the endpoints where a proxy has something open: both figures are of one moment.
    fn own_rows(&self, proxy: ProxyId) -> HashMap<EndpointId, LoadRow> {
        let state = self.state.lock();
        let (pool, loads) = (state.scheduler.pool(), state.scheduler.loads());
        let own = state.scheduler.open_by_endpoint(proxy).into_iter();
        let rows = own.filter_map(|(endpoint, own)| {
            let load = loads[pool.position(endpoint)?];
            Some((endpoint, LoadRow { load, own }))
        });
        rows.collect()
    }

    /// All endpoints, for people.
    pub(crate) fn view(&self, now: Duration) -> Vec<EndpointLoadView> {
        let state = self.state.lock();
        let loads = state
            .scheduler
            .pool()
            .endpoints
            .iter()
            .zip(state.scheduler.loads());
        let endpoints = loads.zip(&state.endpoints);
        let view = endpoints.map(|((endpoint, load), slot)| EndpointLoadView {
            id: endpoint.id.to_string(),
            address: endpoint.address.clone(),
            name: Arc::clone(&endpoint.name),
            load: *load,
            sample_age_ms: slot
                .sample_age(now)
                .and_then(|age| age.as_millis().try_into().ok()),
            answers: slot.breaker.answers(now),
            loading: slot.is_loading,
        });
        view.collect()
    }
}
