//! Answers that are not relayed, as refusals that another endpoint made up for.
//!
//! Dropping an answer closes its connection. An engine that refuses requests is a busy one, and
//! each refusal would cost it a connection, too. So what has arrived of the body is read, and if
//! that is all of it, the connection is kept. Nothing is waited for.

use bytes::Buf;
use futures::FutureExt;
use http_body_util::BodyExt;

use crate::endpoint::{Upstream, UpstreamBody};

/// What is read of such a body at most, in bytes.
const MAX_SKIPPED: usize = 16 << 10;

/// Keeps the connection for the next request, if the body's end is here already.
pub(super) fn recycle(mut body: UpstreamBody, upstream: &Upstream) {
    let mut skipped = 0;
    while skipped <= MAX_SKIPPED {
        match body.frame().now_or_never() {
            Some(Some(Ok(frame))) => skipped += frame.data_ref().map_or(0, Buf::remaining),
            Some(None) => {
                if let Some(connection) = body.into_connection() {
                    upstream.checkin(connection);
                }
                return;
            }
            Some(Some(Err(_))) | None => return,
        }
    }
}
