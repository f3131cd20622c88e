//! With synced streams the estimates equal the caches of the engines.

use hermes_core::{block_index::CacheIdentity, query::CachedTokens};
use hermes_engine_sim::{Encoding, EngineConfig, KvEventsConfig};
use serde_json::{Value, json};

use super::watched::{FollowedEngine, prompt, publishing};
use crate::client::{client, eventually, send};

fn identity(adapter: Option<&str>, salt: Option<&str>) -> CacheIdentity {
    CacheIdentity {
        adapter: adapter.map(Into::into),
        salt: salt.map(Into::into),
    }
}

#[tokio::test]
async fn a_new_engine_has_an_empty_index() {
    let watched = FollowedEngine::start(publishing(100)).await;
    assert_eq!(
        watched.estimated(&prompt(1), &CacheIdentity::default()),
        Some(CachedTokens::default())
    );
}

#[tokio::test]
async fn stored_blocks_are_indexed_in_both_encodings() {
    for encoding in [Encoding::Maps, Encoding::Arrays] {
        let mut config = publishing(1_000);
        config.kv_events = Some(KvEventsConfig {
            encoding,
            topic: "kv@here".to_owned(),
            ..KvEventsConfig::default()
        });
        let watched = FollowedEngine::start(config).await;
        watched.ask_all(0..20).await;
        watched.await_estimates(0..24).await;
        let tokens = prompt(7);
        let estimated = watched
            .estimated(&tokens, &CacheIdentity::default())
            .expect("known")
            .gpu;
        assert_eq!(
            watched.ask(&tokens, Value::Null).await,
            estimated,
            "as the engine itself reports it"
        );
        assert!(estimated > 0);
    }
}

#[tokio::test]
async fn evicted_blocks_are_removed_from_the_index() {
    let watched = FollowedEngine::start(publishing(24)).await;
    for round in 0..6 {
        watched
            .ask_all((0..12).map(|number| number * (round + 1) % 13))
            .await;
        watched.await_estimates(0..13).await;
    }
    assert!(watched.events.view().blocks <= 24);
}

#[tokio::test]
async fn blocks_of_adapters_and_salts_are_separate() {
    let watched = FollowedEngine::start(publishing(1_000)).await;
    let tokens = prompt(5);
    let whole = (tokens.len() - 1) / 4 * 4;
    let kinds = [
        (None, None),
        (Some("adapter"), None),
        (None, Some("tenant")),
        (Some("adapter"), Some("tenant")),
    ];
    for (asked, (adapter, salt)) in kinds.into_iter().enumerate() {
        let mut fields = json!({"model": adapter.unwrap_or("sim")});
        if let Some(salt) = salt {
            fields["cache_salt"] = json!(salt);
        }
        assert_eq!(
            watched.ask(&tokens, fields).await,
            0,
            "blocks of other identities are not used"
        );
        eventually("it is indexed", || async {
            watched
                .estimated(&tokens, &identity(adapter, salt))
                .is_some_and(|cached| cached.gpu as usize == whole)
        })
        .await;
        for (other, (adapter, salt)) in kinds.into_iter().enumerate().skip(asked + 1) {
            let estimated = watched.estimated(&tokens, &identity(adapter, salt));
            assert_eq!(
                estimated,
                Some(CachedTokens::default()),
                "{other} after {asked}"
            );
        }
    }
}

#[tokio::test]
async fn a_follower_that_starts_late_gets_earlier_batches_by_replay() {
    let watched = FollowedEngine::start(publishing(1_000)).await;
    watched.ask_all(0..10).await;
    let late = FollowedEngine {
        events: super::watched::follower("{}"),
        engine: watched.engine,
    };
    late.follow();
    late.await_estimates(0..12).await;
    assert_eq!(late.standing(), "synced");
}

#[tokio::test]
async fn a_truncated_replay_is_requested_again() {
    let config = EngineConfig {
        kv_events: Some(KvEventsConfig {
            replay_queue: 4,
            ..KvEventsConfig::default()
        }),
        ..publishing(1_000)
    };
    let watched = FollowedEngine::start(config).await;
    watched.ask_all(0..10).await;
    let late = FollowedEngine {
        events: super::watched::follower("{}"),
        engine: watched.engine,
    };
    late.follow();
    late.await_estimates(0..12).await;
    eventually("all is known", || async { late.standing() == "synced" }).await;
}

#[tokio::test]
async fn a_reset_cache_has_an_empty_index() {
    let watched = FollowedEngine::start(publishing(1_000)).await;
    watched.ask_all(0..6).await;
    watched.await_estimates(0..6).await;
    let reset = format!("{}/reset_prefix_cache", watched.engine.url());
    assert_eq!(send(client().post(reset)).await.status(), 200);
    // Like vLLM, the engine publishes it with its next step.
    watched.ask_all([9]).await;
    watched.await_estimates(0..10).await;
    assert_eq!(watched.standing(), "synced");
}

#[tokio::test]
async fn generated_tokens_are_indexed_too() {
    let watched = FollowedEngine::start(publishing(1_000)).await;
    let tokens = prompt(3);
    let body =
        json!({"model": "sim", "prompt": tokens, "max_tokens": 30, "return_token_ids": true});
    let url = format!("{}/v1/completions", watched.engine.url());
    let answer: Value = send(client().post(url).json(&body))
        .await
        .json()
        .await
        .expect("JSON");
    let said: Vec<u32> = serde_json::from_value(answer["choices"][0]["token_ids"].clone())
        .expect("the answer's ids");
    let next = [tokens, said, vec![7; 9]].concat();
    eventually("the turn is known", || async {
        watched.estimated(&next, &CacheIdentity::default()) == Some(watched.truth("sim", &next))
    })
    .await;
    assert!(watched.truth("sim", &next).gpu > 30);
}
