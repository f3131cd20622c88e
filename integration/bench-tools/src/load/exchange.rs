//! One request and what became of it: the instants that matter, the outcome, and what the engine
//! reported.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::sse::{Answer, EventReader, Usage};

/// The response header in which the router may name the endpoint that it chose.
pub const ENDPOINT_HEADER: &str = "x-hermes-endpoint";

/// Largest answer kept of one that is not a stream; the rest is read and thrown away.
const MAX_ANSWER: usize = 8 << 20;

/// Most gaps between tokens noted for one request.
const MAX_GAPS: usize = 1 << 16;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// A success status and an answer that is whole; a stream ended with `[DONE]`.
    Ok,
    /// Another status than success.
    Status(u16),
    /// A stream that carried an error event.
    ErrorEvent,
    /// A stream that ended without `[DONE]`, or a body that broke off.
    Truncated,
    /// No connection.
    Connect,
    /// The connection broke before the answer's head.
    Broken,
    /// No complete answer within the time limit.
    TimedOut,
    /// The run was stopped while the request was in flight.
    Interrupted,
}

impl Outcome {
    pub(crate) fn leaves_connection_usable(self) -> bool {
        matches!(self, Self::Ok | Self::Status(_) | Self::ErrorEvent)
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ok => out.write_str("ok"),
            Self::Status(code) => write!(out, "status {code}"),
            Self::ErrorEvent => out.write_str("error event"),
            Self::Truncated => out.write_str("truncated"),
            Self::Connect => out.write_str("connect"),
            Self::Broken => out.write_str("broken"),
            Self::TimedOut => out.write_str("timed out"),
            Self::Interrupted => out.write_str("interrupted"),
        }
    }
}

/// What was observed of one request.
#[derive(Debug)]
pub struct Exchange {
    /// When it was meant to start; every latency counts from here.
    pub intended: Instant,
    /// When the client got round to it.
    pub sent: Instant,
    /// First byte of the body.
    pub first_byte: Option<Instant>,
    /// First event with text; of an answer that is not a stream, its first byte.
    pub first_token: Option<Instant>,
    /// Last byte, or the moment of failure.
    pub ended: Instant,
    /// Times between consecutive frames with events, after the first token.
    pub gaps: Vec<Duration>,
    /// Events in the stream, without `[DONE]`.
    pub chunks: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// What the engine reported.
    pub usage: Option<Usage>,
    /// The endpoint that the router chose, if the answer names it.
    pub endpoint: Option<HeaderValue>,
    /// The answer's text, if it was to be kept.
    pub text: Option<String>,
}

impl Exchange {
    pub(crate) fn starting(intended: Instant) -> Self {
        let now = Instant::now();
        Self {
            intended,
            sent: now,
            first_byte: None,
            first_token: None,
            ended: now,
            gaps: Vec::new(),
            chunks: 0,
            outcome: Outcome::Interrupted,
            usage: None,
            endpoint: None,
            text: None,
        }
    }

    pub(crate) fn ended(mut self, outcome: Outcome) -> Self {
        self.ended = Instant::now();
        self.outcome = outcome;
        self
    }
}

/// Reads `response` to its end, noting what arrives when.
pub(crate) async fn watch(
    response: Response<Incoming>,
    keep_text: bool,
    exchange: &mut Exchange,
) -> Outcome {
    let (head, body) = response.into_parts();
    exchange.endpoint = head.headers.get(ENDPOINT_HEADER).cloned();
    let success = head.status.is_success();
    let outcome = if success && is_event_stream(&head.headers) {
        watch_stream(body, keep_text, exchange).await
    } else {
        watch_answer(body, keep_text, exchange).await
    };
    if success {
        outcome
    } else {
        Outcome::Status(head.status.as_u16())
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with("text/event-stream"))
}

async fn watch_stream(mut body: Incoming, keep_text: bool, exchange: &mut Exchange) -> Outcome {
    let mut events = EventReader::new(keep_text);
    let mut last_token = None;
    let mut whole = true;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            whole = false;
            break;
        };
        let Ok(bytes) = frame.into_data() else {
            continue;
        };
        let before = events.seen;
        events.feed(&bytes);
        let now = Instant::now();
        exchange.first_byte.get_or_insert(now);
        if events.seen.token && events.seen.chunks > before.chunks {
            exchange.first_token.get_or_insert(now);
            if let Some(last) = last_token.replace(now)
                && exchange.gaps.len() < MAX_GAPS
            {
                exchange.gaps.push(now - last);
            }
        }
    }
    let seen = events.seen;
    exchange.chunks = seen.chunks;
    exchange.usage = seen.usage;
    exchange.text = events.into_text();
    match (seen.error, seen.done && whole) {
        (true, _) => Outcome::ErrorEvent,
        (false, true) => Outcome::Ok,
        (false, false) => Outcome::Truncated,
    }
}

async fn watch_answer(mut body: Incoming, keep_text: bool, exchange: &mut Exchange) -> Outcome {
    let mut kept = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Outcome::Truncated;
        };
        let Ok(bytes) = frame.into_data() else {
            continue;
        };
        let now = Instant::now();
        exchange.first_byte.get_or_insert(now);
        exchange.first_token.get_or_insert(now);
        keep(&mut kept, &bytes);
    }
    let answer: Answer = serde_json::from_slice(&kept).unwrap_or_default();
    exchange.usage = answer.usage;
    exchange.text = keep_text.then(|| answer.text().unwrap_or_default().to_owned());
    Outcome::Ok
}

fn keep(kept: &mut Vec<u8>, bytes: &Bytes) {
    let room = MAX_ANSWER.saturating_sub(kept.len()).min(bytes.len());
    kept.extend_from_slice(&bytes[..room]);
}
