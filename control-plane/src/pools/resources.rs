//! What brains need to know of the configuration that proxies do not: how old figures may be, whom to ask about caches,
//! and whose KV events to follow.

use std::{collections::HashMap, sync::Arc};

use crate::{
    cache_sources::{
        kv_events::{KvEvents, KvEventsMetrics, Publisher},
        kv_manager::{KvManager, KvManagerSettings, KvMetrics},
        tokenizer::{TokenMetrics, TokenizerSettings, Tokens},
    },
    config::{KvEventsConfig, KvManagerConfig, PoolConfig},
    pools::Guide,
};

/// One guide per configured pool.
#[derive(Debug)]
pub(crate) struct Guides {
    managers: KvMetrics,
    events: KvEventsMetrics,
    tokenizers: TokenMetrics,
    pools: HashMap<Arc<str>, (Wanted, Guide)>,
}

/// What was configured.
#[derive(Clone, Debug, PartialEq)]
struct Wanted {
    kv_manager: Option<KvManagerConfig>,
    kv_events: Option<KvEventsConfig>,
    tokenizer: Option<TokenizerSettings>,
}

// === Guides ===

impl Guides {
    /// No pools yet.
    #[must_use]
    pub(crate) fn new(
        managers: KvMetrics,
        events: KvEventsMetrics,
        tokenizers: TokenMetrics,
    ) -> Self {
        Self {
            managers,
            events,
            tokenizers,
            pools: HashMap::new(),
        }
    }

    /// Follows the configuration. What stays as it is configured keeps its connections and what it knows.
    pub(crate) fn set<'a>(&mut self, pools: impl Iterator<Item = &'a PoolConfig>) {
        let mut before = std::mem::take(&mut self.pools);
        for PoolConfig {
            name,
            collector,
            kv_manager,
            kv_events,
            tokenizer,
            ..
        } in pools
        {
            let wanted = Wanted {
                kv_manager: kv_manager.clone(),
                kv_events: kv_events.clone(),
                tokenizer: tokenizer.clone(),
            };
            let (known, guide) = before.remove(name).unzip();
            let guide = self.guide(name, &wanted, known.as_ref(), guide.unwrap_or_default());
            self.pools.insert(
                Arc::clone(name),
                (
                    wanted,
                    Guide {
                        stale_after: collector.stale_after,
                        ..guide
                    },
                ),
            );
        }
        before
            .into_iter()
            .filter(|(_, (_, guide))| guide.kv_events.is_some())
            .for_each(|(pool, _)| self.events.forget(&pool));
    }

    /// Follows the KV events of exactly these endpoints, by pool.
    pub(crate) fn follow<'a>(&self, pools: impl Iterator<Item = (&'a Arc<str>, Vec<Publisher>)>) {
        for (pool, publishers) in pools {
            if let Some((
                _,
                Guide {
                    kv_events: Some(events),
                    ..
                },
            )) = self.pools.get(pool)
            {
                events.set(publishers);
            }
        }
    }

    /// The guide of a pool; one that nothing was configured for is guided by nothing.
    pub(crate) fn of(&self, pool: &str) -> Guide {
        self.pools
            .get(pool)
            .map(|(_, guide)| guide.clone())
            .unwrap_or_default()
    }

    /// What `wanted` asks for, and of `guide` what was wanted before already.
    fn guide(
        &self,
        pool: &Arc<str>,
        wanted: &Wanted,
        known: Option<&Wanted>,
        guide: Guide,
    ) -> Guide {
        let Wanted {
            kv_manager,
            kv_events,
            tokenizer,
        } = wanted;
        let kept = known.is_some_and(|known| known.kv_manager == *kv_manager);
        let manager = if kept {
            guide.kv_manager
        } else {
            kv_manager.as_ref().and_then(|it| self.connect(pool, it))
        };
        let kept = known.is_some_and(|known| known.kv_events == *kv_events);
        let events = if kept {
            guide.kv_events
        } else {
            kv_events.as_ref().and_then(|it| self.listen(pool, it))
        };
        let kept = known.is_some_and(|known| known.tokenizer == *tokenizer);
        let tokens = if kept {
            guide.tokens
        } else {
            tokenizer.as_ref().and_then(|it| self.tokens(pool, it))
        };
        if known.is_some_and(|known| known.kv_events.is_some()) && events.is_none() {
            self.events.forget(pool);
        }
        Guide {
            stale_after: guide.stale_after,
            kv_manager: manager,
            kv_events: events,
            tokens,
        }
    }

    fn connect(&self, pool: &str, config: &KvManagerConfig) -> Option<Arc<KvManager>> {
        let KvManagerConfig {
            dialect,
            url,
            timeout,
            budget,
            cache,
        } = config;
        let settings = KvManagerSettings {
            url: Arc::clone(url),
            path: "".into(),
            budget: *budget,
            connect_timeout: (*timeout).min(*budget),
            cache: *cache,
            dialect: dialect.clone(),
        };
        match KvManager::new(settings, self.managers.clone()) {
            Ok(manager) => Some(Arc::new(manager)),
            Err(error) => {
                tracing::warn!(pool, %error, "KV manager is not asked");
                None
            }
        }
    }

    fn tokens(&self, pool: &str, settings: &TokenizerSettings) -> Option<Arc<Tokens>> {
        match Tokens::new(pool, settings.clone(), self.tokenizers.clone()) {
            Ok(tokens) => Some(Arc::new(tokens)),
            Err(error) => {
                tracing::warn!(pool, %error, "engines are not asked for token ids");
                None
            }
        }
    }

    fn listen(&self, pool: &Arc<str>, config: &KvEventsConfig) -> Option<Arc<KvEvents>> {
        match KvEvents::new(pool, config.clone(), &self.events) {
            Ok(events) => Some(Arc::new(events)),
            Err(error) => {
                tracing::warn!(pool = &**pool, %error, "KV events are not followed");
                None
            }
        }
    }
}
