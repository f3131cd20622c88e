//! What the simulated model says: a sequence of four-byte words that depends only on the prompt.
//!
//! Four bytes are one token of the toy tokenizer, so the words that were generated are the tokens
//! that the next turn of a conversation sends back, and the cache hits on them as it does in a real
//! engine.

use xxhash_rust::xxh3::xxh3_64;

/// The vocabulary: each entry is a space and three letters.
const WORDS: [&str; 32] = [
    " the", " sun", " sea", " sky", " red", " fox", " owl", " elm", " oak", " ivy", " bay", " fog",
    " ice", " map", " key", " jar", " cup", " pen", " ink", " arc", " orb", " zen", " joy", " hue",
    " tin", " wax", " gem", " fur", " dew", " mud", " bow", " hum",
];

/// The answer to one prompt, of any length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    seed: u64,
}

impl Answer {
    /// The answer to the prompt whose tokens hash to `seed`; `choice` distinguishes several answers
    /// to one prompt.
    pub fn new(seed: u64, choice: u32) -> Self {
        Self {
            seed: seed ^ u64::from(choice).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        }
    }

    /// The word at `position`.
    pub fn word(self, position: u32) -> &'static str {
        let mut input = [0; 12];
        input[..8].copy_from_slice(&self.seed.to_le_bytes());
        input[8..].copy_from_slice(&position.to_le_bytes());
        WORDS[(xxh3_64(&input) % WORDS.len() as u64) as usize]
    }

    /// The id of the token at `position`.
    pub fn token(self, position: u32) -> u32 {
        let bytes = self.word(position).as_bytes();
        u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    /// The first `words` words, joined.
    pub fn text(self, words: u32) -> String {
        (0..words).map(|position| self.word(position)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tokenizer::tokenize;

    #[test]
    fn each_word_is_one_token() {
        let answer = Answer::new(7, 0);
        let ids: Vec<u32> = (0..50).map(|position| answer.token(position)).collect();
        assert_eq!(tokenize(&answer.text(50)), ids);
    }

    #[test]
    fn an_answer_depends_on_the_prompt_and_the_choice_alone() {
        assert_eq!(Answer::new(7, 0).text(20), Answer::new(7, 0).text(20));
        assert_ne!(Answer::new(7, 0).text(20), Answer::new(8, 0).text(20));
        assert_ne!(Answer::new(7, 0).text(20), Answer::new(7, 1).text(20));
    }
}
