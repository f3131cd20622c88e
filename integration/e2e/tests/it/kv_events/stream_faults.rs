//! Streams that lose batches, break, restart, stall and report wrong blocks: the index claims no
//! block that may be gone.

use hermes_core::{block_index::CacheIdentity, query::CachedTokens};
use hermes_engine_sim::{EngineConfig, Fault, KvEventsConfig};
use serde_json::Value;

use super::watched::{FollowedEngine, prompt, publishing};
use crate::client::eventually;

fn with_events(config: KvEventsConfig) -> EngineConfig {
    EngineConfig {
        kv_events: Some(config),
        ..publishing(1_000)
    }
}

#[tokio::test]
async fn a_lost_batch_is_requested_by_replay() {
    let watched = FollowedEngine::start(publishing(1_000)).await;
    watched.engine.faults().set_for(2, Fault::KvEventsDrop);
    watched.ask_all(0..2).await;
    assert_eq!(
        watched.estimated(&prompt(0), &CacheIdentity::default()),
        Some(CachedTokens::default()),
        "the loss is not detected yet"
    );
    watched.ask_all(2..3).await;
    watched.await_estimates(0..5).await;
    assert_eq!(watched.standing(), "synced");
}

#[tokio::test]
async fn an_unrecoverable_loss_clears_the_index() {
    let short = KvEventsConfig {
        buffer: 1,
        ..KvEventsConfig::default()
    };
    let none = KvEventsConfig {
        replay: None,
        ..KvEventsConfig::default()
    };
    for events in [short, none] {
        let watched = FollowedEngine::start_unsynced(with_events(events), "{}").await;
        eventually("the stream works", || async {
            watched.standing() != "unsynced"
        })
        .await;
        watched.ask_all(0..3).await;
        watched.await_estimates(0..1).await;
        watched.engine.faults().set_for(2, Fault::KvEventsDrop);
        watched.ask_all(100..104).await;
        eventually("later blocks are indexed", || async {
            watched.estimated(&prompt(103), &CacheIdentity::default())
                == Some(watched.truth("sim", &prompt(103)))
        })
        .await;
        assert_eq!(watched.standing(), "partial");
        for number in (0..3).chain(100..104) {
            let estimated = watched
                .estimated(&prompt(number), &CacheIdentity::default())
                .unwrap_or_default();
            assert!(
                estimated.gpu <= watched.truth("sim", &prompt(number)).gpu,
                "the estimate is never too high"
            );
        }
    }
}

#[tokio::test]
async fn a_restarted_engine_has_an_empty_index() {
    let watched = FollowedEngine::start(publishing(1_000)).await;
    watched.ask_all(0..5).await;
    watched.await_estimates(0..5).await;
    watched.engine.restart().await.expect("starts again");
    watched.ask_all(5..7).await;
    watched.await_estimates(0..8).await;
    assert_eq!(watched.standing(), "synced");
}

#[tokio::test]
async fn a_dead_publisher_has_no_estimates_until_it_is_back() {
    let watched = FollowedEngine::start(publishing(1_000)).await;
    watched.ask_all(0..5).await;
    watched.await_estimates(0..5).await;
    watched.engine.kill().await;
    eventually("no claims", || async {
        watched
            .estimated(&prompt(0), &CacheIdentity::default())
            .is_none()
    })
    .await;
    assert_eq!(watched.standing(), "unsynced");
    watched.engine.restart().await.expect("starts again");
    eventually("it is synced again", || async {
        watched.standing() == "synced"
    })
    .await;
    watched.await_estimates(0..5).await;
}

#[tokio::test]
async fn a_broken_connection_is_resumed_by_replay() {
    let watched = FollowedEngine::start(publishing(1_000)).await;
    watched.ask_all(0..5).await;
    watched.await_estimates(0..5).await;
    watched
        .engine
        .faults()
        .set_for(1, Fault::KvEventsDisconnect);
    watched.ask_all(5..7).await;
    watched.await_estimates(0..8).await;
    assert_eq!(watched.standing(), "synced");
}

#[tokio::test]
async fn a_broken_connection_without_replay_starts_with_an_empty_index() {
    let events = KvEventsConfig {
        replay: None,
        ..KvEventsConfig::default()
    };
    let watched = FollowedEngine::start_unsynced(with_events(events), "{}").await;
    eventually("the stream works", || async {
        watched.standing() == "partial"
    })
    .await;
    watched.ask_all(0..3).await;
    watched.await_estimates(0..3).await;
    assert_eq!(watched.standing(), "synced", "it received the first batch");
    watched
        .engine
        .faults()
        .set_for(1, Fault::KvEventsDisconnect);
    watched.ask_all(3..4).await;
    eventually("the stream works again", || async {
        watched.standing() == "partial"
    })
    .await;
    assert_eq!(
        watched.estimated(&prompt(0), &CacheIdentity::default()),
        None,
        "a miss is unknown, too"
    );
}

#[tokio::test]
async fn an_undecodable_batch_clears_the_index() {
    let watched = FollowedEngine::start(publishing(1_000)).await;
    watched.ask_all(0..3).await;
    watched.await_estimates(0..3).await;
    watched.engine.faults().set_for(1, Fault::KvEventsGarbage);
    watched.ask_all(3..4).await;
    eventually("nothing is claimed", || async {
        watched
            .estimated(&prompt(0), &CacheIdentity::default())
            .is_none()
    })
    .await;
    assert_eq!(watched.standing(), "partial");
    watched.ask_all(100..101).await;
    eventually("later blocks are indexed", || async {
        watched.estimated(&prompt(100), &CacheIdentity::default())
            == Some(watched.truth("sim", &prompt(100)))
    })
    .await;
}

#[tokio::test]
async fn a_publisher_that_answers_no_pings_is_unsynced() {
    let watched = FollowedEngine::start(publishing(1_000)).await;
    watched.ask_all(0..3).await;
    watched.await_estimates(0..3).await;
    watched.engine.faults().set_for(1, Fault::KvEventsMute);
    watched.ask_all(3..4).await;
    eventually("the missing pong is detected", || async {
        watched.standing() == "unsynced"
    })
    .await;
    assert_eq!(
        watched.estimated(&prompt(0), &CacheIdentity::default()),
        None
    );
}

#[tokio::test]
async fn wrong_claims_of_a_publisher_are_dropped_when_it_restarts() {
    let mut config = publishing(12);
    config.loras.clear();
    let watched = FollowedEngine::start(config).await;
    watched.engine.faults().set(Fault::KvEventsHideRemovals);
    watched.ask_all(0..12).await;
    let claimed = || {
        watched
            .events
            .view()
            .streams
            .first()
            .map_or(0, |stream| stream.blocks)
    };
    eventually("more blocks are claimed than the engine has", || async {
        claimed() > 12
    })
    .await;
    assert_eq!(
        watched.ask(&prompt(0), Value::Null).await,
        0,
        "the engine has evicted it"
    );
    watched.engine.restart().await.expect("starts again");
    eventually("the wrong claims are dropped", || async {
        claimed() == 0 && watched.standing() == "synced"
    })
    .await;
}
