//! The question, in either encoding.
//!
//! ```json
//! {"model":"m","tenant_id":"default","block_size":16,"token_ids":[1,2,…],"lora_name":"a","cache_salt":"s"}
//! ```
//!
//! Nothing else may be in it: the conductor in C++ refuses fields that it does not know. Only whole
//! blocks are asked about, as no other tokens count.

use bytes::Bytes;
use serde::{Serialize, Serializer};

use super::{Conductor, Encoding, Lookup, LookupOutcome, PromptBlocks};
use crate::cache_sources::kv_manager::MAX_REQUEST;

#[derive(Serialize)]
struct ConductorQuery<'a> {
    model: &'a str,
    tenant_id: &'a str,
    block_size: u32,
    token_ids: Ids<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lora_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_salt: Option<&'a str>,
}

/// A list in JSON; in msgpack the bytes of little-endian words.
enum Ids<'a> {
    List(&'a [u32]),
    Words(Vec<u8>),
}

/// The body of the question about `lookup`.
///
/// # Errors
/// [`LookupOutcome::TooLarge`].
pub(super) fn body(
    conductor: &Conductor,
    lookup: &Lookup,
    blocks: PromptBlocks<'_>,
) -> Result<Bytes, LookupOutcome> {
    let token_ids = match conductor.encoding {
        Encoding::Json => Ids::List(blocks.ids),
        Encoding::Msgpack => {
            Ids::Words(blocks.ids.iter().flat_map(|id| id.to_le_bytes()).collect())
        }
    };
    let given =
        |own: &'_ Option<_>, configured: &'_ Option<_>| own.clone().or_else(|| configured.clone());
    let (lora, salt) = (
        given(&lookup.lora, &conductor.lora),
        given(&lookup.cache_salt, &conductor.cache_salt),
    );
    let question = ConductorQuery {
        model: conductor.model.as_deref().unwrap_or(&lookup.model),
        tenant_id: &conductor.tenant,
        block_size: blocks.size,
        token_ids,
        lora_name: lora.as_deref(),
        cache_salt: salt.as_deref(),
    };
    let body = conductor.encoding.write(&question)?;
    if body.len() > MAX_REQUEST {
        Err(LookupOutcome::TooLarge)
    } else {
        Ok(body)
    }
}

impl Serialize for Ids<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::List(ids) => ids.serialize(to),
            Self::Words(words) => to.serialize_bytes(words),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::cache_sources::kv_manager::conductor::fixture;

    fn asked(conductor: &Conductor, lookup: &Lookup) -> Bytes {
        conductor.question(lookup).expect("a question")
    }

    #[test]
    fn whole_blocks_are_asked_about_in_json() {
        let lookup = Lookup {
            token_ids: Some((1..=35).collect()),
            ..fixture::lookup()
        };
        let body: Value =
            serde_json::from_slice(&asked(&Conductor::default(), &lookup)).expect("JSON");
        let ids: Vec<u32> = (1..=32).collect();
        assert_eq!(
            body,
            json!({"model": "m", "tenant_id": "default", "block_size": 16, "token_ids": ids})
        );
    }

    #[test]
    fn in_msgpack_the_ids_are_words_of_four_bytes() {
        let lookup = Lookup {
            token_ids: Some([1, 258].into()),
            block_size: Some(2),
            ..fixture::lookup()
        };
        let conductor = Conductor {
            encoding: Encoding::Msgpack,
            ..Conductor::default()
        };
        let body = asked(&conductor, &lookup);
        // A map of four; token_ids is `bin 8` of eight bytes.
        assert_eq!(body[0], 0x84);
        assert!(
            body.ends_with(b"\xa9token_ids\xc4\x08\x01\x00\x00\x00\x02\x01\x00\x00"),
            "{body:?}"
        );
    }

    #[test]
    fn what_the_request_says_of_adapter_and_salt_counts_before_what_is_configured() {
        let some = |text: &str| Some(Arc::from(text));
        let conductor = Conductor {
            lora: some("base"),
            cache_salt: some("all"),
            model: some("there"),
            ..Conductor::default()
        };
        let read =
            |lookup| serde_json::from_slice::<Value>(&asked(&conductor, &lookup)).expect("JSON");
        let plain = read(fixture::lookup());
        assert_eq!(
            (&plain["lora_name"], &plain["cache_salt"], &plain["model"]),
            (&json!("base"), &json!("all"), &json!("there"))
        );
        let own = read(Lookup {
            lora: some("sql"),
            cache_salt: some("t1"),
            ..fixture::lookup()
        });
        assert_eq!(
            (&own["lora_name"], &own["cache_salt"]),
            (&json!("sql"), &json!("t1"))
        );
    }

    #[test]
    fn without_tokens_or_their_blocks_there_is_no_question() {
        let conductor = Conductor::default();
        let ask = |lookup: Lookup| conductor.question(&lookup);
        assert_eq!(
            ask(Lookup {
                token_ids: None,
                ..fixture::lookup()
            }),
            Err(LookupOutcome::NoTokens)
        );
        assert_eq!(
            ask(Lookup {
                block_size: None,
                ..fixture::lookup()
            }),
            Err(LookupOutcome::NoBlockSize)
        );
        let short = Lookup {
            token_ids: Some([1].into()),
            ..fixture::lookup()
        };
        assert_eq!(conductor.has_question(&short), Ok(false));
    }
}
