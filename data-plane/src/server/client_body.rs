//! The body of a client's request, which notes whether it was read to its end.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::client_requests::ClientRequests;

/// See the module.
#[derive(Debug)]
pub(super) struct ClientBody {
    body: Incoming,
    ended: bool,
    requests: ClientRequests,
}

impl ClientBody {
    pub(super) const fn new(body: Incoming, requests: ClientRequests) -> Self {
        Self {
            body,
            ended: false,
            requests,
        }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        self.ended = matches!(polled, Poll::Ready(None));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        if !self.ended && !self.body.is_end_stream() {
            let left = self.body.size_hint().exact();
            self.requests.leave_unread(left);
        }
    }
}
