//! Engines whose pages say that they serve nothing: no request is spent on them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use hermes_testkit::scripted_engine::{ScriptedAnswer, ScriptedEngine, ScriptedRequest};

use super::{good_engine, in_front_of, served};
use crate::client::{chat, client, eventually, metric, send};

/// Twenty requests, of which each is served, and none by `idle`.
async fn all_are_served_elsewhere(url: &str, idle: &ScriptedEngine) {
    for number in 0..20 {
        let response = send(chat(url, number % 2 == 0, 1)).await;
        assert_eq!(response.status(), 200);
    }
    assert_eq!(idle.requests(), 0);
}

#[tokio::test]
async fn an_engine_that_loads_its_model_is_no_candidate() {
    let loading = ScriptedEngine::start(&["sim"], |_: &ScriptedRequest| {
        let error = "{\"error\":{\"message\":\"Loading model\",\"code\":503}}";
        Some(ScriptedAnswer::whole("503 Service Unavailable", &[], error))
    });
    let loading = loading.await.expect("a free port");
    let good = good_engine(&["sim"]).await;
    let urls = [&*loading.url(), &*good.url()];
    let fleet = in_front_of(&urls, "  metrics: {interval: 1s}\n").await;
    let admin = fleet.proxies[0].admin_url();
    eventually("it is down", || async {
        metric(&admin, "hermes_endpoints{pool=\"chat\",health=\"down\"}").await == 1.0
    })
    .await;
    all_are_served_elsewhere(&fleet.url(), &loading).await;
}

#[tokio::test]
async fn an_engine_that_knows_no_page_is_no_candidate_for_its_neighbours_model() {
    let lost = ScriptedEngine::start(&[], |_: &ScriptedRequest| {
        let page = "{\"detail\":\"Not Found\"}";
        Some(ScriptedAnswer::whole("404 Not Found", &[], page))
    });
    let lost = lost.await.expect("a free port");
    let good = good_engine(&["sim"]).await;
    let urls = [&*lost.url(), &*good.url()];
    let fleet = in_front_of(&urls, "  metrics: {interval: 1s}\n").await;
    let snapshot = format!("{}/debug/snapshot", fleet.proxies[0].admin_url());
    eventually("the model has one holder", || async {
        let page = client().get(&snapshot).send().await.expect("answers");
        let page = page.text().await.expect("text");
        page.contains("\"some\"")
    })
    .await;
    all_are_served_elsewhere(&fleet.url(), &lost).await;
}

#[tokio::test]
async fn an_engine_without_any_page_serves_where_no_neighbour_has_one() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let engine = ScriptedEngine::start(&[], move |request: &ScriptedRequest| {
        if request.line == "GET /v1/models" {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        let page = "{\"detail\":\"Not Found\"}";
        Some(if super::is_post(request) {
            served(request)
        } else {
            ScriptedAnswer::whole("404 Not Found", &[], page)
        })
    });
    let engine = engine.await.expect("a free port");
    let fleet = in_front_of(&[&engine.url()], "  metrics: {interval: 1s}\n").await;
    eventually("its pages were asked for twice", || async {
        asked.load(Ordering::Relaxed) >= 3
    })
    .await;
    assert_eq!(send(chat(&fleet.url(), false, 1)).await.status(), 200);
}
