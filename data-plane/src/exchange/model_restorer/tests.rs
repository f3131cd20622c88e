//! Answers of every API, cut anywhere, beside what a JSON parser makes of them.

use http::HeaderName;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const ASKED: &str = "the \"client's\" name";

fn headers(kind: &'static str) -> HeaderMap {
    [(header::CONTENT_TYPE, HeaderValue::from_static(kind))]
        .into_iter()
        .collect()
}

fn restorer(api: Api, kind: &'static str) -> ModelRestorer {
    ModelRestorer::of(api, ASKED, &headers(kind)).expect("it can be edited")
}

/// The pieces of an answer after another, as a client gets them.
fn restored<'a>(mut restorer: ModelRestorer, pieces: impl Iterator<Item = &'a [u8]>) -> String {
    let pieces = pieces.map(|piece| restorer.restore(Bytes::copy_from_slice(piece)));
    String::from_utf8(pieces.collect::<Vec<_>>().concat()).expect("UTF-8")
}

/// An answer of events, restored in pieces of every size, which all have the same result.
fn events(api: Api, text: &str) -> String {
    let in_pieces = |size: usize| {
        restored(
            restorer(api, "text/event-stream; charset=utf-8"),
            text.as_bytes().chunks(size),
        )
    };
    let whole = in_pieces(text.len());
    for size in 1..text.len() {
        assert_eq!(in_pieces(size), whole, "pieces of {size}");
    }
    whole
}

fn document(api: Api, text: &str) -> String {
    restored(
        restorer(api, "application/json"),
        std::iter::once(text.as_bytes()),
    )
}

fn event(value: &Value) -> String {
    format!("data: {value}\n\n")
}

#[test]
fn every_event_of_a_chat_names_what_the_client_asked_for() {
    let chunk = |model: &str, content: &str| {
        event(&json!({
            "id": "c", "object": "chat.completion.chunk", "created": 1, "model": model,
            "choices": [{"index": 0, "delta": {"content": content}, "model": "not this"}],
        }))
    };
    let texts = [
        "",
        "\"model\":\"llama\"",
        "{\"model\": \"llama\"}\n\ndata: {\"model\":\"llama\"}",
    ];
    let stream = |model: &str| {
        let chunks = texts.map(|text| chunk(model, text));
        format!(": ping\n\n{}data: [DONE]\n\n", chunks.concat())
    };
    assert_eq!(events(Api::Chat, &stream("llama")), stream(ASKED));
}

#[test]
fn lines_may_end_in_any_way_and_a_document_may_have_several() {
    for end in ["\n", "\r", "\r\n"] {
        let stream = |model: &str| {
            let model = Value::from(model);
            [
                "event: x",
                "data:{\"a\":[1,",
                "data: {}],",
                ": comment",
                "data: \"model\":",
                &format!("data: {model}}}"),
                "",
                "data",
                "dat: {\"model\":\"no field\"}",
                "data: {\"x\":1}",
                "",
                &format!("data: {{\"model\": {model} }}"),
                "",
                "",
            ]
            .join(end)
        };
        assert_eq!(
            events(Api::Completions, &stream("llama")),
            stream(ASKED),
            "{end:?}"
        );
    }
}

#[test]
fn events_of_responses_and_messages_name_it_in_an_object() {
    let responses = |model: &str| {
        let created = json!({"type": "response.created", "response": {"id": "resp_1", "model": model, "output": []}});
        let delta = json!({"type": "response.output_text.delta", "delta": "x", "item": {"model": "not this"}});
        let done = json!({"type": "response.completed", "response": {"output": [{"model": "nor this"}], "model": model}});
        [created, delta, done]
            .map(|value| format!("event: e\n{}", event(&value)))
            .concat()
    };
    assert_eq!(
        events(Api::Responses, &responses("llama")),
        responses(ASKED)
    );
    let messages = |model: &str| {
        let start = json!({"type": "message_start", "message": {"role": "assistant", "content": [], "model": model}});
        let delta =
            json!({"type": "content_block_delta", "delta": {"message": {"model": "not this"}}});
        [start, delta]
            .map(|value| format!("event: e\n{}", event(&value)))
            .concat()
    };
    assert_eq!(events(Api::Messages, &messages("llama")), messages(ASKED));
    // In a chat it is not the answer's.
    let chat = event(&json!({"message": {"model": "stays"}, "choices": []}));
    assert_eq!(events(Api::Chat, &chat), chat);
}

#[test]
fn a_document_names_it_wherever_the_member_is() {
    for (text, expected) in [
        (
            r#"{"model":"a","x":{"model":"b"}}"#,
            r#"{"model":M,"x":{"model":"b"}}"#,
        ),
        (
            r#" { "data" : [{"model":"b"}, "model", "b"], "model" : "a\"\\" , "y" : 1 }"#,
            r#" { "data" : [{"model":"b"}, "model", "b"], "model" : M , "y" : 1 }"#,
        ),
        (r#"{"model":null,"x":"a"}"#, r#"{"model":null,"x":"a"}"#),
        (
            r#"{"model":{"model":"b"},"x":"a"}"#,
            r#"{"model":{"model":"b"},"x":"a"}"#,
        ),
        (
            r#"{"error":{"message":"no model `a`","model":"a"}}"#,
            r#"{"error":{"message":"no model `a`","model":"a"}}"#,
        ),
        (r#"[{"model":"a"}]"#, r#"[{"model":"a"}]"#),
        (
            r#"{"models":"a","mode":"b","a model":"c","mod\u0065l":"d"}"#,
            r#"{"models":"a","mode":"b","a model":"c","mod\u0065l":"d"}"#,
        ),
        ("model", "model"),
        ("", ""),
    ] {
        let expected = expected.replace('M', &Value::from(ASKED).to_string());
        assert_eq!(document(Api::Chat, text), expected);
    }
}

#[test]
fn what_is_compressed_or_no_json_is_not_touched() {
    let of = |pairs: &[(HeaderName, &'static str)]| {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
        ModelRestorer::of(Api::Extra, ASKED, &pairs.collect()).is_some()
    };
    assert!(of(&[]) && of(&[(header::CONTENT_TYPE, "application/problem+json")]));
    assert!(!of(&[(header::CONTENT_TYPE, "audio/mpeg")]));
    assert!(!of(&[
        (header::CONTENT_TYPE, "application/json"),
        (header::CONTENT_ENCODING, "gzip"),
    ]));
}

#[test]
fn a_piece_without_the_value_is_passed_on_without_a_copy() {
    let mut restorer = restorer(Api::Chat, "text/event-stream");
    let untouched = Bytes::from_static(b": keep-alive\n\ndata: {\"id\":\"model\",\"x\":");
    let passed = restorer.restore(untouched.clone());
    assert_eq!(passed.as_ptr(), untouched.as_ptr());
    let rest = Bytes::from_static(b"1,\"model\":\"llama\",\"choices\":[");
    assert_ne!(restorer.restore(rest.clone()).as_ptr(), rest.as_ptr());
    let more = Bytes::from_static(b"{\"model\":\"x\"}]}\n");
    assert_eq!(restorer.restore(more.clone()).as_ptr(), more.as_ptr());
}

#[test]
fn a_value_of_any_length_is_left_out_piece_by_piece() {
    let mut restorer = restorer(Api::Chat, "application/json");
    assert_eq!(
        restorer.restore(Bytes::from_static(b"{\"model\":\"aa")),
        format!("{{\"model\":{}", Value::from(ASKED))
    );
    for _ in 0..1_000 {
        assert!(restorer.restore(Bytes::from_static(b"aaaa\\\"")).is_empty());
    }
    assert_eq!(
        restorer.restore(Bytes::from_static(b"\",\"b\":1}")),
        ",\"b\":1}"
    );
}

/// Any JSON, whose members often have the names that matter.
fn any_json() -> impl Strategy<Value = Value> {
    let names = prop_oneof![
        Just("model".to_owned()),
        Just("response".to_owned()),
        Just("message".to_owned()),
        "[a-z\"\\\\]{0,9}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-zü\"\\\\\\n{}:,]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(names.clone(), inner, 0..4)
                .prop_map(|members| Value::from(serde_json::Map::from_iter(members))),
        ]
    })
}

/// What a parser replaces: the first of the places where the API names a model.
fn by_parser(api: Api, mut value: Value) -> Value {
    let inside = match api {
        Api::Responses => "/response/model",
        Api::Messages => "/message/model",
        _ => "/model",
    };
    // Members are sorted: the object comes behind `model` if that is smaller.
    let own = value.pointer("/model").is_some_and(Value::is_string);
    let in_object = value.pointer(inside).is_some_and(Value::is_string);
    let is_object = value.is_object();
    let first = match (own, in_object) {
        (true, true) if inside < "/model" => inside,
        (true, _) => "/model",
        (false, true) => inside,
        (false, false) => return value,
    };
    if is_object && let Some(model) = value.pointer_mut(first) {
        *model = ASKED.into();
    }
    value
}

proptest! {
    #[test]
    fn a_document_cut_anywhere_is_what_a_parser_makes_of_it(
        value in any_json(),
        api in prop_oneof![Just(Api::Chat), Just(Api::Responses), Just(Api::Messages)],
        is_pretty in any::<bool>(),
        sizes in proptest::collection::vec(1..12usize, 1..6),
    ) {
        let text = if is_pretty { format!("{value:#}") } else { value.to_string() };
        let mut rest = text.as_bytes();
        let mut sizes = sizes.into_iter().cycle();
        let pieces = std::iter::from_fn(|| {
            let (piece, after) = rest.split_at_checked(sizes.next()?).unwrap_or((rest, b""));
            rest = after;
            (!piece.is_empty()).then_some(piece)
        });
        let edited = restored(restorer(api, "application/json"), pieces);
        prop_assert_eq!(serde_json::from_str::<Value>(&edited).expect("JSON"), by_parser(api, value));
    }

    #[test]
    fn any_bytes_pass_and_their_pieces_do_not_matter(
        text in "(data: ?|event:|:|[{}\\[\\],:\"\\\\\r\n a]|\"model\":|\"response\":){0,40}",
        cut in any::<prop::sample::Index>(),
        kind in prop_oneof![Just("application/json"), Just("text/event-stream")],
    ) {
        let (first, second) = text.as_bytes().split_at(cut.index(text.len() + 1));
        let whole = restored(restorer(Api::Responses, kind), std::iter::once(text.as_bytes()));
        let parts = restored(restorer(Api::Responses, kind), [first, second].into_iter());
        prop_assert_eq!(whole, parts);
    }
}
