//! Answers that are none: what clients get, and what is learned of an endpoint, when an engine
//! refuses, fails, or answers 200 without an answer.

mod beside_a_good_engine;
mod first_token;
mod framing;
mod limits;
mod mistakes;
mod not_serving_yet;

use std::time::Duration;

use hermes_bench::fleet::{Fleet, Scene};
use hermes_testkit::scripted_engine::{ScriptedAnswer, ScriptedEngine, ScriptedRequest};

use crate::client::client;

/// A router in front of these engines.
async fn in_front_of(engines: &[&str], pool: &str) -> Fleet {
    let scene = Scene {
        endpoints: engines.iter().map(|url| (*url).to_owned()).collect(),
        ..Scene::of(0, "round-robin")
    };
    let scene = Scene {
        pool: format!("{}{pool}", scene.pool),
        ..scene
    };
    scene.start().await.expect("starts")
}

/// Requests that ended with this outcome.
async fn outcomes(fleet: &Fleet, outcome: &str) -> f64 {
    let outcome = format!("outcome=\"{outcome}\"");
    sum_of(fleet, "hermes_requests_total{", &outcome).await
}

/// The sum of the series that begin so and have this label.
async fn sum_of(fleet: &Fleet, family: &str, label: &str) -> f64 {
    let page = format!("{}/metrics", fleet.proxies[0].admin_url());
    let page = client().get(page).send().await.expect("answers");
    let page = page.text().await.expect("text");
    let lines = page
        .lines()
        .filter(|line| line.starts_with(family) && line.contains(label));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

/// A true answer in the shape that the request asks for.
fn served(request: &ScriptedRequest) -> ScriptedAnswer {
    let is_stream = memchr::memmem::find(&request.body, b"\"stream\":true").is_some();
    if is_stream {
        ScriptedAnswer::events(&[
            (
                Duration::ZERO,
                "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
            ),
            (
                Duration::from_millis(2),
                "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"true\"},\"finish_reason\":\"stop\"}]}\n\n",
            ),
            (Duration::ZERO, "data: [DONE]\n\n"),
        ])
    } else {
        let body = "{\"choices\":[{\"message\":{\"role\":\"assistant\",\"content\":\"true\"}}],\
                    \"usage\":{\"prompt_tokens\":9,\"completion_tokens\":1}}";
        ScriptedAnswer::whole("200 OK", &["content-type: application/json"], body)
    }
}

/// An engine that serves every request.
async fn good_engine(models: &[&str]) -> ScriptedEngine {
    let script = |request: &ScriptedRequest| is_post(request).then(|| served(request));
    let engine = ScriptedEngine::start(models, script).await;
    engine.expect("a free port")
}

fn is_post(request: &ScriptedRequest) -> bool {
    request.line.starts_with("POST")
}
