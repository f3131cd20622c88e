//! Reads `/v1/models`: which base models and LoRA adapters a server answers to.
//!
//! Lenient, because the list is OpenAI's but the fields that matter here (`parent`,
//! `max_model_len`) are vLLM's and SGLang's own: an entry without a usable name is passed over, a
//! field of another type counts as absent.

use std::{collections::HashSet, sync::Arc};

use serde::Deserialize;
use serde_json::Value;

/// Most models that are kept of one server.
pub const MAX_MODELS: usize = 1_024;

/// Longest model name in bytes that is kept.
const MAX_NAME: usize = 512;

/// One model that a server answers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelCard {
    /// The name that requests put into `model`.
    pub name: Arc<str>,
    /// The base model, when this is a LoRA adapter.
    pub parent: Option<Arc<str>>,
    /// Longest prompt plus answer in tokens.
    pub max_model_len: Option<u32>,
}

/// The body is not a list of models.
#[derive(Debug, thiserror::Error)]
#[error("not a model list, which is an object with an array `data`: {0}")]
pub struct NotAModelList(#[from] serde_json::Error);

#[derive(Deserialize)]
struct List {
    data: Vec<Value>,
}

/// Reads the body of an answer to `GET /v1/models`.
///
/// # Errors
/// When the body is not an object with an array `data`.
pub fn read(body: &[u8]) -> Result<Vec<ModelCard>, NotAModelList> {
    let List { data } = serde_json::from_slice(body)?;
    let mut seen = HashSet::new();
    let cards = data
        .iter()
        .filter_map(ModelCard::read)
        .filter(|card| seen.insert(Arc::clone(&card.name)));
    Ok(cards.take(MAX_MODELS).collect())
}

// === ModelCard ===

impl ModelCard {
    fn read(entry: &Value) -> Option<Self> {
        let text = |key: &str| {
            entry
                .get(key)?
                .as_str()
                .filter(|name| (1..=MAX_NAME).contains(&name.len()))
                .map(Arc::from)
        };
        let length = |key: &str| entry.get(key)?.as_u64()?.try_into().ok();
        Some(Self {
            name: text("id")?,
            parent: text("parent"),
            max_model_len: length("max_model_len"),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VLLM: &str = r#"{"object":"list","data":[
        {"id":"tiny","object":"model","created":1795320189,"owned_by":"vllm","root":"/models/tiny-llama","parent":null,
         "max_model_len":4096,"permission":[{"id":"modelperm-8058","group":null,"is_blocking":false}]},
        {"id":"lora-a","object":"model","root":"/models/lora-a","parent":"tiny","max_model_len":null}]}"#;

    fn card(name: &str, parent: Option<&str>, max_model_len: Option<u32>) -> ModelCard {
        ModelCard {
            name: name.into(),
            parent: parent.map(Into::into),
            max_model_len,
        }
    }

    #[test]
    fn base_models_and_their_adapters_are_distinguished() {
        let cards = read(VLLM.as_bytes()).expect("a model list");
        assert_eq!(
            cards,
            [
                card("tiny", None, Some(4096)),
                card("lora-a", Some("tiny"), None)
            ]
        );
    }

    #[test]
    fn unusable_entries_are_passed_over_and_repeated_names_count_once() {
        let body = r#"{"data":[{"id":7},{"object":"model"},"x",{"id":""},{"id":"m","parent":3,"max_model_len":-1},{"id":"m"}]}"#;
        assert_eq!(
            read(body.as_bytes()).expect("a model list"),
            [card("m", None, None)]
        );
    }

    #[test]
    fn another_document_is_an_error_that_says_what_was_expected() {
        let error = read(br#"{"models":[]}"#).expect_err("no data");
        assert!(error.to_string().contains("array `data`"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(body in proptest::collection::vec(any::<u8>(), 0..500)) {
            let _either = read(&body);
        }
    }
}
