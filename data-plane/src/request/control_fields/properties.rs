//! No spelling of a control field reaches an endpoint, at any of the places where engines read it.

use bytes::Bytes;
use futures::FutureExt;
use http::{Method, Request};
use http_body_util::BodyExt;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::request::{
    api, fields::FieldScanner, inference_request::InferenceRequest, request_body::RequestBody,
};

const PATHS: [&str; 4] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/generate",
];

/// A name as JSON has it: each character as it is, or as an escape.
fn spelled(name: &str, forms: &[u8]) -> String {
    let forms = forms.iter().copied().chain(std::iter::repeat(0));
    let characters = name.chars().zip(forms).map(|(character, form)| match form {
        0 => character.to_string(),
        1 => format!("\\u{:04x}", u32::from(character)),
        _ => format!("\\u{:04X}", u32::from(character)),
    });
    format!("\"{}\"", characters.collect::<String>())
}

fn forms() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(0..3u8, 0..30)
}

/// A control field, at the top or among the extra arguments.
fn hostile() -> impl Strategy<Value = String> {
    let name = proptest::sample::select(CONTROL_FIELDS.to_vec());
    let value = prop_oneof![
        Just("\"evil\""),
        Just("{\"remote_host\":\"evil\"}"),
        Just("[7]"),
        Just("null"),
    ];
    (name, value, forms(), forms(), any::<bool>()).prop_map(
        |(name, value, forms, outer, is_nested)| {
            let field = format!("{}: {value}", spelled(name, &forms));
            if is_nested {
                format!("{}:{{\"b\":1,{field}}}", spelled(EXTRA_ARGUMENTS, &outer))
            } else {
                field
            }
        },
    )
}

/// What an endpoint gets of a request with this body.
fn sent(path: &str, body: &str) -> Value {
    let (head, ()) = Request::post(path).body(()).expect("valid").into_parts();
    let route = api::route(&Method::POST, path, &["/generate"]).expect("served");
    let scanner = route.api.reads_json().then(|| {
        let mut scanner = FieldScanner::default();
        scanner.scan(body.as_bytes());
        scanner
    });
    let body = RequestBody::from(Bytes::copy_from_slice(body.as_bytes()));
    let request = InferenceRequest::parse(route, head, body, scanner).expect("readable");
    let body = request.leg_body(&[]).expect("an object").collect();
    let body = body.now_or_never().expect("no piece is awaited");
    serde_json::from_slice(&body.expect("infallible").to_bytes()).expect("JSON")
}

fn has_control_field(object: &Value) -> bool {
    let names = object
        .as_object()
        .into_iter()
        .flat_map(|object| object.keys());
    names
        .into_iter()
        .any(|name| is_control_field(name.as_bytes()))
}

proptest! {
    #[test]
    fn no_spelling_of_a_control_field_reaches_an_endpoint(
        hostile in proptest::collection::vec(hostile(), 1..5),
        at in 0..5usize,
        path in proptest::sample::select(PATHS.to_vec()),
    ) {
        let mut fields = hostile;
        fields.insert(at.min(fields.len()), "\"prompt\":\"kept\"".to_owned());
        let body = format!("{{{}}}", fields.join(" ,"));
        let sent = sent(path, &body);
        prop_assert!(!has_control_field(&sent), "{} of {}", sent, body);
        prop_assert!(!has_control_field(&sent[EXTRA_ARGUMENTS]), "{} of {}", sent, body);
        prop_assert_eq!(&sent["prompt"], "kept");
    }
}
