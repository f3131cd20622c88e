//! Pairs whose legs are sent by a sidecar or a leader: which endpoint is blamed when that one
//! answers for another.

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use hermes_engine_sim::http_server::{Handler, HttpServer, reply, typed};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::net::TcpStream;

use super::{failures::BROKEN, *};

/// One failure ejects an endpoint, for the rest of the test.
const STRICT: &str = "ejection: {consecutiveFailures: 1, baseTime: 10m, maxTime: 10m}";

/// Where the endpoints of a pair are named, in the order in which a forwarder contacts them.
const NAMES: [&str; 3] = [
    "x-prefiller-host-port",
    "x-openfuyao-prefill-pod-address-port",
    "x-openfuyao-decode-pod-address-port",
];

/// A sidecar or a leader: it contacts the endpoints that a request names, answers with its status
/// if one of them accepts no connection, and passes on what the engine that decodes answers.
struct PairForwarder {
    unreachable: StatusCode,
    /// The engine behind a sidecar; a leader takes the one that the request names.
    engine: Option<String>,
}

impl Handler for PairForwarder {
    fn answer(
        self: Arc<Self>,
        request: Request<Bytes>,
    ) -> BoxFuture<'static, Response<Full<Bytes>>> {
        async move {
            let answer = self.forward(request).await;
            answer.unwrap_or_else(|| reply(self.unreachable, r#"{"error": "unreachable"}"#))
        }
        .boxed()
    }
}

impl PairForwarder {
    async fn start(unreachable: StatusCode, engine: Option<&EngineHandle>) -> HttpServer {
        let forwarder = Self {
            unreachable,
            engine: engine.map(EngineHandle::url),
        };
        HttpServer::start(Arc::new(forwarder))
            .await
            .expect("starts")
    }

    /// `None` when an endpoint accepts no connection.
    async fn forward(&self, request: Request<Bytes>) -> Option<Response<Full<Bytes>>> {
        let (head, body) = request.into_parts();
        let mut last = None;
        for name in NAMES {
            if let Some(address) = head.headers.get(name) {
                let address = address.to_str().expect("an address");
                TcpStream::connect(address).await.ok()?;
                last = Some(format!("http://{address}"));
            }
        }
        let engine = self.engine.clone().or(last)?;
        let url = format!("{engine}{}", head.uri.path());
        let sent = crate::client::client().request(head.method, url).body(body);
        let sent = sent.header("content-type", "application/json");
        let answer = sent.send().await.ok()?;
        let status = answer.status();
        let is_stream = answer
            .headers()
            .get("content-type")
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        let kind = match is_stream {
            true => "text/event-stream",
            false => "application/json",
        };
        Some(typed(status, kind, answer.bytes().await.ok()?))
    }
}

/// Engines behind sidecars or a leader, and a router in front of these.
struct ForwardedFleet {
    fleet: PairedFleet,
    _forwarders: Vec<HttpServer>,
}

impl ForwardedFleet {
    async fn behind_sidecars(counts: [usize; 2], unreachable: StatusCode) -> Self {
        let scene = scene_of("llm-d-sidecar", counts);
        let network = Arc::default();
        let decodes = scene.engines(PairRole::Decode, &network).await;
        let mut sidecars = Vec::new();
        for engine in &decodes {
            sidecars.push(PairForwarder::start(unreachable, Some(engine)).await);
        }
        let urls = sidecars.iter().map(HttpServer::url).collect();
        let fleet = scene.start_before(urls, decodes, network).await;
        Self {
            fleet,
            _forwarders: sidecars,
        }
    }

    async fn behind_leader(counts: [usize; 2], unreachable: StatusCode) -> Self {
        let leader = PairForwarder::start(unreachable, None).await;
        let scene = scene_of("leader-headers", counts);
        let scene = scene.keys(&format!("leaders: [{}]", leader.url()));
        Self {
            fleet: scene.start().await,
            _forwarders: vec![leader],
        }
    }

    /// Sends this many requests, each of which is answered.
    async fn answers(&self, requests: usize) {
        for request in 0..requests {
            let body = long_chat(&format!("request {request}"), request % 2 == 0);
            text_of(&self.fleet.url(), &body).await;
        }
    }

    /// The attempts at pairs that failed by each endpoint, and ejections.
    async fn failures(&self) -> [f64; 3] {
        [
            self.fleet.pairs("prefill_failed").await,
            self.fleet.pairs("decode_failed").await,
            self.fleet.ejections().await,
        ]
    }
}

/// A scene in which every request goes to a pair, if one is up.
fn scene_of(dialect: &'static str, counts: [usize; 2]) -> PairedScene {
    PairedScene {
        strategy: "round-robin",
        ..PairedScene::of(dialect, None, counts).pool(STRICT)
    }
}

const UNREACHABLE: [StatusCode; 4] = [
    StatusCode::INTERNAL_SERVER_ERROR,
    StatusCode::BAD_GATEWAY,
    StatusCode::SERVICE_UNAVAILABLE,
    StatusCode::GATEWAY_TIMEOUT,
];

#[tokio::test]
async fn a_prefill_engine_that_is_gone_is_blamed_for_what_a_sidecar_answers() {
    for status in UNREACHABLE {
        let scene = ForwardedFleet::behind_sidecars([2, 1], status).await;
        scene.answers(2).await;
        scene.fleet.prefills[0].kill().await;
        scene.answers(24).await;
        assert_eq!(scene.failures().await, [1.0, 0.0, 1.0], "{status}");
    }
}

#[tokio::test]
async fn a_prefill_engine_that_is_gone_is_blamed_for_what_a_leader_answers() {
    for status in UNREACHABLE {
        let scene = ForwardedFleet::behind_leader([2, 1], status).await;
        scene.answers(2).await;
        scene.fleet.prefills[0].kill().await;
        scene.answers(24).await;
        assert_eq!(scene.failures().await, [1.0, 0.0, 1.0], "{status}");
    }
}

#[tokio::test]
async fn a_decode_engine_that_is_gone_is_blamed_for_what_a_leader_answers() {
    for status in UNREACHABLE {
        let scene = ForwardedFleet::behind_leader([1, 2], status).await;
        scene.answers(2).await;
        scene.fleet.decodes[0].kill().await;
        scene.answers(24).await;
        assert_eq!(scene.failures().await, [0.0, 1.0, 1.0], "{status}");
    }
}

#[tokio::test]
async fn a_decode_engine_that_is_broken_behind_its_sidecar_is_ejected() {
    let scene = ForwardedFleet::behind_sidecars([2, 2], StatusCode::BAD_GATEWAY).await;
    scene.fleet.decodes[0].faults().set(BROKEN);
    scene.answers(24).await;
    let asked = count(&scene.fleet.decodes);
    assert_eq!(asked[0], 1, "one failure ejects it");
    // Its first partner is ejected with it: either may be the cause.
    assert_eq!(scene.failures().await[2], 2.0);
}
