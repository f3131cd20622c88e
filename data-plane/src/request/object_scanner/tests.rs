//! The scanner, by example and compared with a parser, over pieces cut at every border.

use std::fmt;

use proptest::{prelude::*, sample::Index};
use serde::{
    Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::*;

/// Name, start of the field, span and first byte of the value.
type Found = (Vec<u8>, usize, BodySpan, u8);

fn scanned<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<Found>, MalformedObject> {
    let mut scanner = ObjectScanner::default();
    let mut fields = Vec::new();
    for piece in pieces {
        scanner.scan(piece, |field| {
            fields.push((field.name.to_vec(), field.start, field.value, field.first));
        })?;
    }
    scanner.finish()?;
    Ok(fields)
}

/// The whole, after checking that every cut into two pieces, and single bytes, have its result.
fn scanned_at_every_border(body: &[u8]) -> Result<Vec<Found>, MalformedObject> {
    let whole = scanned([body]);
    for cut in 0..=body.len() {
        let (first, second) = body.split_at(cut);
        assert_eq!(scanned([first, second]), whole, "cut at {cut}");
    }
    assert_eq!(scanned(body.chunks(1)), whole);
    whole
}

/// What a parser finds; `None` where it refuses.
fn parsed(body: &[u8]) -> Option<Vec<Found>> {
    struct Fields<'a>(&'a [u8]);
    impl<'de> Visitor<'de> for Fields<'de> {
        type Value = Vec<Found>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Found>, A::Error> {
            let mut found: Vec<Found> = Vec::new();
            while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                let before = found.last().map_or(0, |(_, _, value, _)| value.end);
                let gap = self.0[before..].iter().position(|byte| *byte == b'"');
                let start = value.get().as_ptr() as usize - self.0.as_ptr() as usize;
                let end = start + value.get().len();
                let (field, first) = (before + gap.unwrap_or(0), value.get().as_bytes()[0]);
                found.push((kept(&name), field, BodySpan { start, end }, first));
            }
            Ok(found)
        }
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let fields = json.deserialize_map(Fields(body)).ok()?;
    json.end().ok().map(|()| fields)
}

/// A name as the scanner keeps it: what is not ASCII is replaced, a long one is dropped.
fn kept(name: &str) -> Vec<u8> {
    // As UTF-8, and as escapes of UTF-16, such a character has several bytes or units.
    let ascii = |name: &str| name.bytes().all(|byte| byte.is_ascii());
    if ascii(name) && name.len() <= 32 {
        name.as_bytes().to_vec()
    } else {
        Vec::new()
    }
}

/// The same for what the scanner kept.
fn comparable(fields: Vec<Found>) -> Vec<Found> {
    let kept = |name: Vec<u8>| if name.is_ascii() { name } else { Vec::new() };
    let fields = fields.into_iter();
    fields
        .map(|(name, start, value, first)| (kept(name), start, value, first))
        .collect()
}

#[test]
fn names_are_decoded_and_values_delimited() {
    let body = br#" { "a" : "x\"}" ,"\u0062\/":[1,{"c":"]"}], "d":-1.5e3,"e":{} } "#;
    let fields = scanned_at_every_border(body).expect("valid");
    let texts = fields.iter().map(|(name, _, value, first)| {
        let value = &body[value.start..value.end];
        assert_eq!(value[0], *first);
        (str::from_utf8(name), str::from_utf8(value))
    });
    let expected = [
        ("a", r#""x\"}""#),
        ("b/", r#"[1,{"c":"]"}]"#),
        ("d", "-1.5e3"),
        ("e", "{}"),
    ];
    assert!(texts.eq(expected.map(|(name, value)| (Ok(name), Ok(value)))));
}

#[test]
fn what_cannot_be_followed_is_refused_with_its_position() {
    for (body, message) in [
        ("", "it ends at byte 0, where a JSON object was expected"),
        ("\"text\"", "expected a JSON object at byte 0"),
        ("[{}]", "expected a JSON object at byte 0"),
        ("{\"a\"", "it ends at byte 4, where `:` was expected"),
        (
            "{\"a\":\"x",
            "it ends at byte 7, where the end of a string was expected",
        ),
        ("{\"a\":1,}", "expected the name of a field at byte 7"),
        ("{\"a\" 1}", "expected `:` at byte 5"),
        ("{\"a\":}", "expected a value at byte 5"),
        ("{\"a\":1 2}", "expected `,` or `}` at byte 7"),
        ("{} {}", "expected nothing more at byte 3"),
        ("{'a':1}", "expected the name of a field or `}` at byte 1"),
        ("{\"a\\x\":1}", "expected the end of a string at byte 4"),
        (
            "{\"a\":[1}",
            "expected the next element or the closing bracket at byte 7",
        ),
        (
            "{\"a\":[/*\"*/1]}",
            "expected the next element or the closing bracket at byte 6",
        ),
        (
            "{\"a\":['\"']}",
            "expected the next element or the closing bracket at byte 6",
        ),
    ] {
        let error = scanned_at_every_border(body.as_bytes()).expect_err(body);
        assert_eq!(error.to_string(), message, "{body}");
    }
}

#[test]
fn an_object_in_utf_16_is_refused() {
    let wide: Vec<u8> = r#"{"a":1}"#.bytes().flat_map(|byte| [byte, 0]).collect();
    assert!(scanned_at_every_border(&wide).is_err());
}

#[test]
fn a_byte_order_mark_is_skipped_as_in_engines() {
    let fields = scanned_at_every_border("\u{feff}{\"a\":1}".as_bytes()).expect("valid");
    assert_eq!(fields[0].1, 4);
}

#[test]
fn values_that_only_engines_can_judge_are_followed() {
    for value in [
        "NaN",
        "-Infinity",
        "\"\\ud800\"",
        "\"\\q\"",
        "\"\u{1}\"",
        "01",
        "[1 2]",
    ] {
        let body = format!("{{\"a\":{value},\"model\":1}}");
        let fields = scanned_at_every_border(body.as_bytes()).expect(value);
        assert_eq!(fields[1].0, b"model", "{value}");
    }
}

#[test]
fn nesting_is_followed_to_a_bound() {
    let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    assert!(scanned([nested(MAX_DEPTH).as_bytes()]).is_ok());
    assert_eq!(
        scanned([nested(MAX_DEPTH + 1).as_bytes()]),
        Err(MalformedObject::TooDeep { at: 5 + MAX_DEPTH })
    );
}

/// Any JSON value as text, with white space and escapes.
fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        "-?[1-9][0-9]{0,3}(\\.[0-9]{1,2})?([eE][+-]?[0-9])?",
        string(),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            (proptest::collection::vec(inner.clone(), 0..4), space()).prop_map(
                |(values, space)| format!("[{space}{}{space}]", values.join(&space_comma(&space)))
            ),
            (proptest::collection::vec((string(), inner), 0..4), space())
                .prop_map(|(fields, space)| object(&fields, &space)),
        ]
    })
}

fn space() -> impl Strategy<Value = String> {
    "[ \n\t\r]{0,2}"
}

fn space_comma(space: &str) -> String {
    format!("{space},{space}")
}

fn object(fields: &[(String, String)], space: &str) -> String {
    let fields = fields
        .iter()
        .map(|(name, value)| format!("{name}{space}:{space}{value}"));
    let fields: Vec<String> = fields.collect();
    format!("{{{space}{}{space}}}", fields.join(&space_comma(space)))
}

/// A quoted string.
fn string() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "[a-z_\\]\\[}{:, ]{1,9}",
        Just("ü\u{1f600}".to_owned()),
        Just("\\\"".to_owned()),
        Just("\\\\".to_owned()),
        Just("\\n\\/".to_owned()),
        Just("\\u006dodel".to_owned()),
        Just("\\u00fc\\ud83d\\ude00".to_owned()),
    ];
    proptest::collection::vec(part, 0..5).prop_map(|parts| format!("\"{}\"", parts.concat()))
}

fn top_level() -> impl Strategy<Value = String> {
    let fields = proptest::collection::vec((string(), value()), 0..6);
    (fields, space())
        .prop_map(|(fields, space)| format!("{space}{}{space}", object(&fields, &space)))
}

/// Another byte, one more, or one fewer.
fn damage(body: &mut Vec<u8>, place: Index, byte: u8, kind: u8) {
    let at = place.index(body.len());
    match kind {
        0 => body[at] = byte,
        1 => body.insert(at, byte),
        _ => _ = body.remove(at),
    }
}

proptest! {
    #[test]
    fn a_valid_object_has_the_fields_that_a_parser_finds(body in top_level()) {
        let found = scanned_at_every_border(body.as_bytes()).map(comparable);
        prop_assert_eq!(Some(found.expect("followed")), parsed(body.as_bytes()));
    }

    #[test]
    fn a_damaged_object_is_followed_as_a_parser_does_or_one_of_them_refuses(
        body in top_level(),
        damages in proptest::collection::vec(
            (any::<Index>(), proptest::sample::select(br#"{}[]:,"\ u1n/'"#.to_vec()), 0..3u8),
            1..4,
        ),
    ) {
        let mut body = body.into_bytes();
        for (place, byte, kind) in damages {
            if !body.is_empty() {
                damage(&mut body, place, byte, kind);
            }
        }
        let found = scanned_at_every_border(&body);
        if let Some(parsed) = parsed(&body) {
            prop_assert_eq!(found.map(comparable), Ok(parsed));
        }
    }

    #[test]
    fn any_bytes_are_followed_or_refused(body in proptest::collection::vec(any::<u8>(), 0..100)) {
        let found = scanned_at_every_border(&body);
        if let Some(parsed) = parsed(&body) {
            prop_assert_eq!(found.map(comparable), Ok(parsed));
        }
    }
}
