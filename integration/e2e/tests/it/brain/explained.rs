//! Why a choice falls as it does, for people.

use super::stage::{Stall, answered, explained, fleet, question, text};

#[tokio::test]
async fn the_page_shows_how_costs_are_weighed() {
    let fleet = fleet(2, "").await;
    for number in 0..2 {
        answered(
            &fleet.url(),
            &question(text(&format!("user {number}"), 400)),
        )
        .await;
    }
    let explanation = explained(&fleet.control_planes[0], 4_000).await;
    assert_eq!(explanation["strategy"], "kv-aware");
    let weighing = &explanation["queue"];
    assert_eq!(
        (&weighing["binds_now"], &weighing["queued_requests"]),
        (&true.into(), &0.into())
    );
    let sites = weighing["candidates"].as_array().expect("sites");
    assert_eq!(sites.len(), 2);
    for site in sites {
        assert_eq!(
            (&site["has_room"], &site["cached_tokens"]),
            (&true.into(), &0.into())
        );
        assert!(
            site["ttft_s"].as_f64().is_some_and(|ttft| ttft > 0.05),
            "{site}"
        );
        assert!(
            site["rate"].as_f64().is_some_and(|rate| rate > 100.0),
            "{site}"
        );
        assert_eq!(site["confidence"], serde_json::json!([1.0, 1.0, 1.0]));
    }
    let cost = |at: usize| sites[at]["cost_s"].as_f64().expect("a cost");
    assert!(cost(0) <= cost(1), "the cheapest first");
}

#[tokio::test]
async fn the_page_says_when_a_request_would_wait_and_behind_how_many() {
    let fleet = fleet(1, "").await;
    let _stall = Stall::all(&fleet).await;
    let _waiting = super::stage::asking(&fleet.url(), &question(text("waits", 400)));
    super::stage::becomes(
        &fleet.control_planes[0],
        "hermes_control_plane_queued_requests",
        1.0,
    )
    .await;
    let explanation = explained(&fleet.control_planes[0], 4_000).await;
    let weighing = &explanation["queue"];
    assert_eq!(
        (&weighing["binds_now"], &weighing["queued_requests"]),
        (&false.into(), &1.into())
    );
    assert!(
        weighing["candidates"][0]["queue_delay_s"]
            .as_f64()
            .is_some_and(|ahead| ahead > 0.1),
        "{weighing}"
    );
    assert!(
        explanation["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("no room")),
        "{explanation}"
    );
}
