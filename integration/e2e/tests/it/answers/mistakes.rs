//! Whose fault an error is: the client's, or the endpoint's.

use hermes_bench::fleet::Fleet;
use hermes_testkit::scripted_engine::{ScriptedAnswer, ScriptedEngine, ScriptedRequest};
use serde_json::json;

use super::{good_engine, in_front_of, is_post, served};
use crate::client::{ask, chat, eventually, json_of, metric, send};

/// Both endpoints are up, and neither was out before.
async fn all_are_up(fleet: &Fleet) {
    let admin = fleet.proxies[0].admin_url();
    eventually("both are up", || async {
        metric(&admin, "hermes_endpoints{pool=\"chat\",health=\"up\"}").await == 2.0
    })
    .await;
    for reason in ["failures", "refusals"] {
        let name = format!("hermes_endpoint_ejections_total{{pool=\"chat\",reason=\"{reason}\"}}");
        assert_eq!(metric(&admin, &name).await, 0.0, "{reason}");
    }
}

#[tokio::test]
async fn a_clients_own_mistake_is_sent_once_and_held_against_no_endpoint() {
    let refuses = || {
        ScriptedEngine::start(&["sim"], |request| {
            let error = "{\"error\":{\"message\":\"max_tokens\",\"code\":400}}";
            let answer = ScriptedAnswer::whole("400 Bad Request", &[], error);
            is_post(request).then_some(answer)
        })
    };
    let engines = [refuses().await, refuses().await].map(|engine| engine.expect("a free port"));
    let fleet = in_front_of(&[&engines[0].url(), &engines[1].url()], "").await;
    for _ in 0..40 {
        let response = send(chat(&fleet.url(), false, 1)).await;
        assert_eq!(json_of(response).await.0, 400);
    }
    let sent: usize = engines.iter().map(ScriptedEngine::requests).sum();
    assert_eq!(sent, 40);
    all_are_up(&fleet).await;
}

#[tokio::test]
async fn mistakes_that_all_reach_one_endpoint_are_held_against_no_endpoint() {
    // Round robin sends every second request to the same engine.
    let engine = || {
        ScriptedEngine::start(&["sim"], |request| {
            let is_wrong = memchr::memmem::find(&request.body, b"\"max_tokens\":0").is_some();
            let answer = if is_wrong {
                ScriptedAnswer::whole("400 Bad Request", &[], "{\"error\":{\"code\":400}}")
            } else {
                served(request)
            };
            is_post(request).then_some(answer)
        })
    };
    let engines = [engine().await, engine().await].map(|engine| engine.expect("a free port"));
    let fleet = in_front_of(&[&engines[0].url(), &engines[1].url()], "").await;
    for number in 0..80 {
        let expected = if number % 2 == 0 { 400 } else { 200 };
        let response = send(chat(&fleet.url(), false, number % 2)).await;
        assert_eq!(response.status(), expected);
    }
    all_are_up(&fleet).await;
    let sent: usize = engines.iter().map(ScriptedEngine::requests).sum();
    assert!(sent <= 86, "{sent} for 80: mistakes are repeated rarely");
}

#[tokio::test]
async fn a_client_over_its_quota_sets_no_endpoint_aside_for_the_others() {
    // Gateways that count the requests of each client.
    let gateway = |request: &ScriptedRequest| {
        let is_greedy = memchr::memmem::find(&request.body, b"greedy").is_some();
        is_post(request).then(|| match is_greedy {
            true => ScriptedAnswer::whole("429 Too Many Requests", &["retry-after: 60"], ""),
            false => served(request),
        })
    };
    let mut engines = Vec::new();
    for _ in 0..4 {
        let engine = ScriptedEngine::start(&["sim"], gateway).await;
        engines.push(engine.expect("a free port"));
    }
    let urls: Vec<String> = engines.iter().map(ScriptedEngine::url).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let fleet = in_front_of(&urls, "").await;
    let greedy = json!({"model": "sim", "user": "greedy", "messages": []});
    for _ in 0..40 {
        let (limited, other) = (ask(&fleet.url(), &greedy), chat(&fleet.url(), false, 1));
        assert_eq!(send(limited).await.status(), 429);
        assert_eq!(send(other).await.status(), 200);
    }
    let planes = [
        (fleet.proxies[0].admin_url(), "hermes_endpoints"),
        (control_plane_of(&fleet), "hermes_control_plane_endpoints"),
    ];
    for (admin, family) in planes {
        let up = format!("{family}{{pool=\"chat\",health=\"up\"}}");
        eventually("all are up", || async { metric(&admin, &up).await == 4.0 }).await;
    }
}

fn control_plane_of(fleet: &Fleet) -> String {
    let admin = fleet.control_planes[0].bound.admin;
    format!("http://{}", admin.expect("an admin port"))
}

#[tokio::test]
async fn the_body_of_a_500_is_no_success() {
    let bad = ScriptedEngine::start(&["sim"], |request| {
        let answer = ScriptedAnswer::whole("500 Internal Server Error", &[], "{\"error\":{}}");
        is_post(request).then_some(answer)
    });
    let (bad, good) = (bad.await.expect("a free port"), good_engine(&["sim"]).await);
    let pool = "  retry: {maxAttempts: 1}\n  ejection: {baseTime: 1m, maxTime: 1m}\n";
    let mut fleet = in_front_of(&[&bad.url(), &good.url()], pool).await;
    fleet.control_planes.clear();
    for _ in 0..24 {
        send(chat(&fleet.url(), false, 1)).await;
    }
    assert_eq!(bad.requests(), 3, "three failures in a row eject it");
}
