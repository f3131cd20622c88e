//! The messages of a gateway with full-duplex bodies, from a script: requests are asked for and sent
//! nowhere, and their answers are made up.
//!
//! A role of this binary. It reports as one line of JSON.

use std::cell::RefCell;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use hdrhistogram::Histogram;
use hermes_proto::ext_proc::{
    HeaderMap, HeaderValue, HttpBody, HttpHeaders, ProcessingRequest, ProcessingResponse,
    body_mutation::Mutation, external_processor_client::ExternalProcessorClient,
    processing_request::Request as Kind, processing_response::Response as Answer,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::{BenchError, failed};

/// Connections: Envoy has one for each of its threads, and more above as many streams each.
const CONNECTIONS: usize = 2;
const STREAMS_OF_A_CONNECTION: usize = 1_000;
/// Longer waits count as this.
const LONGEST_MICROS: u64 = 100_000_000;
/// Bytes of a body in one message, as Envoy reads them from a client.
const PIECE: usize = 16 << 10;
/// Messages that wait for the picker.
const WAITING: usize = 16;
/// Different prompts.
const PROMPTS: usize = 16;

const EVENT: &[u8] = b"data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"sim\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"finish_reason\":null}]}\n\n";
const DONE: &[u8] = b"data: [DONE]\n\n";
const ANSWER: &[u8] = br#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"sim","choices":[{"index":0,"message":{"role":"assistant","content":"Hello!"},"finish_reason":"stop"}],"usage":{"prompt_tokens":200,"completion_tokens":1,"total_tokens":201}}"#;

/// What the gateway does.
#[derive(Clone, Debug, Args)]
pub struct GatewayArgs {
    /// The picker
    #[arg(long)]
    pub picker: SocketAddr,
    /// Requests at once
    #[arg(long)]
    pub streams: usize,
    /// Bytes of each prompt
    #[arg(long)]
    pub prompt_bytes: usize,
    /// Tokens of each answer, an event each; 0 for an answer that is no stream
    #[arg(long, default_value_t = 0)]
    pub tokens: usize,
    /// Milliseconds between two tokens of an answer
    #[arg(long, default_value_t = 10)]
    pub pace: u64,
    /// Seconds after which no request begins and no answer goes on
    #[arg(long)]
    pub duration: f64,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct GatewayReport {
    /// Requests that have a destination.
    pub placed: u64,
    /// Tokens that have passed.
    pub tokens: u64,
    /// Time of the whole run.
    pub seconds: f64,
    /// From the first message to the last piece of the request that came back.
    pub p50_ms: f64,
    /// The 99th percentile of the same.
    pub p99_ms: f64,
}

/// The tally of all streams, which share one thread.
struct Tally {
    report: GatewayReport,
    latency: Histogram<u64>,
}

/// The role.
pub async fn run(args: &GatewayArgs) -> Result<(), BenchError> {
    let tally = Rc::new(RefCell::new(Tally {
        report: GatewayReport::default(),
        latency: Histogram::new_with_max(LONGEST_MICROS, 3).expect("bounds are right"),
    }));
    let mut connections = Vec::new();
    let count = CONNECTIONS.max(args.streams.div_ceil(STREAMS_OF_A_CONNECTION));
    for _ in 0..count {
        connections.push(connect(args.picker).await?);
    }
    let prompts: Rc<[Vec<Bytes>]> = (0..PROMPTS).map(|at| prompt(args, at)).collect();
    let began = Instant::now();
    let end = began + Duration::from_secs_f64(args.duration);
    let streams = LocalSet::new();
    let mut all = JoinSet::new();
    for at in 0..args.streams {
        let script = Script {
            args: args.clone(),
            picker: connections[at % count].clone(),
            prompts: Rc::clone(&prompts),
            tally: Rc::clone(&tally),
            end,
        };
        all.spawn_local_on(script.repeat(at), &streams);
    }
    let ended = streams.run_until(async {
        while let Some(ended) = all.join_next().await {
            ended.expect("no panic")?;
        }
        Ok::<_, BenchError>(())
    });
    ended.await?;
    let Tally { report, latency } = &*tally.borrow();
    let millis = |quantile| latency.value_at_quantile(quantile) as f64 / 1e3;
    let report = GatewayReport {
        seconds: began.elapsed().as_secs_f64(),
        p50_ms: millis(0.5),
        p99_ms: millis(0.99),
        ..*report
    };
    let line = serde_json::to_string(&report).expect("numbers have a JSON form");
    writeln!(io::stdout(), "{line}").map_err(failed("write the report"))
}

async fn connect(picker: SocketAddr) -> Result<ExternalProcessorClient<Channel>, BenchError> {
    let endpoint = Endpoint::from_shared(format!("http://{picker}"))?;
    // As Envoy: https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/core/v3/protocol.proto
    let endpoint = endpoint.initial_connection_window_size(24 << 20);
    let endpoint = endpoint.initial_stream_window_size(16 << 20);
    let channel = endpoint.connect().await?;
    Ok(ExternalProcessorClient::new(channel))
}

/// A chat's body in pieces, unlike those of other numbers from its first message on.
fn prompt(args: &GatewayArgs, at: usize) -> Vec<Bytes> {
    let words = "word ".repeat(args.prompt_bytes / 5);
    let (stream, tokens) = (args.tokens > 0, args.tokens.max(1));
    let body = format!(
        r#"{{"model":"sim","messages":[{{"role":"user","content":"{at} {words}"}}],"max_tokens":{tokens},"stream":{stream}}}"#
    );
    let body = Bytes::from(body);
    let pieces = (0..body.len()).step_by(PIECE);
    pieces
        .map(|begin| body.slice(begin..body.len().min(begin + PIECE)))
        .collect()
}

/// What one stream after the other does.
struct Script {
    args: GatewayArgs,
    picker: ExternalProcessorClient<Channel>,
    prompts: Rc<[Vec<Bytes>]>,
    tally: Rc<RefCell<Tally>>,
    end: Instant,
}

/// A stream that is open.
struct OpenStream {
    sent: mpsc::Sender<ProcessingRequest>,
    answers: Streaming<ProcessingResponse>,
}

impl Script {
    async fn repeat(mut self, at: usize) -> Result<(), BenchError> {
        if self.args.tokens > 0 {
            // Answers are at different tokens at any time.
            let pace = Duration::from_millis(self.args.pace);
            sleep_until(Instant::now() + pace.mul_f64(at as f64 / self.args.streams as f64)).await;
        }
        let mut prompt = at;
        while Instant::now() < self.end {
            self.once(prompt % PROMPTS).await?;
            prompt += 1;
        }
        Ok(())
    }

    async fn once(&mut self, prompt: usize) -> Result<(), Status> {
        let began = Instant::now();
        let mut stream = self.ask(prompt).await?;
        {
            let mut tally = self.tally.borrow_mut();
            tally.report.placed += 1;
            let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            tally.latency.saturating_record(micros);
        }
        let is_stream = self.args.tokens > 0;
        let kind = if is_stream {
            "text/event-stream"
        } else {
            "application/json"
        };
        let head = [(":status", "200"), ("content-type", kind)];
        stream.pass(Kind::ResponseHeaders(headers(&head))).await?;
        if !is_stream {
            return stream.pass(answer(ANSWER, true)).await;
        }
        let pace = Duration::from_millis(self.args.pace);
        let mut paced = interval_at(Instant::now() + pace, pace);
        // A token that is late does not make the next one late, as those of an engine.
        paced.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for _ in 0..self.args.tokens {
            paced.tick().await;
            if Instant::now() >= self.end {
                break;
            }
            stream.pass(answer(EVENT, false)).await?;
            self.tally.borrow_mut().report.tokens += 1;
        }
        stream.pass(answer(DONE, true)).await
    }

    /// Sends a request, and waits until all of it has come back.
    async fn ask(&mut self, prompt: usize) -> Result<OpenStream, Status> {
        let (sent, messages) = mpsc::channel(WAITING);
        let head = headers(&[
            (":method", "POST"),
            (":path", "/v1/chat/completions"),
            (":authority", "models.example"),
            ("content-type", "application/json"),
            ("x-forwarded-for", "10.0.0.1"),
        ]);
        let pieces = self.prompts[prompt].clone();
        let send = async move {
            let last = pieces.len();
            // An error is seen by the one who reads.
            _ = sent.send(message(Kind::RequestHeaders(head))).await;
            for (at, body) in pieces.into_iter().enumerate() {
                let end_of_stream = at + 1 == last;
                let piece = HttpBody {
                    body,
                    end_of_stream,
                };
                _ = sent.send(message(Kind::RequestBody(piece))).await;
            }
            sent
        };
        let receive = async {
            let answers = self.picker.process(ReceiverStream::new(messages)).await?;
            let mut answers = answers.into_inner();
            while !is_end_of_request(&next(&mut answers).await?)? {}
            Ok::<_, Status>(answers)
        };
        let (sent, answers) = tokio::join!(send, receive);
        Ok(OpenStream {
            sent,
            answers: answers?,
        })
    }
}

impl OpenStream {
    /// Shows a part of the answer, and waits until it may pass.
    async fn pass(&mut self, part: Kind) -> Result<(), Status> {
        _ = self.sent.send(message(part)).await;
        next(&mut self.answers).await.map(drop)
    }
}

async fn next(answers: &mut Streaming<ProcessingResponse>) -> Result<Answer, Status> {
    let message = answers.message().await?;
    let answer = message.and_then(|message| message.response);
    answer.ok_or_else(|| Status::aborted("the stream ended early"))
}

fn is_end_of_request(answer: &Answer) -> Result<bool, Status> {
    match answer {
        Answer::RequestBody(piece) => {
            let mutation = piece
                .response
                .as_ref()
                .and_then(|response| response.body_mutation.as_ref()?.mutation.as_ref());
            Ok(matches!(mutation, Some(Mutation::StreamedResponse(piece)) if piece.end_of_stream))
        }
        Answer::RequestHeaders(_) => Ok(false),
        other => Err(Status::aborted(format!("no destination: {other:?}"))),
    }
}

fn answer(body: &'static [u8], end_of_stream: bool) -> Kind {
    Kind::ResponseBody(HttpBody {
        body: Bytes::from_static(body),
        end_of_stream,
    })
}

fn headers(fields: &[(&str, &str)]) -> HttpHeaders {
    let field = |(key, value): &(&str, &str)| HeaderValue {
        key: (*key).to_owned(),
        value: String::new(),
        raw_value: Bytes::copy_from_slice(value.as_bytes()),
    };
    HttpHeaders {
        headers: Some(HeaderMap {
            headers: fields.iter().map(field).collect(),
        }),
        end_of_stream: false,
    }
}

fn message(request: Kind) -> ProcessingRequest {
    ProcessingRequest {
        request: Some(request),
        ..ProcessingRequest::default()
    }
}
