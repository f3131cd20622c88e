//! The control plane as a proxy sees it: a scripted proxy, and a real replica over real sockets.

mod legs;
mod loads;
mod proxy;

use std::{fmt::Write, net::TcpListener, time::Duration};

use hermes_control_plane::{
    app::{self, ConfigSource, ControlPlane, Options},
    config::Config,
};
use hermes_core::{
    collection::Collection,
    snapshot::{Endpoint, Snapshot},
};
use hermes_proto::v1::{
    self, RequestOutcome, from_data_plane::Message as Up, rejected::Reason, report::Event,
    score_response::Answer,
};
use hermes_runtime::shutdown::{Shutdown, Trigger};
use tokio::{task::JoinSet, time::timeout};

use self::proxy::Proxy;

const SOON: Duration = Duration::from_secs(10);

/// A replica that runs.
struct Replica {
    bound: ControlPlane,
    trigger: Trigger,
    _shutdown: JoinSet<()>,
    /// Engines that take connections and say nothing: neither up nor refused, so that only bookings
    /// count.
    _engines: Vec<TcpListener>,
}

impl Replica {
    async fn start(config: ConfigSource) -> Self {
        let (shutdown, trigger) = Shutdown::manual();
        let bound = app::start(Options::local(config), shutdown.drain())
            .await
            .expect("a replica starts");
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            shutdown.run(SOON).await;
        });
        Self {
            bound,
            trigger,
            _shutdown: tasks,
            _engines: Vec::new(),
        }
    }

    /// One pool, `chat`, of `endpoints` addresses without an engine.
    async fn of(engines: usize) -> Self {
        let listen = || TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let engines: Vec<TcpListener> = (0..engines).map(|_| listen()).collect();
        let ports = engines
            .iter()
            .map(|engine| engine.local_addr().expect("it is bound").port());
        let config = Config::parse(&pool(ports)).expect("a configuration of this test");
        Self {
            _engines: engines,
            ..Self::start(ConfigSource::Value(config)).await
        }
    }

    async fn proxy(&self, id: u64) -> Proxy {
        Proxy::connect(self.bound.grpc, id).await
    }
}

fn pool(ports: impl Iterator<Item = u16>) -> String {
    let mut text =
        "pools:\n- name: chat\n  strategy: least-request\n  models: [m]\n  endpoints:\n".to_owned();
    for port in ports {
        writeln!(text, "  - http://127.0.0.1:{port}").expect("a string takes all text");
    }
    text
}

fn request(id: u64) -> v1::ScoreRequest {
    v1::ScoreRequest {
        id,
        pool: "chat".into(),
        model: "m".into(),
        prompt_tokens: 100,
        deadline_ms: 1_000,
        ..Default::default()
    }
}

fn started(endpoint: u64) -> Event {
    Event::Started(v1::Started {
        endpoint,
        uncached_tokens: 100,
        non_streaming: false,
    })
}

fn finished(endpoint: u64) -> Event {
    let outcome = RequestOutcome::Ok.into();
    Event::Finished(v1::Finished {
        endpoint: Some(endpoint),
        outcome,
        usage: None,
        duration_us: 1,
        stored_response: None,
        ttft_us: None,
        decoding_us: None,
        answer: 0,
    })
}

/// The endpoints of the first pool.
fn endpoints(snapshot: v1::Snapshot) -> Collection<Endpoint> {
    let snapshot = Snapshot::try_from(snapshot).expect("a proxy can use it");
    snapshot.pools[0].endpoints.clone()
}

#[tokio::test]
async fn the_first_message_is_the_whole_cluster_and_its_loads_follow() {
    let replica = Replica::of(2).await;
    let mut proxy = replica.proxy(1).await;
    let snapshot = proxy.snapshot().await;
    assert_eq!(snapshot.replica, *replica.bound.replica);
    assert_eq!(endpoints(snapshot).len(), 2);
    assert_eq!(proxy.load().await.loads.len(), 2);
}

#[tokio::test]
async fn a_change_of_the_file_reaches_a_subscriber_as_a_delta_within_a_second() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("hermes.yaml");
    std::fs::write(&file, pool([1, 2].into_iter())).expect("the file is written");
    let replica = Replica::start(ConfigSource::File(file.clone())).await;
    let mut proxy = replica.proxy(1).await;
    let snapshot = proxy.snapshot().await;

    std::fs::write(&file, pool([2, 3].into_iter())).expect("the file is written");
    let delta = timeout(Duration::from_secs(1), proxy.delta())
        .await
        .expect("within a second");
    assert_eq!(
        (delta.epoch, delta.from_version),
        (snapshot.epoch, snapshot.version)
    );
    let pools = delta.changes.and_then(|changes| changes.pools);
    let [pool] = &pools.expect("pools changed").set[..] else {
        panic!("one pool changed")
    };
    assert!(
        pool.spec.is_none() && pool.models.is_none(),
        "only its endpoints did"
    );
    let endpoints = pool.endpoints.as_ref().expect("they did");
    assert_eq!((endpoints.set.len(), endpoints.gone.len()), (1, 1));
    assert_eq!(endpoints.set[0].url, "http://127.0.0.1:3");
}

#[tokio::test]
async fn a_proxy_that_rejects_a_delta_gets_the_whole_cluster() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("hermes.yaml");
    std::fs::write(&file, pool([1].into_iter())).expect("the file is written");
    let replica = Replica::start(ConfigSource::File(file.clone())).await;
    let mut proxy = replica.proxy(1).await;
    proxy.snapshot().await;
    std::fs::write(&file, pool([1, 2].into_iter())).expect("the file is written");
    let delta = proxy.delta().await;
    let reason = "pools[0]: is not liked".into();
    proxy
        .send(Up::Reject(v1::Reject {
            epoch: delta.epoch,
            version: delta.version,
            reason,
        }))
        .await;
    let snapshot = proxy.snapshot().await;
    assert_eq!(
        (snapshot.version, endpoints(snapshot).len()),
        (delta.version, 2)
    );
}

#[tokio::test]
async fn requests_of_two_proxies_are_spread_over_idle_endpoints() {
    let replica = Replica::of(2).await;
    let (mut one, mut two) = (replica.proxy(1).await, replica.proxy(2).await);
    one.snapshot().await;
    let (first, second) = (one.chosen(request(1)).await, two.chosen(request(1)).await);
    assert_ne!(first, second);
    assert_eq!(one.booked().await, 2);
}

#[tokio::test]
async fn the_report_of_an_ended_request_removes_its_booking() {
    let replica = Replica::of(2).await;
    let mut proxy = replica.proxy(1).await;
    proxy.snapshot().await;
    let endpoint = proxy.chosen(request(7)).await;
    proxy.report(7, started(endpoint)).await;
    proxy
        .report(7, Event::FirstByte(v1::FirstByte { ttft_us: 5 }))
        .await;
    let seen = proxy
        .load_where(|load| {
            load.endpoint == endpoint && load.in_flight == 1 && load.pending_tokens == 0
        })
        .await;
    assert_eq!(
        (seen.own_in_flight, seen.own_pending_tokens),
        (1, 0),
        "its own requests are counted separately"
    );
    proxy.report(7, finished(endpoint)).await;
    proxy
        .load_where(|load| load.endpoint == endpoint && load.in_flight == 0)
        .await;
    assert_eq!(proxy.booked().await, 0);
}

#[tokio::test]
async fn the_report_of_a_request_without_an_endpoint_removes_its_booking() {
    let replica = Replica::of(1).await;
    let mut proxy = replica.proxy(1).await;
    proxy.snapshot().await;
    proxy.chosen(request(7)).await;
    let outcome = RequestOutcome::Cancelled.into();
    proxy
        .report(
            7,
            Event::Finished(v1::Finished {
                endpoint: None,
                outcome,
                usage: None,
                duration_us: 0,
                stored_response: None,
                ttft_us: None,
                decoding_us: None,
                answer: 0,
            }),
        )
        .await;
    proxy.await_booked(0).await;
}

#[tokio::test]
async fn a_question_that_is_read_after_its_request_was_sent_leaves_the_request_in_the_books() {
    let replica = Replica::of(2).await;
    let mut proxy = replica.proxy(1).await;
    let endpoint = endpoints(proxy.snapshot().await)[0].id.0;
    proxy.report(7, started(endpoint)).await;
    proxy.await_booked(1).await;
    // As after a stall: the proxy chose by itself, and cancels what it had asked.
    let Some(Answer::Rejected(rejected)) = proxy.ask(request(7)).await.answer else {
        panic!("the question is late")
    };
    assert_eq!(rejected.reason(), Reason::AlreadySent);
    proxy.cancel(7).await;
    proxy.chosen(request(8)).await;
    assert_eq!(proxy.booked().await, 2, "both run");
    proxy.report(7, finished(endpoint)).await;
    proxy.await_booked(1).await;
}

#[tokio::test]
async fn a_cancel_removes_the_booking() {
    let replica = Replica::of(1).await;
    let mut proxy = replica.proxy(1).await;
    proxy.snapshot().await;
    proxy.chosen(request(7)).await;
    assert_eq!(proxy.booked().await, 1);
    proxy.cancel(7).await;
    proxy.await_booked(0).await;
}

#[tokio::test]
async fn the_requests_of_a_dead_proxy_are_removed_after_a_grace_period() {
    let replica = Replica::of(1).await;
    let mut survivor = replica.proxy(1).await;
    survivor.snapshot().await;
    let mut dying = replica.proxy(2).await;
    let endpoint = dying.chosen(request(1)).await;
    dying.report(1, started(endpoint)).await;
    dying
        .report(1, Event::FirstByte(v1::FirstByte { ttft_us: 5 }))
        .await;
    survivor
        .load_where(|load| {
            load.in_flight == 1 && load.own_in_flight == 0 && load.pending_tokens == 0
        })
        .await;
    drop(dying);
    timeout(SOON * 2, survivor.load_where(|load| load.in_flight == 0))
        .await
        .expect("after ten seconds");
}

#[tokio::test]
async fn the_open_requests_that_a_proxy_reports_replace_its_bookings() {
    let replica = Replica::of(1).await;
    let mut proxy = replica.proxy(1).await;
    let endpoint = endpoints(proxy.snapshot().await)[0].id.0;
    proxy.report(1, started(endpoint)).await;
    proxy.load_where(|load| load.in_flight == 1).await;
    let open = |request| v1::OpenRequest {
        request,
        leg: 0,
        endpoint,
        uncached_tokens: 5,
        answered: false,
    };
    proxy
        .send(Up::Open(v1::OpenRequests {
            requests: vec![open(2), open(3), open(4)],
        }))
        .await;
    proxy
        .load_where(|load| load.in_flight == 3 && load.pending_tokens == 15)
        .await;
    proxy.report(2, finished(endpoint)).await;
    proxy.load_where(|load| load.in_flight == 2).await;
}

#[tokio::test]
async fn a_snapshot_of_a_thousand_endpoints_is_delivered() {
    let config = Config::parse(&pool(1..=1_000)).expect("a configuration of this test");
    let replica = Replica::start(ConfigSource::Value(config)).await;
    let mut proxy = replica.proxy(1).await;
    assert_eq!(endpoints(proxy.snapshot().await).len(), 1_000);
    assert_eq!(proxy.load().await.loads.len(), 1_000);
    proxy.chosen(request(1)).await;
}

#[tokio::test]
async fn explaining_books_nothing() {
    let replica = Replica::of(2).await;
    let mut proxy = replica.proxy(1).await;
    proxy.snapshot().await;
    let explanation = proxy.explain(request(1)).await;
    assert_eq!(
        (&*explanation.pool, &*explanation.strategy),
        ("chat", "least-request")
    );
    assert_eq!(proxy.booked().await, 0);
}

#[tokio::test]
async fn a_request_that_cannot_be_scored_is_rejected_and_the_stream_stays_open() {
    let replica = Replica::of(1).await;
    let mut proxy = replica.proxy(1).await;
    proxy.snapshot().await;
    let nameless = v1::ScoreRequest {
        pool: String::new(),
        ..request(1)
    };
    let unknown = v1::ScoreRequest {
        pool: "other".into(),
        ..request(2)
    };
    let unloaded = v1::ScoreRequest {
        model: "other".into(),
        ..request(3)
    };
    for (asked, reason) in [
        (nameless, Reason::Invalid),
        (unknown, Reason::UnknownPool),
        (unloaded, Reason::ModelNotLoaded),
    ] {
        let Some(Answer::Rejected(refused)) = proxy.ask(asked).await.answer else {
            panic!("refused")
        };
        assert_eq!(refused.reason(), reason);
    }
    proxy.chosen(request(4)).await;
}

#[tokio::test]
async fn a_batch_of_requests_is_answered_by_one_batch() {
    let replica = Replica::of(4).await;
    let mut proxy = replica.proxy(1).await;
    proxy.snapshot().await;
    let answers = proxy.ask_all((1..=100).map(request).collect()).await;
    assert_eq!(
        answers.iter().map(|answer| answer.id).collect::<Vec<_>>(),
        (1..=100).collect::<Vec<_>>()
    );
    assert_eq!(proxy.booked().await, 100);
}

#[tokio::test]
async fn a_stream_without_an_initial_hello_is_rejected() {
    let replica = Replica::of(1).await;
    let mut rude = Proxy::silent(replica.bound.grpc, 1).await;
    rude.send(Up::Ack(v1::Ack {
        epoch: 1,
        version: 1,
    }))
    .await;
    let status = timeout(SOON, rude.down())
        .await
        .expect("an answer")
        .expect_err("a refusal");
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
}

#[tokio::test]
async fn the_drain_ends_streams_and_the_replica() {
    let replica = Replica::of(1).await;
    let mut proxy = replica.proxy(1).await;
    proxy.snapshot().await;
    proxy.chosen(request(1)).await;
    let Replica { bound, trigger, .. } = replica;
    trigger.fire();
    timeout(SOON, proxy.ends()).await.expect("both streams end");
    drop(proxy);
    timeout(SOON, bound.join(SOON / 2))
        .await
        .expect("the replica ends");
}

#[tokio::test]
async fn a_port_that_is_taken_fails_the_start_and_names_the_flag() {
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let config = Config::parse(&pool(1..=1)).expect("a configuration of this test");
    let mut options = Options::local(ConfigSource::Value(config));
    options.listen = taken.local_addr().expect("it is bound");
    let (shutdown, _trigger) = Shutdown::manual();
    let error = app::start(options, shutdown.drain())
        .await
        .expect_err("the port is taken");
    assert!(error.to_string().contains("--listen"), "{error}");
}
