//! Asking a control-plane replica where a request should go: many requests over one stream.
//!
//! ```text
//!   request ──ask──▶ queue (bounded) ──▶ one message with all that waits ──▶ replica
//!      ▲                                                                       │
//!      └──────────── oneshot, by id ◀── waiting ◀────────── answers, any order ┘
//! ```
//!
//! An idle stream sends at once; a busy one batches by itself, without a timer. What a unary call would give for free
//! is done here: the caller has the deadline and its [`Asked`] takes the question back when dropped; the queue bounds
//! what is outstanding; and a broken stream fails everybody who waits on it at once, so that they choose by themselves.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use hermes_proto::{convert::Answer, v1};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_stream::StreamExt;
use tonic::transport::Channel;

/// Questions that may wait to be sent.
const QUEUE: usize = 8_192;

/// Questions in one message.
const BATCH: usize = 256;

/// Opening the stream takes this long at most.
const OPEN: Duration = Duration::from_secs(5);

/// Where to put questions for one replica.
#[derive(Clone)]
pub(crate) struct Asker {
    queue: mpsc::Sender<Outbound>,
    waiting: Waiting,
}

/// Who waits for which answer. Bounded by the requests in flight: each waits for one answer at most.
type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>;

enum Outbound {
    Ask(Box<v1::ScoreRequest>),
    Cancel(u64),
}

/// A question on its way. Dropped before its answer came, it is taken back, and its booking with it.
pub(crate) struct Asked {
    id: u64,
    answer: oneshot::Receiver<Answer>,
    asker: Asker,
    answered: bool,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error("too many questions wait already")]
    Full,
    #[error("the stream to the control plane broke")]
    Broken,
    #[error("no answer in time")]
    Late,
}

// === Asker ===

impl Asker {
    /// Asks; the answer is awaited separately.
    pub(crate) fn ask(&self, request: v1::ScoreRequest) -> Result<Asked, NoAnswer> {
        let id = request.id;
        let (reply, answer) = oneshot::channel();
        self.waiting.lock().insert(id, reply);
        if self.queue.try_send(Outbound::Ask(Box::new(request))).is_err() {
            self.waiting.lock().remove(&id);
            return Err(NoAnswer::Full);
        }
        Ok(Asked { id, answer, asker: self.clone(), answered: false })
    }
}

// === Asked ===

impl Asked {
    /// Waits for the answer, at most this long.
    pub(crate) async fn answer(mut self, deadline: Duration) -> Result<Answer, NoAnswer> {
        let result = timeout(deadline, &mut self.answer).await.map_err(|_| NoAnswer::Late)?;
        // Answered or broken: either way nothing is left to take back.
        self.answered = true;
        result.map_err(|_| NoAnswer::Broken)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        self.asker.waiting.lock().remove(&self.id);
        // If even this does not fit, the booking falls with its time to live.
        let _ = self.asker.queue.try_send(Outbound::Cancel(self.id));
    }
}

// === One stream ===

/// A stream's two ends before it is opened: where to ask, and what [`run`] needs.
pub(crate) fn channel() -> (Asker, Questions) {
    let (queue, outbound) = mpsc::channel(QUEUE);
    let waiting = Waiting::default();
    (Asker { queue, waiting: Arc::clone(&waiting) }, Questions { outbound, waiting })
}

/// The sending end of one stream.
pub(crate) struct Questions {
    outbound: mpsc::Receiver<Outbound>,
    waiting: Waiting,
}

/// Carries questions and answers until the stream breaks; then everybody who waits is told.
pub(crate) async fn run(questions: Questions, channel: Channel) -> tonic::Status {
    let Questions { outbound, waiting } = questions;
    let failed = FailAll(Arc::clone(&waiting));
    let mut client =
        v1::router_client::RouterClient::new(channel).max_decoding_message_size(hermes_proto::MAX_MESSAGE_BYTES);
    let opening = client.score(Batches { outbound, batch: Vec::with_capacity(BATCH) });
    let mut answers = match timeout(OPEN, opening).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return status,
        Err(_) => return tonic::Status::deadline_exceeded("the Score stream did not open"),
    };
    let end = loop {
        match answers.next().await {
            Some(Ok(v1::ScoreResponses { responses })) => deliver(&waiting, responses),
            Some(Err(status)) => break status,
            None => break tonic::Status::unavailable("the control plane ended the Score stream"),
        }
    };
    drop(failed);
    end
}

fn deliver(waiting: &Waiting, responses: Vec<v1::ScoreResponse>) {
    for response in responses {
        let id = response.id;
        let Some(reply) = waiting.lock().remove(&id) else {
            continue;
        };
        match Answer::try_from(response) {
            // The caller may have left meanwhile; its guard has taken the booking back.
            Ok(answer) => drop(reply.send(answer)),
            Err(invalid) => tracing::warn!(%invalid, "the control plane sent an answer that cannot be used"),
        }
    }
}

/// Dropping the senders wakes their receivers with an error.
struct FailAll(Waiting);

impl Drop for FailAll {
    fn drop(&mut self) {
        self.0.lock().clear();
    }
}

/// The queue as a stream of messages, each holding all that waited.
struct Batches {
    outbound: mpsc::Receiver<Outbound>,
    batch: Vec<Outbound>,
}

impl Stream for Batches {
    type Item = v1::ScoreRequests;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<v1::ScoreRequests>> {
        let this = &mut *self;
        let received = std::task::ready!(this.outbound.poll_recv_many(cx, &mut this.batch, BATCH));
        if received == 0 {
            return Poll::Ready(None);
        }
        let mut message = v1::ScoreRequests { requests: Vec::with_capacity(received), cancels: Vec::new() };
        for outbound in this.batch.drain(..) {
            match outbound {
                Outbound::Ask(request) => message.requests.push(*request),
                Outbound::Cancel(id) => message.cancels.push(id),
            }
        }
        Poll::Ready(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(id: u64) -> v1::ScoreRequest {
        v1::ScoreRequest { id, pool: "p".into(), ..Default::default() }
    }

    fn chosen(id: u64) -> v1::ScoreResponse {
        let ranked = vec![v1::Candidate { endpoint: 9, ..Default::default() }];
        v1::ScoreResponse {
            id,
            answer: Some(v1::score_response::Answer::Chosen(v1::Chosen { ranked, ..Default::default() })),
        }
    }

    #[tokio::test]
    async fn what_waits_goes_out_as_one_message() {
        let (asker, questions) = channel();
        let asked: Vec<Asked> = (0..5).map(|id| asker.ask(question(id)).expect("room")).collect();
        drop(asked);
        let mut batches = Batches { outbound: questions.outbound, batch: Vec::new() };
        let message = batches.next().await.expect("a message");
        assert_eq!(message.requests.len(), 5);
        assert_eq!(message.cancels, [0, 1, 2, 3, 4]);
    }

    #[tokio::test]
    async fn answers_find_their_askers_in_any_order() {
        let (asker, questions) = channel();
        let (first, second) = (asker.ask(question(1)).expect("room"), asker.ask(question(2)).expect("room"));
        deliver(&questions.waiting, vec![chosen(2), chosen(1)]);
        for asked in [first, second] {
            assert!(matches!(asked.answer(Duration::from_secs(1)).await, Ok(Answer::Chosen(_))));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_is_taken_back() {
        let (asker, mut questions) = channel();
        let asked = asker.ask(question(1)).expect("room");
        assert_eq!(asked.answer(Duration::from_millis(20)).await, Err(NoAnswer::Late));
        assert!(questions.waiting.lock().is_empty());
        assert!(matches!(questions.outbound.recv().await, Some(Outbound::Ask(_))));
        assert!(matches!(questions.outbound.recv().await, Some(Outbound::Cancel(1))));
    }

    #[tokio::test]
    async fn a_broken_stream_fails_all_who_wait_at_once() {
        let (asker, questions) = channel();
        let asked = asker.ask(question(1)).expect("room");
        drop(FailAll(questions.waiting));
        assert_eq!(asked.answer(Duration::from_secs(3600)).await, Err(NoAnswer::Broken));
    }

    #[tokio::test]
    async fn a_full_queue_answers_at_once() {
        let (asker, _questions) = channel();
        let asked: Vec<_> = (0..QUEUE as u64).map(|id| asker.ask(question(id)).expect("room")).collect();
        assert!(matches!(asker.ask(question(u64::MAX)), Err(NoAnswer::Full)));
        assert_eq!(asker.waiting.lock().len(), asked.len());
    }
}
