//! Where streams work, the router knows exactly what engines hold.

use hermes_core::{block_index::CacheIdentity, query::CachedTokens};
use hermes_engine_sim::{Encoding, EngineConfig, KvEventsConfig};
use serde_json::{Value, json};

use super::watched::{Watched, prompt, publishing};
use crate::client::{client, eventually, send};

fn identity(adapter: Option<&str>, salt: Option<&str>) -> CacheIdentity {
    CacheIdentity {
        adapter: adapter.map(Into::into),
        salt: salt.map(Into::into),
    }
}

#[tokio::test]
async fn an_engine_that_has_only_begun_is_known_to_hold_nothing() {
    let watched = Watched::start(publishing(100)).await;
    assert_eq!(
        watched.believed(&prompt(1), &CacheIdentity::default()),
        Some(CachedTokens::default())
    );
}

#[tokio::test]
async fn what_an_engine_stores_is_believed_in_either_encoding() {
    for encoding in [Encoding::Maps, Encoding::Arrays] {
        let mut config = publishing(1_000);
        config.kv_events = Some(KvEventsConfig {
            encoding,
            topic: "kv@here".to_owned(),
            ..KvEventsConfig::default()
        });
        let watched = Watched::start(config).await;
        watched.ask_all(0..20).await;
        watched.agrees(0..24).await;
        let tokens = prompt(7);
        let believed = watched
            .believed(&tokens, &CacheIdentity::default())
            .expect("known")
            .gpu;
        assert_eq!(
            watched.ask(&tokens, Value::Null).await,
            believed,
            "as the engine itself reports it"
        );
        assert!(believed > 0);
    }
}

#[tokio::test]
async fn what_an_engine_evicts_is_not_believed_any_longer() {
    let watched = Watched::start(publishing(24)).await;
    for round in 0..6 {
        watched
            .ask_all((0..12).map(|number| number * (round + 1) % 13))
            .await;
        watched.agrees(0..13).await;
    }
    assert!(watched.events.view().blocks <= 24);
}

#[tokio::test]
async fn adapters_and_salts_never_meet() {
    let watched = Watched::start(publishing(1_000)).await;
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
            "nobody else's blocks are used"
        );
        eventually("it is believed", || async {
            watched
                .believed(&tokens, &identity(adapter, salt))
                .is_some_and(|cached| cached.gpu as usize == whole)
        })
        .await;
        for (other, (adapter, salt)) in kinds.into_iter().enumerate().skip(asked + 1) {
            let believed = watched.believed(&tokens, &identity(adapter, salt));
            assert_eq!(
                believed,
                Some(CachedTokens::default()),
                "{other} after {asked}"
            );
        }
    }
}

#[tokio::test]
async fn a_router_that_comes_late_learns_by_replay_what_was_stored_before() {
    let watched = Watched::start(publishing(1_000)).await;
    watched.ask_all(0..10).await;
    let late = Watched {
        events: super::watched::follower("{}"),
        engine: watched.engine,
    };
    late.follow();
    late.agrees(0..12).await;
    assert_eq!(late.standing(), "synced");
}

#[tokio::test]
async fn an_answer_that_was_cut_short_is_asked_for_again() {
    let config = EngineConfig {
        kv_events: Some(KvEventsConfig {
            replay_queue: 4,
            ..KvEventsConfig::default()
        }),
        ..publishing(1_000)
    };
    let watched = Watched::start(config).await;
    watched.ask_all(0..10).await;
    let late = Watched {
        events: super::watched::follower("{}"),
        engine: watched.engine,
    };
    late.follow();
    late.agrees(0..12).await;
    eventually("all is known", || async { late.standing() == "synced" }).await;
}

#[tokio::test]
async fn a_cache_that_was_reset_is_known_to_be_empty() {
    let watched = Watched::start(publishing(1_000)).await;
    watched.ask_all(0..6).await;
    watched.agrees(0..6).await;
    let reset = format!("{}/reset_prefix_cache", watched.engine.url());
    assert_eq!(send(client().post(reset)).await.status(), 200);
    // As vLLM, the engine tells it with its next step.
    watched.ask_all([9]).await;
    watched.agrees(0..10).await;
    assert_eq!(watched.standing(), "synced");
}

#[tokio::test]
async fn what_an_answer_adds_is_cached_too() {
    let watched = Watched::start(publishing(1_000)).await;
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
        watched.believed(&next, &CacheIdentity::default()) == Some(watched.truth("sim", &next))
    })
    .await;
    assert!(watched.truth("sim", &next).gpu > 30);
}
