//! Names everything that the token ids of a request depend on.

use hermes_proto::v1::PromptText;
use xxhash_rust::xxh3::Xxh3;

use super::memo::TokenKey;

/// The key of `text` for `model`. Seeded, so that no client can aim at what is remembered of
/// another's prompt.
pub(super) fn key(text: &PromptText, model: Option<&str>, seed: u64) -> TokenKey {
    let mut hash = Xxh3::with_seed(seed);
    for part in parts(text)
        .into_iter()
        .chain([model.unwrap_or_default().as_bytes()])
    {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let flags = [
        text.add_generation_prompt,
        text.continue_final_message,
        text.add_special_tokens,
    ];
    hash.update(&flags.map(|flag| flag.map_or(2, u8::from)));
    hash.update(&[u8::from(text.incomplete)]);
    hash.update(&text.kind.to_le_bytes());
    hash.update(&text.api.to_le_bytes());
    hash.digest128()
}

/// How much there is to be made into tokens, in bytes of JSON.
pub(super) fn length(text: &PromptText) -> usize {
    parts(text).iter().map(|part| part.len()).sum()
}

/// All but the salt, of which no token is made.
fn parts(text: &PromptText) -> [&[u8]; 6] {
    let PromptText {
        json,
        tools,
        system,
        template_kwargs,
        documents,
        reasoning,
        ..
    } = text;
    [json, tools, system, template_kwargs, documents, reasoning]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn whatever_changes_the_tokens_changes_the_key() {
        let x = || bytes::Bytes::from_static(b"x");
        let plain = PromptText::default;
        let texts = [
            plain(),
            PromptText {
                json: x(),
                ..plain()
            },
            PromptText {
                tools: x(),
                ..plain()
            },
            PromptText {
                system: x(),
                ..plain()
            },
            PromptText {
                template_kwargs: x(),
                ..plain()
            },
            PromptText {
                documents: x(),
                ..plain()
            },
            PromptText {
                reasoning: x(),
                ..plain()
            },
            PromptText { kind: 1, ..plain() },
            PromptText { api: 1, ..plain() },
            PromptText {
                add_generation_prompt: Some(false),
                ..plain()
            },
            PromptText {
                add_generation_prompt: Some(true),
                ..plain()
            },
            PromptText {
                continue_final_message: Some(true),
                ..plain()
            },
            PromptText {
                add_special_tokens: Some(true),
                ..plain()
            },
            PromptText {
                incomplete: true,
                ..plain()
            },
        ];
        let keys: HashSet<TokenKey> = texts.iter().map(|text| key(text, None, 7)).collect();
        assert_eq!(keys.len(), texts.len());
        assert!(
            !keys.contains(&key(&plain(), Some("m"), 7)) && !keys.contains(&key(&plain(), None, 8))
        );
        let salted = PromptText {
            cache_salt: x(),
            ..plain()
        };
        assert_eq!(key(&salted, None, 7), key(&plain(), None, 7));
    }
}
