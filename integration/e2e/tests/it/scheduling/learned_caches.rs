//! The learned index: it records which prompts were routed where, its confidence follows the
//! reported hits, and it is cleared when the engine restarts.

use futures::future::join_all;

use super::harness::{
    await_pool_metric, complete, fleet, pool_metric, predicted, prediction_error, question, scene,
    text, turns, urls,
};
use crate::client::eventually;

#[tokio::test]
async fn conversations_return_to_the_engine_that_caches_them_with_any_number_of_proxies() {
    let rates = join_all([1, 2, 4].map(|proxies| async move {
        let fleet = hermes_bench::fleet::Scene {
            proxies,
            ..scene(4, "")
        }
        .start()
        .await
        .expect("starts");
        let usage = turns(&urls(&fleet), 0..6, 0..5).await;
        (proxies, usage.hit_rate())
    }));
    for (proxies, rate) in rates.await {
        assert!(rate > 0.97, "with {proxies} proxies: {rate}");
    }
}

#[tokio::test]
async fn a_restarted_engine_starts_with_an_empty_learned_index_and_is_learned_again() {
    let fleet = fleet(1, "  metrics: {interval: 1s}\n").await;
    let (plane, engine) = (&fleet.control_planes[0], &fleet.engines[0]);
    let body = question(text("alice", 1_500));
    complete(&fleet.url(), &body).await;
    assert!(pool_metric(plane, "hermes_learned_index_blocks").await > 20.0);
    // The control plane detects a restart by the engine's counters, so it must have scraped them
    // before.
    let scrapes = || {
        engine
            .requests()
            .iter()
            .filter(|request| request.uri.path() == "/metrics")
            .count()
    };
    let before = scrapes();
    eventually("the engine was scraped since", || {
        std::future::ready(scrapes() > before)
    })
    .await;

    engine.restart().await.expect("starts again");
    await_pool_metric(plane, "hermes_learned_index_blocks", 0.0).await;
    let (expected, error) = (
        || predicted(plane, "learned", "expected"),
        || prediction_error(plane, "learned"),
    );
    assert_eq!(
        (complete(&fleet.url(), &body).await.1, expected().await),
        (0, 0.0)
    );
    let (prompt, cached) = complete(&fleet.url(), &body).await;
    assert!(cached as f64 > 0.97 * prompt as f64, "{cached} of {prompt}");
    eventually("the expectation is compared with the report", || async {
        expected().await > 0.0
    })
    .await;
    assert!(
        error().await < 0.05 * expected().await,
        "{} of {}",
        error().await,
        expected().await
    );
}
