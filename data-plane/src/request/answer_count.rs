//! How many answers a request asks for, and for how many prompts: what hands a KV cache over does
//! it for one of each.

use super::request_body::{BodySpan, RequestBody};

/// The fields that decide it, as they are found. Of a name that appears twice the last counts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct AnswerCount {
    n: Option<BodySpan>,
    best_of: Option<BodySpan>,
    beams: Option<BodySpan>,
}

impl AnswerCount {
    /// Whether this field is one of them.
    pub(super) fn is_of(name: &[u8]) -> bool {
        matches!(name, b"n" | b"best_of" | b"use_beam_search")
    }

    pub(super) fn note(&mut self, name: &[u8], value: BodySpan) {
        match name {
            b"n" => self.n = Some(value),
            b"best_of" => self.best_of = Some(value),
            _ => self.beams = Some(value),
        }
    }

    /// Whether it is one answer to one prompt, which is the value of `prompt` if there is one.
    /// False when that cannot be read here.
    pub(super) fn is_one(self, body: &RequestBody, prompt: Option<BodySpan>) -> bool {
        let is = |span: Option<BodySpan>, words: [&[u8]; 2]| {
            span.is_none_or(|span| words.contains(&&body.contiguous(span)[..]))
        };
        is(self.n, [b"1", b"null"])
            && is(self.best_of, [b"1", b"null"])
            && is(self.beams, [b"false", b"null"])
            && prompt.is_none_or(|prompt| is_one_prompt(body, prompt))
    }
}

/// Whether the value is a text, or a list of token ids; a list of anything else has several
/// prompts.
fn is_one_prompt(body: &RequestBody, prompt: BodySpan) -> bool {
    let bytes = body.slices(prompt).flatten();
    let mut bytes = bytes.filter(|byte| !byte.is_ascii_whitespace());
    match bytes.next() {
        Some(b'"') => true,
        Some(b'[') => bytes.next().is_some_and(u8::is_ascii_digit),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use crate::request::fields::BodyFields;

    fn has_one_answer(body: &str) -> bool {
        let body = Bytes::copy_from_slice(body.as_bytes()).into();
        BodyFields::parse(&body).expect("valid").has_one_answer
    }

    #[test]
    fn requests_for_several_answers_or_of_several_prompts_are_recognized() {
        for one in [
            r#"{"messages":[]}"#,
            r#"{"n":1,"best_of":null,"prompt":"a"}"#,
            r#"{"n":3,"n":1,"prompt":[ 1, 2]}"#,
            r#"{"use_beam_search":false}"#,
        ] {
            assert!(has_one_answer(one), "{one}");
        }
        for several in [
            r#"{"n":2}"#,
            r#"{"n":"1"}"#,
            r#"{"best_of":4}"#,
            r#"{"use_beam_search":true}"#,
            r#"{"prompt":["a"]}"#,
            r#"{"prompt":[[1,2],[3]]}"#,
            r#"{"prompt":[]}"#,
        ] {
            assert!(!has_one_answer(several), "{several}");
        }
    }
}
