//! The loads of a pool as one subscriber sees them, and as people do.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use hermes_core::{
    address::ServerAddress,
    ledger::{InFlightTotals, ProxyId},
    load::Load,
    refusals::AnswerCounts,
    snapshot::{EndpointId, Pool},
};
use serde::Serialize;

use super::PoolScheduler;

/// One endpoint's load, for one proxy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LoadRow {
    /// Which endpoint.
    pub(crate) endpoint: EndpointId,
    /// Of the whole fleet.
    pub(crate) load: Load,
    /// The proxy's own part of it.
    pub(crate) own: InFlightTotals,
}

/// The rows that one proxy was sent last, to send only those that differ.
#[derive(Debug, Default)]
pub(crate) struct SentLoadRows(HashMap<EndpointId, LoadRow>);

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
    /// Appends the rows of the endpoints that are in `known` too, as `proxy` is to see them.
    pub(crate) fn rows(&self, proxy: ProxyId, known: &Pool, rows: &mut Vec<LoadRow>) {
        let state = self.state.lock();
        let own = state.dispatcher.open_by_endpoint(proxy);
        let loads = state
            .dispatcher
            .pool()
            .endpoints
            .iter()
            .zip(state.dispatcher.loads());
        let loads = loads.filter(|(endpoint, _)| known.position(endpoint.id).is_some());
        rows.extend(loads.map(|(endpoint, load)| {
            let own = own.get(&endpoint.id).copied().unwrap_or_default();
            LoadRow {
                endpoint: endpoint.id,
                load: *load,
                own,
            }
        }));
    }

    /// All endpoints, for people.
    pub(crate) fn view(&self, now: Duration) -> Vec<EndpointLoadView> {
        let state = self.state.lock();
        let loads = state
            .dispatcher
            .pool()
            .endpoints
            .iter()
            .zip(state.dispatcher.loads());
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

// === SentLoadRows ===

impl SentLoadRows {
    /// Takes in the newest rows, all of them, and answers those that the proxy does not know yet.
    pub(crate) fn news(&mut self, newest: &[LoadRow]) -> Vec<LoadRow> {
        let mut news = Vec::new();
        for row in newest {
            if self.0.insert(row.endpoint, *row) != Some(*row) {
                news.push(*row);
            }
        }
        // Endpoints that are gone must not stay here for ever.
        if self.0.len() > newest.len() {
            let known: HashSet<EndpointId> = newest.iter().map(|row| row.endpoint).collect();
            self.0.retain(|endpoint, _| known.contains(endpoint));
        }
        news
    }

    /// Forgets all rows: the proxy restarted its stream.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}
