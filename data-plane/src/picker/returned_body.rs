//! How the body of a request goes back to a gateway, which sends on what it gets.

use bytes::Bytes;
use hermes_proto::ext_proc::{HeaderMutation, ProcessingResponse};

use super::{
    messages::{self, Half},
    modes::{BodyMode, StreamModes},
};

/// The longest piece that is sent back, as Envoy recommends for its buffers.
const LONGEST: usize = 64 << 10;

/// What a gateway has shown of the body of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ShownBody {
    /// The messages that carried it.
    pub(super) messages: usize,
    /// It ended with trailers, and not with its last piece.
    pub(super) has_trailers: bool,
}

/// The messages by which a request goes on: its head, changed, and its body. `body` is in pieces;
/// `is_edited`: it differs from what was shown.
pub(super) fn messages(
    modes: StreamModes,
    shown: ShownBody,
    head: HeaderMutation,
    (body, is_edited): (Vec<Bytes>, bool),
) -> Vec<ProcessingResponse> {
    if shown == ShownBody::default() || modes.request == BodyMode::Hidden {
        return vec![messages::headers(Half::Request, head)];
    }
    let mut sent = Vec::new();
    if !modes.waits_with_body() {
        sent.push(messages::headers(Half::Request, head.clone()));
    }
    if modes.request == BodyMode::FullDuplex {
        sent.extend(pieces(body, shown));
    } else {
        let changed = is_edited.then(|| joined(&body));
        let whole = answers(shown, changed);
        if modes.waits_with_body() {
            let mut whole = whole.into_iter();
            let first = whole
                .next()
                .map(|first| messages::with_headers(first, head));
            sent.extend(first.into_iter().chain(whole));
        } else {
            sent.extend(whole);
        }
    }
    if shown.has_trailers {
        sent.push(messages::trailers(Half::Request));
    }
    sent
}

/// The whole body in pieces, of which the last one ends it unless trailers do.
fn pieces(body: Vec<Bytes>, shown: ShownBody) -> Vec<ProcessingResponse> {
    let mut cut: Vec<Bytes> = Vec::with_capacity(body.len() + 1);
    for mut piece in body {
        while piece.len() > LONGEST {
            cut.push(piece.split_to(LONGEST));
        }
        cut.push(piece);
    }
    if cut.is_empty() && !shown.has_trailers {
        cut.push(Bytes::new());
    }
    let last = cut.len();
    let message = |(at, piece): (usize, Bytes)| {
        messages::piece(Half::Request, piece, at + 1 == last && !shown.has_trailers)
    };
    cut.into_iter().enumerate().map(message).collect()
}

/// One answer for each piece that was shown. A changed body takes the place of the last one.
fn answers(shown: ShownBody, changed: Option<Bytes>) -> Vec<ProcessingResponse> {
    let Some(changed) = changed else {
        return vec![messages::unchanged(Half::Request); shown.messages];
    };
    let mut sent =
        vec![messages::replaced(Half::Request, Bytes::new()); shown.messages.saturating_sub(1)];
    sent.extend((shown.messages > 0).then(|| messages::replaced(Half::Request, changed)));
    sent
}

fn joined(body: &[Bytes]) -> Bytes {
    match body {
        [only] => only.clone(),
        pieces => pieces.concat().into(),
    }
}

#[cfg(test)]
mod tests {
    use hermes_proto::ext_proc::{
        BodySendMode, ProtocolConfiguration, body_mutation::Mutation,
        processing_response::Response as Kind,
    };
    use proptest::prelude::*;

    use super::*;

    fn modes(mode: BodySendMode, early: bool) -> StreamModes {
        StreamModes::of(Some(&ProtocolConfiguration {
            request_body_mode: mode.into(),
            response_body_mode: mode.into(),
            send_body_without_waiting_for_header_response: early,
        }))
        .expect("supported")
    }

    fn head() -> HeaderMutation {
        HeaderMutation {
            set_headers: vec![messages::set_named(
                "x-gateway-destination-endpoint",
                b"10.0.0.1:1",
            )],
            remove_headers: Vec::new(),
        }
    }

    /// A gateway that gets these messages: what it sends on.
    #[derive(Debug, Default, PartialEq)]
    struct Sent {
        heads: usize,
        answered_pieces: usize,
        body: Vec<u8>,
        has_ended: bool,
        trailers: usize,
    }

    /// By the rules of Envoy. `shown`: the pieces that it has shown.
    fn sent(messages: Vec<ProcessingResponse>, shown: &[Bytes]) -> Sent {
        let mut sent = Sent::default();
        let mut shown = shown.iter();
        for message in messages {
            assert!(!sent.has_ended, "something follows the end");
            match message.response.expect("a response") {
                Kind::RequestHeaders(headers) => {
                    let changed = headers.response.expect("a change").header_mutation;
                    sent.heads += usize::from(changed.is_some());
                }
                Kind::RequestBody(body) => {
                    let response = body.response.expect("a change");
                    sent.heads += usize::from(response.header_mutation.is_some());
                    sent.answered_pieces += 1;
                    let shown = shown.next();
                    match response
                        .body_mutation
                        .and_then(|mutation| mutation.mutation)
                    {
                        None => sent.body.extend(shown.expect("a piece for each answer")),
                        Some(Mutation::Body(body)) => sent.body.extend(body),
                        Some(Mutation::ClearBody(_)) => {}
                        Some(Mutation::StreamedResponse(piece)) => {
                            assert!(piece.body.len() <= LONGEST);
                            sent.body.extend(piece.body);
                            sent.has_ended = piece.end_of_stream;
                        }
                    }
                }
                Kind::RequestTrailers(_) => sent.trailers += 1,
                other => panic!("{other:?}"),
            }
        }
        sent
    }

    #[test]
    fn a_request_without_a_body_is_answered_by_its_head() {
        for mode in [
            BodySendMode::FullDuplexStreamed,
            BodySendMode::Buffered,
            BodySendMode::None,
        ] {
            let messages = messages(
                modes(mode, false),
                ShownBody::default(),
                head(),
                (Vec::new(), false),
            );
            assert_eq!(
                sent(messages, &[]),
                Sent {
                    heads: 1,
                    ..Sent::default()
                }
            );
        }
    }

    proptest! {
        #[test]
        fn in_every_mode_the_gateway_sends_the_body_once_and_the_head_first(
            shown in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 1..6),
            edited in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200_000)),
            has_trailers: bool,
            mode in 0..3usize,
        ) {
            let shown: Vec<Bytes> = shown.into_iter().map(Bytes::from).collect();
            let (mode, shown) = match mode {
                0 => (modes(BodySendMode::FullDuplexStreamed, false), shown),
                1 => (modes(BodySendMode::Streamed, true), shown),
                _ => (modes(BodySendMode::Buffered, false), vec![shown.concat().into()]),
            };
            let (body, is_edited) = match &edited {
                Some(edited) => (edited.chunks(90_000).map(Bytes::copy_from_slice).collect(), true),
                None => (shown.clone(), false),
            };
            let expected = body.concat();
            let seen = ShownBody { messages: shown.len(), has_trailers };
            let sent = sent(messages(mode, seen, head(), (body, is_edited)), &shown);
            prop_assert_eq!(sent.heads, 1);
            prop_assert_eq!(sent.body, expected);
            prop_assert_eq!(sent.trailers, usize::from(has_trailers));
            if mode.request == BodyMode::FullDuplex {
                prop_assert_eq!(sent.has_ended, !has_trailers);
            } else {
                prop_assert_eq!(sent.answered_pieces, shown.len());
            }
        }
    }
}
