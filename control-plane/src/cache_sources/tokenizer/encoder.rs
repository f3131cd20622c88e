//! A tokenizer and a chat template that were read from files: prompts in, exact token ids out.
//!
//! What engines do is done here too: truncation and padding that a tokenizer's file asks for are
//! off; a chat gets the special tokens of its template alone; a plain text gets those of the
//! tokenizer. A long conversation costs its newest turn, because the tokens of old turns are
//! remembered piece by piece ([`super::pieces`]).

use std::sync::Arc;

use tokenizers::Tokenizer;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::{
    Failure, chat::Chat, memo::TokenCache, pieces::Cuts, template::ChatTemplate,
    wanted::TokenizeInput,
};

/// Shorter pieces are encoded again: that takes no longer than a cache lookup.
const WORTH_KEEPING: usize = 32;

/// See the module.
#[derive(Debug)]
pub(super) struct Encoder {
    tokenizer: Tokenizer,
    cuts: Option<Cuts>,
    /// `None`: only plain prompts can be made into tokens.
    template: Option<ChatTemplate>,
    seed: u64,
}

/// What was made, and what of it had been made before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct EncodedPrompt {
    pub(super) ids: Vec<u32>,
    /// Ids that came from memory.
    pub(super) remembered: usize,
}

// === Encoder ===

impl Encoder {
    /// `seed` keeps what this encoder remembers apart from what others do.
    pub(super) fn new(mut tokenizer: Tokenizer, template: Option<ChatTemplate>, seed: u64) -> Self {
        // None is always possible: only a truncation that is too short for its stride is refused.
        let _off = tokenizer.with_truncation(None);
        tokenizer.with_padding(None);
        Self {
            cuts: Cuts::of(&tokenizer),
            tokenizer,
            template,
            seed,
        }
    }

    /// Keeps what it makes apart from what others make.
    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// Whether the same question may have another answer tomorrow.
    pub(super) fn reads_clock(&self) -> bool {
        self.template
            .as_ref()
            .is_some_and(ChatTemplate::reads_clock)
    }

    /// Tokens in the vocabulary.
    pub(super) fn vocabulary(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// Whether it can make tokens of conversations.
    pub(super) fn has_template(&self) -> bool {
        self.template.is_some()
    }

    /// The tokens of `wanted`, with the help of `memo`. `goes_on` is asked now and then whether
    /// they are still wanted.
    pub(super) fn ids(
        &self,
        wanted: &TokenizeInput,
        memo: &TokenCache,
        goes_on: impl Fn() -> bool,
    ) -> Result<EncodedPrompt, Failure> {
        match wanted {
            TokenizeInput::Ids(ids) => Ok(EncodedPrompt {
                ids: ids.to_vec(),
                remembered: 0,
            }),
            TokenizeInput::Text { text, special } => self.encode(text, *special, memo, goes_on),
            TokenizeInput::Chat(_) if !goes_on() => Err(Failure::Late),
            TokenizeInput::Chat(chat) => {
                self.encode(&self.render(chat)?, chat.special, memo, goes_on)
            }
        }
    }

    /// The text that the engine would make of a conversation.
    fn render(&self, chat: &Chat) -> Result<String, Failure> {
        self.template
            .as_ref()
            .ok_or(Failure::Template)?
            .render(chat)
    }

    fn encode(
        &self,
        text: &str,
        special: bool,
        memo: &TokenCache,
        goes_on: impl Fn() -> bool,
    ) -> Result<EncodedPrompt, Failure> {
        let Some(cuts) = self.cuts.as_ref().filter(|_| !special) else {
            return Ok(EncodedPrompt {
                ids: self.whole(text, special)?,
                remembered: 0,
            });
        };
        let mut made = EncodedPrompt::default();
        for piece in cuts.pieces(text) {
            if !goes_on() {
                return Err(Failure::Late);
            }
            self.piece(piece, memo, &mut made)?;
        }
        Ok(made)
    }

    fn piece(
        &self,
        piece: &str,
        memo: &TokenCache,
        made: &mut EncodedPrompt,
    ) -> Result<(), Failure> {
        if piece.len() < WORTH_KEEPING {
            made.ids.extend(self.whole(piece, false)?);
            return Ok(());
        }
        let key = xxh3_128_with_seed(piece.as_bytes(), self.seed);
        if let Some(known) = memo.get(key) {
            made.ids.extend_from_slice(&known);
            made.remembered += known.len();
            return Ok(());
        }
        let ids: Arc<[u32]> = self.whole(piece, false)?.into();
        made.ids.extend_from_slice(&ids);
        memo.put(key, &ids);
        Ok(())
    }

    fn whole(&self, text: &str, special: bool) -> Result<Vec<u32>, Failure> {
        let encoding = self
            .tokenizer
            .encode_fast(text, special)
            .map_err(|_| Failure::Tokenizer)?;
        Ok(encoding.get_ids().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::cache_sources::tokenizer::{files, fixture};

    fn encoder() -> Encoder {
        files::load(&fixture::files(), 1).expect("the fixture is usable")
    }

    fn chat(messages: &serde_json::Value) -> TokenizeInput {
        let messages = messages.to_string().into();
        TokenizeInput::Chat(Box::new(Chat {
            messages,
            generates: true,
            ..Chat::default()
        }))
    }

    fn made(encoder: &Encoder, wanted: &TokenizeInput, memo: &TokenCache) -> EncodedPrompt {
        encoder.ids(wanted, memo, || true).expect("tokens")
    }

    #[test]
    fn a_plain_text_gets_the_tokenizers_special_tokens_and_a_chat_does_not() {
        let (encoder, memo) = (encoder(), TokenCache::new(0));
        let text = |special| TokenizeInput::Text {
            text: "hello world".into(),
            special,
        };
        assert_eq!(
            made(&encoder, &text(true), &memo).ids,
            [302, 259, 264],
            "<s>, hello, world"
        );
        assert_eq!(made(&encoder, &text(false), &memo).ids, [259, 264]);
        let asked = chat(&json!([{"role": "user", "content": "hello world"}]));
        let newline = 198;
        // <|im_start|> user \n hello world <|im_end|> \n <|im_start|> assistant \n
        let expected = [300, 267, newline, 259, 264, 301, newline, 300, 280, newline];
        assert_eq!(made(&encoder, &asked, &memo).ids, expected);
    }

    #[test]
    fn a_file_that_asks_for_truncation_is_not_obeyed() {
        let text = TokenizeInput::Text {
            text: "hello ".repeat(100),
            special: false,
        };
        assert!(
            made(&encoder(), &text, &TokenCache::new(0)).ids.len() > 100,
            "the file says 16"
        );
    }

    #[test]
    fn the_next_turn_of_a_conversation_costs_that_turn() {
        let (encoder, memo) = (encoder(), TokenCache::new(1 << 20));
        let mut turns =
            vec![json!({"role": "user", "content": "write something about routers, please"})];
        let first = made(&encoder, &chat(&json!(turns)), &memo);
        assert_eq!(first.remembered, 0);
        turns
            .push(json!({"role": "assistant", "content": "they send requests where the cache is"}));
        turns.push(json!({"role": "user", "content": "and then what happens to the cache?"}));
        let second = made(&encoder, &chat(&json!(turns)), &memo);
        let shared = first
            .ids
            .iter()
            .zip(&second.ids)
            .take_while(|(a, b)| a == b)
            .count();
        assert!(
            shared > 20 && second.remembered >= shared - 8,
            "{shared} shared, {} remembered",
            second.remembered
        );
        assert_eq!(
            second.ids,
            made(&encoder, &chat(&json!(turns)), &TokenCache::new(0)).ids,
            "as if nothing were remembered"
        );
    }

    #[test]
    fn a_prompt_without_waiters_is_given_up() {
        let wanted = chat(&json!([{"role": "user", "content": "hello"}]));
        assert_eq!(
            encoder().ids(&wanted, &TokenCache::new(0), || false),
            Err(Failure::Late)
        );
    }

    proptest! {
        #[test]
        fn what_is_remembered_never_changes_the_tokens(
            conversations in proptest::collection::vec(
                proptest::collection::vec((prop_oneof![Just("user"), Just("assistant")], "(hello world|<\\|im_end\\|>|\\PC| ){0,20}"), 1..5),
                1..6,
            ),
        ) {
            static ENCODER: LazyLock<Encoder> = LazyLock::new(encoder);
            let (encoder, memo) = (&*ENCODER, TokenCache::new(4_000));
            for turns in conversations {
                let messages: Vec<_> = turns.iter().map(|(role, text)| json!({"role": role, "content": text})).collect();
                let wanted = chat(&json!(messages));
                prop_assert_eq!(made(encoder, &wanted, &memo).ids, made(encoder, &wanted, &TokenCache::new(0)).ids);
            }
        }
    }
}
