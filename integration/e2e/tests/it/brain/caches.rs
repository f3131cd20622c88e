//! Caches that nobody tells of: what was sent where is remembered, believed as far as it comes true, and forgotten with
//! the engine.

use futures::future::join_all;

use super::stage::{
    answered, becomes, fleet, pool_metric, predicted, prediction_error, question, scene, text,
    turns, urls,
};
use crate::client::eventually;

#[tokio::test]
async fn with_any_number_of_proxies_conversations_return_to_the_engine_that_holds_them() {
    let rates = join_all([1, 2, 4].map(|proxies| async move {
        let fleet = hermes_bench::fleet::Scene {
            proxies,
            ..scene(4, "")
        }
        .start()
        .await
        .expect("starts");
        let heard = turns(&urls(&fleet), 0..6, 0..5).await;
        (proxies, heard.hit_rate())
    }));
    for (proxies, rate) in rates.await {
        assert!(rate > 0.97, "with {proxies} proxies: {rate}");
    }
}

#[tokio::test]
async fn an_engine_that_restarts_has_nothing_that_is_claimed_and_is_learned_anew() {
    let fleet = fleet(1, "  metrics: {interval: 1s}\n").await;
    let (plane, engine) = (&fleet.control_planes[0], &fleet.engines[0]);
    let body = question(text("alice", 1_500));
    answered(&fleet.url(), &body).await;
    assert!(pool_metric(plane, "hermes_learned_index_blocks").await > 20.0);
    // By its counters the control plane knows that this is another run.
    let scrapes = || {
        engine
            .requests()
            .iter()
            .filter(|request| request.uri.path() == "/metrics")
            .count()
    };
    let before = scrapes();
    eventually("the engine was asked since", || {
        std::future::ready(scrapes() > before)
    })
    .await;

    engine.restart().await.expect("starts again");
    becomes(plane, "hermes_learned_index_blocks", 0.0).await;
    let (expected, error) = (
        || predicted(plane, "learned", "expected"),
        || prediction_error(plane, "learned"),
    );
    assert_eq!(
        (answered(&fleet.url(), &body).await.1, expected().await),
        (0, 0.0)
    );
    let (prompt, cached) = answered(&fleet.url(), &body).await;
    assert!(cached as f64 > 0.97 * prompt as f64, "{cached} of {prompt}");
    eventually("what was expected is compared", || async {
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
