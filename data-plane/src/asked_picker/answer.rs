//! What a picker answers to a request: a destination with edits, or an answer for the client.
//!
//! ```text
//!   head's answer ──▶ destination, edits      ─┐
//!   body's answers ─▶ the body as it is sent   ├─▶ picked, when both are there
//!   metadata of any message ─▶ destination    ─┘
//!   immediate answer ─▶ replied
//! ```
//!
//! A picker returns a body in pieces of its own, as the full-duplex mode wants it; or it answers a
//! piece without changing it, as pickers that read the body alone do: then it stays as it was sent.

use std::net::SocketAddr;

use bytes::Bytes;
use hermes_proto::{
    Kind, Struct, Value,
    ext_proc::{
        BodyMutation, BodyResponse, CommonResponse, HeaderMutation, HeadersResponse,
        ImmediateResponse, ProcessingResponse, body_mutation::Mutation,
        common_response::ResponseStatus, processing_response::Response as Answer,
    },
};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header, response, uri::PathAndQuery};
use smallvec::SmallVec;

use super::{
    client::PickerFault,
    head_edits::{self, edit_answer, edit_request},
    question,
    returned_body::{ReturnedBody, ReturnedTooMuch},
};
use crate::request::picker_reply::PickerReply;

/// The header, and the key of the metadata, with the endpoints in order.
const DESTINATION: &str = "x-gateway-destination-endpoint";

/// The namespace of that metadata.
const LOAD_BALANCING: &str = "envoy.lb";

/// The most endpoints of one destination that are read.
const MAX_ENDPOINTS: usize = 16;

/// The most edits of one answer.
const MAX_EDITS: usize = 256;

/// What became of a question.
#[derive(Debug)]
pub(crate) enum PickerAnswer {
    Picked(PickedDestination),
    /// The client gets this.
    Replied(Box<PickerReply>),
}

/// Where a request goes, and how it differs from what the picker was shown.
#[derive(Debug)]
pub(crate) struct PickedDestination {
    /// In the order in which they are to be tried. None, if the picker named no address.
    pub(crate) sockets: SmallVec<[SocketAddr; 4]>,
    edits: Vec<HeaderMutation>,
    /// In pieces, if it is another one.
    pub(crate) body: Option<Vec<Bytes>>,
}

/// The messages of an answer, as far as they came.
pub(super) struct AnswerReader {
    named: Option<String>,
    edits: Vec<HeaderMutation>,
    body: ReturnedBody,
    has_head: bool,
    has_body: bool,
    /// Pieces of the body that were sent, and those answered without a change.
    sent: usize,
    kept: usize,
}

impl PickedDestination {
    /// Edits the head of the request.
    pub(crate) fn edit(&self, headers: &mut HeaderMap, target: &mut PathAndQuery) {
        for mutation in &self.edits {
            edit_request(mutation, headers, target);
        }
    }
}

/// The answer for the client; `None` when its status is none of an answer.
fn reply(reply: ImmediateResponse) -> Option<PickerReply> {
    let code = u16::try_from(reply.status?.code).ok()?;
    let status = StatusCode::from_u16(code).ok();
    let status = status.filter(|status| head_edits::is_final(*status))?;
    let mut head: response::Parts = Response::new(()).into_parts().0;
    if !reply.body.is_empty() {
        let text = HeaderValue::from_static("text/plain");
        head.headers.insert(header::CONTENT_TYPE, text);
    }
    if let Some(mutation) = &reply.headers {
        edit_answer(mutation, &mut head);
    }
    Some(PickerReply {
        status,
        headers: head.headers,
        body: reply.body,
    })
}

impl AnswerReader {
    /// Nothing has come. `body` is what was sent, and `limit` what is taken in its place, in bytes.
    pub(super) fn of(body: Vec<Bytes>, limit: usize) -> Self {
        Self {
            named: None,
            edits: Vec::new(),
            has_head: false,
            has_body: body.is_empty(),
            sent: body.iter().flat_map(question::cut).count(),
            kept: 0,
            body: ReturnedBody::of(body, limit),
        }
    }

    /// The next message. Returns what the client gets, if the picker answers it.
    ///
    /// # Errors
    /// When it cannot be used.
    pub(super) fn read(
        &mut self,
        message: ProcessingResponse,
    ) -> Result<Option<Box<PickerReply>>, PickerFault> {
        if let Some(named) = message.dynamic_metadata.as_ref().and_then(named) {
            self.named = Some(named);
        }
        match message.response {
            Some(Answer::RequestHeaders(HeadersResponse { response })) => {
                self.has_head = true;
                self.read_head(response.unwrap_or_default())?;
            }
            Some(Answer::RequestBody(BodyResponse { response })) => {
                let CommonResponse {
                    header_mutation,
                    body_mutation,
                    ..
                } = response.unwrap_or_default();
                self.edit(header_mutation)?;
                self.read_body(body_mutation)?;
            }
            Some(Answer::RequestTrailers(_)) => self.has_body = true,
            Some(Answer::ImmediateResponse(reply)) => {
                let reply = self::reply(reply);
                let fault = || PickerFault::Broken("an answer without a status".to_owned());
                return reply.map(Box::new).map(Some).ok_or_else(fault);
            }
            // Of answers nothing was shown.
            Some(
                Answer::ResponseHeaders(_) | Answer::ResponseBody(_) | Answer::ResponseTrailers(_),
            )
            | None => {}
        }
        Ok(None)
    }

    /// Whether the destination and the body are there.
    pub(super) fn is_complete(&self) -> bool {
        let is_answered = self.kept == 0 || self.kept >= self.sent;
        // A picker that keeps the body piece by piece may name the endpoint with any of them.
        self.has_head && self.has_body && (is_answered || self.destination().is_some())
    }

    /// Whether the request can be sent although the picker does not go on: its destination is there, and
    /// nothing of its body was changed.
    pub(super) fn is_enough(&self) -> bool {
        self.has_head && self.body.is_unchanged() && self.destination().is_some()
    }

    /// The destination, of a picker that is done. `None`: it named no address.
    pub(super) fn complete(self) -> PickedDestination {
        let sockets = self.destination().map(addresses).unwrap_or_default();
        let is_cut_off = !self.has_body;
        PickedDestination {
            sockets,
            edits: self.edits,
            body: if is_cut_off {
                None
            } else {
                self.body.complete()
            },
        }
    }

    fn destination(&self) -> Option<&str> {
        let mut edits = self.edits.iter().rev();
        let set = edits.find_map(|mutation| head_edits::set_text(mutation, DESTINATION));
        set.or(self.named.as_deref())
    }

    fn read_head(&mut self, response: CommonResponse) -> Result<(), PickerFault> {
        self.edit(response.header_mutation)?;
        if response.status == i32::from(ResponseStatus::ContinueAndReplace) {
            let body = match response.body_mutation.and_then(|body| body.mutation) {
                Some(Mutation::Body(body)) => body,
                _ => Bytes::new(),
            };
            self.body.replace(body)?;
            self.has_body = true;
        }
        Ok(())
    }

    fn read_body(&mut self, mutation: Option<BodyMutation>) -> Result<(), PickerFault> {
        let is_kept = |mutation: &BodyMutation| {
            matches!(mutation.mutation, None | Some(Mutation::ClearBody(false)))
        };
        self.kept += usize::from(mutation.as_ref().is_none_or(is_kept));
        if self.has_body {
            return Ok(());
        }
        match mutation.and_then(|mutation| mutation.mutation) {
            Some(Mutation::StreamedResponse(piece)) => {
                self.body.push(piece.body)?;
                self.has_body |= piece.end_of_stream;
            }
            Some(Mutation::Body(body)) => {
                self.body.replace(body)?;
                self.has_body = true;
            }
            Some(Mutation::ClearBody(true)) => {
                self.body.replace(Bytes::new())?;
                self.has_body = true;
            }
            Some(Mutation::ClearBody(false)) | None => {
                self.body.keep();
                self.has_body = true;
            }
        }
        Ok(())
    }

    fn edit(&mut self, mutation: Option<HeaderMutation>) -> Result<(), PickerFault> {
        let is_edit = |edit: &HeaderMutation| *edit != HeaderMutation::default();
        self.edits.extend(mutation.filter(is_edit));
        if self.edits.len() > MAX_EDITS {
            return Err(PickerFault::Broken("too many edits".to_owned()));
        }
        Ok(())
    }
}

impl From<ReturnedTooMuch> for PickerFault {
    fn from(_: ReturnedTooMuch) -> Self {
        Self::Broken("a body that is longer than those of clients".to_owned())
    }
}

/// The destination in metadata: a text, or a list of texts.
fn named(metadata: &Struct) -> Option<String> {
    let Kind::StructValue(balancing) = metadata.fields.get(LOAD_BALANCING)?.kind.as_ref()? else {
        return None;
    };
    match balancing.fields.get(DESTINATION)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text.clone()),
        Kind::ListValue(list) => {
            let texts = list.values.iter().filter_map(text);
            Some(texts.take(MAX_ENDPOINTS).collect::<Vec<_>>().join(","))
        }
        _ => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    match &value.kind {
        Some(Kind::StringValue(text)) => Some(text),
        _ => None,
    }
}

/// What of a list is an address, in its order.
fn addresses(list: &str) -> SmallVec<[SocketAddr; 4]> {
    let entries = list.split(',').take(MAX_ENDPOINTS);
    entries
        .filter_map(|entry| entry.trim().parse().ok())
        .collect()
}

#[cfg(test)]
mod tests;
