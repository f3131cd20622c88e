//! What a pool uses besides the snapshot: its KV manager, its KV event streams and its tokenizer.
//!
//! Each follows its own part of the configuration. A part that does not change keeps its
//! connections and its state.

use std::{collections::HashMap, fmt::Display, sync::Arc};

use super::scheduler::SchedulerSettings;
use crate::{
    cache_sources::{
        kv_events::{KvEvents, KvEventsMetrics, KvEventsSettings, Publisher},
        kv_manager::{KvManager, KvManagerMetrics, KvManagerSettings},
        tokenizer::{PoolTokenizer, TokenizerMetrics, TokenizerSettings},
    },
    config::PoolConfig,
    engines::{ProbeResult, Scraped},
};

/// What one pool uses. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct PoolResources {
    /// What its scheduler is configured with.
    pub(crate) scheduler: SchedulerSettings,
    /// The external index that is asked for cache hits.
    pub(crate) kv_manager: Option<Arc<KvManager>>,
    /// The index that the engines' KV events are applied to.
    pub(crate) kv_events: Option<Arc<KvEvents>>,
    /// Computes the token ids that both need.
    pub(crate) tokenizer: Option<Arc<PoolTokenizer>>,
}

/// The resources of every configured pool.
#[derive(Debug)]
pub(crate) struct PoolResourceRegistry {
    kv_manager_metrics: KvManagerMetrics,
    kv_events_metrics: KvEventsMetrics,
    tokenizer_metrics: TokenizerMetrics,
    pools: HashMap<Arc<str>, ConfiguredPool>,
}

/// A pool's resources and the configuration that they were made from.
#[derive(Debug, Default)]
struct ConfiguredPool {
    kv_manager: Configured<KvManagerSettings, KvManager>,
    kv_events: Configured<KvEventsSettings, KvEvents>,
    tokenizer: Configured<TokenizerSettings, PoolTokenizer>,
    scheduler: SchedulerSettings,
}

/// One resource, and the configuration that it was made from.
#[derive(Debug)]
struct Configured<C, R> {
    config: Option<C>,
    resource: Option<Arc<R>>,
}

// === PoolResourceRegistry ===

impl PoolResourceRegistry {
    /// No pools yet.
    #[must_use]
    pub(crate) fn new(
        kv_manager_metrics: KvManagerMetrics,
        kv_events_metrics: KvEventsMetrics,
        tokenizer_metrics: TokenizerMetrics,
    ) -> Self {
        Self {
            kv_manager_metrics,
            kv_events_metrics,
            tokenizer_metrics,
            pools: HashMap::new(),
        }
    }

    /// Makes the resources those that `pools` configure.
    pub(crate) fn configure<'a>(&mut self, pools: impl Iterator<Item = &'a PoolConfig>) {
        let mut before = std::mem::take(&mut self.pools);
        for config in pools {
            let old = before.remove(&config.name).unwrap_or_default();
            let pool = self.reconcile(config, old);
            self.pools.insert(Arc::clone(&config.name), pool);
        }
    }

    /// Follows the KV events of exactly these endpoints, by pool.
    pub(crate) fn follow<'a>(&self, pools: impl Iterator<Item = (&'a Arc<str>, Vec<Publisher>)>) {
        for (name, publishers) in pools {
            let pool = self.pools.get(name);
            if let Some(events) = pool.and_then(|pool| pool.kv_events.resource.as_ref()) {
                events.set(publishers);
            }
        }
    }

    /// Passes on what an endpoint's metrics say of its ranks.
    pub(crate) fn observe(&self, result: &ProbeResult) {
        let Ok(Scraped {
            schedulers: Some(ranks),
            ..
        }) = result.outcome
        else {
            return;
        };
        let pool = self.pools.get(&result.pool);
        if let Some(events) = pool.and_then(|pool| pool.kv_events.resource.as_ref()) {
            events.set_reported_ranks(result.endpoint, ranks);
        }
    }

    /// The resources of a pool; none when nothing is configured for it.
    pub(crate) fn of(&self, pool: &str) -> PoolResources {
        let Some(pool) = self.pools.get(pool) else {
            return PoolResources::default();
        };
        PoolResources {
            scheduler: pool.scheduler,
            kv_manager: pool.kv_manager.resource.clone(),
            kv_events: pool.kv_events.resource.clone(),
            tokenizer: pool.tokenizer.resource.clone(),
        }
    }

    fn reconcile(&self, config: &PoolConfig, old: ConfiguredPool) -> ConfiguredPool {
        let PoolConfig {
            name,
            lanes,
            collector,
            kv_manager,
            kv_events,
            tokenizer,
            ..
        } = config;
        let events = old.kv_events.reconcile(kv_events.as_ref(), |config| {
            let made = KvEvents::new(name, config.clone(), &self.kv_events_metrics);
            usable(made, name, "KV events are not followed")
        });
        ConfiguredPool {
            kv_manager: old.kv_manager.reconcile(kv_manager.as_ref(), |config| {
                let made = KvManager::new(config.clone(), self.kv_manager_metrics.clone());
                usable(made, name, "KV manager is not used")
            }),
            kv_events: events,
            tokenizer: old.tokenizer.reconcile(tokenizer.as_ref(), |config| {
                let made = PoolTokenizer::new(name, config.clone(), self.tokenizer_metrics.clone());
                usable(made, name, "prompts are not tokenized")
            }),
            scheduler: SchedulerSettings {
                stale_after: collector.stale_after,
                lanes: *lanes,
                kv_event_ranks: kv_events.as_ref().and_then(|events| events.ranks),
            },
        }
    }
}

// === Configured ===

impl<C: Clone + PartialEq, R> Configured<C, R> {
    /// Keeps the resource while its configuration is the same, and makes another one otherwise.
    fn reconcile(self, config: Option<&C>, make: impl FnOnce(&C) -> Option<R>) -> Self {
        if self.config.as_ref() == config {
            return self;
        }
        Self {
            config: config.cloned(),
            resource: config.and_then(make).map(Arc::new),
        }
    }
}

impl<C, R> Default for Configured<C, R> {
    fn default() -> Self {
        Self {
            config: None,
            resource: None,
        }
    }
}

/// The resource, unless it could not be made: the pool then works without it.
fn usable<R, E: Display>(made: Result<R, E>, pool: &str, consequence: &str) -> Option<R> {
    made.inspect_err(|error| tracing::warn!(pool, %error, "{consequence}"))
        .ok()
}
