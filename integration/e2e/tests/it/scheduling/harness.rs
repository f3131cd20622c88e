//! The harness of these tests: engines, conversations, requests that keep an engine busy, and the
//! planes' metrics.

use std::ops::Range;

use hermes_bench::fleet::{Fleet, Plane, Scene};
use hermes_control_plane::app as control;
use hermes_data_plane::app as data;
use hermes_engine_sim::{EngineConfig, Fault};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::client::{ask, client, eventually, json_of, metric, send};

/// Tokens of an engine's block.
const BLOCK: usize = 16;

/// A line of 64 bytes, 16 tokens of the simulated tokenizer.
const LINE: &str = "it rains on the just and on the unjust alike, but mostly on me.\n";

/// An engine that computes 8,000 prompt tokens a second, in small blocks.
pub(super) fn engine() -> EngineConfig {
    EngineConfig {
        block_size: BLOCK,
        blocks: 20_000,
        ..EngineConfig::default()
    }
}

/// A scene with `engines` of them under `kv-aware`, with further configuration lines for the pool.
pub(super) fn scene(engines: usize, pool: &str) -> Scene {
    let mut scene = Scene {
        engines: vec![engine(); engines],
        ..Scene::of(0, "kv-aware")
    };
    scene.pool.push_str(pool);
    scene
}

pub(super) async fn fleet(engines: usize, pool: &str) -> Fleet {
    scene(engines, pool).start().await.expect("starts")
}

// === Prompts ===

/// A text of about `tokens` tokens with a prefix of its own.
pub(super) fn text(name: &str, tokens: usize) -> String {
    let mut text = format!("{name}: ");
    while text.len() < 4 * tokens {
        text.push_str(LINE);
    }
    text
}

/// A chat about one text, with a short streamed response.
pub(super) fn question(text: String) -> Value {
    chat(&[text], true, 2)
}

/// A prompt that takes an engine 50 ms.
pub(super) fn short(name: &str) -> Value {
    question(text(name, 400))
}

fn chat(prompts: &[String], stream: bool, tokens: u32) -> Value {
    let messages: Vec<Value> = prompts
        .iter()
        .map(|text| json!({"role": "user", "content": text}))
        .collect();
    let mut body =
        json!({"model": "sim", "max_tokens": tokens, "messages": messages, "stream": stream});
    if stream {
        body["stream_options"] = json!({"include_usage": true});
    }
    body
}

// === Conversation traffic ===

/// Cache use of prompts, as engines reported it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CacheUse {
    /// Prompt tokens that the same user had sent before: the hits of an unlimited cache.
    pub(super) again: u64,
    /// Prompt tokens that engines found in their caches.
    pub(super) cached: u64,
}

impl CacheUse {
    /// The share of possible hits that were found.
    pub(super) fn hit_rate(self) -> f64 {
        self.cached as f64 / self.again as f64
    }
}

/// One concurrent turn of many conversations, over all proxies: each user changes the proxy with
/// every turn. A turn repeats all earlier ones; the first has 1,500 tokens, each later one adds
/// 100.
///
/// Asserts that every request is answered completely.
pub(super) async fn turn(proxies: &[String], users: Range<usize>, turn: usize) -> CacheUse {
    let one = |user: usize| {
        let proxy = proxies[(user + turn) % proxies.len()].clone();
        async move {
            let prompts = prompts(user, turn);
            let (_, cached) = complete(&proxy, &chat(&prompts, true, 2)).await;
            // The earlier tokens as the simulated tokenizer counts them, without those of the chat
            // template.
            let again: usize = prompts[..turn].iter().map(|text| text.len() / 4).sum();
            CacheUse {
                again: again as u64,
                cached,
            }
        }
    };
    let mut all = CacheUse::default();
    for usage in futures::future::join_all(users.map(one)).await {
        all.again += usage.again;
        all.cached += usage.cached;
    }
    all
}

/// Turns of many conversations, one after the other.
pub(super) async fn turns(
    proxies: &[String],
    users: Range<usize>,
    turns: Range<usize>,
) -> CacheUse {
    let mut all = CacheUse::default();
    for number in turns {
        let usage = turn(proxies, users.clone(), number).await;
        all.again += usage.again;
        all.cached += usage.cached;
    }
    all
}

fn prompts(user: usize, turn: usize) -> Vec<String> {
    let tokens = |turn: usize| if turn == 0 { 1_500 } else { 100 };
    (0..=turn)
        .map(|turn| text(&format!("user {user} in turn {turn}"), tokens(turn)))
        .collect()
}

/// Sends a request and asserts that the response is complete. Returns its prompt tokens and how
/// many were cached.
pub(super) async fn complete(proxy: &str, body: &Value) -> (u64, u64) {
    let response = send(ask(proxy, body)).await;
    assert_eq!(response.status(), 200, "{:?}", response.text().await);
    let text = response.text().await.expect("a whole answer");
    let pieces = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok());
    let usage = pieces
        .map(|piece| piece["usage"].clone())
        .rfind(|usage| !usage.is_null())
        .expect("usage");
    let cached = usage["prompt_tokens_details"]["cached_tokens"]
        .as_u64()
        .unwrap_or(0);
    (usage["prompt_tokens"].as_u64().expect("a count"), cached)
}

// === Busy engines ===

/// A request that an engine accepts and never answers, so that the engine has no room until the
/// client disconnects.
pub(super) struct Stall(JoinHandle<()>);

impl Stall {
    /// Keeps every engine of the fleet busy.
    pub(super) async fn all(fleet: &Fleet) -> Vec<Self> {
        let before = requests(fleet);
        let mut stalls = Vec::new();
        for (number, engine) in fleet.engines.iter().enumerate() {
            engine.faults().set_for(1, Fault::StallBeforeHeaders);
            let (url, body) = (
                fleet.url(),
                question(text(&format!("stall {number}"), 16_000)),
            );
            stalls.push(Self(tokio::spawn(async move {
                _ = ask(&url, &body).send().await;
            })));
        }
        let engines = fleet.engines.len() as u64;
        eventually("every engine is busy", || {
            std::future::ready(requests(fleet) == before + engines)
        })
        .await;
        stalls
    }

    /// Disconnects the client.
    pub(super) fn end(self) {
        self.0.abort();
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The number of requests that all engines received.
pub(super) fn requests(fleet: &Fleet) -> u64 {
    fleet
        .engines
        .iter()
        .map(|engine| engine.stats().requests)
        .sum()
}

/// Sends a request in a task, which returns the status of the complete response.
pub(super) fn send_in_background(proxy: &str, body: &Value) -> JoinHandle<u16> {
    let request = ask(proxy, body);
    tokio::spawn(async move {
        let response = send(request).await;
        let status = response.status().as_u16();
        response.bytes().await.expect("a whole answer");
        status
    })
}

/// Sends requests named after `what`, each in a task, as [`send_in_background`] does.
pub(super) fn send_several(proxy: &str, count: usize, what: &str) -> Vec<JoinHandle<u16>> {
    (0..count)
        .map(|number| send_in_background(proxy, &short(&format!("{what} {number}"))))
        .collect()
}

/// Asserts that each of these requests is answered completely, with status 200.
pub(super) async fn all_answered(answers: impl IntoIterator<Item = JoinHandle<u16>>) {
    for answer in answers {
        assert_eq!(answer.await.expect("answered"), 200);
    }
}

// === Metrics and pages ===

pub(super) fn urls(fleet: &Fleet) -> Vec<String> {
    fleet.proxies.iter().map(Plane::url).collect()
}

pub(super) fn admin(plane: &Plane<control::ControlPlane>) -> String {
    format!("http://{}", plane.bound.admin.expect("an admin port"))
}

/// The value of this metric for the pool.
pub(super) async fn pool_metric(plane: &Plane<control::ControlPlane>, name: &str) -> f64 {
    metric(&admin(plane), &format!("{name}{{pool=\"chat\"}}")).await
}

/// Prompt tokens that this source expected to be cached, or what came of the prediction.
pub(super) async fn predicted(
    plane: &Plane<control::ControlPlane>,
    source: &str,
    kind: &str,
) -> f64 {
    let labels = format!("{{pool=\"chat\",source=\"{source}\",kind=\"{kind}\"}}");
    let name = "hermes_control_plane_cache_prediction_tokens_total";
    metric(&admin(plane), &format!("{name}{labels}")).await
}

/// Prompt tokens by which this source was wrong, in either direction.
pub(super) async fn prediction_error(plane: &Plane<control::ControlPlane>, source: &str) -> f64 {
    predicted(plane, source, "over").await + predicted(plane, source, "under").await
}

#[track_caller]
pub(super) fn await_pool_metric(
    plane: &Plane<control::ControlPlane>,
    name: &'static str,
    value: f64,
) -> impl Future<Output = ()> {
    eventually(name, move || async move {
        pool_metric(plane, name).await == value
    })
}

/// Waits until `count` requests are queued in the first control plane.
#[track_caller]
pub(super) fn await_queued(fleet: &Fleet, count: usize) -> impl Future<Output = ()> {
    let plane = &fleet.control_planes[0];
    await_pool_metric(plane, "hermes_control_plane_queued_requests", count as f64)
}

/// Selections of all proxies at this level of the fallback chain.
pub(super) async fn chosen_by(proxies: &[Plane<data::DataPlane>], level: &str) -> f64 {
    let series = format!("hermes_endpoint_selections_total{{pool=\"chat\",level=\"{level}\"}}");
    let mut all = 0.0;
    for proxy in proxies {
        all += metric(&proxy.admin_url(), &series).await;
    }
    all
}

/// The explanation of a request with a prompt of `prompt_bytes` bytes.
pub(super) async fn explained(plane: &Plane<control::ControlPlane>, prompt_bytes: usize) -> Value {
    let page = format!(
        "{}/debug/score?pool=chat&model=sim&prompt_bytes={prompt_bytes}",
        admin(plane)
    );
    let (status, explanation) = json_of(send(client().get(page)).await).await;
    assert_eq!(status, 200, "{explanation}");
    explanation
}
