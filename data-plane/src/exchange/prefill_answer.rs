//! The whole answer of a prefill leg: read by the proxy, and rarely the client's.

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, header};
use http_body::Body;
use http_body_util::BodyExt;
use smallvec::smallvec;
use tokio::time::timeout_at;

use super::{
    leg::{ClassVerdict, LegError},
    sent_leg::UpstreamResponse,
};
use crate::{
    pair::FinalAnswer, request::inference_request::InferenceRequest,
    telemetry::metrics::AnswerClass,
};

/// Bytes of it at most: one token, and what is handed over, which grows with the blocks of the
/// prompt.
const MAX_BYTES: usize = 8 << 20;

impl UpstreamResponse {
    /// Reads the body to its end.
    pub(super) async fn whole(&mut self) -> Result<Bytes, LegError> {
        let mut held = std::mem::take(&mut self.held);
        if held.len() == 1 && self.body.is_end_stream() {
            return Ok(held.swap_remove(0));
        }
        let mut whole = BytesMut::new();
        held.iter().for_each(|piece| whole.extend_from_slice(piece));
        let deadline = self.deadline;
        let late = |_| LegError::TimedOut(deadline);
        while let Some(frame) = timeout_at(deadline.at, self.body.frame())
            .await
            .map_err(late)?
        {
            let frame = frame.map_err(|error| LegError::Broken(error.to_string()))?;
            if let Some(piece) = frame.data_ref() {
                whole.extend_from_slice(piece);
            }
            if whole.len() > MAX_BYTES {
                let error = format!("a prefill's answer is over {MAX_BYTES} bytes");
                return Err(LegError::Broken(error));
            }
        }
        Ok(whole.freeze())
    }

    /// The answer that the client gets, where this one, of which the whole body was read, leaves
    /// nothing to generate.
    pub(super) fn into_final(self, last: &FinalAnswer, request: &InferenceRequest) -> Self {
        let mut head = self.head;
        head.headers.remove(header::TRANSFER_ENCODING);
        let text = if request.stream {
            let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
            head.headers.insert(header::CONTENT_TYPE, kind);
            last.events(request.includes_usage())
        } else {
            last.whole()
        };
        head.headers
            .insert(header::CONTENT_LENGTH, text.len().into());
        Self {
            head,
            held: smallvec![Bytes::from(text)],
            class: ClassVerdict::Known(AnswerClass::Tokens),
            attempt: self.attempt.into_main(),
            ..self
        }
    }
}
