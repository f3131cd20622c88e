//! Edits of a JSON body as splices: every byte that is not edited stays as the client wrote it.

use std::fmt;

use bytes::Bytes;
use serde::{
    Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::request::fields::{CONTROL_FIELDS, FieldName};

/// The body without its control fields, as slices of the original that follow one another.
///
/// [`BodyFields::parse`](super::fields::BodyFields::parse) must have accepted the body.
pub(crate) fn remove_control_fields(body: &Bytes) -> Vec<Bytes> {
    remove(body, |key| CONTROL_FIELDS.contains(&key))
}

/// The body without the top-level fields whose key is `removed`.
fn remove(body: &Bytes, removed: impl Fn(&str) -> bool) -> Vec<Bytes> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let Ok(entries) = json.deserialize_map(BodyEntries(body)) else {
        return vec![body.clone()];
    };
    let kept = entries.iter().filter(|entry| !removed(&entry.key));
    let mut pieces = vec![Bytes::from_static(b"{")];
    for (index, entry) in kept.enumerate() {
        if index > 0 {
            pieces.push(Bytes::from_static(b","));
        }
        pieces.push(body.slice(entry.start..entry.end));
    }
    pieces.push(Bytes::from_static(b"}"));
    pieces
}

/// Position of one `"key": value` in the body.
struct BodyEntry {
    start: usize,
    end: usize,
    key: String,
}

struct BodyEntries<'a>(&'a [u8]);

impl<'de> Visitor<'de> for BodyEntries<'de> {
    type Value = Vec<BodyEntry>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<BodyEntry>, A::Error> {
        let body = self.0;
        let mut entries: Vec<BodyEntry> = Vec::new();
        while let Some((FieldName(key), value)) =
            map.next_entry::<FieldName<'de>, &'de RawValue>()?
        {
            // The key begins after whatever separates it from the entry before it: `{` or `,`, and
            // white space.
            let after = entries.last().map_or(0, |last| last.end);
            let gap = body[after..]
                .iter()
                .position(|&byte| byte == b'"')
                .unwrap_or(0);
            let end = value.get().as_ptr() as usize - body.as_ptr() as usize + value.get().len();
            entries.push(BodyEntry {
                start: after + gap,
                end,
                key: key.into_owned(),
            });
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stripped(body: &str) -> String {
        let pieces = remove_control_fields(&Bytes::copy_from_slice(body.as_bytes()));
        String::from_utf8(pieces.concat()).expect("slices of UTF-8 at JSON borders")
    }

    #[test]
    fn control_fields_are_cut_and_no_other_byte_changes() {
        assert_eq!(
            stripped(
                r#"{ "model" : "a" , "kv_transfer_params":{"do_remote_prefill":true}, "n": 1 }"#
            ),
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

    proptest! {
        #[test]
        fn any_bytes_are_accepted(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = remove_control_fields(&Bytes::from(body));
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
    }
}
