//! One request at a picker: the question, then the head of the answer that was given elsewhere.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use hermes_proto::ext_proc::{
    CommonResponse, HeadersResponse, ProcessingResponse, processing_response::Response as Answer,
};
use http::response;
use tokio::time::{Instant, timeout_at};

use super::{
    answer::{AnswerReader, PickerAnswer},
    client::{PickerClient, PickerFault, PickerStream},
    head_edits::edit_answer,
    question::{self, PickerQuestion},
    shown_answer::{AnswerPieces, ShownAnswer, answer_pieces},
};

/// How long the head of an answer waits for the picker's edits of it.
const HEAD_PATIENCE: Duration = Duration::from_secs(1);

/// What a picker may take its time for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AskLimits {
    /// Connecting, if there is no connection.
    pub(crate) connect: Duration,
    /// Connecting and answering.
    pub(crate) answer: Duration,
    /// Bytes of the body that it returns.
    pub(crate) body: usize,
}

/// A request whose destination a picker has named, and whose answer it is to be shown. Dropped, the
/// picker sees that it broke off.
pub(crate) struct PickerExchange {
    client: Arc<PickerClient>,
    stream: PickerStream,
    pieces: AnswerPieces,
}

impl PickerExchange {
    /// Asks, and waits for the whole answer.
    ///
    /// # Errors
    /// When there is none in time, or none that can be used.
    pub(crate) async fn ask(
        client: &Arc<PickerClient>,
        question: &PickerQuestion<'_>,
        limits: AskLimits,
    ) -> Result<(PickerAnswer, Option<Self>), PickerFault> {
        let deadline = Instant::now() + limits.answer;
        let late = |_| PickerFault::Late(limits.answer);
        let messages = question.messages();
        let mut pieces = None;
        // A second call, over another connection, has messages of its own.
        let outbound = || {
            let (sender, later) = answer_pieces();
            pieces = Some(sender);
            stream::iter(messages.clone()).chain(later)
        };
        let opening = client.open(limits.connect, outbound);
        let mut open = timeout_at(deadline, opening).await.map_err(late)??;
        let mut reader = AnswerReader::of(question.body.to_vec(), limits.body);
        while !reader.is_complete() {
            match timeout_at(deadline, open.inbound.message()).await {
                Ok(Ok(Some(message))) => {
                    if let Some(reply) = reader.read(message)? {
                        return Ok((PickerAnswer::Replied(reply), None));
                    }
                }
                _ if reader.is_enough() => break,
                Ok(Ok(None)) => return Err(PickerFault::Broken("it ended the stream".to_owned())),
                Ok(Err(status)) => return Err(PickerFault::of(&status)),
                Err(_) => return Err(PickerFault::Late(limits.answer)),
            }
        }
        let exchange = pieces.map(|pieces| Self {
            client: Arc::clone(client),
            stream: open,
            pieces,
        });
        Ok((PickerAnswer::Picked(reader.complete()), exchange))
    }

    /// Shows the head of the answer, and makes the picker's edits of it. Returns what shows the
    /// body; `None` if that has no more to be shown, or the picker does not go on: the answer passes
    /// then as it is.
    ///
    /// `served`: who answers. `is_all`: there is no body.
    pub(crate) async fn answered(
        mut self,
        head: &mut response::Parts,
        served: Option<SocketAddr>,
        is_all: bool,
    ) -> Option<Box<ShownAnswer>> {
        let deadline = Instant::now() + HEAD_PATIENCE;
        self.pieces
            .push(question::answer_head(head, served, is_all));
        let edits = loop {
            match timeout_at(deadline, self.stream.inbound.message()).await {
                Ok(Ok(Some(message))) => match head_of(message) {
                    AnsweredHead::Edited(edits) => break edits,
                    // Of the request: it went on before all of it was returned.
                    AnsweredHead::Other => {}
                    AnsweredHead::Refused => return None,
                },
                Ok(Ok(None) | Err(_)) | Err(_) => {
                    let picker = &*self.client.picker.authority;
                    tracing::debug!(picker, "the endpoint picker edits no answer");
                    return None;
                }
            }
        };
        if let Some(mutation) = &edits.header_mutation {
            edit_answer(mutation, head);
        }
        let shown = Box::new(ShownAnswer::begin(self.client, self.stream, self.pieces));
        if is_all {
            shown.close();
            return None;
        }
        Some(shown)
    }
}

/// What a message says of the head of an answer.
enum AnsweredHead {
    Edited(Box<CommonResponse>),
    Other,
    /// The picker wants another answer in its place, which only it would see the reason for.
    Refused,
}

fn head_of(message: ProcessingResponse) -> AnsweredHead {
    match message.response {
        Some(Answer::ResponseHeaders(HeadersResponse { response })) => {
            AnsweredHead::Edited(Box::new(response.unwrap_or_default()))
        }
        Some(Answer::ImmediateResponse(_)) => AnsweredHead::Refused,
        _ => AnsweredHead::Other,
    }
}
