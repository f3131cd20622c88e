//! What brains need to know of the configuration that proxies do not: how old figures may be, and whom to ask about
//! caches.

use std::{collections::HashMap, sync::Arc};

use crate::{
    brain::Guide,
    config::{KvManagerConfig, PoolConfig},
    kvmanager::{KvManager, KvManagerSettings, KvMetrics},
};

/// One guide per configured pool.
#[derive(Debug)]
pub struct Guides {
    metrics: KvMetrics,
    pools: HashMap<Arc<str>, (Option<KvManagerConfig>, Guide)>,
}

// === Guides ===

impl Guides {
    /// No pools yet.
    #[must_use]
    pub fn new(metrics: KvMetrics) -> Self {
        Self { metrics, pools: HashMap::new() }
    }

    /// Follows the configuration. A KV manager whose settings stay keeps its connections and its breaker.
    pub(super) fn set<'a>(&mut self, pools: impl Iterator<Item = &'a PoolConfig>) {
        let mut before = std::mem::take(&mut self.pools);
        for PoolConfig { name, collector, kv_manager: config, .. } in pools {
            let kept = before.remove(name).filter(|(known, _)| known == config);
            let kv_manager = match kept {
                Some((_, guide)) => guide.kv_manager,
                None => config.as_ref().and_then(|config| self.connect(name, config)),
            };
            let guide = Guide { stale_after: collector.stale_after, kv_manager };
            self.pools.insert(Arc::clone(name), (config.clone(), guide));
        }
    }

    /// The guide of a pool; one that nothing was configured for is guided by nothing.
    pub(super) fn of(&self, pool: &str) -> Guide {
        self.pools.get(pool).map(|(_, guide)| guide.clone()).unwrap_or_default()
    }

    fn connect(&self, pool: &str, config: &KvManagerConfig) -> Option<Arc<KvManager>> {
        let KvManagerConfig { protocol: _, url, timeout, budget, id_keys, score_keys } = config;
        let settings = KvManagerSettings {
            url: Arc::clone(url),
            path: "".into(),
            budget: *budget,
            connect_timeout: (*timeout).min(*budget),
            id_keys: id_keys.to_vec(),
            score_keys: score_keys.to_vec(),
        };
        match KvManager::new(settings, self.metrics.clone()) {
            Ok(manager) => Some(Arc::new(manager)),
            Err(error) => {
                tracing::warn!(pool, %error, "KV manager is not asked");
                None
            }
        }
    }
}
