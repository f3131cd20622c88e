//! Edits of bodies, by example and compared with a parser.

use futures::FutureExt;
use http_body_util::BodyExt;
use proptest::prelude::*;
use serde_json::{Map, Value};

use super::*;
use crate::request::control_fields::CONTROL_FIELDS;

/// Names of the fields that are edited, and of others.
const NAMES: [&str; 5] = ["kv_transfer_params", "stream", "max_tokens", "a", "ü\"\\"];

fn set(name: &'static str, value: &str) -> BodyEdit {
    BodyEdit::set(name, value.to_owned())
}

fn collected(body: LegBody) -> Bytes {
    let collected = body.collect().now_or_never().expect("no piece is awaited");
    collected.expect("infallible").to_bytes()
}

/// The body with these edits, whose fields are not known before.
fn edited(body: &RequestBody, edits: &[BodyEdit]) -> Result<LegBody, MalformedObject> {
    super::edited((body, &FieldPositions::default()), edits)
}

/// The body with these edits: the same, whether its fields are known before or not.
fn spliced(body: &str, edits: &[BodyEdit]) -> String {
    let body = RequestBody::from(Bytes::copy_from_slice(body.as_bytes()));
    let positions = FieldPositions::default();
    let spliced = || collected(super::edited((&body, &positions), edits).expect("an object"));
    let bytes = spliced();
    assert_eq!(spliced(), bytes);
    String::from_utf8(bytes.to_vec()).expect("slices of UTF-8 at JSON borders")
}

fn stripped(body: &str) -> String {
    spliced(body, &CONTROL_FIELDS.map(BodyEdit::Remove))
}

#[test]
fn control_fields_are_cut_and_no_other_byte_changes() {
    assert_eq!(
        stripped(r#"{ "model" : "a" , "kv_transfer_params":{"do_remote_prefill":true}, "n": 1 }"#),
        r#"{"model" : "a","n": 1}"#
    );
    assert_eq!(
        stripped(r#"{"bootstrap_host":"h","bootstrap_room":1}"#),
        "{}"
    );
    assert_eq!(
        stripped(r#"{"kv_transfer\u005fparams":1,"a":"\"kv_transfer_params\":1,"}"#),
        r#"{"a":"\"kv_transfer_params\":1,"}"#
    );
}

#[test]
fn a_value_is_set_where_the_body_has_its_name_first_and_only_there() {
    assert_eq!(
        spliced(
            r#"{"a": 1 , "stream" : true, "b":2,"stream":true}"#,
            &[set("stream", "false")]
        ),
        r#"{"a": 1 , "stream" : false, "b":2}"#
    );
}

#[test]
fn a_value_is_appended_when_the_body_lacks_its_name() {
    let edits = [
        set("max_tokens", "1"),
        set("kv_transfer_params", r#"{"x":1}"#),
    ];
    assert_eq!(
        spliced(r#"{"a":[1,2]}"#, &edits),
        r#"{"a":[1,2],"max_tokens":1,"kv_transfer_params":{"x":1}}"#
    );
    assert_eq!(
        spliced(" {} ", &edits[..1]),
        r#"{"max_tokens":1}"#,
        "without a comma"
    );
}

#[test]
fn of_two_edits_of_a_name_the_last_counts() {
    let remove = || BodyEdit::Remove("kv_transfer_params");
    let set = || set("kv_transfer_params", "2");
    let body = r#"{"kv_transfer_params":1}"#;
    assert_eq!(
        spliced(body, &[remove(), set()]),
        r#"{"kv_transfer_params":2}"#
    );
    assert_eq!(spliced(body, &[set(), remove()]), "{}");
}

#[test]
fn a_body_that_no_edit_changes_is_not_copied() {
    let body = Bytes::from_static(br#"{ "a":1 }"#);
    for edits in [&[][..], &[BodyEdit::Remove("b")][..]] {
        let same = edited(&body.clone().into(), edits);
        let same = collected(same.expect("an object"));
        assert_eq!((same.as_ptr(), same.len()), (body.as_ptr(), body.len()));
    }
}

#[test]
fn a_body_that_is_no_object_cannot_be_edited() {
    for body in ["", "[]", r#"{"a":1} x"#] {
        let bytes = RequestBody::from(Bytes::from(body));
        assert!(edited(&bytes, &[BodyEdit::Remove("a")]).is_err());
        assert!(edited(&bytes, &[]).is_ok(), "{body:?} passes");
    }
}

#[test]
fn a_body_of_very_many_fields_becomes_few_pieces() {
    let field = r#""bootstrap_room":1,"a":2,"#;
    let body = format!("{{{}\"b\":3}}", field.repeat(10_000));
    let body = RequestBody::from(Bytes::from(body));
    let stripped = edited(&body, &CONTROL_FIELDS.map(BodyEdit::Remove)).expect("an object");
    let frames: Vec<_> = std::iter::from_fn({
        let mut stripped = stripped.clone();
        move || stripped.frame().now_or_never().flatten()
    })
    .collect();
    assert!(frames.len() <= MAX_PIECES + 3, "{}", frames.len());
    let expected = format!("{{{}\"b\":3}}", r#""a":2,"#.repeat(10_000));
    assert_eq!(collected(stripped), expected);
}

#[test]
fn positions_that_one_leg_has_found_serve_the_next() {
    for others in [3, 63, 64, 100] {
        let others: String = (0..others).map(|at| format!("\"{at}\":{at},")).collect();
        let body = RequestBody::from(Bytes::from(format!("{{{others}\"stream\":true}}")));
        let positions = FieldPositions::default();
        for value in ["false", "null"] {
            let edited = super::edited((&body, &positions), &[set("stream", value)]);
            let expected = format!("{{{others}\"stream\":{value}}}");
            assert_eq!(collected(edited.expect("an object")), expected);
        }
    }
}

#[test]
fn a_body_in_pieces_is_edited_as_the_whole() {
    let text = r#"{ "a" : "{\"x\":1}" , "kv_transfer_params":[1,{"a":"]"}], "stream" :true }"#;
    let edits = [
        BodyEdit::Remove("kv_transfer_params"),
        set("stream", "false"),
        set("max_tokens", "1"),
    ];
    let whole = Bytes::from(text);
    for cut in 1..whole.len() {
        let mut pieces = RequestBody::from(whole.slice(..cut));
        pieces.push(whole.slice(cut..));
        let edited = collected(edited(&pieces, &edits).expect("an object"));
        assert_eq!(edited, spliced(text, &edits), "cut at {cut}");
    }
}

fn name_of(edit: &BodyEdit) -> &str {
    match edit {
        BodyEdit::Remove(name) | BodyEdit::Set(name, _) | BodyEdit::Replace(name, _) => name,
    }
}

/// Any edit of [`NAMES`].
fn edit() -> impl Strategy<Value = BodyEdit> {
    let value = prop_oneof![Just("false"), Just(r#"{"x": "},\"" }"#), Just(" [1]")];
    let edit = (0..NAMES.len(), proptest::option::of(value), any::<bool>());
    edit.prop_map(|(name, value, adds)| match value {
        Some(value) if adds => set(NAMES[name], value.trim()),
        Some(value) => BodyEdit::replace(NAMES[name], value.trim().to_owned()),
        None => BodyEdit::Remove(NAMES[name]),
    })
}

/// Fields of [`NAMES`], some of them twice, as text.
fn fields() -> impl Strategy<Value = Vec<(usize, String)>> {
    let value = prop_oneof![
        Just("1"),
        Just(r#"[1, {"a":"},\"a\":"}]"#),
        Just("null"),
        Just(r#""stream""#)
    ];
    let field = (0..NAMES.len(), value, "[ \n\t]{0,2}", any::<bool>()).prop_map(
        |(name, value, space, escaped)| {
            let quoted = Value::from(NAMES[name]).to_string();
            // Another spelling of the same name.
            let quoted = if escaped {
                quoted.replace('a', "\\u0061")
            } else {
                quoted
            };
            (name, format!("{quoted}{space}:{space}{value}"))
        },
    );
    proptest::collection::vec(field, 0..8)
}

proptest! {
    #[test]
    fn any_bytes_are_edited_or_rejected(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = edited(&Bytes::from(body).into(), &CONTROL_FIELDS.map(BodyEdit::Remove));
    }

    #[test]
    fn stripping_keeps_every_other_entry(
        keys in proptest::collection::vec(prop_oneof![Just("kv_transfer_params"), Just("bootstrap_room"), Just("a"), Just("\\u0062"), Just("c\\\"")], 0..8),
        space in "[ \n\t]{0,2}",
    ) {
        let entries = |keys: Vec<&str>| keys.iter().map(|key| format!("{space}\"{key}\"{space}:{space}[1,{{\"x\":\"}},\"}}]")).collect::<Vec<_>>().join(&format!("{space},"));
        let body = format!("{{{}{space}}}", entries(keys.clone()));
        let kept = keys.iter().filter(|key| !CONTROL_FIELDS.contains(key)).count();
        let value: serde_json::Value = serde_json::from_str(&stripped(&body)).expect("still valid");
        let distinct: std::collections::BTreeSet<_> = keys.iter().filter(|key| !CONTROL_FIELDS.contains(key)).collect();
        prop_assert_eq!(value.as_object().expect("an object").len(), distinct.len());
        prop_assert_eq!(stripped(&body).matches("[1,").count(), kept);
    }

    #[test]
    fn an_edited_body_parses_as_the_parsed_body_edited(
        fields in fields(),
        edits in proptest::collection::vec(edit(), 0..6),
        space in "[ \n\t]{0,2}",
    ) {
        let list: Vec<&str> = fields.iter().map(|(_, field)| field.as_str()).collect();
        let body = format!("{space}{{{space}{}{space}}}{space}", list.join(&format!("{space},")));
        let result = spliced(&body, &edits);

        let mut expected: Map<String, Value> = serde_json::from_str(&body).expect("valid");
        for (at, edit) in edits.iter().enumerate() {
            // Of two edits of a name the last counts.
            if edits[at + 1..].iter().any(|later| name_of(later) == name_of(edit)) {
                continue;
            }
            match edit {
                BodyEdit::Remove(name) => _ = expected.remove(*name),
                BodyEdit::Set(name, value) => {
                    let value = serde_json::from_slice(value).expect("valid");
                    expected.insert((*name).to_owned(), value);
                }
                BodyEdit::Replace(name, value) => {
                    let value = serde_json::from_slice(value).expect("valid");
                    expected.entry(*name).and_modify(|old| *old = value);
                }
            }
        }
        let parsed: Map<String, Value> = serde_json::from_str(&result).expect("still valid");
        prop_assert_eq!(parsed, expected);

        // Fields that no edit names are there as they were written, in their order.
        let edited = |name: &str| edits.iter().any(|edit| name_of(edit) == name);
        let mut rest = result.as_str();
        for (name, field) in &fields {
            if !edited(NAMES[*name]) {
                let at = rest.find(field.as_str());
                prop_assert!(at.is_some(), "{} is not in {}", field, rest);
                rest = &rest[at.unwrap_or(0) + field.len()..];
            }
        }
    }
}
