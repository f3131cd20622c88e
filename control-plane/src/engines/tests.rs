use std::{collections::HashMap, net::SocketAddr};

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use super::*;

mod model_lists;
mod pairing;

const PAGE: &str = "vllm:num_requests_waiting 3\nvllm:num_requests_running 4\n";
const MODELS: &str = r#"{"data":[{"id":"m","max_model_len":4096}]}"#;

/// What a scripted server does with a request.
#[derive(Clone)]
enum Reply {
    Answer(u16, String),
    /// An answer to those who have the key, and 401 to others.
    Guarded(String),
    /// Headers that promise more than comes.
    Cut,
    Hang,
}

/// An HTTP server that answers by path, and 404 to any other; it dies with its last handle.
struct Server {
    address: SocketAddr,
    script: Arc<Mutex<HashMap<&'static str, Reply>>>,
    seen: Arc<Mutex<Vec<String>>>,
    _accepting: AbortOnDropHandle<()>,
}

impl Server {
    async fn start(script: &[(&'static str, Reply)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let script = Arc::new(Mutex::new(
            script.iter().cloned().collect::<HashMap<_, _>>(),
        ));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answers, log) = (Arc::clone(&script), Arc::clone(&seen));
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&answers), Arc::clone(&log)));
            }
        });
        Self {
            address,
            script,
            seen,
            _accepting: AbortOnDropHandle::new(accepting),
        }
    }

    fn script(&self, path: &'static str, reply: Reply) {
        self.script.lock().insert(path, reply);
    }

    fn asked(&self, path: &str) -> usize {
        self.seen.lock().iter().filter(|seen| *seen == path).count()
    }

    fn target(&self, metrics_path: Option<&str>) -> ProbeTarget {
        ProbeTarget {
            id: EndpointId(self.address.port().into()),
            pool: "chat".into(),
            address: ServerAddress::try_from(self.address).expect("a bound port"),
            trust: EndpointTrust::System,
            http2: false,
            metrics_path: metrics_path.map(Into::into),
            key: None,
            pairing: None,
            interval: Duration::from_millis(20),
            timeout: Duration::from_secs(5),
        }
    }
}

async fn serve(
    mut stream: TcpStream,
    script: Arc<Mutex<HashMap<&'static str, Reply>>>,
    log: Arc<Mutex<Vec<String>>>,
) {
    let mut head = Vec::new();
    while stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        head.clear();
        let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
        let reply = script.lock().get(path.as_str()).cloned();
        log.lock().push(path);
        let has_key = text.contains("authorization: Bearer sk-engines\r\n");
        let reply = match reply.unwrap_or(Reply::Answer(404, String::new())) {
            Reply::Guarded(body) if has_key => Reply::Answer(200, body),
            Reply::Guarded(_) => Reply::Answer(401, String::new()),
            reply => reply,
        };
        let answer = match reply {
            Reply::Answer(status @ 300..=399, to) => {
                format!("HTTP/1.1 {status} X\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")
            }
            Reply::Answer(status, body) => {
                format!(
                    "HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                )
            }
            Reply::Cut => "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".into(),
            Reply::Hang | Reply::Guarded(_) => std::future::pending().await,
        };
        let cut = answer.ends_with("half");
        if stream.write_all(answer.as_bytes()).await.is_err() || cut {
            return;
        }
    }
}

fn ok(body: &str) -> Reply {
    Reply::Answer(200, body.into())
}

fn collector() -> (EngineProbes, mpsc::Receiver<ProbeResult>, Registry) {
    hermes_runtime::crypto::install_default_crypto();
    let mut registry = Registry::default();
    let metrics = ScrapeMetrics::register(&mut registry);
    let (sink, observations) = mpsc::channel(16);
    (
        EngineProbes::new(ProbeSettings::default(), metrics, sink).expect("a client"),
        observations,
        registry,
    )
}

async fn next(observations: &mut mpsc::Receiver<ProbeResult>) -> ProbeResult {
    let observation = timeout(Duration::from_secs(10), observations.recv())
        .await
        .expect("an observation in time");
    observation.expect("the collector lives")
}

/// The first observation that satisfies `claim`.
async fn next_where(
    observations: &mut mpsc::Receiver<ProbeResult>,
    claim: impl Fn(&ProbeResult) -> bool,
) -> ProbeResult {
    loop {
        let observation = next(observations).await;
        if claim(&observation) {
            return observation;
        }
    }
}

fn waiting(observation: &ProbeResult) -> Option<u32> {
    observation
        .outcome
        .as_ref()
        .ok()
        .and_then(|scraped| scraped.sample.waiting)
}

#[tokio::test]
async fn load_is_scraped_every_interval_and_models_once() {
    let server = Server::start(&[("/metrics", ok(PAGE)), ("/v1/models", ok(MODELS))]).await;
    let (mut collector, mut observations, _registry) = collector();
    collector.set(vec![server.target(Some("/metrics"))]);

    let first = next(&mut observations).await;
    assert_eq!(
        (first.endpoint, waiting(&first)),
        (server.target(None).id, Some(3))
    );
    assert_eq!(
        first.models.expect("asked at first contact")[0]
            .name
            .as_ref(),
        "m"
    );

    server.script("/metrics", ok("vllm:num_requests_waiting 9\n"));
    let later = next_where(&mut observations, |observation| {
        waiting(observation) == Some(9)
    })
    .await;
    assert_eq!(later.models, None);
    assert_eq!(server.asked("/v1/models"), 1);
}

#[tokio::test]
async fn a_server_without_metrics_is_healthy_as_long_as_it_answers() {
    let server = Server::start(&[
        ("/metrics", Reply::Answer(501, String::new())),
        ("/health", ok("ok")),
    ])
    .await;
    let (mut collector, mut observations, _registry) = collector();
    collector.set(vec![server.target(Some("/metrics"))]);

    for _ in 0..3 {
        assert_eq!(
            next(&mut observations).await.outcome,
            Ok(Scraped::default())
        );
    }
    assert_eq!(
        server.asked("/metrics"),
        1,
        "it is not asked again at every turn"
    );

    server.script("/health", Reply::Answer(503, String::new()));
    let sick = next_where(&mut observations, |observation| {
        observation.outcome.is_err()
    })
    .await;
    assert_eq!(sick.outcome, Err(ProbeFailure::Status(503)));
    assert!(sick.is_loading);
}

#[tokio::test]
async fn a_server_that_answers_503_everywhere_is_loading_until_it_does_not() {
    let busy = || Reply::Answer(503, String::new());
    let server = Server::start(&[("/metrics", busy()), ("/health", busy())]).await;
    let (mut collector, mut observations, _registry) = collector();
    collector.set(vec![server.target(Some("/metrics"))]);
    let observation = next(&mut observations).await;
    assert_eq!(observation.outcome, Err(ProbeFailure::Status(503)));
    assert!(observation.is_loading);

    server.script("/metrics", ok(PAGE));
    let loaded = next_where(&mut observations, |observation| observation.outcome.is_ok()).await;
    assert!(!loaded.is_loading);
}

#[tokio::test]
async fn metrics_that_fail_say_nothing_of_a_server_that_is_healthy() {
    let server = Server::start(&[
        ("/metrics", Reply::Answer(503, String::new())),
        ("/health", ok("")),
    ])
    .await;
    let (mut collector, mut observations, _registry) = collector();
    collector.set(vec![server.target(Some("/metrics"))]);
    let observation = next(&mut observations).await;
    assert_eq!(observation.outcome, Err(ProbeFailure::Status(503)));
    assert!(!observation.is_loading);
}

#[tokio::test]
async fn of_an_openai_server_the_model_list_shows_its_health_even_when_it_wants_a_key() {
    let server = Server::start(&[("/v1/models", Reply::Answer(401, String::new()))]).await;
    let (mut collector, mut observations, _registry) = collector();
    collector.set(vec![server.target(None)]);

    let observation = next(&mut observations).await;
    assert_eq!(
        (observation.outcome, observation.models),
        (Ok(Scraped::default()), None)
    );
    assert_eq!((server.asked("/metrics"), server.asked("/health")), (0, 1));
}

#[tokio::test]
async fn scrapes_and_lists_of_models_carry_the_key_of_the_pool() {
    let guarded = |body: &str| Reply::Guarded(body.to_owned());
    let script = [("/metrics", guarded(PAGE)), ("/v1/models", guarded(MODELS))];
    let server = Server::start(&script).await;
    let folder = tempfile::TempDir::new().expect("a folder");
    let path = folder.path().join("key");
    std::fs::write(&path, "sk-engines\n").expect("written");
    let (mut collector, mut observations, _) = collector();
    collector.set(vec![server.target(Some("/metrics"))]);
    let without = next(&mut observations).await;
    assert_eq!(without.models, None, "it wants a key");
    let key = Some(EngineKey::new(path.into()));
    collector.set(vec![ProbeTarget {
        key,
        ..server.target(Some("/metrics"))
    }]);
    let listed = |observation: &ProbeResult| observation.models.is_some();
    let observation = next_where(&mut observations, listed).await;
    assert_eq!(waiting(&observation), Some(3));
}

#[tokio::test]
async fn every_way_to_fail_has_its_name() {
    let long = "x".repeat((4 << 20) + 1);
    let cases = [
        (Reply::Answer(500, String::new()), ProbeFailure::Status(500)),
        (ok("<html>\n</html>"), ProbeFailure::Garbage),
        (ok(&long), ProbeFailure::TooLarge),
        (Reply::Cut, ProbeFailure::Broken),
        (Reply::Hang, ProbeFailure::Timeout),
        // Other hosts are not for an engine to name.
        (
            Reply::Answer(307, "http://169.254.169.254/".into()),
            ProbeFailure::Status(307),
        ),
    ];
    for (reply, expected) in cases {
        let server = Server::start(&[("/metrics", reply)]).await;
        let (mut collector, mut observations, registry) = collector();
        collector.set(vec![ProbeTarget {
            timeout: Duration::from_secs(1),
            ..server.target(Some("/metrics"))
        }]);
        assert_eq!(next(&mut observations).await.outcome, Err(expected));

        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)
            .expect("a string takes all text");
        let counted = format!(
            "failures_total{{target=\"metrics\",reason=\"{}\"}}",
            expected.name()
        );
        assert!(text.contains(&counted), "{counted} in {text}");
    }
}

#[tokio::test]
async fn a_redirect_on_the_same_host_is_followed() {
    let server = Server::start(&[
        ("/metrics", Reply::Answer(307, "/metrics/".into())),
        ("/metrics/", ok(PAGE)),
    ])
    .await;
    let (mut collector, mut observations, _registry) = collector();
    collector.set(vec![server.target(Some("/metrics"))]);
    assert_eq!(waiting(&next(&mut observations).await), Some(3));
}

#[tokio::test]
async fn an_adapter_is_listed_within_two_seconds_of_its_loading_and_gone_as_soon() {
    let page = format!("{PAGE}# TYPE vllm:lora_requests_info gauge\n");
    let server = Server::start(&[("/metrics", ok(&page)), ("/v1/models", ok(MODELS))]).await;
    let (mut collector, mut observations, _) = collector();
    collector.set(vec![server.target(Some("/metrics"))]);
    let listed = |names: &'static [&'static str]| {
        move |observation: &ProbeResult| {
            let models = observation.models.as_ref();
            models.is_some_and(|models| models.iter().map(|card| &*card.name).eq(names.to_vec()))
        }
    };
    next_where(&mut observations, listed(&["m"])).await;
    let loaded = r#"{"data":[{"id":"m"},{"id":"sql","parent":"m"}]}"#;
    for (body, names) in [(loaded, &["m", "sql"][..]), (MODELS, &["m"])] {
        server.script("/v1/models", ok(body));
        let within = Duration::from_secs(2);
        timeout(within, next_where(&mut observations, listed(names)))
            .await
            .expect("within two seconds");
    }
}

#[tokio::test]
async fn a_port_without_a_listener_is_refused() {
    let target = Server::start(&[]).await.target(Some("/metrics"));
    let (mut collector, mut observations, _registry) = collector();
    collector.set(vec![target.clone()]);
    let refused = next_where(&mut observations, |observation| {
        observation.outcome == Err(ProbeFailure::Refused)
    })
    .await;
    assert_eq!((refused.endpoint, refused.models), (target.id, None));
}

#[tokio::test]
async fn only_the_endpoints_of_the_last_call_are_asked() {
    let old = Server::start(&[("/metrics", ok(PAGE))]).await;
    let new = Server::start(&[("/metrics", ok(PAGE))]).await;
    let (mut collector, mut observations, registry) = collector();
    collector.set(vec![old.target(Some("/metrics"))]);
    next(&mut observations).await;

    collector.set(vec![new.target(Some("/metrics"))]);
    assert_eq!(collector.len(), 1);
    next_where(&mut observations, |observation| {
        observation.endpoint == new.target(None).id
    })
    .await;
    while let Ok(late) = observations.try_recv() {
        assert_eq!(late.endpoint, new.target(None).id);
    }
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)
        .expect("a string takes all text");
    assert!(!text.contains(&old.address.to_string()), "{text}");
}

#[tokio::test]
async fn an_engine_is_probed_and_fails_while_no_authority_can_verify_it() {
    let server = Server::start(&[("/metrics", ok(PAGE))]).await;
    let url = format!("https://{}", server.address);
    let target = ProbeTarget {
        address: ServerAddress::parse(&url).expect("an address"),
        trust: EndpointTrust::Authorities("no certificate".into()),
        timeout: Duration::from_millis(100),
        ..server.target(Some("/metrics"))
    };
    let (mut collector, mut observations, _registry) = collector();
    collector.set(vec![target]);
    let observation = next(&mut observations).await;
    assert!(observation.outcome.is_err(), "{observation:?}");
    assert_eq!(server.asked("/metrics"), 0, "never in plain text");
}

#[tokio::test]
async fn a_pool_whose_endpoints_hang_does_not_delay_the_scrapes_of_another() {
    let hung = Server::start(&[("/metrics", Reply::Hang)]).await;
    let well = Server::start(&[("/metrics", ok(PAGE)), ("/v1/models", ok(MODELS))]).await;
    let (mut collector, mut observations, _) = collector();
    // More than may be asked at once.
    let hanging = (0..100).map(|number| ProbeTarget {
        id: EndpointId(number),
        pool: "cut off".into(),
        ..hung.target(Some("/metrics"))
    });
    let targets = hanging.chain([well.target(Some("/metrics"))]);
    collector.set(targets.collect());
    for _ in 0..5 {
        let observation = next(&mut observations).await;
        assert_eq!(waiting(&observation), Some(3), "{:?}", observation.outcome);
    }
    assert_eq!(hung.asked("/metrics"), ProbeSettings::default().concurrency);
}

#[tokio::test]
async fn a_reader_that_is_behind_loses_observations_but_not_models() {
    let server = Server::start(&[("/metrics", ok(PAGE)), ("/v1/models", ok(MODELS))]).await;
    hermes_runtime::crypto::install_default_crypto();
    let (sink, mut observations) = mpsc::channel(1);
    let filler = ProbeResult {
        endpoint: EndpointId(0),
        pool: "chat".into(),
        at: Instant::now(),
        outcome: Err(ProbeFailure::Refused),
        is_loading: false,
        models: None,
        pairing: None,
    };
    sink.try_send(filler).expect("room for one");
    let metrics = ScrapeMetrics::register(&mut Registry::default());
    let mut collector =
        EngineProbes::new(ProbeSettings::default(), metrics, sink).expect("a client");
    collector.set(vec![server.target(Some("/metrics"))]);

    // The first turn's observation has found the queue full when the list is asked for the second
    // time.
    timeout(Duration::from_secs(10), async {
        while server.asked("/v1/models") < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the list is asked for again");
    next(&mut observations).await;
    next_where(&mut observations, |observation| {
        observation.models.is_some()
    })
    .await;
}
