//! Concurrent lookups of the same prefix share one request.

use std::time::Duration;

use futures::FutureExt;
use hermes_control_plane::cache_sources::kv_manager::{AnswerOrigin, KvManagerSettings, Lookup};
use hermes_engine_sim::kv_manager::Fault;

use super::{Asker, PATIENCE, lookup, numbered, server, settings};
use crate::client::eventually;

#[tokio::test]
async fn concurrent_lookups_of_a_prefix_share_one_request() {
    let server = server().await;
    let asker = Asker::new(&server.url(), PATIENCE);
    let asked = futures::future::join_all((0..50).map(|_| asker.ask())).await;
    assert!(asked.iter().all(|hits| hits == &[(1, 500)]));
    assert_eq!(server.questions(), 1);
    assert_eq!(
        (
            asker.metrics.count_from(AnswerOrigin::Manager),
            asker.metrics.count_from(AnswerOrigin::Shared)
        ),
        (1, 49)
    );
}

#[tokio::test]
async fn a_response_is_cached_for_its_ttl_and_only_for_its_prefix() {
    let server = server().await;
    let cache = Duration::from_secs(3_600);
    let settings = KvManagerSettings {
        budget: PATIENCE,
        cache,
        ..settings(&format!("{}/match_sort", server.url()))
    };
    let asker = Asker::with(settings);
    for _ in 0..10 {
        assert_eq!(asker.ask().await, [(1, 500)]);
    }
    assert_eq!(
        (
            server.questions(),
            asker.metrics.count_from(AnswerOrigin::Cache)
        ),
        (1, 9)
    );
    asker.ask_about(numbered(1)).await;
    asker
        .ask_about(Lookup {
            model: "other".into(),
            ..lookup()
        })
        .await;
    assert_eq!(server.questions(), 3);
    // Prompts whose whole blocks are equal are one prefix.
    for rest in [2, 3] {
        asker
            .ask_about(Lookup {
                prefix: Some(7),
                ..numbered(rest)
            })
            .await;
    }
    assert_eq!(server.questions(), 4);
}

#[tokio::test]
async fn a_failure_is_not_cached() {
    let server = server().await;
    let asker = Asker::with(KvManagerSettings {
        budget: PATIENCE,
        ..settings(&format!("{}/match_sort", server.url()))
    });
    server.set_fault(Fault::Status(500));
    assert_eq!(asker.ask().await, []);
    server.set_fault(Fault::None);
    assert_eq!(asker.ask().await, [(1, 500)]);
}

#[tokio::test]
async fn cancelling_the_first_lookup_does_not_cancel_the_others() {
    let server = server().await;
    server.set_fault(Fault::Slow(Duration::from_secs(1)));
    let asker = Asker::new(&server.url(), PATIENCE);
    let second = asker.ask();
    tokio::pin!(second);
    {
        let first = asker.ask();
        tokio::pin!(first);
        assert!((&mut first).now_or_never().is_none(), "it has begun");
        assert!((&mut second).now_or_never().is_none(), "it has joined");
        tokio::select! {
            _ = &mut first => panic!("it is answered too early"),
            () = eventually("the question is asked", || async { server.questions() == 1 }) => {}
        }
    }
    assert_eq!(second.await, [(1, 500)]);
    assert_eq!(server.questions(), 1);
}

#[tokio::test]
async fn the_request_is_dropped_when_all_lookups_are_cancelled() {
    let server = server().await;
    server.set_fault(Fault::Hang);
    let asker = Asker::new(&server.url(), PATIENCE);
    {
        let left = asker.ask();
        tokio::pin!(left);
        tokio::select! {
            _ = &mut left => panic!("the manager hangs"),
            () = eventually("the question is asked", || async { server.questions() == 1 }) => {}
        }
    }
    server.set_fault(Fault::None);
    assert_eq!(asker.ask().await, [(1, 500)]);
    assert_eq!(server.questions(), 2);
}
