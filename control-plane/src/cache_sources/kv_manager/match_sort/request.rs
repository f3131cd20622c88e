//! The question, written around the prompt's own bytes.
//!
//! ```json
//! {"model":"m","prompt":"…","candidates":["10.0.0.7:8000"]}
//! {"model":"m","messages":[…],"candidates":["10.0.0.7:8000"],"token_ids":[1,2]}
//! ```
//!
//! The format of `/match_sort` is not published; this one is ours. `candidates` lets a manager
//! leave out servers that may not be chosen, and may be ignored. `token_ids` are there when the
//! pool has a tokenizer, and made them in time.

use bytes::Bytes;
use serde_json::value::RawValue;

use super::{Lookup, LookupOutcome, Text};
use crate::cache_sources::kv_manager::MAX_REQUEST;

/// The body of the question about `lookup`.
///
/// # Errors
/// [`LookupOutcome::TooLarge`], or [`LookupOutcome::Malformed`] when the prompt is not exactly one
/// JSON value, so that no prompt can add fields of its own to the question.
pub(super) fn body(lookup: &Lookup) -> Result<Bytes, LookupOutcome> {
    let Lookup {
        model,
        text,
        candidates,
        token_ids,
        ..
    } = lookup;
    let (key, raw) = match text {
        Text::Prompt(raw) => ("prompt", raw),
        Text::Messages(raw) => ("messages", raw),
    };
    if raw.len() > MAX_REQUEST {
        return Err(LookupOutcome::TooLarge);
    }
    let value: &RawValue = serde_json::from_slice(raw).map_err(|_| LookupOutcome::Malformed)?;
    let authorities: Vec<&str> = candidates
        .iter()
        .map(|candidate| &*candidate.authority)
        .collect();

    let mut body = String::with_capacity(raw.len() + model.len() + 32 * authorities.len() + 64);
    for part in [
        r#"{"model":"#,
        &json(&**model)?,
        r#",""#,
        key,
        r#"":"#,
        value.get(),
        r#","candidates":"#,
    ] {
        body.push_str(part);
    }
    body.push_str(&json(&authorities)?);
    if let Some(ids) = token_ids {
        body.extend([r#","token_ids":"#, &json(ids)?]);
    }
    body.push('}');
    if body.len() > MAX_REQUEST {
        return Err(LookupOutcome::TooLarge);
    }
    Ok(Bytes::from(body))
}

fn json(value: &(impl serde::Serialize + ?Sized)) -> Result<String, LookupOutcome> {
    serde_json::to_string(value).map_err(|_| LookupOutcome::Malformed)
}

#[cfg(test)]
mod tests {
    use hermes_core::snapshot::EndpointId;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::cache_sources::kv_manager::LookupCandidate;

    fn lookup(text: Text) -> Lookup {
        let candidates = vec![LookupCandidate {
            endpoint: EndpointId(1),
            authority: "10.0.0.7:8000".into(),
            name: "".into(),
        }];
        Lookup {
            model: "a \"model\"".into(),
            text,
            candidates,
            prompt_tokens: 10,
            ..Lookup::default()
        }
    }

    #[test]
    fn the_prompt_is_in_the_question_byte_for_byte() {
        let raw = r#"[ {"role":"user", "content":"hé\u0301 \n 1.0e5"} ]"#;
        let body = body(&lookup(Text::Messages(raw.into()))).expect("a question");
        let text = std::str::from_utf8(&body).expect("text");
        assert_eq!(
            text,
            format!(r#"{{"model":"a \"model\"","messages":{raw},"candidates":["10.0.0.7:8000"]}}"#)
        );
    }

    #[test]
    fn token_ids_are_in_the_question_when_they_are_known() {
        let asked = Lookup {
            token_ids: Some([1, 2].into()),
            ..lookup(Text::Prompt("\"p\"".into()))
        };
        let text = String::from_utf8(body(&asked).expect("a question").to_vec()).expect("text");
        assert!(text.ends_with(r#","token_ids":[1,2]}"#), "{text}");
    }

    #[test]
    fn a_prompt_cannot_add_fields_to_the_question() {
        let smuggled = r#""hello","candidates":["10.9.9.9:1"],"x":1"#;
        assert_eq!(
            body(&lookup(Text::Prompt(smuggled.into()))),
            Err(LookupOutcome::Malformed)
        );
    }

    #[test]
    fn a_question_over_the_limit_is_not_asked() {
        let long = format!("\"{}\"", "x".repeat(MAX_REQUEST - 2));
        assert_eq!(
            body(&lookup(Text::Prompt(long.into()))),
            Err(LookupOutcome::TooLarge)
        );
    }

    proptest! {
        #[test]
        fn the_question_is_json_for_every_prompt(prompt in any::<String>(), model in any::<String>()) {
            let raw = serde_json::to_vec(&prompt).expect("a string is JSON");
            let asked = Lookup { model: model.as_str().into(), ..lookup(Text::Prompt(raw.into())) };
            let read: Value = serde_json::from_slice(&body(&asked).expect("a question")).expect("JSON");
            prop_assert_eq!(read, json!({"model": model, "prompt": prompt, "candidates": ["10.0.0.7:8000"]}));
        }
    }
}
