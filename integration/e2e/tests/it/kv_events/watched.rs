//! One engine, and a follower of its KV events.

use std::sync::Arc;

use hermes_control_plane::{
    cache_sources::kv_events::{KvEvents, KvEventsMetrics, KvEventsSettings, Publisher},
    config::Config,
};
use hermes_core::{
    block_index::CacheIdentity, policy::EndpointTrust, query::CachedTokens, snapshot::EndpointId,
};
use hermes_engine_sim::{Engine, EngineConfig, EngineHandle, KvEventsConfig, Prompt};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};

use crate::client::{client, eventually, json_of, send};

/// Tokens of a block.
pub(super) const BLOCK: usize = 4;

pub(super) struct FollowedEngine {
    pub(super) engine: EngineHandle,
    pub(super) events: Arc<KvEvents>,
}

/// An engine with `blocks` blocks that answers at once and publishes KV events.
pub(super) fn publishing(blocks: usize) -> EngineConfig {
    EngineConfig {
        block_size: BLOCK,
        blocks,
        time_scale: 0.0,
        loras: vec!["adapter".to_owned()],
        kv_events: Some(KvEventsConfig::default()),
        ..EngineConfig::default()
    }
}

/// Prompts of 9 to 40 tokens. Below 100, every fourth has the same beginning; from there on each
/// has its own.
pub(super) fn prompt(number: u32) -> Vec<u32> {
    let length = 9 + number * 7 % 32;
    let beginning = if number < 100 {
        1_000 + number % 4
    } else {
        1_000 + number
    };
    (0..length)
        .map(|at| if at < 8 { beginning } else { number * 100 + at })
        .collect()
}

/// The KV-event settings of a pool, from their YAML mapping `{…}`.
pub(super) fn wanted(yaml: &str) -> KvEventsSettings {
    let config = Config::parse(&format!(
        "pools: [{{name: a, endpoints: ['http://h:1'], kvEvents: {yaml}}}]"
    ));
    config
        .expect("a good mapping")
        .pools
        .swap_remove(0)
        .kv_events
        .expect("switched on")
}

impl FollowedEngine {
    /// Starts an engine and a follower, and waits until the stream is synced.
    pub(super) async fn start(config: EngineConfig) -> Self {
        let watched = Self::start_unsynced(config, "{}").await;
        eventually("the stream is synced", || async {
            watched.standing() == "synced"
        })
        .await;
        watched
    }

    /// Starts an engine and a follower without waiting.
    pub(super) async fn start_unsynced(config: EngineConfig, yaml: &str) -> Self {
        let engine = Engine::start(config).await.expect("starts");
        let watched = Self {
            events: follower(yaml),
            engine,
        };
        watched.follow();
        watched
    }

    /// Gives the follower the engine's address.
    pub(super) fn follow(&self) {
        let publisher = Publisher {
            endpoint: EndpointId(1),
            name: "engine".into(),
            trust: EndpointTrust::System,
            address: self.engine.url().parse().expect("an address"),
            ports: None,
        };
        self.events.set([publisher]);
    }

    pub(super) fn standing(&self) -> &'static str {
        self.events
            .view()
            .streams
            .first()
            .map_or("unsynced", |stream| stream.standing)
    }

    /// The follower's estimate of the cached tokens of a prompt; `None` if the stream is unsynced.
    pub(super) fn estimated(
        &self,
        tokens: &[u32],
        identity: &CacheIdentity,
    ) -> Option<CachedTokens> {
        self.events
            .hits(tokens, identity)
            .first()
            .map(|hit| hit.cached)
    }

    /// The tokens that the engine has cached.
    pub(super) fn truth(&self, model: &str, tokens: &[u32]) -> CachedTokens {
        let held = self
            .engine
            .held_prefix_tokens(model, Prompt::Tokens(tokens));
        CachedTokens::on_gpu(held.min((tokens.len() - 1) / BLOCK * BLOCK) as u32)
    }

    /// Waits until the estimates of all these prompts equal the engine's cache.
    #[track_caller]
    pub(super) fn await_estimates(
        &self,
        prompts: impl Iterator<Item = u32> + Clone,
    ) -> impl Future<Output = ()> {
        eventually("the estimates equal the engine's cache", move || {
            let agrees = prompts.clone().all(|number| {
                let tokens = prompt(number);
                self.estimated(&tokens, &CacheIdentity::default())
                    == Some(self.truth("sim", &tokens))
            });
            std::future::ready(agrees)
        })
    }

    /// Sends a prompt to the engine, and returns the cached tokens that the engine reports.
    pub(super) async fn ask(&self, tokens: &[u32], fields: Value) -> u32 {
        let mut body = json!({"model": "sim", "prompt": tokens, "max_tokens": 1});
        body.as_object_mut()
            .expect("an object")
            .extend(fields.as_object().cloned().unwrap_or_default());
        let (status, answer) = json_of(
            send(
                client()
                    .post(format!("{}/v1/completions", self.engine.url()))
                    .json(&body),
            )
            .await,
        )
        .await;
        assert_eq!(status, 200, "{answer}");
        answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            .as_u64()
            .expect("a count") as u32
    }

    /// As [`Self::ask`], of plain prompts.
    pub(super) async fn ask_all(&self, prompts: impl IntoIterator<Item = u32>) {
        for number in prompts {
            self.ask(&prompt(number), Value::Null).await;
        }
    }
}

/// A follower without publishers.
pub(super) fn follower(yaml: &str) -> Arc<KvEvents> {
    follower_with(yaml, &KvEventsMetrics::register(&mut Registry::default()))
}

/// A follower without publishers that counts here.
pub(super) fn follower_with(yaml: &str, metrics: &KvEventsMetrics) -> Arc<KvEvents> {
    hermes_runtime::crypto::install_default_crypto();
    let events = KvEvents::new(&Arc::from("a"), wanted(yaml), metrics);
    Arc::new(events.expect("TLS is set up"))
}
