//! The body of an answer, which keeps its request open, and notes whether its client takes it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Buf;
use http::{HeaderValue, Response, header};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::{
    answer_progress::{AnswerProgress, ClientAllowance},
    client_requests::OpenClientRequest,
};

/// See the module.
#[derive(Debug)]
pub(super) struct AnswerBody<B> {
    body: B,
    progress: Arc<AnswerProgress>,
    allowance: ClientAllowance,
    _open: OpenClientRequest,
}

/// The answer to a request, announced as its connection's last one where it is. `drains` if the
/// proxy does; `send_timeout` is how long the answer may wait for a client that takes nothing.
pub(super) fn answer<B>(
    mut response: Response<B>,
    open: OpenClientRequest,
    drains: bool,
    progress: Arc<AnswerProgress>,
    send_timeout: Duration,
) -> Response<AnswerBody<B>> {
    if open.is_last(drains) {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response.map(|body| AnswerBody {
        body,
        progress,
        allowance: ClientAllowance::new(send_timeout),
        _open: open,
    })
}

impl<B: Body + Unpin> Body for AnswerBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let due = match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Buf::remaining) as u64;
                Some(self.allowance.passed_on(bytes, Instant::now()))
            }
            Poll::Ready(_) => None,
            Poll::Pending => {
                self.allowance.caught_up();
                None
            }
        };
        self.progress.set_due(due);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for AnswerBody<B> {
    fn drop(&mut self) {
        // What is left of it is in buffers, which the connection's own limits empty.
        self.progress.set_due(None);
    }
}
