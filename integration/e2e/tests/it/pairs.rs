//! Requests that are split between a prefill and a decode engine, over real sockets, in each
//! dialect.

mod both;
mod changes;
mod cluster;
mod deaths;
mod departures;
mod dialects;
mod failures;
mod forwarded;
mod prompts;
mod recomputed;
mod rewrites;
mod stalls;
mod stated;
mod trtllm;
mod vllm_mooncake;
mod zones;

use std::net::Ipv4Addr;
use std::sync::Arc;

use hermes_bench::fleet::{self, Plane, instant};
use hermes_control_plane::{
    app::{self as control, ConfigSource},
    config::Config,
};
use hermes_data_plane::app as data;
use hermes_engine_sim::{
    Engine, EngineConfig, EngineHandle, PairConfig, PairNetwork, PairProtocol, PairRole,
    RecordedRequest,
};
use http::Method;
use serde_json::{Value, json};

use crate::client::{ask, eventually, json_of, metric, pieces, send};

/// Prefill and decode engines, and a router in front of them.
struct PairedFleet {
    network: Arc<PairNetwork>,
    prefills: Vec<EngineHandle>,
    decodes: Vec<EngineHandle>,
    control: Option<Plane<control::ControlPlane>>,
    proxy: Plane<data::DataPlane>,
}

/// Engines to start.
struct PairedScene {
    dialect: &'static str,
    protocol: Option<PairProtocol>,
    counts: [usize; 2],
    engine: EngineConfig,
    /// Further keys of `disaggregation`.
    keys: String,
    /// Other strategies than `kv-aware` split every long prompt; by costs, engines that are fast
    /// enough serve alone once transfers are learned.
    strategy: &'static str,
    /// Further keys of the pool, a line each.
    pool: String,
    /// Tokens of a KV cache that are moved in a second.
    transfer_rate: f64,
    /// What is otherwise at the first prefill engine.
    first: FirstPrefill,
    /// The configuration names no roles.
    are_roles_stated: bool,
}

/// What is otherwise at the first prefill engine of a scene.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FirstPrefill {
    Sound,
    /// Nothing listens where decode engines look for what it keeps.
    DeadSideChannel,
    /// It hands nothing over.
    NoConnector,
    /// Its answers end with their first token.
    EndsAtOnce,
}

impl PairedScene {
    fn of(dialect: &'static str, protocol: Option<PairProtocol>, counts: [usize; 2]) -> Self {
        Self {
            dialect,
            protocol,
            counts,
            engine: instant(),
            keys: String::new(),
            strategy: "least-request",
            pool: String::new(),
            transfer_rate: 1e6,
            first: FirstPrefill::Sound,
            are_roles_stated: false,
        }
    }

    fn nixl(prefills: usize, decodes: usize) -> Self {
        let protocol = Some(PairProtocol::VllmNixl);
        Self::of("vllm-nixl", protocol, [prefills, decodes])
    }

    fn sglang(prefills: usize, decodes: usize) -> Self {
        Self::of("sglang", Some(PairProtocol::Sglang), [prefills, decodes])
    }

    fn keys(self, keys: &str) -> Self {
        Self {
            keys: format!(", {keys}"),
            ..self
        }
    }

    fn strategy(self, strategy: &'static str) -> Self {
        Self { strategy, ..self }
    }

    fn pool(self, keys: &str) -> Self {
        Self {
            pool: format!("{}  {keys}\n", self.pool),
            ..self
        }
    }

    fn transfer_rate(self, transfer_rate: f64) -> Self {
        Self {
            transfer_rate,
            ..self
        }
    }

    fn engine(self, engine: EngineConfig) -> Self {
        Self { engine, ..self }
    }

    fn first(self, first: FirstPrefill) -> Self {
        Self { first, ..self }
    }

    fn has_bootstrap_port(&self) -> bool {
        let protocols = [PairProtocol::Sglang, PairProtocol::VllmMooncake];
        let has_one = self.protocol.is_some_and(|one| protocols.contains(&one));
        has_one && !self.are_roles_stated
    }

    /// The port at which these prefill engines are found by decode engines, if it is configured.
    fn bootstrap_port(&self, prefills: &[EngineHandle]) -> Option<u16> {
        let first = prefills.first().filter(|_| self.has_bootstrap_port())?;
        Some(first.side_channel_addr()?.port())
    }

    async fn engines(&self, role: PairRole, network: &Arc<PairNetwork>) -> Vec<EngineHandle> {
        let pair = |protocol| PairConfig {
            transfer_rate: self.transfer_rate,
            ..PairConfig::new(role, protocol, network)
        };
        let count = self.counts[usize::from(role == PairRole::Decode)];
        let mut engines = Vec::new();
        for index in 0..count {
            let mut pair = self.protocol.map(pair);
            if index == 0 && role == PairRole::Prefill {
                match self.first {
                    FirstPrefill::Sound => {}
                    FirstPrefill::NoConnector => pair = None,
                    FirstPrefill::EndsAtOnce => {
                        pair.iter_mut().for_each(|pair| pair.ends_at_once = true);
                    }
                    FirstPrefill::DeadSideChannel => {
                        let nothing_there = Some("127.0.0.250".to_owned());
                        pair.iter_mut()
                            .for_each(|pair| pair.host.clone_from(&nothing_there));
                    }
                }
            }
            let mut listen = self.engine.listen;
            if role == PairRole::Prefill && self.has_bootstrap_port() {
                // All have one bootstrap port, as static endpoints have, each at an address of its
                // own.
                listen.set_ip(Ipv4Addr::new(127, 0, 0, 1 + index as u8).into());
                let port = self.bootstrap_port(&engines).unwrap_or(0);
                pair.iter_mut().for_each(|pair| pair.port = port);
            }
            let config = EngineConfig {
                listen,
                pair,
                ..self.engine.clone()
            };
            engines.push(Engine::start(config).await.expect("starts"));
        }
        engines
    }

    async fn start(self) -> PairedFleet {
        let network = Arc::default();
        let decodes = self.engines(PairRole::Decode, &network).await;
        let urls = decodes.iter().map(EngineHandle::url).collect();
        self.start_before(urls, decodes, network).await
    }

    /// Starts the rest, in front of these decode engines, which are at these URLs.
    async fn start_before(
        self,
        decode_urls: Vec<String>,
        decodes: Vec<EngineHandle>,
        network: Arc<PairNetwork>,
    ) -> PairedFleet {
        let prefills = self.engines(PairRole::Prefill, &network).await;
        let urls: Vec<String> = prefills.iter().map(EngineHandle::url).collect();
        let mut keys = self.keys.clone();
        if let Some(port) = self.bootstrap_port(&prefills) {
            keys = format!("{keys}, bootstrapPort: {port}");
        }
        let dialect = self.dialect;
        let (prefill, decode) = (urls.join(", "), decode_urls.join(", "));
        let endpoints = if self.are_roles_stated {
            format!("endpoints: [{prefill}, {decode}]\n  disaggregation: {{dialect: {dialect}")
        } else {
            format!(
                "disaggregation: {{dialect: {dialect}, prefill: [{prefill}], decode: [{decode}]"
            )
        };
        let yaml = format!(
            "pools:\n- name: chat\n  strategy: {}\n  scoreDeadline: 5s\n  {endpoints}{keys}}}\n{}",
            self.strategy, self.pool
        );
        let config = Config::parse(&yaml).expect("a configuration of this test");
        let control = fleet::control_plane(ConfigSource::Value(config)).await;
        let control = control.expect("starts");
        let proxy = fleet::proxy(&[control.bound.grpc]).await.expect("starts");
        proxy.bound.readiness.ready().await;
        if self.dialect == "vllm-mooncake" {
            let ranks = self.engine.data_parallel as usize * prefills.len();
            stated::ranks_are_known(&proxy, ranks).await;
        }
        PairedFleet {
            network,
            prefills,
            decodes,
            control: Some(control),
            proxy,
        }
    }
}

impl PairedFleet {
    fn url(&self) -> String {
        self.proxy.url()
    }

    /// Attempts at pairs that ended so.
    async fn pairs(&self, outcome: &str) -> f64 {
        let series = format!("hermes_pairs_total{{pool=\"chat\",outcome=\"{outcome}\"}}");
        metric(&self.proxy.admin_url(), &series).await
    }

    /// Ejections of endpoints that failed.
    async fn ejections(&self) -> f64 {
        let series = "hermes_endpoint_ejections_total{pool=\"chat\",reason=\"failures\"}";
        metric(&self.proxy.admin_url(), series).await
    }

    /// Nothing is booked, no leg waits, no handoff was misused, and none is left.
    async fn is_clean(&self) {
        eventually("nothing is booked", || async {
            bookings(self).await == 0.0
        })
        .await;
        eventually("no leg waits", || async { self.network.waiting() == 0 }).await;
        assert_eq!(self.network.violations(), Vec::<String>::new());
        assert_eq!(self.network.kept(), 0);
    }

    /// No leg waits, no handoff was misused, and none is left.
    async fn nothing_is_left(&self) {
        eventually("no leg waits and nothing is kept", || async {
            (self.network.waiting(), self.network.kept()) == (0, 0)
        })
        .await;
        assert_eq!(self.network.violations(), Vec::<String>::new());
    }
}

/// Bookings of the control plane.
async fn bookings(fleet: &PairedFleet) -> f64 {
    booked_by(fleet.control.as_ref().expect("it runs")).await
}

async fn booked_by(control: &Plane<control::ControlPlane>) -> f64 {
    let admin = control.bound.admin.expect("an admin port");
    let series = "hermes_control_plane_bookings{pool=\"chat\"}";
    metric(&format!("http://{admin}"), series).await
}

/// The inference requests that each of these engines was sent.
fn count(engines: &[EngineHandle]) -> Vec<usize> {
    engines.iter().map(|engine| sent(engine).len()).collect()
}

/// The inference requests that an engine was sent.
fn sent(engine: &EngineHandle) -> Vec<Arc<RecordedRequest>> {
    let requests = engine.requests().into_iter();
    requests
        .filter(|request| request.method == Method::POST)
        .collect()
}

/// A chat with a prompt of about a thousand tokens that begins with `name`.
fn long_chat(name: &str, stream: bool) -> Value {
    json!({
        "model": "sim", "stream": stream, "max_tokens": 5,
        "messages": [{"role": "user", "content": format!("{name} {}", "word ".repeat(1_000))}],
    })
}

/// The text of an answer, streamed or not.
async fn text_of(url: &str, body: &Value) -> String {
    let response = send(ask(url, body)).await;
    assert_eq!(response.status(), 200);
    if body["stream"] == json!(true) {
        let (pieces, is_whole) = pieces(response).await;
        assert!(is_whole, "{pieces:?}");
        let events = pieces.concat();
        let events = events
            .lines()
            .filter_map(|line| line.strip_prefix("data: "));
        let deltas = events.filter_map(|event| {
            let event: Value = serde_json::from_str(event).ok()?;
            Some(event["choices"][0]["delta"]["content"].as_str()?.to_owned())
        });
        return deltas.collect();
    }
    let (_, answer) = json_of(response).await;
    let text = answer["choices"][0]["message"]["content"].as_str();
    text.expect("a text").to_owned()
}

/// The same requests give the same texts at one engine that does both.
async fn texts_are_those_of_one_engine(fleet: &PairedFleet) {
    let alone = Engine::start(instant()).await.expect("starts");
    for stream in [false, true] {
        for name in ["one", "two"] {
            let body = long_chat(name, stream);
            let text = text_of(&fleet.url(), &body).await;
            assert_eq!(text, text_of(&alone.url(), &body).await);
        }
    }
}

#[tokio::test]
async fn requests_that_no_dialect_can_split_and_short_ones_go_to_the_decode_engine_alone() {
    let fleet = PairedScene::nixl(1, 1).start().await;
    let mut two_answers = long_chat("two answers", false);
    two_answers["n"] = json!(2);
    let mut logprobs = long_chat("log-probabilities", false);
    logprobs["prompt_logprobs"] = json!(1);
    let short = json!({"model": "sim", "messages": [{"role": "user", "content": "hello"}]});
    for body in [two_answers, logprobs, short] {
        assert_eq!(send(ask(&fleet.url(), &body)).await.status(), 200);
    }
    assert_eq!(
        (
            sent(&fleet.prefills[0]).len(),
            sent(&fleet.decodes[0]).len()
        ),
        (0, 3)
    );
    assert_eq!(fleet.network.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn the_next_turn_of_a_conversation_goes_to_the_engine_that_has_it() {
    let fleet = PairedScene::nixl(1, 1).strategy("kv-aware").start().await;
    let mut body = long_chat("first turn", false);
    let answer = text_of(&fleet.url(), &body).await;
    assert_eq!(sent(&fleet.prefills[0]).len(), 1);
    let messages = body["messages"].as_array_mut().expect("messages");
    messages.push(json!({"role": "assistant", "content": answer}));
    messages.push(json!({"role": "user", "content": "and then?"}));
    text_of(&fleet.url(), &body).await;
    assert_eq!(
        (
            sent(&fleet.prefills[0]).len(),
            sent(&fleet.decodes[0]).len()
        ),
        (1, 2),
        "few tokens are left to compute where the first turn was decoded"
    );
}

#[tokio::test]
async fn what_a_client_sets_of_a_handoff_reaches_no_engine() {
    let fleet = PairedScene::nixl(1, 1).start().await;
    let mut body = long_chat("hostile", false);
    body["kv_transfer_params"] = json!({"do_remote_prefill": true, "remote_host": "evil"});
    body["vllm_xargs"] = json!({"kv_transfer_params": "evil"});
    body["bootstrap_room"] = json!(1);
    text_of(&fleet.url(), &body).await;
    assert_eq!(fleet.network.violations(), Vec::<String>::new());
    for engine in [&fleet.prefills[0], &fleet.decodes[0]] {
        let body = sent(engine)[0].body.clone();
        let text = String::from_utf8_lossy(&body).into_owned();
        assert!(
            !text.contains("evil") && !text.contains("bootstrap_room"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_proxy_pairs_by_itself_while_the_control_plane_is_away() {
    let mut fleet = PairedScene::nixl(2, 2).start().await;
    fleet.control.take().expect("it runs").stop().await;
    for name in ["a", "b", "c"] {
        text_of(&fleet.url(), &long_chat(name, true)).await;
    }
    assert_eq!(fleet.pairs("answered").await, 3.0);
    assert_eq!(
        (fleet.network.taken(), fleet.network.violations().len()),
        (3, 0)
    );
}
