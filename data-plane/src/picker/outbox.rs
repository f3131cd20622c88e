//! The stream of a picker's messages, and the work that makes them: polled as one, so that a gateway
//! which takes no message slows the work down, and one that leaves ends it.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{Stream, future::BoxFuture};
use hermes_proto::ext_proc::ProcessingResponse;
use parking_lot::Mutex;
use tonic::Status;

/// Messages that the gateway has not taken. Clones share them. The lock is never waited for: work
/// and stream are polled by one task.
#[derive(Clone, Debug, Default)]
pub(super) struct Outbox(Arc<Mutex<VecDeque<ProcessingResponse>>>);

/// What makes the messages of one stream.
type StreamWork = BoxFuture<'static, Result<(), Status>>;

/// The messages of some work, until it ends.
pub(super) struct OutboxStream {
    outbox: Outbox,
    /// Absent when it has ended.
    work: Option<StreamWork>,
}

impl Outbox {
    pub(super) fn push(&self, message: ProcessingResponse) {
        self.0.lock().push_back(message);
    }

    pub(super) fn extend(&self, messages: impl IntoIterator<Item = ProcessingResponse>) {
        self.0.lock().extend(messages);
    }

    /// The messages that `work` puts into this outbox.
    pub(super) fn stream(
        self,
        work: impl Future<Output = Result<(), Status>> + Send + 'static,
    ) -> OutboxStream {
        OutboxStream {
            outbox: self,
            work: Some(Box::pin(work)),
        }
    }

    fn pop(&self) -> Option<ProcessingResponse> {
        self.0.lock().pop_front()
    }
}

impl Stream for OutboxStream {
    type Item = Result<ProcessingResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(message) = self.outbox.pop() {
            return Poll::Ready(Some(Ok(message)));
        }
        let Some(work) = &mut self.work else {
            return Poll::Ready(None);
        };
        let end = work.as_mut().poll(cx);
        if end.is_ready() {
            // What it counts is released before the gateway sees the end.
            self.work = None;
        }
        if let Some(message) = self.outbox.pop() {
            if let Poll::Ready(Err(status)) = end {
                self.work = Some(Box::pin(std::future::ready(Err(status))));
            }
            return Poll::Ready(Some(Ok(message)));
        }
        match end {
            Poll::Ready(Ok(())) => Poll::Ready(None),
            Poll::Ready(Err(status)) => Poll::Ready(Some(Err(status))),
            Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;
    use crate::picker::messages::{Half, trailers};

    #[tokio::test]
    async fn messages_come_before_the_error_that_ends_the_work() {
        let outbox = Outbox::default();
        let filled = outbox.clone();
        let stream = outbox.stream(async move {
            filled.push(trailers(Half::Request));
            tokio::task::yield_now().await;
            filled.push(trailers(Half::Answer));
            filled.push(trailers(Half::Answer));
            Err(Status::deadline_exceeded("late"))
        });
        let ends: Vec<_> = stream.map(|message| message.is_ok()).collect().await;
        assert_eq!(ends, [true, true, true, false]);
    }

    #[tokio::test]
    async fn work_is_not_polled_while_messages_wait() {
        let outbox = Outbox::default();
        let filled = outbox.clone();
        let mut stream = outbox.stream(async move {
            filled.extend([trailers(Half::Request), trailers(Half::Request)]);
            tokio::task::yield_now().await;
            filled.push(trailers(Half::Answer));
            Ok(())
        });
        assert!(stream.next().await.is_some());
        assert_eq!(stream.outbox.0.lock().len(), 1, "the rest of what is there");
        assert_eq!(stream.count().await, 2);
    }
}
