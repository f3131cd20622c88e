//! One proxy with many callers on one Score stream.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use hdrhistogram::Histogram;
use hermes_core::rng::SeededRng;
use hermes_proto::v1::{
    ScoreRequest, ScoreRequests, router_client::RouterClient, score_response::Answer,
};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    CLIENT, SERVER,
    figures::{Figures, cpu},
};

const WARM_UP: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_secs(3);
/// No answer takes longer.
const SOON: Duration = Duration::from_secs(5);
/// Bytes of a block.
const BLOCK: usize = 256;
/// Any odd number that shares nothing with the count of prompts: each comes up in turn, neighbors
/// far apart.
const STRIDE: u64 = 7_919;

/// One request and the channel for its response.
type Call = (ScoreRequest, oneshot::Sender<()>);

/// What is asked about.
#[derive(Clone, Copy)]
pub(crate) struct Prompts {
    /// Blocks of each prompt.
    pub(crate) hashes: usize,
    /// How many there are; nothing when each is asked about once.
    pub(crate) count: Option<usize>,
}

/// What all callers share.
struct Shared {
    prompts: Prompts,
    next: AtomicU64,
    measuring: AtomicBool,
    latency: Mutex<Histogram<u64>>,
}

/// Asks for as long as a measurement takes; first about every prompt once, where prompts come back.
pub(crate) async fn drive(replica: SocketAddr, callers: usize, prompts: Prompts) -> Figures {
    let (calls, queue) = mpsc::channel::<Call>(1_024);
    let mut tasks = JoinSet::new();
    connect(replica, queue, &mut tasks).await;
    let shared = Arc::new(Shared {
        prompts,
        next: AtomicU64::new(0),
        measuring: AtomicBool::new(false),
        latency: Mutex::new(Histogram::new_with_bounds(1, 100_000_000, 3).expect("ten seconds")),
    });
    (0..callers).for_each(|_| drop(tasks.spawn(call(calls.clone(), Arc::clone(&shared)))));
    while shared.next.load(Ordering::Relaxed) < prompts.count.unwrap_or(0) as u64 {
        tokio::time::sleep(WARM_UP).await;
    }
    tokio::time::sleep(WARM_UP).await;
    let (before, from) = (
        shared.next.load(Ordering::Relaxed),
        (cpu(SERVER), cpu(CLIENT)),
    );
    let start = Instant::now();
    shared.measuring.store(true, Ordering::Relaxed);
    tokio::time::sleep(MEASURED).await;
    let calls = shared.next.load(Ordering::Relaxed) - before;
    let (server, client) = (cpu(SERVER) - from.0, cpu(CLIENT) - from.1);
    let latency = shared.latency.lock().clone();
    Figures {
        calls,
        took: start.elapsed(),
        latency,
        server,
        client,
    }
}

/// One caller: asks, waits, asks again.
async fn call(calls: mpsc::Sender<Call>, shared: Arc<Shared>) {
    loop {
        let id = shared.next.fetch_add(1, Ordering::Relaxed);
        let request = shared.prompts.request(id);
        let (answer, answered) = oneshot::channel();
        let start = Instant::now();
        if calls.send((request, answer)).await.is_err() || answered.await.is_err() {
            return;
        }
        if shared.measuring.load(Ordering::Relaxed) {
            shared
                .latency
                .lock()
                .saturating_record(start.elapsed().as_nanos() as u64 / 100);
        }
    }
}

/// Opens the stream: what is queued goes out as one batch, and answers find their callers by id.
async fn connect(replica: SocketAddr, mut queue: mpsc::Receiver<Call>, tasks: &mut JoinSet<()>) {
    let mut client = RouterClient::connect(format!("http://{replica}"))
        .await
        .expect("the replica listens");
    let (batches, sent) = mpsc::channel(4);
    let mut answers = client
        .score(ReceiverStream::new(sent))
        .await
        .expect("a score stream")
        .into_inner();
    let waiting: Arc<Mutex<HashMap<u64, oneshot::Sender<()>>>> = Arc::default();
    let done: Arc<Mutex<Vec<u64>>> = Arc::default();
    let (callers, ended) = (Arc::clone(&waiting), Arc::clone(&done));
    tasks.spawn(async move {
        let mut calls = Vec::with_capacity(256);
        while queue.recv_many(&mut calls, 256).await > 0 {
            let register = |(request, answer): Call| {
                callers.lock().insert(request.id, answer);
                request
            };
            let requests = calls.drain(..).map(register).collect();
            let cancels = std::mem::take(&mut *ended.lock());
            if batches
                .send(ScoreRequests { requests, cancels })
                .await
                .is_err()
            {
                return;
            }
        }
    });
    tasks.spawn(async move {
        while let Ok(Ok(Some(batch))) = timeout(SOON, answers.message()).await {
            for response in batch.responses {
                assert!(
                    matches!(response.answer, Some(Answer::Selected(_))),
                    "{response:?}"
                );
                done.lock().push(response.id);
                if let Some(caller) = waiting.lock().remove(&response.id) {
                    // A caller that is gone needs no answer.
                    let _gone = caller.send(());
                }
            }
        }
    });
}

impl Prompts {
    /// New ones for ever.
    pub(crate) const fn unseen(hashes: usize) -> Self {
        Self {
            hashes,
            count: None,
        }
    }

    fn request(self, id: u64) -> ScoreRequest {
        let prompt = self
            .count
            .map_or(id, |count| id.wrapping_mul(STRIDE) % count as u64);
        let mut rng = SeededRng::new(prompt);
        ScoreRequest {
            id,
            proxy: 1,
            pool: "chat".into(),
            model: "m".into(),
            prompt_bytes: (self.hashes * BLOCK) as u64,
            prompt_tokens: (self.hashes * BLOCK / 4) as u32,
            blocks: (0..self.hashes).map(|_| rng.next_u64()).collect(),
            block_bytes: BLOCK as u32,
            deadline_ms: 1_000,
            ..ScoreRequest::default()
        }
    }
}
