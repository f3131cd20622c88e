//! Token ids: requested from engines over real sockets, and computed from a model's files by a
//! whole fleet.

use std::{net::TcpListener, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use hermes_bench::fleet::{Scene, instant};
use hermes_control_plane::{
    cache_sources::tokenizer::{
        Failure, PoolTokenizer, TokenizeOutcome, TokenizerMetrics, TokenizerSettings, Way,
    },
    config::Config,
};
use hermes_core::{
    policy::PoolPolicy,
    snapshot::{Endpoint, EndpointId, Pool, PoolSpec, Role},
};
use hermes_engine_sim::{
    Engine, EngineHandle,
    http_server::{Handler, HttpServer, reply},
};
use hermes_proto::v1::PromptText;
use hermes_testkit::conductor::{ConductorServer, Dialect, Query};
use http_body_util::Full;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::client::{ask, client, send};

/// Far over any time limit.
const PATIENCE: Duration = Duration::from_secs(20);

fn tokens(limit: Duration, endpoints: &[&str]) -> (PoolTokenizer, TokenizerMetrics) {
    tokens_by(
        TokenizerSettings {
            way: Way::Engine,
            cache: 1 << 20,
            timeout: limit,
            longest: 1 << 20,
            key_file: None,
        },
        endpoints,
    )
}

fn tokens_by(settings: TokenizerSettings, endpoints: &[&str]) -> (PoolTokenizer, TokenizerMetrics) {
    hermes_runtime::crypto::install_default_crypto();
    let metrics = TokenizerMetrics::register(&mut Registry::default());
    let tokens = PoolTokenizer::new("chat", settings, metrics.clone()).expect("a client");
    let spec = PoolSpec::new("chat", PoolPolicy::default());
    let endpoint = |(id, url): (u64, &&str)| {
        Arc::new(Endpoint {
            id: EndpointId(id),
            address: url.parse().expect("an address"),
            name: "".into(),
            role: Role::Aggregate,
            group: None,
            pairing: hermes_core::snapshot::PairingFacts::default(),
        })
    };
    tokens.follow(&Pool {
        spec: Arc::new(spec),
        models: hermes_core::collection::Collection::default(),
        endpoints: (1..).zip(endpoints).map(endpoint).collect(),
    });
    (tokens, metrics)
}

/// Answers everything with an object without ids.
struct EmptyAnswer;

impl Handler for EmptyAnswer {
    fn answer(
        self: Arc<Self>,
        _: http::Request<Bytes>,
    ) -> BoxFuture<'static, http::Response<Full<Bytes>>> {
        Box::pin(async { reply(http::StatusCode::OK, "{}") })
    }
}

/// Tokenizes for those who have its key.
struct GuardedTokenizer;

impl Handler for GuardedTokenizer {
    fn answer(
        self: Arc<Self>,
        request: http::Request<Bytes>,
    ) -> BoxFuture<'static, http::Response<Full<Bytes>>> {
        let key = request.headers().get(http::header::AUTHORIZATION);
        let has_key = key.is_some_and(|key| key == "Bearer sk-engine");
        Box::pin(async move {
            if has_key {
                reply(http::StatusCode::OK, r#"{"tokens":[7,8,9]}"#)
            } else {
                reply(http::StatusCode::UNAUTHORIZED, "{}")
            }
        })
    }
}

async fn engine() -> EngineHandle {
    Engine::start(instant()).await.expect("a port")
}

fn lookup(path: &str, body: &Value) -> PromptText {
    hermes_data_plane::lookup::of(path, &Bytes::from(body.to_string())).expect("there is a prompt")
}

fn turn(number: usize) -> Value {
    json!({"model": "sim", "messages": [{"role": "user", "content": format!("question number {number}")}]})
}

#[tokio::test]
async fn ids_are_those_of_the_engines_own_tokenize() {
    let engine = engine().await;
    let (tokens, _) = tokens(PATIENCE, &[&engine.url()]);
    let bodies = [
        ("/v1/chat/completions", turn(1)),
        (
            "/v1/completions",
            json!({"model": "sim", "prompt": "hello world"}),
        ),
    ];
    for (path, body) in bodies {
        let url = format!("{}/tokenize", engine.url());
        let answer: Value = client()
            .post(url)
            .json(&body)
            .send()
            .await
            .expect("an answer")
            .json()
            .await
            .expect("JSON");
        let ids = tokens
            .ids(&lookup(path, &body), Some("sim"))
            .await
            .expect("ids");
        assert_eq!(json!(ids), answer["tokens"], "{path}");
    }
}

#[tokio::test]
async fn a_dead_engine_is_skipped() {
    let (alive, gone) = (engine().await, engine().await);
    let url = gone.url();
    drop(gone);
    let (tokens, metrics) = tokens(PATIENCE, &[&url, &alive.url()]);
    for number in 0..20 {
        let found = tokens
            .ids(&lookup("/v1/chat/completions", &turn(number)), Some("sim"))
            .await;
        assert!(found.is_some(), "{number}");
    }
    assert_eq!(metrics.count(TokenizeOutcome::Tokenized), 20);
}

#[tokio::test]
async fn a_hanging_engine_delays_a_request_by_the_timeout_at_most() {
    let silent = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let url = format!("http://{}", silent.local_addr().expect("it is bound"));
    let (tokens, metrics) = tokens(Duration::from_millis(50), &[&url]);
    let text = lookup("/v1/chat/completions", &turn(1));
    assert_eq!(
        timeout(PATIENCE, tokens.ids(&text, Some("sim")))
            .await
            .expect("in time"),
        None
    );
    assert_eq!(metrics.count(TokenizeOutcome::Failed(Failure::Late)), 1);
}

#[tokio::test]
async fn engines_that_want_a_key_get_it_with_the_prompt() {
    let server = HttpServer::start(Arc::new(GuardedTokenizer))
        .await
        .expect("starts");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key");
    std::fs::write(&path, "sk-engine\n").expect("written");
    let text = format!(
        "pools: [{{name: a, endpoints: ['{}'], kvEvents: {{}}, metrics: {{keyFile: '{}'}}}}]",
        server.url(),
        path.display()
    );
    let mut config = Config::parse(&text).expect("a good configuration");
    let pool = config.pools.swap_remove(0);
    let settings = TokenizerSettings {
        timeout: PATIENCE,
        ..pool.tokenizer.expect("KV events need one")
    };
    let (tokens, _) = tokens_by(settings, &[&server.url()]);
    let ids = tokens
        .ids(&lookup("/v1/chat/completions", &turn(1)), Some("sim"))
        .await;
    assert_eq!(ids.as_deref(), Some(&[7, 8, 9][..]));
}

#[tokio::test]
async fn a_response_without_a_list_of_ids_is_ignored() {
    let server = HttpServer::start(Arc::new(EmptyAnswer))
        .await
        .expect("starts");
    let (tokens, metrics) = tokens(PATIENCE, &[&server.url()]);
    assert_eq!(
        tokens
            .ids(&lookup("/v1/chat/completions", &turn(1)), Some("sim"))
            .await,
        None
    );
    assert_eq!(metrics.count(TokenizeOutcome::Tokenized), 0);
}

/// The fixture's files: a byte-level vocabulary of 306 tokens and a ChatML template.
fn files() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../control-plane/testdata/tokenizer")
}

#[tokio::test]
async fn a_fleet_computes_ids_from_files_and_sends_them_to_the_conductor() {
    let asked: Arc<Mutex<Vec<Query>>> = Arc::default();
    let seen = Arc::clone(&asked);
    let know = move |query: &Query| {
        seen.lock().push(query.clone());
        Vec::new()
    };
    let server = ConductorServer::start(Dialect::Msgpack, know)
        .await
        .expect("a port");
    let mut scene = Scene::of(2, "kv-aware");
    scene.pool.push_str(&format!(
        "  tokenizer: {{path: '{}', timeout: 5s}}\n  kvManager: {{protocol: conductor-msgpack, url: '{}', lookupTimeout: 2s, conductor: {{blockSize: 2}}}}\n",
        files().display(),
        server.url()
    ));
    let fleet = scene.start().await.expect("starts");
    let body = json!({"model": "sim", "max_tokens": 1, "cache_salt": "t1", "messages": [{"role": "user", "content": "hello world"}]});
    // The files may be read a moment after the fleet is ready.
    crate::client::eventually("the conductor is asked", || async {
        assert_eq!(send(ask(&fleet.url(), &body)).await.status(), 200);
        !asked.lock().is_empty()
    })
    .await;
    let query = asked.lock()[0].clone();
    assert_eq!(
        query.token_ids,
        [300, 267, 198, 259, 264, 301, 198, 300, 280, 198]
    );
    assert_eq!((&*query.model, &*query.salt), ("sim", "t1"));
}
