//! Streams that lose, break, restart, fall silent and lie: what cannot be known is not claimed.

use hermes_core::{block_index::CacheIdentity, query::CachedTokens};
use hermes_engine_sim::{EngineConfig, Fault, KvEventsConfig};
use serde_json::Value;

use super::watched::{Watched, prompt, publishing};
use crate::client::eventually;

fn with_events(config: KvEventsConfig) -> EngineConfig {
    EngineConfig {
        kv_events: Some(config),
        ..publishing(1_000)
    }
}

#[tokio::test]
async fn a_batch_that_was_lost_is_asked_for_again() {
    let watched = Watched::start(publishing(1_000)).await;
    watched.engine.faults().set_for(2, Fault::KvEventsDrop);
    watched.ask_all(0..2).await;
    assert_eq!(
        watched.believed(&prompt(0), &CacheIdentity::default()),
        Some(CachedTokens::default()),
        "nobody knows yet"
    );
    watched.ask_all(2..3).await;
    watched.agrees(0..5).await;
    assert_eq!(watched.standing(), "synced");
}

#[tokio::test]
async fn what_is_lost_for_good_empties_what_was_known() {
    let short = KvEventsConfig {
        buffer: 1,
        ..KvEventsConfig::default()
    };
    let none = KvEventsConfig {
        replay: None,
        ..KvEventsConfig::default()
    };
    for events in [short, none] {
        let watched = Watched::start_unheard(with_events(events), "{}").await;
        eventually("the stream works", || async {
            watched.standing() != "unsynced"
        })
        .await;
        watched.ask_all(0..3).await;
        watched.agrees(0..1).await;
        watched.engine.faults().set_for(2, Fault::KvEventsDrop);
        watched.ask_all(100..104).await;
        eventually("what came after is known", || async {
            watched.believed(&prompt(103), &CacheIdentity::default())
                == Some(watched.truth("sim", &prompt(103)))
        })
        .await;
        assert_eq!(watched.standing(), "partial");
        for number in (0..3).chain(100..104) {
            let believed = watched
                .believed(&prompt(number), &CacheIdentity::default())
                .unwrap_or_default();
            assert!(
                believed.gpu <= watched.truth("sim", &prompt(number)).gpu,
                "nothing is made up"
            );
        }
    }
}

#[tokio::test]
async fn a_restarted_engine_is_known_to_have_an_empty_cache() {
    let watched = Watched::start(publishing(1_000)).await;
    watched.ask_all(0..5).await;
    watched.agrees(0..5).await;
    watched.engine.restart().await.expect("starts again");
    watched.ask_all(5..7).await;
    watched.agrees(0..8).await;
    assert_eq!(watched.standing(), "synced");
}

#[tokio::test]
async fn a_dead_publisher_is_believed_nothing_until_it_is_back() {
    let watched = Watched::start(publishing(1_000)).await;
    watched.ask_all(0..5).await;
    watched.agrees(0..5).await;
    watched.engine.kill().await;
    eventually("no claims", || async {
        watched
            .believed(&prompt(0), &CacheIdentity::default())
            .is_none()
    })
    .await;
    assert_eq!(watched.standing(), "unsynced");
    watched.engine.restart().await.expect("starts again");
    eventually("it is heard again", || async {
        watched.standing() == "synced"
    })
    .await;
    watched.agrees(0..5).await;
}

#[tokio::test]
async fn a_connection_that_broke_is_taken_up_where_it_was_lost() {
    let watched = Watched::start(publishing(1_000)).await;
    watched.ask_all(0..5).await;
    watched.agrees(0..5).await;
    watched
        .engine
        .faults()
        .set_for(1, Fault::KvEventsDisconnect);
    watched.ask_all(5..7).await;
    watched.agrees(0..8).await;
    assert_eq!(watched.standing(), "synced");
}

#[tokio::test]
async fn a_connection_that_broke_without_a_replay_starts_from_nothing() {
    let events = KvEventsConfig {
        replay: None,
        ..KvEventsConfig::default()
    };
    let watched = Watched::start_unheard(with_events(events), "{}").await;
    eventually("the stream works", || async {
        watched.standing() == "partial"
    })
    .await;
    watched.ask_all(0..3).await;
    watched.agrees(0..3).await;
    assert_eq!(
        watched.standing(),
        "synced",
        "it was there from the first batch on"
    );
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
        watched.believed(&prompt(0), &CacheIdentity::default()),
        None,
        "not even a miss is known"
    );
}

#[tokio::test]
async fn what_cannot_be_read_empties_what_was_known() {
    let watched = Watched::start(publishing(1_000)).await;
    watched.ask_all(0..3).await;
    watched.agrees(0..3).await;
    watched.engine.faults().set_for(1, Fault::KvEventsGarbage);
    watched.ask_all(3..4).await;
    eventually("nothing is claimed", || async {
        watched
            .believed(&prompt(0), &CacheIdentity::default())
            .is_none()
    })
    .await;
    assert_eq!(watched.standing(), "partial");
    watched.ask_all(100..101).await;
    eventually("what came after is known", || async {
        watched.believed(&prompt(100), &CacheIdentity::default())
            == Some(watched.truth("sim", &prompt(100)))
    })
    .await;
}

#[tokio::test]
async fn a_publisher_that_answers_no_pings_is_gone() {
    let watched = Watched::start(publishing(1_000)).await;
    watched.ask_all(0..3).await;
    watched.agrees(0..3).await;
    watched.engine.faults().set_for(1, Fault::KvEventsMute);
    watched.ask_all(3..4).await;
    eventually("silence is noticed", || async {
        watched.standing() == "unsynced"
    })
    .await;
    assert_eq!(
        watched.believed(&prompt(0), &CacheIdentity::default()),
        None
    );
}

#[tokio::test]
async fn a_liar_is_believed_until_it_restarts_and_no_longer() {
    let mut config = publishing(12);
    config.loras.clear();
    let watched = Watched::start(config).await;
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
    eventually("more is claimed than there can be", || async {
        claimed() > 12
    })
    .await;
    assert_eq!(
        watched.ask(&prompt(0), Value::Null).await,
        0,
        "the engine itself knows better"
    );
    watched.engine.restart().await.expect("starts again");
    eventually("all lies are forgotten", || async {
        claimed() == 0 && watched.standing() == "synced"
    })
    .await;
}
