//! Answers of pickers, message by message.

use hermes_proto::{
    ListValue,
    ext_proc::{HeaderValue as WireHeader, HeaderValueOption, HttpStatus, StreamedBodyResponse},
};

use super::*;
use crate::asked_picker::question;

const LIMIT: usize = 1_000;

fn reader(body: &[&'static str]) -> AnswerReader {
    let pieces = body
        .iter()
        .map(|piece| Bytes::from_static(piece.as_bytes()));
    AnswerReader::of(pieces.collect(), LIMIT)
}

fn set(key: &str, value: &str) -> HeaderMutation {
    HeaderMutation {
        set_headers: vec![HeaderValueOption {
            header: Some(WireHeader {
                key: key.to_owned(),
                value: value.to_owned(),
                raw_value: Bytes::new(),
            }),
            ..HeaderValueOption::default()
        }],
        remove_headers: Vec::new(),
    }
}

fn head(mutation: Option<HeaderMutation>) -> ProcessingResponse {
    message(Answer::RequestHeaders(HeadersResponse {
        response: Some(CommonResponse {
            header_mutation: mutation,
            ..CommonResponse::default()
        }),
    }))
}

fn body(mutation: Option<Mutation>) -> ProcessingResponse {
    message(Answer::RequestBody(BodyResponse {
        response: Some(CommonResponse {
            body_mutation: mutation.map(|mutation| BodyMutation {
                mutation: Some(mutation),
            }),
            ..CommonResponse::default()
        }),
    }))
}

fn piece(text: &'static str, end_of_stream: bool) -> ProcessingResponse {
    body(Some(Mutation::StreamedResponse(StreamedBodyResponse {
        body: Bytes::from_static(text.as_bytes()),
        end_of_stream,
    })))
}

fn message(answer: Answer) -> ProcessingResponse {
    ProcessingResponse {
        response: Some(answer),
        ..ProcessingResponse::default()
    }
}

/// The same message with a destination in its metadata.
fn named_in_metadata(message: ProcessingResponse, destination: Kind) -> ProcessingResponse {
    let value = |kind| Value { kind: Some(kind) };
    let balancing = Struct {
        fields: [(DESTINATION.to_owned(), value(destination))]
            .into_iter()
            .collect(),
    };
    let balancing = value(Kind::StructValue(balancing));
    ProcessingResponse {
        dynamic_metadata: Some(Struct {
            fields: [(LOAD_BALANCING.to_owned(), balancing)]
                .into_iter()
                .collect(),
        }),
        ..message
    }
}

fn read(reader: &mut AnswerReader, messages: Vec<ProcessingResponse>) {
    for message in messages {
        assert!(!reader.is_complete(), "nothing is waited for");
        let reply = reader.read(message).expect("a message that can be used");
        assert_eq!(reply, None);
    }
}

fn sockets(destination: &PickedDestination) -> Vec<String> {
    destination
        .sockets
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn a_destination_with_the_body_in_pieces_is_complete_at_its_last_one() {
    let mut reader = reader(&["{\"a\"", ":1}"]);
    let destination = set(DESTINATION, "10.0.0.1:80, [fd00::1]:81");
    read(
        &mut reader,
        vec![
            head(Some(destination)),
            piece("{\"a\":", false),
            piece("1}", true),
        ],
    );
    assert!(reader.is_complete());
    let picked = reader.complete();
    assert_eq!(sockets(&picked), ["10.0.0.1:80", "[fd00::1]:81"]);
    assert_eq!(picked.body, None, "it is the same");
}

#[test]
fn another_body_takes_the_place_of_what_was_sent() {
    let mut streamed = reader(&["{}"]);
    read(
        &mut streamed,
        vec![head(None), piece("{", false), piece("\"a\":1}", true)],
    );
    assert_eq!(
        streamed.complete().body.expect("another").concat(),
        b"{\"a\":1}"
    );
    let whole = Mutation::Body(Bytes::from_static(b"other"));
    let mut whole_reader = reader(&["{}"]);
    read(&mut whole_reader, vec![body(Some(whole)), head(None)]);
    assert_eq!(
        whole_reader.complete().body.expect("another").concat(),
        b"other"
    );
    let mut cleared = reader(&["{}"]);
    read(
        &mut cleared,
        vec![head(None), body(Some(Mutation::ClearBody(true)))],
    );
    assert_eq!(cleared.complete().body, Some(Vec::new()));
}

#[test]
fn a_picker_that_answers_pieces_without_changes_keeps_the_body() {
    // As the light picker of the Inference Extension does: the head is answered at the end.
    let mut reader = reader(&["a", "b", "c"]);
    let destination = set(DESTINATION, "10.0.0.1:80");
    read(
        &mut reader,
        vec![body(None), body(None), head(Some(destination))],
    );
    assert!(reader.is_complete());
    assert_eq!(reader.complete().body, None);
}

#[test]
fn the_destination_may_be_in_the_metadata_alone() {
    let text = |text: &str| Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    };
    let list = Kind::ListValue(ListValue {
        values: vec![text("10.0.0.1:80"), text("10.0.0.2:80")],
    });
    for (kind, expected) in [
        (Kind::StringValue("10.0.0.1:80,x,10.0.0.2:80".to_owned()), 2),
        (list, 2),
        (Kind::BoolValue(true), 0),
    ] {
        let mut reader = reader(&[]);
        read(&mut reader, vec![named_in_metadata(head(None), kind)]);
        assert_eq!(reader.complete().sockets.len(), expected);
    }
}

#[test]
fn a_request_without_a_body_is_answered_by_its_head() {
    let mut reader = reader(&[]);
    read(&mut reader, vec![head(None)]);
    assert!(reader.is_complete() && !reader.is_enough());
    assert!(reader.complete().sockets.is_empty());
}

#[test]
fn a_picker_that_goes_away_after_the_destination_has_said_enough() {
    let destination = || head(Some(set(DESTINATION, "10.0.0.1:80")));
    let mut equal = reader(&["abc"]);
    read(&mut equal, vec![destination(), piece("ab", false)]);
    assert!(!equal.is_complete() && equal.is_enough());
    assert_eq!(equal.complete().body, None);
    let mut changed = reader(&["abc"]);
    read(&mut changed, vec![destination(), piece("x", false)]);
    assert!(!changed.is_enough(), "a part of another body");
}

#[test]
fn an_immediate_answer_is_the_clients() {
    let reply = |code: i32| {
        message(Answer::ImmediateResponse(ImmediateResponse {
            status: Some(HttpStatus { code }),
            headers: Some(set("retry-after", "7")),
            body: Bytes::from_static(b"busy"),
            details: String::new(),
        }))
    };
    let answer = reader(&["{}"]).read(reply(429)).expect("usable");
    let response = answer.expect("an answer").into_response();
    assert_eq!(
        (response.status().as_u16(), &response.body()[..]),
        (429, &b"busy"[..])
    );
    assert_eq!(response.headers()["retry-after"], "7");
    assert_eq!(response.headers()["content-type"], "text/plain");
    assert!(reader(&["{}"]).read(reply(0)).is_err(), "no status");
}

#[test]
fn a_body_that_is_too_long_is_no_answer() {
    let long = "x".repeat(LIMIT + 1);
    let whole = body(Some(Mutation::Body(Bytes::from(long))));
    assert!(reader(&["{}"]).read(whole).is_err());
}

#[test]
fn a_destination_that_comes_with_a_later_piece_is_waited_for() {
    let long = Bytes::from(vec![b'a'; question::LONGEST + 1]);
    let mut reader = AnswerReader::of(vec![long, Bytes::from_static(b"b")], LIMIT);
    read(&mut reader, vec![head(None), body(None), body(None)]);
    assert!(!reader.is_complete(), "one piece is not answered");
    let last = named_in_metadata(body(None), Kind::StringValue("10.0.0.1:80".to_owned()));
    read(&mut reader, vec![last]);
    assert!(reader.is_complete());
    let picked = reader.complete();
    assert_eq!(sockets(&picked), ["10.0.0.1:80"]);
    assert_eq!(picked.body, None);
}

#[test]
fn a_picker_that_answers_every_piece_and_names_nothing_is_done() {
    let mut reader = reader(&["a", "b"]);
    read(&mut reader, vec![head(None), body(None), body(None)]);
    assert!(reader.is_complete());
    assert!(reader.complete().sockets.is_empty());
}

#[test]
fn every_edit_is_made_and_too_many_are_no_answer() {
    let edit = |number: usize| set(&format!("x-{number}"), "1");
    let mut few = reader(&["{}"]);
    read(
        &mut few,
        vec![HeaderMutation::default(); 500]
            .into_iter()
            .map(|none| head(Some(none)))
            .collect(),
    );
    read(
        &mut few,
        (0..40).map(|number| head(Some(edit(number)))).collect(),
    );
    read(&mut few, vec![piece("{}", true)]);
    let (mut headers, mut target) = (HeaderMap::new(), PathAndQuery::from_static("/"));
    few.complete().edit(&mut headers, &mut target);
    assert_eq!(headers.len(), 40);
    let mut many = reader(&["{}"]);
    let faults = (0..1_000).filter(|number| many.read(head(Some(edit(*number)))).is_err());
    assert!(faults.count() > 0);
}
