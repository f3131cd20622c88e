//! A small tokenizer with a ChatML template, for tests.

use std::path::PathBuf;

use tokenizers::Tokenizer;

use super::TokenizerFiles;

/// Where its files are.
pub(super) fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/tokenizer")
}

/// The tokenizer alone. Its file asks for truncation, which engines switch off.
pub(super) fn tokenizer() -> Tokenizer {
    let mut tokenizer =
        Tokenizer::from_file(directory().join("tokenizer.json")).expect("a valid file");
    tokenizer
        .with_truncation(None)
        .expect("none is always possible");
    tokenizer
}

/// Its files, with nothing else said about them.
pub(super) fn files() -> TokenizerFiles {
    TokenizerFiles {
        path: directory(),
        template: None,
        content: None,
        kwargs: serde_json::Map::new(),
    }
}
