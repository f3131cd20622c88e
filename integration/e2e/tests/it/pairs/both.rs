//! Engines that do both: whole requests, and the halves of pairs where those are worth it.

use std::time::Duration;

use futures::future::join_all;
use hermes_bench::fleet::{Fleet, Scene};
use tokio::task::JoinHandle;

use super::*;
use crate::client::client;

/// Two engines that do both, and a router in front of them.
struct TwoOfBoth {
    network: Arc<PairNetwork>,
    fleet: Fleet,
}

/// Words of which a prompt is a second of prefill: much more than its transfer is assumed to take.
const SHARED: usize = 8_000;

/// Answers that are generated at once at the busy one.
const ANSWERS: usize = 6;

impl TwoOfBoth {
    /// Whose batches slow each other down, with these changes of their part in pairs.
    async fn start(change: impl Fn(&mut PairConfig)) -> Self {
        let network = Arc::default();
        let mut pair = PairConfig::new(PairRole::Both, PairProtocol::VllmNixl, &network);
        change(&mut pair);
        let engine = EngineConfig {
            pair: Some(pair),
            step_per_decode: Duration::from_millis(30),
            ..EngineConfig::default()
        };
        let scene = Scene {
            engines: vec![engine; 2],
            ..Scene::of(0, "kv-aware")
        };
        let fleet = scene.start().await.expect("starts");
        Self { network, fleet }
    }

    /// Answers in batches of two sizes show that the larger one is slower.
    async fn learn(&self) {
        for batch in [1, ANSWERS] {
            let bodies = (0..batch).map(|number| chat(&format!("{batch} {number}"), 24));
            self.answered(bodies).await;
        }
    }

    /// The texts of the answers to these requests, which are sent at once.
    async fn answered(&self, bodies: impl Iterator<Item = Value>) -> Vec<String> {
        let url = self.fleet.url();
        join_all(bodies.map(|body| {
            let url = url.clone();
            async move { text_of(&url, &body).await }
        }))
        .await
    }

    /// One engine has the beginning of a prompt, and generates many answers. Returns its number, and
    /// what comes of these. They leave too little to compute to be split themselves.
    async fn lean(&self) -> (usize, JoinHandle<Vec<String>>) {
        self.answered([shared("first", 1)].into_iter()).await;
        let url = self.fleet.url();
        let answers = tokio::spawn(async move {
            let next = |number: usize| {
                let (url, body) = (url.clone(), shared(&format!("next {number}"), 24));
                async move { text_of(&url, &body).await }
            };
            join_all((0..ANSWERS).map(next)).await
        });
        eventually("one engine generates the answers", || async {
            self.busy().await.is_some()
        })
        .await;
        (self.busy().await.expect("it does"), answers)
    }

    /// The engine that generates the answers, once their first bytes have been reported to the
    /// control plane. Until then they count as prompts there, and not as a batch.
    async fn busy(&self) -> Option<usize> {
        let admin = self.fleet.control_planes[0].bound.admin;
        let page = format!(
            "http://{}/debug/score?pool=chat",
            admin.expect("an admin port")
        );
        let (_, explanation) = json_of(send(client().get(page)).await).await;
        let candidates = explanation["candidates"].as_array().expect("a list");
        let generates = |candidate: &&Value| {
            (&candidate["in_flight"], &candidate["pending_tokens"]) == (&json!(ANSWERS), &json!(0))
        };
        let busy = candidates.iter().find(generates)?;
        let mut engines = self.fleet.engines.iter();
        engines.position(|engine| busy["name"] == json!(engine.addr().to_string()))
    }

    /// A long prompt that continues the shared beginning; returns whether its answer is right.
    async fn long_turn_is_answered(&self) -> bool {
        let body = shared(&"more ".repeat(400), 5);
        let texts = self.answered([body.clone()].into_iter()).await;
        let alone = Engine::start(instant()).await.expect("starts");
        texts == [text_of(&alone.url(), &body).await]
    }
}

/// A chat that begins with `name`.
fn chat(name: &str, tokens: u32) -> Value {
    json!({
        "model": "sim", "stream": true, "max_tokens": tokens,
        "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": name}],
    })
}

/// A chat that ends with `tail`, after what all of them have in common.
fn shared(tail: &str, tokens: u32) -> Value {
    chat(&format!("{}{tail}", "word ".repeat(SHARED)), tokens)
}

/// The prefill legs that an engine was sent.
fn prefill_legs(engine: &EngineHandle) -> usize {
    let requests = sent(engine).into_iter();
    let legs = requests
        .filter(|request| request.json()["kv_transfer_params"]["do_remote_decode"] == json!(true));
    legs.count()
}

#[tokio::test]
async fn a_prompt_is_computed_where_it_is_cached_and_answered_where_fewer_are_generated() {
    let both = TwoOfBoth::start(|_| {}).await;
    both.learn().await;
    let (busy, answers) = both.lean().await;
    assert!(both.long_turn_is_answered().await);
    assert_eq!(both.network.taken(), 1);
    let legs = [busy, 1 - busy].map(|engine| prefill_legs(&both.fleet.engines[engine]));
    assert_eq!(legs, [1, 0]);
    assert_eq!(answers.await.expect("no panic").len(), ANSWERS);
    assert_eq!(both.network.violations(), Vec::<String>::new());
    eventually("nothing is kept", || async { both.network.kept() == 0 }).await;
}

#[tokio::test]
async fn a_request_is_answered_where_halves_cannot_reach_each_other() {
    let nothing_there = || Some("127.0.0.250".to_owned());
    let both = TwoOfBoth::start(|pair| {
        pair.host = nothing_there();
        pair.lease = Duration::from_secs(2);
    })
    .await;
    both.learn().await;
    let (busy, answers) = both.lean().await;
    assert!(both.long_turn_is_answered().await);
    assert_eq!(
        prefill_legs(&both.fleet.engines[busy]),
        1,
        "a pair was tried"
    );
    assert_eq!(both.network.taken(), 0);
    assert_eq!(answers.await.expect("no panic").len(), ANSWERS);
    assert_eq!(both.network.violations(), Vec::<String>::new());
    eventually("nothing is kept", || async { both.network.kept() == 0 }).await;
}
