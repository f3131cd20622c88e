//! A stream whose picker gets nothing more, until all of it is sent.
//!
//! Messages that were written wait at this side for as long as the picker reads none, and hold the
//! stream open, whatever became of its answer. Only the end of the connection ends it then.

use std::{convert::Infallible, time::Duration};

use futures::{Stream, StreamExt};
use hermes_proto::ext_proc::ProcessingRequest;
use tokio::{
    sync::oneshot::{self, error::TryRecvError},
    time::timeout,
};
use tonic::body::Body as GrpcBody;

use crate::endpoint::StreamSlot;

/// How long a picker may take to read the rest, and to end the stream.
pub(super) const ENDING: Duration = Duration::from_secs(5);

/// The place of a stream on its connection. Dropped before all of it is sent, its connection gets no
/// further request, so that the stream ends with those of others.
pub(super) struct DrainingStream {
    slot: StreamSlot<GrpcBody>,
    /// Closed when no message of this side is left.
    sent: oneshot::Receiver<Infallible>,
}

/// The messages, and what finds out that none of them is left.
pub(super) fn followed<S>(
    messages: S,
) -> (
    impl Stream<Item = ProcessingRequest> + Send + 'static,
    oneshot::Receiver<Infallible>,
)
where
    S: Stream<Item = ProcessingRequest> + Send + 'static,
{
    let (sending, sent) = oneshot::channel();
    let messages = messages.map(move |message| {
        let _dropped_with_the_stream = &sending;
        message
    });
    (messages, sent)
}

impl DrainingStream {
    pub(super) const fn of(
        slot: StreamSlot<GrpcBody>,
        sent: oneshot::Receiver<Infallible>,
    ) -> Self {
        Self { slot, sent }
    }

    /// Whether all of it is sent, or was reset.
    pub(super) fn is_sent(&mut self) -> bool {
        matches!(self.sent.try_recv(), Err(TryRecvError::Closed))
    }

    /// Its connection is broken, or is being closed.
    pub(super) fn retire(self) {
        self.slot.retire();
    }

    /// Waits for that, but not forever.
    pub(super) async fn drain(mut self) {
        let _sent = timeout(ENDING, &mut self.sent).await;
    }
}

impl Drop for DrainingStream {
    fn drop(&mut self) {
        if !self.is_sent() {
            self.slot.retire();
        }
    }
}
