//! What a picker is shown of an answer's body while it is relayed: every piece, and its end.
//!
//! Nothing waits for the picker. Its own pieces are read, so that it can go on, and are not used: a
//! token would reach its client only after a round trip, and a picker that stops would stop the
//! answer. A picker that is too slow, so that more than [`MAX_WAITING`] bytes wait for it, is shown
//! no more, and loses its stream.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Waker},
};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use hermes_proto::ext_proc::{ProcessingRequest, processing_request::Request};
use tokio::{
    sync::{
        OwnedSemaphorePermit, Semaphore,
        mpsc::{self, Receiver, Sender},
    },
    time::timeout,
};

use super::{
    client::{PickerClient, PickerStream},
    draining_stream::ENDING,
    question,
};

/// Bytes of one answer that wait for the picker.
const MAX_WAITING: usize = 1 << 20;

/// Messages of one answer that wait for the picker.
const WAITING: usize = 256;

/// A message with its share of [`MAX_WAITING`], until it is sent.
type WaitingMessage = (ProcessingRequest, Option<OwnedSemaphorePermit>);

/// Where the messages about an answer go.
pub(super) struct AnswerPieces {
    sender: Sender<WaitingMessage>,
    budget: Arc<Semaphore>,
}

/// An answer that a picker is shown. Dropped before its end, the picker sees that it broke off.
pub(crate) struct ShownAnswer {
    client: Arc<PickerClient>,
    stream: PickerStream,
    pieces: AnswerPieces,
}

/// Where messages go, and the stream of them.
pub(super) fn answer_pieces() -> (AnswerPieces, impl Stream<Item = ProcessingRequest> + Send) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let pieces = AnswerPieces {
        sender,
        budget: Arc::new(Semaphore::new(MAX_WAITING)),
    };
    let messages =
        futures::stream::unfold(receiver, |mut receiver: Receiver<WaitingMessage>| async {
            let (message, _sent) = receiver.recv().await?;
            Some((message, receiver))
        });
    (pieces, messages)
}

impl AnswerPieces {
    /// Returns whether there was room.
    pub(super) fn push(&self, message: ProcessingRequest) -> bool {
        let length = match &message.request {
            Some(Request::ResponseBody(piece)) => piece.body.len(),
            _ => 0,
        };
        let share = match u32::try_from(length) {
            Ok(0) => None,
            Ok(length) => match Arc::clone(&self.budget).try_acquire_many_owned(length) {
                Ok(share) => Some(share),
                Err(_) => return false,
            },
            Err(_) => return false,
        };
        self.sender.try_send((message, share)).is_ok()
    }
}

impl ShownAnswer {
    pub(super) const fn begin(
        client: Arc<PickerClient>,
        stream: PickerStream,
        pieces: AnswerPieces,
    ) -> Self {
        Self {
            client,
            stream,
            pieces,
        }
    }

    /// A piece of the answer is relayed. Returns whether the picker keeps up with it, and goes on:
    /// otherwise it is to be shown no more.
    pub(crate) fn piece(&mut self, piece: &Bytes) -> bool {
        let mut pieces = question::cut(piece);
        let is_taken = pieces.all(|piece| self.pieces.push(question::answer_piece(piece, false)));
        is_taken && self.discard_returned()
    }

    /// The answer was relayed to its end.
    pub(crate) fn end(self: Box<Self>) {
        if self.pieces.push(question::answer_piece(Bytes::new(), true)) {
            self.close();
        }
    }

    /// All of the answer was shown. The picker may still use what it has not read.
    pub(super) fn close(self: Box<Self>) {
        let Self {
            client,
            stream,
            pieces,
        } = *self;
        // Its half of the stream ends as well.
        drop(pieces);
        let PickerStream {
            mut inbound,
            mut place,
        } = stream;
        let draining = place.take();
        client.leave(async move {
            let ending = async { while let Some(Ok(_)) = inbound.next().await {} };
            // One that takes longer is cut off.
            let _ended = timeout(ENDING, ending).await;
            drop((inbound, draining));
        });
    }

    /// Drops what the picker has returned. Returns whether it goes on.
    fn discard_returned(&mut self) -> bool {
        // Nothing has to be woken: what comes later is dropped with the next piece.
        let mut cx = Context::from_waker(Waker::noop());
        while let std::task::Poll::Ready(message) =
            Pin::new(&mut self.stream.inbound).poll_next(&mut cx)
        {
            if !matches!(message, Some(Ok(_))) {
                return false;
            }
        }
        true
    }
}
