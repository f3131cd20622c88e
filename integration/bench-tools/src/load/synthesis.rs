//! Prompt text made from block identities: equal identities give equal bytes, different ones
//! different bytes.
//!
//! A public trace names the 512-token blocks of each prompt by number and keeps the text secret.
//! What matters for routing is only which prompts share a prefix, so any text with the same sharing
//! will do.
//!
//! The text is three-letter English words, each followed by a space: four bytes, and one token in
//! the vocabularies of today's models, so that lengths in tokens come out close to the trace's on a
//! real engine too.

use hermes_core::rng::SeededRng;

/// Bytes a token takes in synthesized text: three letters and a space.
pub const BYTES_PER_TOKEN: usize = 4;

/// Tokens in one block of the Mooncake traces.
pub const TOKENS_PER_BLOCK: usize = 512;

/// 64 words of [`BYTES_PER_TOKEN`] with their space, so that six random bits choose one.
const WORDS: &str = "the and for you are not but all can had her one our out day get has him his how man new \
    now old see two way who boy did put say she too use war yes air arm art ask bad bag bed \
    big box bus car cat cut dog ear egg eye far few fly fun gas hot ice job key law ";

/// Appends `tokens` tokens of the text that belongs to block `id`.
///
/// The text of a shorter length is a prefix of the text of a longer one, so that a prompt's partial
/// last block shares its bytes with the full block of a prompt that goes on.
pub fn push_block(text: &mut String, id: u64, tokens: usize) {
    let mut rng = SeededRng::new(id);
    let mut bits = 0u64;
    for index in 0..tokens {
        if index % 10 == 0 {
            bits = rng.next_u64();
        }
        let word = (bits & 63) as usize * BYTES_PER_TOKEN;
        bits >>= 6;
        text.push_str(&WORDS[word..word + BYTES_PER_TOKEN]);
    }
}

/// The prompt of `input_tokens` tokens whose blocks are `ids`, each `block_tokens` long but for the
/// last.
///
/// Ends early where the trace names fewer blocks than the length asks for.
#[must_use]
pub fn prompt(ids: &[u64], input_tokens: usize, block_tokens: usize) -> String {
    let mut left = input_tokens.min(ids.len().saturating_mul(block_tokens));
    let mut text = String::with_capacity(left * BYTES_PER_TOKEN);
    for &id in ids {
        let tokens = left.min(block_tokens);
        push_block(&mut text, id, tokens);
        left -= tokens;
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn there_are_64_different_words() {
        let words: std::collections::BTreeSet<&str> = WORDS.split_terminator(' ').collect();
        assert_eq!((words.len(), WORDS.len()), (64, 64 * BYTES_PER_TOKEN));
    }

    #[test]
    fn a_full_block_is_2048_bytes_of_plain_words() {
        let text = prompt(&[7], 512, TOKENS_PER_BLOCK);
        assert_eq!(text.len(), 2_048);
        assert!(
            text.bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b' ')
        );
        assert!(
            text.as_bytes()
                .chunks(4)
                .all(|word| word[3] == b' ' && !word[..3].contains(&b' '))
        );
    }

    #[test]
    fn the_last_block_is_cut_to_the_length_of_the_prompt() {
        let text = prompt(&[1, 2, 3], 512 + 512 + 10, TOKENS_PER_BLOCK);
        assert_eq!(text.len(), (512 + 512 + 10) * BYTES_PER_TOKEN);
    }

    #[test]
    fn a_prompt_longer_than_its_blocks_ends_with_them() {
        assert_eq!(prompt(&[1], 5_000, TOKENS_PER_BLOCK).len(), 2_048);
        assert_eq!(prompt(&[], 5_000, TOKENS_PER_BLOCK), "");
    }

    proptest! {
        #[test]
        fn two_prompts_share_exactly_the_bytes_of_the_blocks_they_share(
            shared in proptest::collection::vec(0u64..1_000, 0..6),
            tails in (1_000u64..2_000, 2_000u64..3_000),
            more in 1usize..512,
        ) {
            let of = |tail| {
                let ids: Vec<u64> = shared.iter().copied().chain([tail]).collect();
                prompt(&ids, shared.len() * 512 + more, TOKENS_PER_BLOCK)
            };
            let (left, right) = (of(tails.0), of(tails.1));
            let common = shared.len() * 2_048;
            prop_assert_eq!(&left[..common], &right[..common]);
            prop_assert_eq!(&left, &of(tails.0));
            // Words are drawn from 64, so tails of 40 tokens agree by chance once in 10^72.
            if more >= 40 {
                prop_assert_ne!(&left[common..], &right[common..]);
            }
        }

        #[test]
        fn a_shorter_prompt_of_the_same_blocks_is_a_prefix(ids in proptest::collection::vec(any::<u64>(), 1..5), cut in 0usize..2_600) {
            let whole = prompt(&ids, ids.len() * 512, TOKENS_PER_BLOCK);
            prop_assert!(whole.starts_with(&prompt(&ids, cut.min(ids.len() * 512), TOKENS_PER_BLOCK)));
        }
    }
}
