//! The debug page that explains a scheduling decision.

use super::harness::{
    Stall, await_queued, complete, explained, fleet, question, send_in_background, short, text,
};

#[tokio::test]
async fn the_page_lists_the_cost_of_every_candidate() {
    let fleet = fleet(2, "").await;
    for number in 0..2 {
        complete(
            &fleet.url(),
            &question(text(&format!("user {number}"), 400)),
        )
        .await;
    }
    let explanation = explained(&fleet.control_planes[0], 4_000).await;
    assert_eq!(explanation["strategy"], "kv-aware");
    let queue = &explanation["queue"];
    assert_eq!(
        (&queue["binds_now"], &queue["queued_requests"]),
        (&true.into(), &0.into())
    );
    let candidates = queue["candidates"].as_array().expect("candidates");
    assert_eq!(candidates.len(), 2);
    for candidate in candidates {
        assert_eq!(
            (&candidate["has_room"], &candidate["cached_tokens"]),
            (&true.into(), &0.into())
        );
        assert!(
            candidate["ttft_s"].as_f64().is_some_and(|ttft| ttft > 0.05),
            "{candidate}"
        );
        assert!(
            candidate["rate"].as_f64().is_some_and(|rate| rate > 100.0),
            "{candidate}"
        );
        assert_eq!(candidate["confidence"], serde_json::json!([1.0, 1.0, 1.0]));
    }
    let cost = |at: usize| candidates[at]["cost_s"].as_f64().expect("a cost");
    assert!(cost(0) <= cost(1), "the cheapest first");
}

#[tokio::test]
async fn the_page_reports_that_a_request_would_be_queued_and_behind_how_many() {
    let fleet = fleet(1, "").await;
    let _stall = Stall::all(&fleet).await;
    let _waiting = send_in_background(&fleet.url(), &short("waits"));
    await_queued(&fleet, 1).await;
    let explanation = explained(&fleet.control_planes[0], 4_000).await;
    let queue = &explanation["queue"];
    assert_eq!(
        (&queue["binds_now"], &queue["queued_requests"]),
        (&false.into(), &1.into())
    );
    assert!(
        queue["candidates"][0]["queue_delay_s"]
            .as_f64()
            .is_some_and(|ahead| ahead > 0.1),
        "{queue}"
    );
    assert!(
        explanation["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("no room")),
        "{explanation}"
    );
}
