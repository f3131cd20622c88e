//! What brains need to know of the configuration that proxies do not: how old figures may be, and whom to ask about
//! caches.

use std::{collections::HashMap, sync::Arc};

use crate::{
    brain::Guide,
    config::{KvManagerConfig, PoolConfig},
    kvmanager::{KvManager, KvManagerSettings, KvMetrics},
    tokens::{TokenMetrics, TokenizerSettings, Tokens},
};

/// One guide per configured pool.
#[derive(Debug)]
pub struct Guides {
    kv_metrics: KvMetrics,
    token_metrics: TokenMetrics,
    pools: HashMap<Arc<str>, Guided>,
}

/// A guide, and what it was made from.
#[derive(Debug)]
struct Guided {
    manager: Option<KvManagerConfig>,
    tokenizer: Option<TokenizerSettings>,
    guide: Guide,
}

// === Guides ===

impl Guides {
    /// No pools yet.
    #[must_use]
    pub fn new(kv_metrics: KvMetrics, token_metrics: TokenMetrics) -> Self {
        Self { kv_metrics, token_metrics, pools: HashMap::new() }
    }

    /// Follows the configuration. A KV manager whose settings stay keeps its connections and its breaker, and a
    /// tokenizer what it has loaded and remembers.
    pub(super) fn set<'a>(&mut self, pools: impl Iterator<Item = &'a PoolConfig>) {
        let mut before = std::mem::take(&mut self.pools);
        for PoolConfig { name, collector, kv_manager, tokenizer, .. } in pools {
            let known = before.remove(name);
            let kept = known.as_ref().filter(|known| known.manager == *kv_manager);
            let manager = match kept {
                Some(known) => known.guide.kv_manager.clone(),
                None => kv_manager.as_ref().and_then(|config| self.connect(name, config)),
            };
            let kept = known.as_ref().filter(|known| known.tokenizer == *tokenizer);
            let tokens = match kept {
                Some(known) => known.guide.tokens.clone(),
                None => tokenizer.as_ref().and_then(|settings| self.tokens(name, settings)),
            };
            let guide = Guide { stale_after: collector.stale_after, kv_manager: manager, tokens };
            let guided = Guided { manager: kv_manager.clone(), tokenizer: tokenizer.clone(), guide };
            self.pools.insert(Arc::clone(name), guided);
        }
    }

    /// The guide of a pool; one that nothing was configured for is guided by nothing.
    pub(super) fn of(&self, pool: &str) -> Guide {
        self.pools.get(pool).map(|guided| guided.guide.clone()).unwrap_or_default()
    }

    fn connect(&self, pool: &str, config: &KvManagerConfig) -> Option<Arc<KvManager>> {
        let KvManagerConfig { dialect, url, timeout, budget, cache } = config;
        let settings = KvManagerSettings {
            url: Arc::clone(url),
            path: "".into(),
            budget: *budget,
            connect_timeout: (*timeout).min(*budget),
            cache: *cache,
            dialect: dialect.clone(),
        };
        match KvManager::new(settings, self.kv_metrics.clone()) {
            Ok(manager) => Some(Arc::new(manager)),
            Err(error) => {
                tracing::warn!(pool, %error, "KV manager is not asked");
                None
            }
        }
    }

    fn tokens(&self, pool: &str, settings: &TokenizerSettings) -> Option<Arc<Tokens>> {
        match Tokens::new(pool, settings.clone(), self.token_metrics.clone()) {
            Ok(tokens) => Some(Arc::new(tokens)),
            Err(error) => {
                tracing::warn!(pool, %error, "engines are not asked for token ids");
                None
            }
        }
    }
}
