//! The load generator against a scripted server: what it sends, and what it reports.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use hermes_bench::chats::{Chats, Pace, Pauses, Singles};
use hermes_bench::load::arrivals::Arrivals;
use hermes_bench::load::client::{Client, Limits, Target};
use hermes_bench::load::conversation;
use hermes_bench::load::run::{Bounds, Run};
use hermes_bench::load::workload::Shape;
use hermes_bench::load::{LoadArgs, load};
use hermes_bench::replay::{ReplayArgs, replay};
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// A server that answers each request, numbered from zero, as its script says; gone when dropped.
struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Value>>>,
    _accepting: AbortOnDropHandle<()>,
}

impl Server {
    async fn start<F>(script: impl Fn(u64) -> F + Clone + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("works on loopback");
        let (address, seen) = (
            listener.local_addr().expect("works on loopback"),
            Arc::new(Mutex::new(Vec::new())),
        );
        let (log, count) = (Arc::clone(&seen), Arc::new(AtomicU64::new(0)));
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (script, log, count) = (script.clone(), Arc::clone(&log), Arc::clone(&count));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (script, log) = (script.clone(), Arc::clone(&log));
                    let number = count.fetch_add(1, Ordering::Relaxed);
                    async move {
                        let body = request.into_body().collect().await?.to_bytes();
                        // A GET has no body.
                        log.lock()
                            .push(serde_json::from_slice(&body).unwrap_or_default());
                        Ok::<_, hyper::Error>(script(number).await)
                    }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                connections.spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self {
            address,
            seen,
            _accepting: AbortOnDropHandle::new(accepting),
        }
    }

    fn client(&self) -> Client {
        let target = Target::parse(&format!("http://{}", self.address)).expect("works on loopback");
        Client::new(target, Limits::answer_within(Duration::from_secs(5)))
    }

    fn run(&self, count: u64, concurrency: usize) -> Run {
        let bounds = Bounds {
            count,
            duration: Duration::from_secs(20),
            concurrency,
        };
        Run::new(self.client(), bounds, CancellationToken::new())
    }
}

fn json(text: &str) -> Response<Body> {
    let body = Full::new(Bytes::copy_from_slice(text.as_bytes()))
        .map_err(|never: Infallible| match never {});
    Response::builder()
        .header("x-hermes-endpoint", "engine-a")
        .body(body.boxed_unsync())
        .expect("works on loopback")
}

/// A stream of `frames`; the name `BREAK` breaks the body off.
fn events(frames: &'static [&'static str]) -> Response<Body> {
    let frames = stream::iter(frames).then(async |&text| {
        // A body that is pending for a moment is what makes the server flush the frames before.
        tokio::task::yield_now().await;
        match text {
            "BREAK" => Err(std::io::Error::other("scripted")),
            text => Ok(Frame::data(Bytes::from_static(text.as_bytes()))),
        }
    });
    Response::builder()
        .header("content-type", "text/event-stream; charset=utf-8")
        .body(StreamBody::new(frames).boxed_unsync())
        .expect("works on loopback")
}

const ANSWER: &str = r#"{"choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":100,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":40}}}"#;
const ROLE: &str =
    "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
const TOKEN: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"word \"}}]}\n\n";
const USAGE: &str =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":10,\"completion_tokens\":2}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

fn shape(stream: bool) -> Shape {
    Shape {
        model: "m".to_owned(),
        stream,
        ignore_eos: false,
    }
}

#[derive(clap::Parser)]
struct Line<A: clap::Args> {
    #[command(flatten)]
    args: A,
}

fn args<A: clap::Args>(line: &str) -> A {
    <Line<A> as clap::Parser>::parse_from(line.split_whitespace()).args
}

#[tokio::test]
async fn a_stalled_server_is_charged_for_the_requests_that_were_due_meanwhile() {
    const STALL: Duration = Duration::from_millis(400);
    let server = Server::start(async |number| {
        if number == 0 {
            tokio::time::sleep(STALL).await;
        }
        json(ANSWER)
    })
    .await;
    let calls = shape(false).fixed(100, 1, 0);
    // Twenty requests are due within 100 ms, and only one may be in flight: nineteen cannot even be
    // sent in time.
    let offsets = Arrivals::Fixed { per_second: 200.0 }.offsets();
    let report = server
        .run(20, 1)
        .open(offsets.zip(calls.into_iter().cycle()))
        .await;
    assert_eq!((report.requests, report.ok), (20, 20), "{report}");
    // A client that started its watch when it got round to sending would see one slow request and
    // nineteen fast ones.
    assert!(report.latency.p50_ms >= 300.0, "{report}");
    assert!(report.lag.p50_ms >= 300.0, "{report}");
}

#[tokio::test]
async fn each_way_a_stream_can_end_is_reported_separately() {
    let server = Server::start(async |number| match number {
        0 => events(&[ROLE, TOKEN, TOKEN, USAGE, DONE]),
        1 => events(&[
            ROLE,
            TOKEN,
            "data: {\"error\":{\"message\":\"engine died\"}}\n\n",
            DONE,
        ]),
        2 => events(&[ROLE, TOKEN]),
        3 => events(&[ROLE, TOKEN, "BREAK"]),
        _ => {
            let mut refusal = json("{\"error\":{}}");
            *refusal.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
            refusal
        }
    })
    .await;
    let report = server
        .run(6, 1)
        .closed(shape(true).fixed(100, 2, 0).into())
        .await;
    let errors: Vec<(&str, u64)> = report
        .errors
        .iter()
        .map(|(kind, &count)| (kind.as_str(), count))
        .collect();
    assert_eq!(
        errors,
        [("error event", 1), ("status 503", 2), ("truncated", 2)],
        "{report}"
    );
    assert_eq!(
        (
            report.ok,
            report.ttft.count,
            report.tpot.count,
            report.gap.count
        ),
        (1, 1, 1, 2),
        "{report}"
    );
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_of_its_own_kind() {
    let vacated = TcpListener::bind("127.0.0.1:0")
        .await
        .expect("works on loopback")
        .local_addr()
        .unwrap();
    let report = load(&args::<LoadArgs>(&format!(
        "load --target http://{vacated} --count 3"
    )))
    .await
    .expect("works on loopback");
    assert_eq!(report.errors.get("connect"), Some(&3), "{report}");
}

#[tokio::test]
async fn without_a_model_the_first_that_is_served_is_asked_for() {
    let server = Server::start(async |number| match number {
        0 => json(r#"{"object":"list","data":[{"id":"served"},{"id":"other"}]}"#),
        _ => json(ANSWER),
    })
    .await;
    let line = format!(
        "load --target http://{} --count 1 --connections 1",
        server.address
    );
    load(&args::<LoadArgs>(&line))
        .await
        .expect("works on loopback");
    assert_eq!(server.seen.lock()[1]["model"], "served");
}

#[tokio::test]
async fn a_connection_that_the_server_closes_between_requests_is_replaced() {
    let server = Server::start(async |_| {
        let mut answer = json(ANSWER);
        answer
            .headers_mut()
            .insert("connection", http::HeaderValue::from_static("close"));
        answer
    })
    .await;
    let report = server
        .run(30, 2)
        .closed(shape(false).fixed(100, 1, 0).into())
        .await;
    assert_eq!((report.requests, report.ok), (30, 30), "{report}");
}

#[tokio::test]
async fn the_hit_rate_and_the_endpoints_come_from_the_answers() {
    let server = Server::start(async |_| json(ANSWER)).await;
    let target = server.address;
    let line = format!(
        "load --target http://{target} --workload long --prompt-bytes 50000 --count 10 --connections 3"
    );
    let report = load(&args::<LoadArgs>(&line))
        .await
        .expect("works on loopback");
    assert_eq!(
        (report.ok, report.prompt_tokens, report.hit_rate),
        (10, 1_000, Some(0.4)),
        "{report}"
    );
    assert_eq!(report.endpoints["engine-a"].requests, 10);
}

#[tokio::test]
async fn a_conversation_carries_the_answers_it_got() {
    let server = Server::start(async |_| events(&[ROLE, TOKEN, TOKEN, USAGE, DONE])).await;
    let chats = Chats {
        users: 2,
        rounds: 3,
        system_tokens: 20,
        history_tokens: 0,
        question_tokens: 5,
        answer_tokens: 2,
        pace: Pace::AsAnswered {
            think: Duration::ZERO,
            stagger: Duration::ZERO,
        },
        seed: 1,
    };
    let report = conversation::drive(chats, server.run(u64::MAX, 2), shape(true)).await;
    assert_eq!((report.requests, report.ok), (6, 6), "{report}");
    let seen = server.seen.lock();
    let last_turns: Vec<_> = seen
        .iter()
        .filter_map(|body| body["messages"].as_array())
        .filter(|m| m.len() == 6)
        .collect();
    assert_eq!(last_turns.len(), 2);
    for turn in last_turns {
        let roles: Vec<_> = turn
            .iter()
            .map(|message| message["role"].as_str().expect("works on loopback"))
            .collect();
        assert_eq!(
            roles,
            ["system", "user", "assistant", "user", "assistant", "user"]
        );
        assert_eq!(turn[4]["content"], "word word ");
    }
}

#[tokio::test]
async fn chats_at_a_rate_go_on_to_their_number_with_new_sessions_and_single_prompts() {
    let server = Server::start(async |_| events(&[ROLE, TOKEN, TOKEN, USAGE, DONE])).await;
    let chats = Chats {
        users: 2,
        rounds: 2,
        system_tokens: 20,
        history_tokens: 10,
        question_tokens: 5,
        answer_tokens: 2,
        pace: Pace::Timed {
            per_second: 200.0,
            pauses: Pauses::Exponential,
            singles: Singles {
                share: 0.25,
                tokens: 50,
            },
        },
        seed: 1,
    };
    let report = conversation::drive(chats, server.run(40, 2), shape(true)).await;
    assert_eq!((report.requests, report.ok), (40, 40), "{report}");
    let seen = server.seen.lock();
    let lengths: Vec<usize> = seen
        .iter()
        .filter_map(|body| Some(body["messages"].as_array()?.len()))
        .collect();
    let of = |length| lengths.iter().filter(|&&found| found == length).count();
    assert!(of(1) > 2, "single prompts: {lengths:?}");
    assert!(
        of(3) > 5 && of(5) > 5,
        "two rounds, again and again: {lengths:?}"
    );
    assert_eq!(of(1) + of(3) + of(5), 40, "no third round: {lengths:?}");
}

#[tokio::test]
async fn the_cpu_time_of_processes_is_reported() {
    let server = Server::start(async |_| json(ANSWER)).await;
    let (target, pid) = (server.address, std::process::id());
    let line = |pid: u32| format!("load --target http://{target} --count 5 --pid {pid}");
    let report = load(&args::<LoadArgs>(&line(pid)))
        .await
        .expect("works on loopback");
    assert!(report.cpu_s.contains_key(&pid), "{report}");
    let missing = load(&args::<LoadArgs>(&line(u32::MAX))).await;
    assert!(missing.is_err_and(|error| error.to_string().contains("no process has the id")));
}

#[tokio::test]
async fn a_replay_sends_the_lengths_of_the_trace_and_keeps_its_shared_prefixes() {
    let server = Server::start(async |_| events(&[ROLE, TOKEN, TOKEN, USAGE, DONE])).await;
    let trace = tempfile::NamedTempFile::new().expect("works on loopback");
    let lines = [
        r#"{"timestamp": 5000, "input_length": 600, "output_length": 7, "hash_ids": [0, 1]}"#,
        r#"{"timestamp": 5100, "input_length": 700, "output_length": 8, "hash_ids": [0, 2]}"#,
        r#"{"timestamp": 9000, "input_length": 1, "output_length": 1, "hash_ids": [3]}"#,
    ];
    std::fs::write(trace.path(), lines.join("\n")).expect("works on loopback");
    let line = format!(
        "replay {} --target http://{} --scale 10 --limit 2",
        trace.path().display(),
        server.address
    );
    let report = replay(args::<ReplayArgs>(&line))
        .await
        .expect("works on loopback");
    assert_eq!((report.requests, report.ok), (2, 2), "{report}");
    let seen = server.seen.lock();
    let text = |index: usize| {
        seen[index]["messages"][0]["content"]
            .as_str()
            .expect("works on loopback")
            .to_owned()
    };
    assert_eq!((text(0).len(), text(1).len()), (2_400, 2_800));
    assert_eq!(text(0)[..2_048], text(1)[..2_048]);
    assert_eq!(
        (&seen[0]["max_tokens"], &seen[1]["max_tokens"]),
        (&Value::from(7), &Value::from(8))
    );
}

#[tokio::test]
async fn a_run_that_is_stopped_gives_up_what_is_in_flight_and_says_so() {
    let server = Server::start(async |_| std::future::pending().await).await;
    let stop = CancellationToken::new();
    let bounds = Bounds {
        count: 100,
        duration: Duration::from_secs(20),
        concurrency: 4,
    };
    let run = Run::new(server.client(), bounds, stop.clone())
        .closed(shape(false).fixed(100, 1, 0).into());
    let all_in_flight = async {
        while server.seen.lock().len() < 4 {
            tokio::task::yield_now().await;
        }
        stop.cancel();
    };
    let (report, ()) = tokio::join!(run, all_in_flight);
    assert_eq!(report.errors.get("interrupted"), Some(&4), "{report}");
}

#[tokio::test]
async fn a_stopped_run_completes_requests_in_flight_and_starts_no_more() {
    let answers = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&answers);
    let server = Server::start(move |_| {
        let gate = Arc::clone(&gate);
        async move {
            let _answer = gate.acquire().await.expect("never closed");
            json(ANSWER)
        }
    })
    .await;
    let enough = CancellationToken::new();
    let run = server
        .run(100, 4)
        .until(enough.clone())
        .closed(shape(false).fixed(100, 1, 0).into());
    let all_in_flight = async {
        while server.seen.lock().len() < 4 {
            tokio::task::yield_now().await;
        }
        enough.cancel();
        answers.add_permits(100);
    };
    let (report, ()) = tokio::join!(run, all_in_flight);
    assert_eq!((report.requests, report.ok), (4, 4), "{report}");
}
