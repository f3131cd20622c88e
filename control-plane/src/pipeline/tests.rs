//! Scenarios of [`Pipeline`], in paused time.

use hermes_core::snapshot::Version;
use hermes_runtime::{crypto::install_default_crypto, readiness::Readiness};
use prometheus_client::registry::Registry;
use tokio::{io::AsyncReadExt, net::TcpListener};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::{
    cache_sources::{
        kv_events::KvEventsMetrics, kv_manager::KvManagerMetrics, tokenizer::TokenizerMetrics,
    },
    config::Config,
    engines::{ProbeSettings, ScrapeMetrics},
};

/// A pipeline that runs, and both its ends.
struct Running {
    updates: mpsc::Sender<Update>,
    newest: watch::Receiver<Arc<Snapshot>>,
    pools: Arc<PoolDirectory>,
    readiness: Readiness,
    _task: AbortOnDropHandle<()>,
}

impl Running {
    fn start() -> Self {
        install_default_crypto();
        let mut registry = Registry::default();
        let metrics = ControlPlaneMetrics::register(&mut registry);
        let pools = Arc::new(PoolDirectory::new(1, metrics.clone()));
        let (updates, queued_updates) = mpsc::channel(QUEUE);
        let (observations, queued_results) = mpsc::channel(QUEUE);
        let readiness = Readiness::default();
        let handles = PipelineHandles {
            probes: EngineProbes::new(
                ProbeSettings::default(),
                ScrapeMetrics::register(&mut registry),
                observations,
            )
            .expect("TLS is set up"),
            discovery: DiscoverySupervisor::new(updates.clone(), None),
            resources: PoolResourceRegistry::new(
                KvManagerMetrics::register(&mut registry),
                KvEventsMetrics::register(&mut registry),
                TokenizerMetrics::register(&mut registry),
            ),
            gates: ReadinessGates::new(&readiness),
        };
        let (pipeline, newest) = Pipeline::new(Epoch(1), Arc::clone(&pools), handles, metrics);
        let _task =
            AbortOnDropHandle::new(tokio::spawn(pipeline.run(queued_updates, queued_results)));
        Self {
            updates,
            newest,
            pools,
            readiness,
            _task,
        }
    }

    /// A configuration with endpoints at these ports of a host that does not exist.
    async fn configure(&self, ports: &[u16]) {
        let urls: Vec<String> = ports
            .iter()
            .map(|port| format!("'http://host.invalid:{port}'"))
            .collect();
        let text = format!(
            "pools: [{{name: chat, models: [m], metrics: {{enabled: false}}, endpoints: [{}]}}]",
            urls.join(", ")
        );
        let config = Config::parse(&text).expect("a configuration of this test");
        self.updates
            .send(Update::Config(Arc::new(config)))
            .await
            .expect("the pipeline runs");
    }

    async fn next(&mut self) -> Arc<Snapshot> {
        let changed = time::timeout(Duration::from_secs(1), self.newest.changed()).await;
        changed
            .expect("a snapshot within a second")
            .expect("the pipeline runs");
        Arc::clone(&self.newest.borrow_and_update())
    }

    async fn nothing_for(&mut self, span: Duration) {
        assert!(
            time::timeout(span, self.newest.changed()).await.is_err(),
            "nothing should be published"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_change_goes_out_at_once() {
    let mut pipeline = Running::start();
    let start = Instant::now();
    pipeline.configure(&[1]).await;
    assert_eq!(pipeline.next().await.version, Version(1));
    assert!(
        start.elapsed() < Duration::from_millis(5),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_burst_is_one_snapshot_and_the_last_word_counts() {
    let mut pipeline = Running::start();
    pipeline.configure(&[1]).await;
    pipeline.next().await;
    let start = Instant::now();
    for last in 2..30 {
        pipeline.configure(&(1..last).collect::<Vec<_>>()).await;
        time::sleep(Duration::from_millis(1)).await;
    }
    let snapshot = pipeline.next().await;
    assert_eq!(
        (snapshot.version, snapshot.pools[0].endpoints.len()),
        (Version(2), 28)
    );
    assert!(
        start.elapsed() <= SETTLE + Duration::from_millis(2),
        "{:?}",
        start.elapsed()
    );
    pipeline.nothing_for(SETTLE * 4).await;
}

#[tokio::test(start_paused = true)]
async fn a_steady_flood_is_published_all_along() {
    let mut pipeline = Running::start();
    let mut versions = 0;
    for turn in 0..200_u16 {
        // Never what was published before: a change back would be none.
        pipeline.configure(&[1 + turn]).await;
        time::sleep(Duration::from_millis(5)).await;
        versions += usize::from(pipeline.newest.has_changed().expect("the pipeline runs"));
        pipeline.newest.mark_unchanged();
    }
    assert!(
        (10..=21).contains(&versions),
        "{versions} in a second, where {SETTLE:?} allow 20"
    );
}

#[tokio::test(start_paused = true)]
async fn a_change_that_changes_nothing_is_not_published() {
    let mut pipeline = Running::start();
    pipeline.configure(&[1, 2]).await;
    pipeline.next().await;
    pipeline.configure(&[2, 1]).await;
    pipeline.nothing_for(SETTLE * 4).await;
}

#[tokio::test(start_paused = true)]
async fn the_schedulers_have_a_version_before_its_subscribers() {
    let mut pipeline = Running::start();
    for ports in [&[1][..], &[1, 2], &[3]] {
        pipeline.configure(ports).await;
        let snapshot = pipeline.next().await;
        let known = pipeline
            .pools
            .pool("chat")
            .expect("the pool has a scheduler")
            .scheduler
            .pool();
        assert_eq!(known.endpoints, snapshot.pools[0].endpoints);
    }
}

#[tokio::test(start_paused = true)]
async fn static_pools_are_ready_as_soon_as_they_are_configured() {
    let mut pipeline = Running::start();
    assert!(!pipeline.readiness.is_ready());
    pipeline.configure(&[1]).await;
    pipeline.next().await;
    assert!(pipeline.readiness.is_ready());
}

#[tokio::test(start_paused = true)]
async fn discovery_is_waited_for_and_not_for_ever() {
    let pipeline = Running::start();
    let text =
        "pools: [{name: chat, kubernetes: {namespace: ai, services: {app: vllm}, port: 8000}}]";
    let config = Config::parse(text).expect("a configuration of this test");
    pipeline
        .updates
        .send(Update::Config(Arc::new(config)))
        .await
        .expect("the pipeline runs");
    let start = Instant::now();
    time::timeout(Duration::from_secs(60), pipeline.readiness.ready())
        .await
        .expect("ready in the end");
    assert!(
        (Duration::from_secs(9)..Duration::from_secs(11)).contains(&start.elapsed()),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn publishers_of_kv_events_are_followed_for_as_long_as_the_configuration_says_so() {
    let pipeline = Running::start();
    let publisher = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = publisher.local_addr().expect("an address").port();
    let text = |events: String| {
        format!(
            "pools: [{{name: chat, models: [m], metrics: {{enabled: false}}, endpoints: ['http://127.0.0.1:1']{events}}}]"
        )
    };
    let configure = async |text: String| {
        let config = Config::parse(&text).expect("a configuration of this test");
        pipeline
            .updates
            .send(Update::Config(Arc::new(config)))
            .await
            .expect("the pipeline runs");
    };
    configure(text(format!(", kvEvents: {{port: {port}, replayPort: 0}}"))).await;
    let soon = Duration::from_secs(10);
    let (mut follower, _) = time::timeout(soon, publisher.accept())
        .await
        .expect("soon")
        .expect("a follower");
    let mut greeting = [0; 64];
    follower
        .read_exact(&mut greeting)
        .await
        .expect("a greeting");
    configure(text(String::new())).await;
    let left = time::timeout(soon, follower.read(&mut greeting))
        .await
        .expect("soon");
    assert_eq!(left.expect("the connection ends in order"), 0);
    assert!(
        pipeline
            .pools
            .pool("chat")
            .expect("the pool stays")
            .resources
            .kv_events
            .is_none()
    );
}
