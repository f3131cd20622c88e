//! Proxies that follow a replica, send requests, and have some that wait.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use hermes_core::rng::SeededRng;
use hermes_proto::{
    MAX_MESSAGE_BYTES, Message,
    v1::{
        Finished, FromDataPlane, Hello, Report, Reports, RequestOutcome, ScoreRequest,
        ScoreRequests, Snapshot, Started, from_control_plane, from_data_plane, report::Event,
        router_client::RouterClient,
    },
};
use parking_lot::Mutex;
use tokio::{
    runtime::Runtime,
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::interval,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// How often a proxy that has requests begins some and ends those that it began before.
const ROUND: Duration = Duration::from_millis(250);

/// The id of the first; callers are another proxy.
const FIRST: u64 = 1_000;

/// Proxies that follow one replica.
pub(crate) struct Followers {
    proxies: Arc<Mutex<Vec<mpsc::Sender<FromDataPlane>>>>,
    endpoints: Arc<Mutex<Vec<u64>>>,
    tasks: JoinSet<()>,
    senders: Vec<AbortHandle>,
}

// === Followers ===

impl Followers {
    pub(crate) fn start(client: &Runtime, replica: SocketAddr, proxies: u64) -> Self {
        let mut started = Self {
            proxies: Arc::default(),
            endpoints: Arc::default(),
            tasks: JoinSet::new(),
            senders: Vec::new(),
        };
        for proxy in FIRST..FIRST + proxies {
            let (known, endpoints) = (Arc::clone(&started.proxies), Arc::clone(&started.endpoints));
            let follow = follow(replica, proxy, known, endpoints);
            started.tasks.spawn_on(follow, client.handle());
        }
        started
    }

    /// From now on they send this many requests a second, all of them together, each to any
    /// endpoint.
    pub(crate) fn send_requests(&mut self, client: &Runtime, per_second: u64) {
        let proxies = self.proxies.lock().clone();
        let endpoints: Arc<[u64]> = self.endpoints.lock().clone().into();
        let rounds = 1_000 / ROUND.as_millis() as u64;
        let each = per_second.div_ceil(rounds * proxies.len() as u64);
        for (proxy, upwards) in proxies.into_iter().enumerate() {
            let sends = send(upwards, Arc::clone(&endpoints), each, proxy as u64);
            self.senders
                .push(self.tasks.spawn_on(sends, client.handle()));
        }
    }

    pub(crate) fn end_requests(&mut self) {
        self.senders.drain(..).for_each(|task| task.abort());
    }
}

/// Follows the replica as a proxy does.
async fn follow(
    replica: SocketAddr,
    proxy: u64,
    known: Arc<Mutex<Vec<mpsc::Sender<FromDataPlane>>>>,
    endpoints: Arc<Mutex<Vec<u64>>>,
) {
    let mut client = client(replica).await;
    let (upwards, sent) = mpsc::channel(4);
    let hello = Hello {
        proxy,
        ..Hello::default()
    };
    let first = message(from_data_plane::Message::Hello(hello));
    upwards.send(first).await.expect("room for one");
    let opened = client.sync(ReceiverStream::new(sent)).await;
    let mut messages = opened.expect("a Sync stream").into_inner();
    known.lock().push(upwards);
    while let Ok(Some(received)) = messages.message().await {
        if let Some(from_control_plane::Message::Snapshot(bytes)) = received.message {
            let snapshot = Snapshot::decode(bytes).expect("a snapshot");
            let pools = snapshot.content.and_then(|content| content.pools);
            let pools = pools.into_iter().flat_map(|pools| pools.set);
            let all = pools.flat_map(|pool| pool.endpoints.unwrap_or_default().set);
            let ids = all.map(|endpoint| endpoint.id).collect();
            *endpoints.lock() = ids;
        }
    }
}

/// In each round reports `each` requests as sent and those of the round before as finished.
async fn send(upwards: mpsc::Sender<FromDataPlane>, endpoints: Arc<[u64]>, each: u64, seed: u64) {
    let (mut rng, mut next) = (SeededRng::new(seed), 0);
    let mut rounds = interval(ROUND);
    loop {
        rounds.tick().await;
        let ended = (next..next + each).map(|request| {
            let outcome = RequestOutcome::Ok.into();
            let finished = Finished {
                outcome,
                ..Finished::default()
            };
            (request, Event::Finished(finished))
        });
        let begun = (next + each..next + 2 * each).map(|request| {
            let started = Started {
                endpoint: endpoints[rng.below(endpoints.len())],
                uncached_tokens: 1_000,
                ..Started::default()
            };
            (request, Event::Started(started))
        });
        let report = |(request, event)| Report {
            request,
            leg: 0,
            event: Some(event),
        };
        let reports = ended.chain(begun).map(report).collect();
        next += each;
        let reports = message(from_data_plane::Message::Reports(Reports { reports }));
        if upwards.send(reports).await.is_err() {
            return;
        }
    }
}

/// Sends requests for this model, which wait until the returned tasks are dropped.
pub(crate) async fn wait_for(replica: SocketAddr, model: &str, count: u64) -> JoinSet<()> {
    let mut client = client(replica).await;
    let (batches, sent) = mpsc::channel(4);
    let request = |id| ScoreRequest {
        id: u64::MAX - id,
        proxy: 1,
        pool: "chat".into(),
        model: model.into(),
        prompt_bytes: 40_000,
        prompt_tokens: 10_000,
        deadline_ms: 100_000,
        may_wait: true,
        ..ScoreRequest::default()
    };
    let batch = ScoreRequests {
        requests: (0..count).map(request).collect(),
        cancels: Vec::new(),
    };
    batches.send(batch).await.expect("room for one");
    let opened = client.score(ReceiverStream::new(sent)).await;
    let mut answers = opened.expect("a Score stream").into_inner();
    let mut waiting = JoinSet::new();
    waiting.spawn(async move {
        let _open = batches;
        while let Ok(Some(_answers)) = answers.message().await {}
    });
    waiting
}

const fn message(message: from_data_plane::Message) -> FromDataPlane {
    FromDataPlane {
        message: Some(message),
    }
}

async fn client(replica: SocketAddr) -> RouterClient<Channel> {
    RouterClient::connect(format!("http://{replica}"))
        .await
        .expect("the replica listens")
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
}
