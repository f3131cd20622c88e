//! One stream of Score requests and answers, until it breaks.
//!
//! An idle stream sends at once; a busy one batches by itself, without a timer.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use hermes_proto::{Message, convert::Answer, v1};
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::StreamExt;
use tonic::transport::Channel;

use super::pending::{PendingScores, ScoreMessage};

/// Maximum number of requests in one message.
pub(super) const BATCH: usize = 256;

/// Maximum size of one message in bytes, unless one request is larger: far below what a replica
/// accepts, and so short that the requests behind it are not late. Most requests have some hundred
/// bytes; those with the text of their prompt have up to a million.
pub(super) const BATCH_BYTES: usize = 256 << 10;

/// Timeout of opening the stream.
const OPEN: Duration = Duration::from_secs(5);

/// The sending end of one stream.
pub(crate) struct ScoreStream {
    pub(super) outbound: mpsc::Receiver<ScoreMessage>,
    pub(super) pending: FailPendingOnDrop,
}

/// Fails all pending requests when the stream ends, also when its task is aborted.
pub(super) struct FailPendingOnDrop(pub(super) Arc<Mutex<PendingScores>>);

/// Sends requests and delivers answers until the stream breaks; then all pending requests fail.
pub(crate) async fn run(stream: ScoreStream, channel: Channel) -> tonic::Status {
    let ScoreStream { outbound, pending } = stream;
    let mut client = v1::router_client::RouterClient::new(channel)
        .max_decoding_message_size(hermes_proto::MAX_MESSAGE_BYTES);
    let opening = client.score(RequestBatches::of(outbound));
    let mut answers = match timeout(OPEN, opening).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return status,
        Err(_) => return tonic::Status::deadline_exceeded("the Score stream did not open"),
    };
    loop {
        match answers.next().await {
            Some(Ok(v1::ScoreResponses { responses })) => deliver(&pending.0, responses),
            Some(Err(status)) => return status,
            None => return tonic::Status::unavailable("the control plane ended the Score stream"),
        }
    }
}

pub(super) fn deliver(pending: &Mutex<PendingScores>, responses: Vec<v1::ScoreResponse>) {
    let mut pending = pending.lock();
    for response in responses {
        let id = response.id;
        match Answer::try_from(response) {
            Ok(answer) => pending.deliver(id, answer),
            Err(invalid) => {
                pending.by_id.remove(&id);
                tracing::warn!(%invalid, "the control plane sent an answer that cannot be used");
            }
        }
    }
}

impl Drop for FailPendingOnDrop {
    fn drop(&mut self) {
        self.0.lock().fail();
    }
}

/// The queue as a stream of messages, each with all queued requests that fit.
pub(super) struct RequestBatches {
    outbound: mpsc::Receiver<ScoreMessage>,
    /// Received, and not sent yet.
    batch: Vec<ScoreMessage>,
}

impl RequestBatches {
    pub(super) fn of(outbound: mpsc::Receiver<ScoreMessage>) -> Self {
        Self {
            outbound,
            batch: Vec::with_capacity(BATCH),
        }
    }
}

impl Stream for RequestBatches {
    type Item = v1::ScoreRequests;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<v1::ScoreRequests>> {
        let this = &mut *self;
        if this.batch.is_empty() {
            let receiving = this.outbound.poll_recv_many(cx, &mut this.batch, BATCH);
            if std::task::ready!(receiving) == 0 {
                return Poll::Ready(None);
            }
        }
        let mut message = v1::ScoreRequests {
            requests: Vec::with_capacity(this.batch.len()),
            cancels: Vec::new(),
        };
        let sent = fitting(&this.batch);
        for outbound in this.batch.drain(..sent) {
            match outbound {
                ScoreMessage::Ask(request) => message.requests.push(*request),
                ScoreMessage::Cancel(id) => message.cancels.push(id),
            }
        }
        Poll::Ready(Some(message))
    }
}

/// How many of these go into one message: at least one.
fn fitting(batch: &[ScoreMessage]) -> usize {
    let mut bytes = 0;
    let fits = batch.iter().take_while(|message| {
        if let ScoreMessage::Ask(request) = message {
            bytes += request.encoded_len();
        }
        bytes <= BATCH_BYTES
    });
    fits.count().max(1)
}
