//! A request over a connection that others use as well: HTTP/2 to an endpoint.

use h2::Reason;
use http::{Request, Response};

use super::{
    connection::{SendError, UpstreamBody},
    multiplexed::StreamSlot,
};
use crate::request::leg_body::LegBody;

impl StreamSlot<LegBody> {
    /// Sends a request and waits for the head of its answer. The caller sets the deadline. After a
    /// failure of the connection no further request is sent over it.
    pub(crate) async fn send(
        self,
        request: Request<LegBody>,
    ) -> Result<Response<UpstreamBody>, SendError> {
        let mut sender = self.sender();
        let mut failed = match sender.try_send_request(request).await {
            Ok(response) => {
                let (head, incoming) = response.into_parts();
                return Ok(Response::from_parts(
                    head,
                    UpstreamBody::shared(incoming, self),
                ));
            }
            Err(failed) => failed,
        };
        let was_written = failed.take_message().is_none();
        let error = failed.into_error();
        let fault = StreamFault::of(&error);
        if fault != StreamFault::Reset {
            self.retire();
        }
        Err(if !was_written || fault == StreamFault::Unprocessed {
            SendError::Unprocessed { error }
        } else {
            SendError::MaybeSeen {
                error,
                // The end of a stream is the server's, and no race with the end of a connection.
                reused: self.is_reused && fault == StreamFault::Broken,
            }
        })
    }
}

/// What became of a stream without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamFault {
    /// The server states that it has not begun with it: it refused the stream, or closes the
    /// connection (RFC 9113, 8.7).
    Unprocessed,
    /// The server ended it, or its answer could not be read.
    Reset,
    /// The connection broke.
    Broken,
}

impl StreamFault {
    pub(crate) fn of(error: &hyper::Error) -> Self {
        let source = std::error::Error::source(error);
        let Some(error) = source.and_then(|source| source.downcast_ref::<h2::Error>()) else {
            return Self::Broken;
        };
        let is_refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        if error.is_remote() && (is_refused || error.is_go_away()) {
            Self::Unprocessed
        } else if error.is_reset() {
            Self::Reset
        } else {
            Self::Broken
        }
    }
}
