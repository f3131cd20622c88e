//! What a choice may read of a request: sizes, hashes and keys, never the prompt itself.

use std::sync::Arc;

use bytes::Bytes;
use hermes_core::{
    policy::{Affinity, Policy, SessionKey, Strategy, TenantKey},
    prefix::Chain,
    query::Query,
};
use hermes_proto::v1::{
    LookupText,
    lookup_text::{Api as Wire, Kind},
};
use http::{HeaderMap, HeaderValue, header};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64;

use crate::request::{api::Api, fields::BodyFields};

/// The format of the prompt's hash chain; a change of what is fed must change it.
const CHAIN_FORMAT: &[u8] = b"hermes-prefix-1";

/// Bytes of text that a token stands for, on average: an estimate for planning, never for accounting.
pub(crate) const BYTES_PER_TOKEN: u64 = 4;

/// The longest prompt that is handed to a source of exact knowledge of caches, with everything that goes into it.
const LONGEST_LOOKUP: usize = 1 << 20;

/// The parts of a body that become the prompt, as slices of its bytes: raw JSON, in the order of chat templates.
pub(crate) struct Prompt {
    /// Of all parts, or of the whole body where no part is known.
    bytes: u64,
    salt: Bytes,
    tools: Bytes,
    system: Bytes,
    /// The part that grows with a conversation.
    conversation: Bytes,
    kind: Kind,
    template: PromptTemplate,
    priority: i32,
    user: Option<u64>,
}

/// What a chat template is told besides the conversation. Raw JSON, and the client's own settings where it has any.
#[derive(Default)]
struct PromptTemplate {
    kwargs: Bytes,
    documents: Bytes,
    reasoning: Bytes,
    add_generation_prompt: Option<bool>,
    continue_final_message: Option<bool>,
    add_special_tokens: Option<bool>,
    /// Something changes the prompt that is not among the parts.
    has_more: bool,
}

impl Prompt {
    /// Of a body that is not read: its length says how much work it is, nothing more is known.
    pub(crate) fn unread(length: usize) -> Self {
        Self {
            bytes: length as u64,
            salt: Bytes::new(),
            tools: Bytes::new(),
            system: Bytes::new(),
            conversation: Bytes::new(),
            kind: Kind::Prompt,
            template: PromptTemplate::default(),
            priority: 0,
            user: None,
        }
    }

    /// The parts of `body` that `fields` found in it.
    pub(crate) fn of(fields: &BodyFields<'_>, body: &Bytes) -> Self {
        let part = |raw: Option<&RawValue>| {
            raw.map(|raw| body.slice_ref(raw.get().as_bytes()))
                .unwrap_or_default()
        };
        let tools = part(fields.tools);
        let system = part(fields.system.or(fields.instructions));
        let conversation = part(fields.messages.or(fields.prompt).or(fields.input));
        Self {
            bytes: (tools.len() + system.len() + conversation.len()) as u64,
            salt: part(fields.cache_salt),
            tools,
            system,
            conversation,
            kind: if fields.messages.is_some() {
                Kind::Messages
            } else {
                Kind::Prompt
            },
            template: PromptTemplate {
                kwargs: part(fields.template.kwargs),
                documents: part(fields.template.documents),
                reasoning: part(fields.template.reasoning),
                add_generation_prompt: fields.template.add_generation_prompt,
                continue_final_message: fields.template.continue_final_message,
                add_special_tokens: fields.template.add_special_tokens,
                has_more: fields.template.has_more || fields.previous_response_id.is_some(),
            },
            // vLLM, which gets the body too, means by a lower number an earlier turn.
            priority: -fields.priority,
            user: fields.user.as_deref().map(|user| xxh3_64(user.as_bytes())),
        }
    }

    /// Lets another priority than the body's count.
    pub(crate) const fn prioritize(&mut self, priority: i32) {
        self.priority = priority;
    }

    /// What a choice under `policy` may read. `hashed` says that the prompt's hashes are wanted in any case.
    pub(crate) fn query(
        &self,
        policy: &Policy,
        model: Option<&str>,
        headers: &HeaderMap,
        hashed: bool,
    ) -> Query {
        let tokens = u32::try_from(self.bytes / BYTES_PER_TOKEN)
            .unwrap_or(u32::MAX)
            .max(1);
        let session = match &policy.strategy {
            Strategy::SessionAffinity(affinity) => self.session(affinity, headers),
            _ => None,
        };
        let blocks = if hashed || policy.strategy.needs_prefix() {
            self.blocks(model.unwrap_or_default(), policy.block_bytes)
        } else {
            Arc::default()
        };
        Query {
            prompt_bytes: self.bytes,
            prompt_tokens: tokens,
            blocks,
            session,
            priority: self.priority,
            tenant: tenant(&policy.tenant, model, headers),
            ..Query::default()
        }
    }

    /// The prompt for a source of exact knowledge of caches, if there is one and it is not too long.
    pub(crate) fn lookup_text(&self, api: Api) -> Option<LookupText> {
        let Self {
            salt,
            tools,
            system,
            conversation,
            kind,
            template,
            ..
        } = self;
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
        if conversation.is_empty() || bytes > LONGEST_LOOKUP {
            return None;
        }
        Some(LookupText {
            json: conversation.clone(),
            kind: (*kind).into(),
            api: wire(api).into(),
            tools: tools.clone(),
            system: system.clone(),
            template_kwargs: kwargs.clone(),
            documents: documents.clone(),
            reasoning: reasoning.clone(),
            cache_salt: salt.clone(),
            add_generation_prompt: template.add_generation_prompt,
            continue_final_message: template.continue_final_message,
            add_special_tokens: template.add_special_tokens,
            incomplete: template.has_more,
        })
    }

    /// The prompt's chained block hashes; see [`hermes_core::prefix`] for the canonical form.
    fn blocks(&self, model: &str, block_bytes: u32) -> Arc<[u64]> {
        let mut chain = Chain::new(
            &[CHAIN_FORMAT, model.as_bytes(), &self.salt],
            block_bytes as usize,
        );
        chain.section(&self.tools);
        chain.section(&self.system);
        chain.section(inside(&self.conversation));
        chain.finish()
    }

    /// A hash of the first session key that the request has.
    fn session(&self, affinity: &Affinity, headers: &HeaderMap) -> Option<u64> {
        affinity.keys.iter().find_map(|key| {
            let value = match key {
                SessionKey::Header(name) => headers.get(&**name),
                SessionKey::Key => headers.get(header::AUTHORIZATION),
                SessionKey::User => return self.user,
            };
            value
                .map(HeaderValue::as_bytes)
                .filter(|value| !value.is_empty())
                .map(xxh3_64)
        })
    }
}

/// A hash of what tells tenants apart, if the request has it.
fn tenant(key: &TenantKey, model: Option<&str>, headers: &HeaderMap) -> Option<u64> {
    let value = match key {
        TenantKey::Header(name) => headers.get(&**name).map(HeaderValue::as_bytes),
        TenantKey::Key => headers
            .get(header::AUTHORIZATION)
            .map(HeaderValue::as_bytes),
        TenantKey::Model => model.map(str::as_bytes),
    };
    value.filter(|value| !value.is_empty()).map(xxh3_64)
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

/// The JSON text of an array or string without what encloses it: the next turn of a conversation continues it.
fn inside(json: &[u8]) -> &[u8] {
    match json {
        [b'[', inside @ .., b']'] | [b'"', inside @ .., b'"'] => inside,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(body: &str) -> Prompt {
        let body = Bytes::copy_from_slice(body.as_bytes());
        Prompt::of(&BodyFields::parse(&body).expect("valid"), &body)
    }

    fn hashes(model: &str, body: &str) -> Arc<[u64]> {
        let policy = Policy {
            block_bytes: 16,
            ..Policy::default()
        };
        prompt(body)
            .query(&policy, Some(model), &HeaderMap::new(), false)
            .blocks
    }

    #[test]
    fn the_next_turn_of_a_conversation_begins_with_the_same_blocks() {
        let first = hashes(
            "m",
            r#"{"messages":[{"role":"user","content":"tell me about routers, please"}]}"#,
        );
        let second = hashes(
            "m",
            r#"{"messages":[{"role":"user","content":"tell me about routers, please"},{"role":"assistant","content":"they route"}]}"#,
        );
        assert!(first.len() >= 3 && second.len() > first.len());
        assert_eq!(second[..first.len()], first[..]);
    }

    #[test]
    fn models_salts_and_tools_never_share_blocks() {
        let base =
            r#"{"messages":[{"role":"user","content":"a long enough question to fill blocks"}]}"#;
        let known = hashes("m", base);
        let others = [
            hashes("lora", base),
            hashes(
                "m",
                &base.replace("{\"messages\"", "{\"cache_salt\":\"t1\",\"messages\""),
            ),
            hashes(
                "m",
                &base.replace(
                    "{\"messages\"",
                    "{\"tools\":[{\"type\":\"function\"}],\"messages\"",
                ),
            ),
            hashes("m", &base.replace("a long", "A long")),
        ];
        for other in others {
            assert_ne!(other.last(), known.last());
        }
    }

    #[test]
    fn session_keys_are_tried_in_order_and_only_hashes_leave() {
        let policy = Policy {
            strategy: Strategy::SessionAffinity(Affinity::default()),
            ..Policy::default()
        };
        let prompt = prompt(r#"{"user":"alice","messages":[]}"#);
        let session = |headers: &HeaderMap| prompt.query(&policy, None, headers, false).session;
        assert_eq!(session(&HeaderMap::new()), Some(xxh3_64(b"alice")));
        let headers = HeaderMap::from_iter([(
            http::HeaderName::from_static("x-session-id"),
            HeaderValue::from_static("s-1"),
        )]);
        assert_eq!(session(&headers), Some(xxh3_64(b"s-1")));
    }

    #[test]
    fn tenants_are_told_apart_by_what_the_policy_says_and_only_hashes_leave() {
        let prompt = prompt(r#"{"messages":[]}"#);
        let headers = HeaderMap::from_iter([
            (header::AUTHORIZATION, HeaderValue::from_static("Bearer k")),
            (
                http::HeaderName::from_static("x-team"),
                HeaderValue::from_static("blue"),
            ),
        ]);
        let tenant = |tenant, headers: &HeaderMap| {
            let policy = Policy {
                tenant,
                ..Policy::default()
            };
            prompt.query(&policy, Some("m"), headers, false).tenant
        };
        assert_eq!(tenant(TenantKey::Key, &headers), Some(xxh3_64(b"Bearer k")));
        assert_eq!(
            tenant(TenantKey::Header("x-team".into()), &headers),
            Some(xxh3_64(b"blue"))
        );
        assert_eq!(tenant(TenantKey::Model, &headers), Some(xxh3_64(b"m")));
        assert_eq!(tenant(TenantKey::Key, &HeaderMap::new()), None);
    }

    #[test]
    fn a_strategy_that_reads_no_hashes_gets_them_only_when_somebody_else_does() {
        let prompt = prompt(&format!(r#"{{"prompt":"{}"}}"#, "x".repeat(600)));
        let policy = Policy {
            strategy: Strategy::Random,
            ..Policy::default()
        };
        let blocks = |hashed| {
            prompt
                .query(&policy, None, &HeaderMap::new(), hashed)
                .blocks
                .len()
        };
        assert_eq!((blocks(false), blocks(true)), (0, 2));
    }

    #[test]
    fn a_lookup_carries_the_messages_as_the_client_wrote_them() {
        let text = prompt(r#"{"messages": [ {"role":"user"} ]}"#)
            .lookup_text(Api::Chat)
            .expect("there is one");
        assert_eq!(
            (text.json.as_ref(), text.kind()),
            (&br#"[ {"role":"user"} ]"#[..], Kind::Messages)
        );
        assert_eq!((text.api(), text.incomplete), (Wire::Chat, false));
        assert!(prompt(r#"{"x":1}"#).lookup_text(Api::Chat).is_none());
    }

    #[test]
    fn a_lookup_carries_what_else_goes_into_the_prompt() {
        let body = r#"{"messages":[],"tools":[{"x":1}],"chat_template_kwargs":{"enable_thinking":false},
            "reasoning_effort":"low","cache_salt":"s","add_generation_prompt":false,"continue_final_message":"no"}"#;
        let text = prompt(body).lookup_text(Api::Chat).expect("there is one");
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
    fn a_prompt_with_a_part_that_is_not_carried_says_so() {
        for part in [
            r#""chat_template":"x""#,
            r#""truncate_prompt_tokens":5"#,
            r#""previous_response_id":"resp_1""#,
        ] {
            let body = format!("{{\"input\":\"hello\",{part}}}");
            assert!(
                prompt(&body)
                    .lookup_text(Api::Responses)
                    .expect("there is one")
                    .incomplete,
                "{part}"
            );
        }
        assert!(
            !prompt(r#"{"prompt":"x","suffix":null}"#)
                .lookup_text(Api::Completions)
                .expect("one")
                .incomplete
        );
    }

    #[test]
    fn what_is_too_long_as_a_whole_is_not_looked_up() {
        let long = "x".repeat(LONGEST_LOOKUP / 2);
        let body = format!(r#"{{"prompt":"{long}","tools":["{long}"]}}"#);
        assert!(prompt(&body).lookup_text(Api::Completions).is_none());
    }
}
