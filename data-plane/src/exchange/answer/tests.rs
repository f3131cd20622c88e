//! Bytes of answers, and their class, however they are cut.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use AnswerClass::{ClientError, Empty, ErrorEvent, NotAnAnswer, Overloaded, Tokens};

/// Bodies of event streams.
const EVENTS: &[(&str, AnswerClass)] = &[
    (
        "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n",
        Tokens,
    ),
    (
        "data: {\"choices\":[{\"delta\":{\"reasoning_content\":\"a\"}}]}\r\n\r\n",
        Tokens,
    ),
    (
        "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0}]}}]}\r\r",
        Tokens,
    ),
    ("data: {\"choices\":[{\"text\":\"a\"}]}\n\n", Tokens),
    (
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\ndata: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
        Tokens,
    ),
    (
        "event: message_start\ndata: {\"type\":\"message_start\"}\n\nevent: content_block_delta\ndata: {\"type\":\"content_block_delta\"}\n\n",
        Tokens,
    ),
    (
        "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"error\":null}}\n\nevent: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"a\"}\n\n",
        Tokens,
    ),
    (": ping\n\ndata: {\"choices\":[{\"text\":\"a\"}]}", Tokens),
    ("data: {\"choices\":\ndata: [{\"text\":\"a\"}]}\n\n", Tokens),
    ("data: {\"other\":1}\n\n", Tokens),
    ("data: [DONE]\n\n", Empty),
    (": ping\n\n: ping\n\n", Empty),
    ("", Empty),
    (
        "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":null}}]}\n\ndata: [DONE]\n\n",
        Empty,
    ),
    ("data: {\"choices\":[],\"usage\":{}}\n\n", Empty),
    (
        "data: {\"error\":{\"message\":\"boom\",\"code\":500}}\n\ndata: [DONE]\n\n",
        ErrorEvent,
    ),
    ("data: {\"error\":\"boom\"}\r\n\r\n", ErrorEvent),
    (
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\"}}\n\n",
        ErrorEvent,
    ),
    (
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n",
        Overloaded,
    ),
    (
        "data: {\"object\":\"error\",\"message\":\"x\",\"type\":\"BadRequestError\",\"code\":400}\n\n",
        ClientError,
    ),
    (
        "data: {\"error\":{\"type\":\"invalid_request_error\",\"code\":null}}\n\n",
        ClientError,
    ),
    (
        "data: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"server_error\"}}}\n\n",
        ErrorEvent,
    ),
    ("<html>hello</html>\n\n", NotAnAnswer),
    ("data: hello\n\n", NotAnAnswer),
    ("\u{1}\u{2}\u{3}", NotAnAnswer),
];

/// Bodies without the content type of events.
const BODIES: &[(&str, AnswerClass)] = &[
    (
        "{\"choices\":[{\"message\":{\"content\":\"an \\\"error\\\"\"}}]}",
        Tokens,
    ),
    (
        "{\"id\":\"resp_1\",\"error\":null,\"status\":\"completed\"}",
        Tokens,
    ),
    (" \n [0.5]", Tokens),
    ("{\"error\":false,\"choices\":[]}", Tokens),
    ("{\"error\":\"\",\"data\":[]}", Tokens),
    ("\"text\"", Tokens),
    ("{\"data\":[{\"error\":\"inside\"}]}", Tokens),
    ("", Empty),
    (" \n ", Empty),
    ("{\"error\":{\"message\":\"boom\"}}", ErrorEvent),
    (
        "{\"id\":\"resp_1\",\"status\":\"failed\",\"error\":{\"code\":\"server_error\"}}",
        ErrorEvent,
    ),
    ("{\"error\":\"Unauthorized\"}", ErrorEvent),
    (
        "{\"object\":\"error\",\"message\":\"queue full\",\"code\":503}",
        Overloaded,
    ),
    ("{\"error\":{\"code\":\"429\"}}", Overloaded),
    (
        "{\"error\":{\"type\":\"NotFoundError\",\"code\":404}}",
        ClientError,
    ),
    ("<!doctype html><p>sign in</p>", NotAnAnswer),
    ("no healthy upstream", NotAnAnswer),
    ("data: {\"choices\":[{\"text\":\"a\"}]}\n\n", Tokens),
    (
        "event: error\ndata: {\"error\":{\"code\":500}}\n\n",
        ErrorEvent,
    ),
];

fn cut(text: &str, at: &[usize]) -> Vec<Bytes> {
    let mut at: Vec<usize> = at.iter().map(|at| at % (text.len() + 1)).collect();
    at.extend([0, text.len()]);
    at.sort_unstable();
    let piece = |ends: &[usize]| Bytes::copy_from_slice(&text.as_bytes()[ends[0]..ends[1]]);
    at.windows(2).map(piece).collect()
}

#[test]
fn the_first_bytes_of_an_answer_determine_its_class() {
    for (text, class) in EVENTS {
        let found = class_of(AnswerShape::Events, &cut(text, &[]));
        assert_eq!(found, *class, "{text:?}");
    }
    for (text, class) in BODIES {
        let found = class_of(AnswerShape::Unknown, &cut(text, &[]));
        assert_eq!(found, *class, "{text:?}");
    }
}

#[test]
fn a_body_too_long_for_an_error_is_judged_by_its_beginning() {
    let long = format!("{{\"choices\":[\"{}", "x".repeat(JSON_LIMIT));
    assert_eq!(class_of(AnswerShape::Unknown, &cut(&long, &[])), Tokens);
    let event = format!("data: {}", "x".repeat(EVENT_LIMIT));
    assert_eq!(class_of(AnswerShape::Events, &cut(&event, &[])), Tokens);
}

#[test]
fn retry_after_is_a_number_of_seconds() {
    let read = |value: &'static str| {
        let value = http::HeaderValue::from_static(value);
        let headers = HeaderMap::from_iter([(header::RETRY_AFTER, value)]);
        retry_after(&headers, SystemTime::now)
    };
    assert_eq!(read("30"), Some(Duration::from_secs(30)));
    assert_eq!(read("0.5"), Some(Duration::from_millis(500)));
    for wrong in ["-1", "soon", "NaN", "1e400"] {
        assert_eq!(read(wrong), None, "{wrong}");
    }
}

#[test]
fn retry_after_is_a_date() {
    let now = httpdate::parse_http_date("Mon, 30 Nov 2026 04:00:00 GMT").expect("a date");
    let read = |until: &'static str, date: Option<&'static str>| {
        let fields = [(header::RETRY_AFTER, Some(until)), (header::DATE, date)];
        let fields = fields
            .into_iter()
            .filter_map(|(name, value)| Some((name, http::HeaderValue::from_static(value?))));
        retry_after(&HeaderMap::from_iter(fields), || now)
    };
    let soon = Some(Duration::from_secs(30));
    assert_eq!(read("Mon, 30 Nov 2026 04:00:30 GMT", None), soon);
    assert_eq!(read("Monday, 30-Nov-26 04:00:30 GMT", None), soon);
    assert_eq!(read("Mon Nov 30 04:00:30 2026", None), soon);
    // The endpoint's clock is an hour ahead.
    let ahead = Some("Mon, 30 Nov 2026 05:00:00 GMT");
    assert_eq!(read("Mon, 30 Nov 2026 05:00:30 GMT", ahead), soon);
    assert_eq!(read("Mon, 30 Nov 2026 03:00:00 GMT", None), None);
    assert_eq!(read("Mon, 30 Feb 2026 03:00:00", None), None);
}

proptest! {
    #[test]
    fn pieces_do_not_matter(which in 0..EVENTS.len(), at in proptest::collection::vec(0usize..1_000, 0..6)) {
        let (text, class) = EVENTS[which];
        prop_assert_eq!(class_of(AnswerShape::Events, &cut(text, &at)), class);
    }

    #[test]
    fn pieces_of_json_do_not_matter(which in 0..BODIES.len() - 2, at in proptest::collection::vec(0usize..1_000, 0..6)) {
        let (text, class) = BODIES[which];
        prop_assert_eq!(class_of(AnswerShape::Unknown, &cut(text, &at)), class);
    }

    #[test]
    fn any_bytes_have_a_class(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8)) {
        let pieces: Vec<Bytes> = pieces.into_iter().map(Bytes::from).collect();
        for shape in [AnswerShape::Unknown, AnswerShape::Events] {
            let _class = class_of(shape, &pieces);
        }
    }
}
