//! Requests that are to be served only where their prompt is cached: `Prefer: if-available`.

use hermes_bench::fleet::{Fleet, Scene};
use serde_json::json;

use crate::client::{ask, eventually, json_of, metric, send};

/// The status and the error code of a chat, which prefers no answer to an uncached prompt or not.
async fn answer(fleet: &Fleet, prompt: &str, prefers_cached: bool) -> (u16, Option<String>) {
    let body =
        json!({"model": "sim", "max_tokens": 1, "messages": [{"role": "user", "content": prompt}]});
    let mut request = ask(&fleet.url(), &body);
    if prefers_cached {
        request = request.header("prefer", "if-available");
    }
    let (status, body) = json_of(send(request).await).await;
    (status, body["error"]["code"].as_str().map(str::to_owned))
}

#[tokio::test]
async fn a_prompt_that_no_engine_has_is_refused_until_one_has_computed_it() {
    let refused = (412, Some("prompt_not_cached".to_owned()));
    for strategy in ["kv-aware", "prefix-cache"] {
        let fleet = Scene::of(3, strategy).start().await.expect("starts");
        let prompt = "a long enough question ".repeat(200);
        for _ in 0..3 {
            // What is refused is not taken for sent.
            assert_eq!(answer(&fleet, &prompt, true).await, refused, "{strategy}");
        }
        assert!(
            fleet
                .engines
                .iter()
                .all(|engine| engine.stats().requests == 0)
        );
        assert_eq!(answer(&fleet, &prompt, false).await.0, 200, "{strategy}");
        assert_eq!(answer(&fleet, &prompt, true).await.0, 200, "{strategy}");
        let other = format!("{prompt}{}", "and another one ".repeat(100));
        assert_eq!(answer(&fleet, &other, true).await, refused, "{strategy}");
        let admin = fleet.control_planes[0].bound.admin.expect("an admin port");
        let series = "hermes_control_plane_bookings{pool=\"chat\"}";
        eventually("nothing is booked", || async {
            metric(&format!("http://{admin}"), series).await == 0.0
        })
        .await;
    }
}

#[tokio::test]
async fn a_strategy_that_reads_no_caches_expects_none() {
    let fleet = Scene::of(1, "round-robin").start().await.expect("starts");
    let prompt = "a long enough question ".repeat(200);
    assert_eq!(answer(&fleet, &prompt, false).await.0, 200);
    assert_eq!(answer(&fleet, &prompt, true).await.0, 412);
    assert_eq!(
        answer(&fleet, "short", true).await.0,
        200,
        "it is no whole block"
    );
}
