//! The prompt text that a proxy sends to exact cache sources, if the pool has any.

use bytes::Bytes;
use hermes_proto::v1::{
    PromptText,
    prompt_text::{Api as Wire, Kind},
};
use http::Method;

use crate::request::{
    api::{self, Api},
    fields::BodyFields,
    prompt::{PromptTemplate, RequestPrompt},
    request_body::RequestBody,
};

/// Limit of the bytes of a prompt that is looked up, with everything that goes into it.
const MAX_LOOKUP_BYTES: usize = 1 << 20;

/// The lookup for a `POST` of `body` to `path`, as a proxy sends it: for tools and tests. `None`
/// when the body is invalid or has no prompt.
#[must_use]
pub fn of(path: &str, body: &Bytes) -> Option<PromptText> {
    let route = api::route(&Method::POST, path, &[] as &[&str]).ok()?;
    let body = RequestBody::from(body.clone());
    let fields = BodyFields::parse(&body).ok()?;
    lookup_text(&RequestPrompt::of(&fields.prompt, &body), &body, route.api)
}

/// The text of a prompt for exact cache sources, if there is one within the limit: copied where it
/// crosses pieces of the body.
pub(crate) fn lookup_text(
    prompt: &RequestPrompt,
    body: &RequestBody,
    api: Api,
) -> Option<PromptText> {
    let RequestPrompt {
        salt,
        tools,
        system,
        conversation,
        has_messages,
        template,
        ..
    } = prompt;
    let PromptTemplate {
        kwargs,
        documents,
        reasoning,
        ..
    } = template;
    let parts = [
        salt,
        tools,
        system,
        conversation,
        kwargs,
        documents,
        reasoning,
    ];
    let bytes: usize = parts.iter().map(|part| part.len()).sum();
    if conversation.is_empty() || bytes > MAX_LOOKUP_BYTES {
        return None;
    }
    let kind = if *has_messages {
        Kind::Messages
    } else {
        Kind::Prompt
    };
    Some(PromptText {
        json: body.contiguous(*conversation),
        kind: kind.into(),
        api: wire(api).into(),
        tools: body.contiguous(*tools),
        system: body.contiguous(*system),
        template_kwargs: body.contiguous(*kwargs),
        documents: body.contiguous(*documents),
        reasoning: body.contiguous(*reasoning),
        cache_salt: body.contiguous(*salt),
        add_generation_prompt: template.add_generation_prompt,
        continue_final_message: template.continue_final_message,
        add_special_tokens: template.add_special_tokens,
        incomplete: template.has_more,
    })
}

const fn wire(api: Api) -> Wire {
    match api {
        Api::Chat => Wire::Chat,
        Api::Completions => Wire::Completions,
        Api::Responses => Wire::Responses,
        Api::Messages => Wire::Messages,
        Api::Embeddings => Wire::Embeddings,
        Api::StoredResponse | Api::Plain | Api::Models | Api::Model | Api::Extra => {
            Wire::Unspecified
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text_of(body: &str, api: Api) -> Option<PromptText> {
        let body = RequestBody::from(Bytes::copy_from_slice(body.as_bytes()));
        let fields = BodyFields::parse(&body).expect("valid");
        lookup_text(&RequestPrompt::of(&fields.prompt, &body), &body, api)
    }

    #[test]
    fn a_lookup_is_that_of_the_api_behind_the_path() {
        let body = Bytes::from_static(br#"{"prompt":"hello"}"#);
        assert_eq!(
            of("/v1/completions", &body).expect("a prompt").api(),
            Wire::Completions
        );
        assert!(of("/nowhere", &body).is_none() && of("/v1/completions", &Bytes::new()).is_none());
    }

    #[test]
    fn a_lookup_carries_the_messages_as_the_client_wrote_them() {
        let text =
            text_of(r#"{"messages": [ {"role":"user"} ]}"#, Api::Chat).expect("there is one");
        assert_eq!(
            (text.json.as_ref(), text.kind()),
            (&br#"[ {"role":"user"} ]"#[..], Kind::Messages)
        );
        assert_eq!((text.api(), text.incomplete), (Wire::Chat, false));
        assert!(text_of(r#"{"x":1}"#, Api::Chat).is_none());
    }

    #[test]
    fn a_lookup_carries_the_parameters_of_the_template() {
        let body = r#"{"messages":[],"tools":[{"x":1}],"chat_template_kwargs":{"enable_thinking":false},
            "reasoning_effort":"low","cache_salt":"s","add_generation_prompt":false,"continue_final_message":"no"}"#;
        let text = text_of(body, Api::Chat).expect("there is one");
        assert_eq!(
            (&text.tools[..], &text.template_kwargs[..]),
            (&br#"[{"x":1}]"#[..], &br#"{"enable_thinking":false}"#[..])
        );
        assert_eq!(
            (&text.reasoning[..], &text.cache_salt[..]),
            (&br#""low""#[..], &br#""s""#[..])
        );
        assert_eq!(
            (text.add_generation_prompt, text.continue_final_message),
            (Some(false), None)
        );
    }

    #[test]
    fn a_prompt_with_other_fields_is_marked_incomplete() {
        for part in [
            r#""chat_template":"x""#,
            r#""truncate_prompt_tokens":5"#,
            r#""previous_response_id":"resp_1""#,
        ] {
            let body = format!("{{\"input\":\"hello\",{part}}}");
            assert!(
                text_of(&body, Api::Responses)
                    .expect("there is one")
                    .incomplete,
                "{part}"
            );
        }
        assert!(
            !text_of(r#"{"prompt":"x","suffix":null}"#, Api::Completions)
                .expect("one")
                .incomplete
        );
    }

    #[test]
    fn a_prompt_above_the_limit_has_no_lookup() {
        let long = "x".repeat(MAX_LOOKUP_BYTES / 2);
        let body = format!(r#"{{"prompt":"{long}","tools":["{long}"]}}"#);
        assert!(text_of(&body, Api::Completions).is_none());
    }
}
