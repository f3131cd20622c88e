//! Exchanges with endpoints over real sockets.

mod connections;
mod leaders;
mod left_pool;
mod other_decode;
mod pairs;

use std::{
    net::SocketAddr,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use hermes_core::{
    address::ServerAddress,
    ejection::EndpointFailure,
    placement::Placement,
    policy::{PoolPolicy, Strategy},
    refusals::{PeerAnswers, SecondOpinion},
    snapshot::{Endpoint, EndpointId, Pool, PoolSpec, Role, Snapshot},
};
use hermes_proto::v1::{self, report::Event};
use hermes_runtime::shutdown::Drain;
use http::{Method, Request};
use http_body_util::BodyExt;
use prometheus_client::registry::Registry;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    forward::Forwarder,
    guard::{RequestGuard, RequestStart},
    relay::{ResponseBody, relay},
    trace::RequestTrace,
};
use crate::{
    choose::{EndpointSelection, SelectedEndpoint},
    clock::uptime,
    endpoint::Upstream,
    link::report::Reporter,
    request::{
        admission::AdmissionLimit, api, inference_request::InferenceRequest,
        local_reply::LocalReply,
    },
    sync::RoutingState,
    telemetry::{access_log::AccessLog, metrics::ProxyMetrics},
    view::{RoutingPool, RoutingView},
};

/// A pool whose endpoints are at these addresses, and what a forwarder needs.
struct Exchange {
    pool: Arc<RoutingPool>,
    view: Arc<RoutingView>,
    routing: RoutingState,
    metrics: Arc<ProxyMetrics>,
    forwarder: Forwarder,
    reporter: Arc<Reporter>,
    reports: mpsc::Receiver<v1::Report>,
}

impl Exchange {
    fn with(endpoints: &[SocketAddr]) -> Self {
        let policy = PoolPolicy {
            strategy: Strategy::RoundRobin,
            ..PoolPolicy::default()
        };
        Self::under(policy, endpoints)
    }

    fn under(policy: PoolPolicy, endpoints: &[SocketAddr]) -> Self {
        let roles = endpoints.iter().map(|address| (Role::default(), *address));
        Self::in_roles(policy, roles)
    }

    fn in_roles(
        policy: PoolPolicy,
        endpoints: impl IntoIterator<Item = (Role, SocketAddr)>,
    ) -> Self {
        let metrics = Arc::new(ProxyMetrics::register(&mut Registry::default()));
        let snapshot = snapshot(policy, endpoints);
        let view = RoutingView::build(snapshot, None, &metrics, NonZeroUsize::MIN);
        let view = Arc::new(view);
        let routing = RoutingState::default();
        routing.view.store(Some(Arc::clone(&view)));
        let (reporter, reports) = Reporter::new();
        Self {
            pool: Arc::clone(&view.pools[0]),
            view,
            forwarder: Forwarder::new(routing.clone(), Arc::clone(&metrics), 1),
            routing,
            metrics,
            reporter: Arc::new(reporter),
            reports,
        }
    }

    /// In the next view the pool has these endpoints, and no other.
    fn becomes(&self, endpoints: impl IntoIterator<Item = (Role, SocketAddr)>) {
        let snapshot = snapshot(self.pool.pool.spec.policy.clone(), endpoints);
        let (before, workers) = (Some(&*self.view), NonZeroUsize::MIN);
        let view = RoutingView::build(snapshot, before, &self.metrics, workers);
        self.routing.view.store(Some(Arc::new(view)));
    }

    fn guard(&self) -> RequestGuard {
        let start = RequestStart {
            id: 1,
            at: Instant::now(),
            trace: RequestTrace::begin(&Request::new(())),
        };
        let permit = AdmissionLimit::new(None).try_acquire(1).expect("free");
        RequestGuard::open(
            start,
            Arc::clone(&self.pool),
            None,
            (Arc::clone(&self.reporter), Arc::new(AccessLog::default())),
            (permit, Drain::default().track()),
        )
    }

    /// Every endpoint of the pool, in order.
    fn selection(&self) -> EndpointSelection {
        let endpoint = |upstream| Placement::One(selected(upstream));
        EndpointSelection {
            ranked: self.pool.upstreams.iter().map(endpoint).collect(),
            ..EndpointSelection::default()
        }
    }

    /// Forwards a request; the whole answer is to be read.
    async fn answer(&self, selection: &EndpointSelection) -> Result<ResponseBody, LocalReply> {
        let (request, mut guard) = (request(), self.guard());
        let answer = self
            .forwarder
            .forward(&request, &self.pool, selection, &mut guard)
            .await?;
        let timeouts = self.pool.pool.spec.policy.timeouts;
        Ok(relay(answer, guard, &request, timeouts, (None, None)).into_body())
    }

    /// Leaves this many idle connections to each endpoint.
    async fn warm_up(&self, connections: usize) {
        for endpoint in self.selection().ranked {
            let only = EndpointSelection {
                ranked: [endpoint].into_iter().collect(),
                ..EndpointSelection::default()
            };
            let mut bodies = Vec::new();
            for _ in 0..connections {
                bodies.push(self.answer(&only).await.expect("the engine answers"));
            }
            for body in bodies {
                assert_eq!(body.collect().await.expect("whole").to_bytes(), "ok");
            }
        }
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.reports.try_recv().ok()?.event).collect()
    }
}

/// A pool under this policy, with endpoints that are numbered in order.
fn snapshot(
    policy: PoolPolicy,
    endpoints: impl IntoIterator<Item = (Role, SocketAddr)>,
) -> Arc<Snapshot> {
    let endpoint = |(index, (role, address)): (usize, (Role, SocketAddr))| {
        Arc::new(Endpoint {
            id: EndpointId(index as u64),
            name: format!("endpoint-{index}").into(),
            role,
            group: None,
            pairing: pairs::facts(),
            address: ServerAddress::try_from(address).expect("a bound port"),
        })
    };
    let pool = Arc::new(Pool {
        spec: Arc::new(PoolSpec::new("chat", policy)),
        models: hermes_core::collection::Collection::default(),
        endpoints: endpoints.into_iter().enumerate().map(endpoint).collect(),
    });
    Arc::new(Snapshot {
        pools: vec![pool].into(),
        ..Snapshot::default()
    })
}

/// An engine that answers, until it is killed: then each connection ends with the next request that
/// it reads, and no new one is accepted unless `accepts` says so.
struct Engine {
    address: SocketAddr,
    connection: EngineConnection,
    accepting: JoinHandle<()>,
}

#[derive(Clone, Default)]
struct EngineConnection {
    /// Requests that were read after the kill.
    seen: Arc<AtomicUsize>,
    killed: CancellationToken,
}

impl Engine {
    async fn start(accepts_when_killed: bool) -> Self {
        let (listener, address) = listen().await;
        let connection = EngineConnection::default();
        let serving = connection.clone();
        let accepting = tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.expect("a connection").0,
                    () = serving.killed.cancelled(), if !accepts_when_killed => return,
                };
                tokio::spawn(serving.clone().serve(stream));
            }
        });
        Self {
            address,
            connection,
            accepting,
        }
    }

    fn seen(&self) -> usize {
        self.connection.seen.load(Ordering::Relaxed)
    }
}

impl EngineConnection {
    async fn serve(self, mut stream: TcpStream) {
        while read_request(&mut stream).await {
            if self.killed.is_cancelled() {
                self.seen.fetch_add(1, Ordering::Relaxed);
                return;
            }
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answer).await.expect("open");
        }
    }
}

/// Peers that do without one more endpoint.
fn spare_peers() -> PeerAnswers {
    PeerAnswers {
        endpoints: 9,
        ..PeerAnswers::default()
    }
}

fn selected(upstream: &Arc<Upstream>) -> SelectedEndpoint {
    SelectedEndpoint {
        upstream: Arc::clone(upstream),
        cached_tokens: 0,
        source: None,
    }
}

fn request() -> InferenceRequest {
    request_to("/v1/chat/completions")
}

fn request_to(path: &str) -> InferenceRequest {
    let (head, ()) = Request::post(path).body(()).expect("valid").into_parts();
    let route = api::route(&Method::POST, path, &["/added"]).expect("served");
    let body = Bytes::from_static(br#"{"messages":[]}"#);
    InferenceRequest::parse(route, head, body.into(), None).expect("valid")
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// An engine that answers this to one request.
async fn answers_once(answer: &'static str) -> SocketAddr {
    let (listener, address) = listen().await;
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        assert!(read_request(&mut stream).await);
        stream.write_all(answer.as_bytes()).await.expect("open");
        stream.read_u8().await.expect_err("no second request");
    });
    address
}

/// Reads one request with this file's body; false when the connection was closed instead.
async fn read_request(stream: &mut TcpStream) -> bool {
    let mut received = Vec::new();
    while !received.ends_with(br#"{"messages":[]}"#) {
        if stream.read_buf(&mut received).await.unwrap_or(0) == 0 {
            return false;
        }
    }
    true
}

#[tokio::test]
async fn a_held_answer_that_is_passed_on_is_accounted_to_its_own_endpoint() {
    let (overloaded, address) = listen().await;
    let (gone, unreachable) = listen().await;
    drop(gone);
    tokio::spawn(async move {
        let (mut stream, _) = overloaded.accept().await.expect("a connection");
        assert!(read_request(&mut stream).await);
        let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";
        stream.write_all(answer).await.expect("open");
        stream.read_u8().await.expect_err("no second request");
    });
    let mut exchange = Exchange::with(&[address, unreachable]);
    let (request, selection) = (request(), exchange.selection());
    let mut guard = exchange.guard();
    let answer = exchange
        .forwarder
        .forward(&request, &exchange.pool, &selection, &mut guard)
        .await
        .unwrap_or_else(|reply| panic!("the 503 is passed on, not {reply}"));
    assert_eq!(answer.head.status, 503);
    let timeouts = exchange.pool.pool.spec.policy.timeouts;
    drop(relay(answer, guard, &request, timeouts, (None, None)));
    let finished: Vec<Option<u64>> = exchange
        .events()
        .into_iter()
        .filter_map(|event| match event {
            Event::Finished(finished) => Some(finished.endpoint),
            _ => None,
        })
        .collect();
    assert_eq!(finished, [Some(0)], "the endpoint that answered 503");
}

#[tokio::test]
async fn an_endpoint_without_an_answer_is_not_reported_with_that_of_another() {
    let empty = answers_once("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let (gone, unreachable) = listen().await;
    drop(gone);
    let mut exchange = Exchange::with(&[empty, unreachable]);
    let answer = exchange.answer(&exchange.selection()).await;
    drop(answer.unwrap_or_else(|reply| panic!("the empty answer is passed on, not {reply}")));
    let mut reported = Vec::new();
    for event in exchange.events() {
        match event {
            Event::AttemptFailed(failed) => reported.push((failed.endpoint, failed.answer())),
            Event::Finished(end) => reported.push((end.endpoint.expect("sent"), end.answer())),
            _ => {}
        }
    }
    let nothing = (1, v1::AnswerClass::Unspecified);
    let empty = (0, v1::AnswerClass::Empty);
    assert_eq!(reported, [nothing, empty, empty]);
}

#[tokio::test]
async fn when_all_endpoints_cool_down_each_is_tried_in_turn() {
    let busy = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";
    let best = answers_once(busy).await;
    let (second, worst) = (Engine::start(true).await, Engine::start(true).await);
    let exchange = Exchange::with(&[best, second.address, worst.address]);
    for upstream in &exchange.pool.upstreams {
        let wait = Some(Duration::from_secs(4));
        upstream.overloaded(uptime(), wait, &spare_peers());
    }
    worst.accepting.abort();
    let answer = exchange.answer(&exchange.selection()).await;
    let body = answer.expect("the second endpoint's").collect().await;
    assert_eq!(body.expect("whole").to_bytes(), "ok");
}

#[tokio::test]
async fn an_endpoint_that_cools_down_is_passed_over_for_one_that_does_not() {
    let engine = Engine::start(true).await;
    let (gone, unreachable) = listen().await;
    drop(gone);
    let mut exchange = Exchange::with(&[unreachable, engine.address]);
    let wait = Some(Duration::from_secs(4));
    exchange.pool.upstreams[0].overloaded(uptime(), wait, &spare_peers());
    let answer = exchange.answer(&exchange.selection()).await;
    drop(answer.expect("the other endpoint's"));
    let is_started = |event: &Event| matches!(event, Event::Started(_));
    let attempts = exchange.events().into_iter().filter(is_started).count();
    assert_eq!(attempts, 1);
}

#[tokio::test]
async fn a_request_that_is_not_the_trial_of_an_endpoint_leaves_that_trial_alone() {
    let busy = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";
    let (first, second) = (answers_once(busy).await, answers_once(busy).await);
    let exchange = Exchange::with(&[first, second]);
    let on_trial = &exchange.pool.upstreams[1];
    let ejected = uptime();
    for _ in 0..exchange.pool.pool.spec.policy.ejection.consecutive_failures {
        on_trial.failed(ejected, EndpointFailure::Connect);
    }
    let due = ejected + exchange.pool.pool.spec.policy.ejection.base_time;
    assert!(
        on_trial.admit(due).is_some(),
        "the trial of another request"
    );
    while exchange.pool.budget.withdraw() {}
    let answer = exchange.answer(&exchange.selection()).await;
    drop(answer.unwrap_or_else(|reply| panic!("the 503 is passed on, not {reply}")));
    assert!(on_trial.admit(due).is_none(), "the trial goes on");
}

#[tokio::test]
async fn a_refusal_is_not_replaced_by_the_overload_of_another_endpoint() {
    let wrong = "HTTP/1.1 400 Bad Request\r\ncontent-length: 5\r\n\r\nwrong";
    for later in [
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy",
        "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 4\r\n\r\noops",
        "HTTP/1.1 501 Not Implemented\r\ncontent-length: 4\r\n\r\noops",
    ] {
        let exchange = Exchange::with(&[answers_once(wrong).await, answers_once(later).await]);
        let doubted = &exchange.pool.upstreams[0];
        for _ in 0..2 {
            doubted.refused(uptime(), SecondOpinion::None, &PeerAnswers::default());
        }
        let answer = exchange.answer(&exchange.selection()).await;
        let body = answer.expect("an answer").collect().await.expect("whole");
        assert_eq!(body.to_bytes(), "wrong", "{later}");
    }
}

#[tokio::test]
async fn refusals_that_no_peer_may_contradict_are_held_against_no_endpoint() {
    let lost = "HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nlost";
    for path in ["/v1/responses/resp_1/cancel", "/added"] {
        let mut exchange = Exchange::with(&[answers_once(lost).await]);
        let (request, selection) = (request_to(path), exchange.selection());
        let mut guard = exchange.guard();
        let answer = exchange
            .forwarder
            .forward(&request, &exchange.pool, &selection, &mut guard)
            .await;
        drop((answer, guard));
        let mut opinions = Vec::new();
        while let Ok(report) = exchange.reports.try_recv() {
            if let Some(Event::AttemptFailed(failed)) = report.event {
                opinions.push(failed.second_opinion());
            }
        }
        assert_eq!(opinions, [v1::SecondOpinion::Unavailable], "{path}");
    }
}

#[tokio::test]
async fn a_request_that_kills_engines_is_seen_by_two_also_on_reused_connections() {
    let mut engines = Vec::new();
    for _ in 0..4 {
        engines.push(Engine::start(false).await);
    }
    let addresses: Vec<SocketAddr> = engines.iter().map(|engine| engine.address).collect();
    let exchange = Exchange::with(&addresses);
    exchange.warm_up(1).await;
    for engine in &mut engines {
        engine.connection.killed.cancel();
        (&mut engine.accepting).await.expect("no new connection");
    }
    let answer = exchange.answer(&exchange.selection()).await;
    assert_eq!(answer.err(), Some(LocalReply::Exhausted(2)));
    assert_eq!(engines.iter().map(Engine::seen).sum::<usize>(), 2);
}
