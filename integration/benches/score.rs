//! What one control-plane core answers on a Score stream: calls a second, latency, and CPU on both ends.
//!
//! One replica on one worker thread, one proxy on another, loopback between them; callers wait for their answers and
//! ask again at once. 100 endpoints, `kv-aware`; every booking is taken back with a later batch, as a proxy's reports
//! would end it. Run: `cargo bench -p hermes-integration --bench score`.

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

use std::{
    collections::HashMap,
    fs,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hdrhistogram::Histogram;
use hermes_control_plane::{
    app::{ConfigSource, ControlPlane, Options},
    config::Config,
};
use hermes_proto::v1::{ScoreRequest, ScoreRequests, router_client::RouterClient, score_response::Answer};
use hermes_runtime::shutdown::Drain;
use parking_lot::Mutex;
use tokio::{
    runtime::{Builder, Runtime},
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ENDPOINTS: usize = 100;
const WARM_UP: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_secs(3);
const SERVER: &str = "server";
const CLIENT: &str = "client";

/// One request and who waits for its answer.
type Call = (ScoreRequest, oneshot::Sender<()>);

/// What one run showed.
struct Figures {
    calls: u64,
    latency: Histogram<u64>,
    server: Duration,
    client: Duration,
}

fn main() {
    println!("{ENDPOINTS} endpoints, kv-aware, one Score stream, one worker thread on each side\n");
    println!("| callers | hashes | calls/s | p50 µs | p99 µs | server CPU µs/call | client CPU µs/call |");
    println!("|---|---|---|---|---|---|---|");
    for callers in [1, 8, 64, 512] {
        for hashes in [16, 128] {
            let figures = measure(callers, hashes);
            println!("| {callers} | {hashes} | {figures} |");
        }
    }
}

fn measure(callers: usize, hashes: usize) -> Figures {
    let (server, client) = (worker(SERVER), worker(CLIENT));
    let engines: Vec<TcpListener> =
        (0..ENDPOINTS).map(|_| TcpListener::bind(("127.0.0.1", 0)).expect("a free port")).collect();
    let bound = server.block_on(async {
        let options = Options { admin: None, ..Options::local(ConfigSource::Value(config(&engines))) };
        let bound =
            server.spawn(ControlPlane::start(options, Drain::default())).await.expect("no panic").expect("it starts");
        timeout(WARM_UP * 20, bound.readiness.ready()).await.expect("static endpoints are known at once");
        // The gate opens with the configuration, the brain stands with the first snapshot.
        tokio::time::sleep(WARM_UP).await;
        bound
    });
    client.block_on(client.spawn(drive(bound.grpc, callers, hashes))).expect("no panic")
}

fn worker(name: &str) -> Runtime {
    Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build().expect("a runtime")
}

fn config(engines: &[TcpListener]) -> Config {
    let urls: Vec<String> =
        engines.iter().map(|engine| format!("'http://{}'", engine.local_addr().expect("it is bound"))).collect();
    let text =
        format!("pools: [{{name: chat, models: [m], metrics: {{enabled: false}}, endpoints: [{}]}}]", urls.join(", "));
    Config::parse(&text).expect("a configuration of this bench")
}

async fn drive(replica: SocketAddr, callers: usize, hashes: usize) -> Figures {
    let (calls, queue) = mpsc::channel::<Call>(1_024);
    let mut tasks = JoinSet::new();
    connect(replica, queue, &mut tasks).await;
    let latency = Arc::new(Mutex::new(
        Histogram::new_with_bounds(1, 100_000_000, 3).expect("ten seconds in tenths of a microsecond"),
    ));
    let next = Arc::new(AtomicU64::new(0));
    let measuring = Arc::new(AtomicU64::new(0));
    for _ in 0..callers {
        tasks.spawn(call(calls.clone(), Arc::clone(&next), Arc::clone(&measuring), Arc::clone(&latency), hashes));
    }
    tokio::time::sleep(WARM_UP).await;
    let (before, from) = (next.load(Ordering::Relaxed), (cpu(SERVER), cpu(CLIENT)));
    let start = Instant::now();
    measuring.store(1, Ordering::Relaxed);
    tokio::time::sleep(MEASURED).await;
    let calls = next.load(Ordering::Relaxed) - before;
    let calls = (calls as f64 * MEASURED.as_secs_f64() / start.elapsed().as_secs_f64()) as u64;
    let (server, client) = (cpu(SERVER) - from.0, cpu(CLIENT) - from.1);
    let latency = latency.lock().clone();
    Figures { calls, latency, server, client }
}

/// One caller: asks, waits, asks again.
async fn call(
    calls: mpsc::Sender<Call>,
    next: Arc<AtomicU64>,
    measuring: Arc<AtomicU64>,
    latency: Arc<Mutex<Histogram<u64>>>,
    hashes: usize,
) {
    loop {
        let id = next.fetch_add(1, Ordering::Relaxed);
        let blocks = (0..hashes as u64).map(|block| id.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ block).collect();
        let request = ScoreRequest {
            id,
            proxy: 1,
            pool: "chat".into(),
            model: "m".into(),
            prompt_bytes: hashes as u64 * 256,
            prompt_tokens: hashes as u32 * 64,
            blocks,
            block_bytes: 256,
            deadline_ms: 1_000,
            ..ScoreRequest::default()
        };
        let (answer, answered) = oneshot::channel();
        let start = Instant::now();
        if calls.send((request, answer)).await.is_err() || answered.await.is_err() {
            return;
        }
        if measuring.load(Ordering::Relaxed) == 1 {
            latency.lock().saturating_record(start.elapsed().as_nanos() as u64 / 100);
        }
    }
}

/// Opens the stream: what is queued goes out as one batch, and answers find their callers by id.
async fn connect(replica: SocketAddr, mut queue: mpsc::Receiver<Call>, tasks: &mut JoinSet<()>) {
    let mut client = RouterClient::connect(format!("http://{replica}")).await.expect("the replica listens");
    let (batches, sent) = mpsc::channel(4);
    let mut answers = client.score(ReceiverStream::new(sent)).await.expect("a score stream").into_inner();
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
            if batches.send(ScoreRequests { requests, cancels }).await.is_err() {
                return;
            }
        }
    });
    tasks.spawn(async move {
        while let Ok(Ok(Some(batch))) = timeout(Duration::from_secs(5), answers.message()).await {
            for response in batch.responses {
                assert!(matches!(response.answer, Some(Answer::Chosen(_))), "{response:?}");
                done.lock().push(response.id);
                if let Some(caller) = waiting.lock().remove(&response.id) {
                    // A caller that is gone needs no answer.
                    let _gone = caller.send(());
                }
            }
        }
    });
}

/// CPU time of this process's threads of this name.
fn cpu(name: &str) -> Duration {
    let threads = fs::read_dir("/proc/self/task").expect("Linux");
    let of_thread = |folder: fs::DirEntry| {
        let read = |file: &str| fs::read_to_string(folder.path().join(file)).unwrap_or_default();
        // The first number of schedstat is time on the CPU in nanoseconds.
        let nanos: Option<u64> = read("schedstat").split(' ').next().and_then(|nanos| nanos.parse().ok());
        nanos.filter(|_| read("comm").trim() == name)
    };
    Duration::from_nanos(threads.flatten().filter_map(of_thread).sum())
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let micros = |quantile| self.latency.value_at_quantile(quantile) as f64 / 10.0;
        let per_call = |cpu: Duration| cpu.as_secs_f64() * 1e6 / self.calls.max(1) as f64;
        let rate = self.calls as f64 / MEASURED.as_secs_f64();
        let (server, client) = (per_call(self.server), per_call(self.client));
        write!(f, "{rate:.0} | {:.0} | {:.0} | {server:.1} | {client:.1}", micros(0.5), micros(0.99))
    }
}
