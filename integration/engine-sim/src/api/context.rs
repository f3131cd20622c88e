//! What answering a request needs of the engine.

use std::sync::Arc;

use super::prompt::Prompt;
use super::reply::ApiError;
use crate::clock::since_epoch;
use crate::config::EngineConfig;
use crate::engine_ranks::EngineRanks;
use crate::faults::Faults;
use crate::journal::Journal;
use crate::kv_events::EventPorts;
use crate::model::chain::Chain;
use crate::pair::PairEngine;

/// Everything that answering a request needs.
#[derive(Debug)]
pub(crate) struct EngineContext {
    pub(crate) config: Arc<EngineConfig>,
    pub(crate) ranks: EngineRanks,
    pub(crate) faults: Arc<Faults>,
    pub(crate) journal: Arc<Journal>,
    /// Where KV events are published, if they are.
    pub(crate) events: Option<EventPorts>,
    /// Its part in pairs, if it has one.
    pub(crate) pair: Option<Arc<PairEngine>>,
    /// Its version, as vLLM's system fingerprint.
    pub(crate) fingerprint: Arc<str>,
    /// Seconds since the Unix epoch at which this incarnation started.
    pub(crate) started: f64,
    base: Arc<str>,
    adapters: Vec<Arc<str>>,
}

impl EngineContext {
    pub(crate) fn new(
        config: Arc<EngineConfig>,
        ranks: EngineRanks,
        faults: Arc<Faults>,
        journal: Arc<Journal>,
        events: Option<EventPorts>,
        pair: Option<Arc<PairEngine>>,
    ) -> Self {
        let base = Arc::from(config.model.as_str());
        let adapters = config
            .loras
            .iter()
            .map(|name| Arc::from(name.as_str()))
            .collect();
        let started = since_epoch().as_secs_f64();
        let fingerprint = format!("vllm-{}-5133a7ed", config.version).into();
        Self {
            config,
            ranks,
            faults,
            journal,
            events,
            pair,
            fingerprint,
            started,
            base,
            adapters,
        }
    }

    /// Ends what waits for the engine, and frees what it keeps.
    pub(crate) fn close(&self) {
        self.ranks.close();
        if let Some(pair) = &self.pair {
            pair.close();
        }
    }

    /// How many leading tokens of this prompt are in the cache of any rank now. Changes nothing.
    pub(crate) fn held_prefix_tokens(&self, model: &str, prompt: Prompt<'_>) -> usize {
        let Some(tokens) = prompt.tokens() else {
            return 0;
        };
        let chain = Chain::new(model, None, self.config.block_size, &tokens);
        let blocks = self
            .ranks
            .read(|scheduler| scheduler.cache().prefix_len(chain.hashes()));
        blocks.into_iter().max().unwrap_or(0) * self.config.block_size
    }

    /// The model of this name, and whether it is an adapter; the base model when no name is given.
    pub(crate) fn model(&self, name: Option<&str>) -> Result<(Arc<str>, bool), ApiError> {
        let Some(name) = name.filter(|name| **name != *self.base) else {
            return Ok((Arc::clone(&self.base), false));
        };
        if let Some(adapter) = self.adapters.iter().find(|adapter| ***adapter == *name) {
            return Ok((Arc::clone(adapter), true));
        }
        let mut aliases = self.config.model.clone();
        for adapter in &self.adapters {
            aliases = aliases + ", " + adapter;
        }
        Err(ApiError::unknown_model(name, &aliases))
    }
}
