//! One stream of questions and answers, until it breaks.
//!
//! An idle stream sends at once; a busy one batches by itself, without a timer.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use hermes_proto::{convert::Answer, v1};
use parking_lot::Mutex;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::StreamExt;
use tonic::transport::Channel;

use super::waiters::{Outbound, Waiters};

/// Questions in one message.
pub(super) const BATCH: usize = 256;

/// Opening the stream takes this long at most.
const OPEN: Duration = Duration::from_secs(5);

/// The sending end of one stream.
pub(crate) struct Questions {
    pub(super) outbound: mpsc::Receiver<Outbound>,
    pub(super) waiters: FailedOnDrop,
}

/// Fails everybody who waits when the stream is over, also when its task is aborted.
pub(super) struct FailedOnDrop(pub(super) Arc<Mutex<Waiters>>);

/// Carries questions and answers until the stream breaks; then everybody who waits is told.
pub(crate) async fn run(questions: Questions, channel: Channel) -> tonic::Status {
    let Questions { outbound, waiters } = questions;
    let mut client = v1::router_client::RouterClient::new(channel)
        .max_decoding_message_size(hermes_proto::MAX_MESSAGE_BYTES);
    let opening = client.score(Batches {
        outbound,
        batch: Vec::with_capacity(BATCH),
    });
    let mut answers = match timeout(OPEN, opening).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return status,
        Err(_) => return tonic::Status::deadline_exceeded("the Score stream did not open"),
    };
    loop {
        match answers.next().await {
            Some(Ok(v1::ScoreResponses { responses })) => deliver(&waiters.0, responses),
            Some(Err(status)) => return status,
            None => return tonic::Status::unavailable("the control plane ended the Score stream"),
        }
    }
}

pub(super) fn deliver(waiters: &Mutex<Waiters>, responses: Vec<v1::ScoreResponse>) {
    for response in responses {
        let id = response.id;
        match Answer::try_from(response) {
            Ok(answer) => waiters.lock().tell(id, answer),
            Err(invalid) => {
                waiters.lock().by_id.remove(&id);
                tracing::warn!(%invalid, "the control plane sent an answer that cannot be used");
            }
        }
    }
}

impl Drop for FailedOnDrop {
    fn drop(&mut self) {
        self.0.lock().fail();
    }
}

/// The queue as a stream of messages, each holding all that waited.
pub(super) struct Batches {
    pub(super) outbound: mpsc::Receiver<Outbound>,
    pub(super) batch: Vec<Outbound>,
}

impl Stream for Batches {
    type Item = v1::ScoreRequests;

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<v1::ScoreRequests>> {
        let this = &mut *self;
        let received = std::task::ready!(this.outbound.poll_recv_many(cx, &mut this.batch, BATCH));
        if received == 0 {
            return Poll::Ready(None);
        }
        let mut message = v1::ScoreRequests {
            requests: Vec::with_capacity(received),
            cancels: Vec::new(),
        };
        for outbound in this.batch.drain(..) {
            match outbound {
                Outbound::Ask(request) => message.requests.push(*request),
                Outbound::Cancel(id) => message.cancels.push(id),
            }
        }
        Poll::Ready(Some(message))
    }
}
