//! Which parts of a request a gateway shows, and what it waits for.
//!
//! | request body | before the destination | after it |
//! |---|---|---|
//! | `FULL_DUPLEX_STREAMED` | head and body come at once; nothing is answered | the body is sent back in pieces |
//! | `BUFFERED` | the head is answered, then the body comes whole | its answer has the destination |
//! | `STREAMED` | the head is answered with a change to `BUFFERED` | as above |
//! | `STREAMED`, sent early | head and body come at once | an answer for each piece |
//! | none | the head | nothing follows |
//!
//! A gateway that states no modes is an older Envoy, of which pickers always asked the first.

use hermes_proto::ext_proc::{BodySendMode, ProtocolConfiguration};

/// How a gateway shows a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum BodyMode {
    /// Not at all.
    Hidden,
    /// In pieces, each of which it passes on when it is answered.
    Streamed,
    /// As a whole.
    Buffered,
    /// In pieces; what is sent back takes their place.
    #[default]
    FullDuplex,
}

/// How a gateway shows one request and its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StreamModes {
    pub(super) request: BodyMode,
    pub(super) answer: BodyMode,
    /// A streamed body comes while the head is not answered.
    comes_early: bool,
}

/// A mode that is of no use to a picker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body mode {0} is not supported; use FULL_DUPLEX_STREAMED")]
pub(super) struct UnsupportedMode(i32);

impl StreamModes {
    /// As the first message of a stream states them.
    pub(super) fn of(stated: Option<&ProtocolConfiguration>) -> Result<Self, UnsupportedMode> {
        let Some(stated) = stated else {
            return Ok(Self::default());
        };
        Ok(Self {
            request: BodyMode::of(stated.request_body_mode)?,
            answer: BodyMode::of(stated.response_body_mode)?,
            comes_early: stated.send_body_without_waiting_for_header_response,
        })
    }

    /// Whether the gateway sends the body only after it has an answer to the head.
    pub(super) fn waits_with_body(self) -> bool {
        match self.request {
            BodyMode::Buffered => true,
            BodyMode::Streamed => !self.comes_early,
            BodyMode::Hidden | BodyMode::FullDuplex => false,
        }
    }
}

impl BodyMode {
    fn of(mode: i32) -> Result<Self, UnsupportedMode> {
        match BodySendMode::try_from(mode) {
            Ok(BodySendMode::None) => Ok(Self::Hidden),
            Ok(BodySendMode::Streamed) => Ok(Self::Streamed),
            Ok(BodySendMode::Buffered | BodySendMode::BufferedPartial) => Ok(Self::Buffered),
            Ok(BodySendMode::FullDuplexStreamed) => Ok(Self::FullDuplex),
            Ok(BodySendMode::Grpc) | Err(_) => Err(UnsupportedMode(mode)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stated(request: BodySendMode, early: bool) -> Result<StreamModes, UnsupportedMode> {
        StreamModes::of(Some(&ProtocolConfiguration {
            request_body_mode: request.into(),
            response_body_mode: BodySendMode::Streamed.into(),
            send_body_without_waiting_for_header_response: early,
        }))
    }

    #[test]
    fn a_gateway_that_states_no_mode_sends_everything_at_once() {
        let modes = StreamModes::of(None).expect("the default");
        assert_eq!(
            (modes.request, modes.answer),
            (BodyMode::FullDuplex, BodyMode::FullDuplex)
        );
        assert!(!modes.waits_with_body());
    }

    #[test]
    fn bodies_are_waited_for_where_the_gateway_waits_for_an_answer_to_the_head() {
        let waits = |mode, early| stated(mode, early).map(StreamModes::waits_with_body);
        assert_eq!(waits(BodySendMode::Buffered, false), Ok(true));
        assert_eq!(waits(BodySendMode::Streamed, false), Ok(true));
        assert_eq!(waits(BodySendMode::Streamed, true), Ok(false));
        assert_eq!(waits(BodySendMode::FullDuplexStreamed, false), Ok(false));
    }

    #[test]
    fn modes_of_other_protocols_are_rejected_with_the_one_that_is_right() {
        let error = stated(BodySendMode::Grpc, false).expect_err("no HTTP body");
        assert!(
            error.to_string().contains("FULL_DUPLEX_STREAMED"),
            "{error}"
        );
    }
}
