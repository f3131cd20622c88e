//! How prompts become the engines' token ids.

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde_json::{Map, Value};

use super::{duration::SECOND, engine::EngineKind, key::ValueType, node::Node, section::Section};
use crate::cache_sources::tokenizer::{ContentFormat, TokenizerFiles, TokenizerSettings, Way};

/// The settings of a tokenizer of which only the source of token ids is known.
pub(super) fn defaults(way: Way) -> TokenizerSettings {
    TokenizerSettings {
        way,
        cache: 64 << 20,
        timeout: Duration::from_millis(20),
        longest: 512 << 10,
        key_file: None,
    }
}

/// The mapping `tokenizer` of a pool with this engine.
pub(super) fn read(section: &mut Section<'_>, engine: EngineKind) -> Option<TokenizerSettings> {
    let path = section
        .text(
            "path",
            "the directory of the model, or its tokenizer.json",
            "Files of the model: tokenizer.json, tokenizer_config.json, chat_template.jinja. Reloaded when they change.",
        )
        .or_unset("either this or `engine`");
    let files = read_files(section);
    let asks_engine = section
        .flag(
            "engine",
            "Requests token ids from the engines at `/tokenize` (vLLM) instead of reading files.",
        )
        .or(false);
    let way = way(section, path, files, asks_engine, engine);
    let defaults = defaults(Way::Engine);
    let settings = TokenizerSettings {
        timeout: section
            .duration(
                "timeout",
                SECOND / 1_000..=SECOND * 5,
                "How long a request waits for its token ids.",
            )
            .or(defaults.timeout),
        cache: section
            .size(
                "cacheSize",
                1 << 10..=16 << 30,
                "Memory for token ids of recent prompts.",
            )
            .or(defaults.cache),
        longest: section
            .size(
                "maxPromptSize",
                1 << 10..=1 << 20,
                "Largest prompt that is tokenized, in bytes of JSON.",
            )
            .or(defaults.longest),
        way: defaults.way,
        key_file: None,
    };
    Some(TokenizerSettings {
        way: way?,
        ..settings
    })
}

/// What produces the token ids: files or the engines, of which exactly one must be set.
fn way(
    section: &Section<'_>,
    path: Option<Arc<str>>,
    files: TokenizerFiles,
    asks_engine: bool,
    engine: EngineKind,
) -> Option<Way> {
    match (path, asks_engine) {
        (Some(path), false) => Some(Way::Files(TokenizerFiles {
            path: path.to_string().into(),
            ..files
        })),
        (None, true) => {
            check_engine(section, engine);
            Some(Way::Engine)
        }
        (Some(_), true) => {
            section.error("engine", "set as well as `path`", "set only one of the two");
            None
        }
        (None, false) => {
            // A wrong path is recorded already.
            if !section.has("path") {
                let fix = "set the directory of the model, or `engine: true`";
                section.error("path", "missing", fix);
            }
            None
        }
    }
}

fn read_files(section: &mut Section<'_>) -> TokenizerFiles {
    TokenizerFiles {
        path: PathBuf::new(),
        template: section
            .text(
                "template",
                "a file with a Jinja template",
                "Another chat template: the engines' `--chat-template`.",
            )
            .or_unset("the model's own")
            .map(|path| path.to_string().into()),
        content: section
            .one_of(
                "contentFormat",
                &[
                    ("auto", None),
                    ("string", Some(ContentFormat::Text)),
                    ("openai", Some(ContentFormat::Parts)),
                ],
                "Format of a message's content in the template: the engines' `--chat-template-content-format`.",
            )
            .or(None),
        kwargs: section
            .value(
                "templateKwargs",
                ValueType::Map("a mapping"),
                "More variables of the template: the engines' `--default-chat-template-kwargs`.",
                read_mapping,
                |_| String::new(),
            )
            .optional()
            .unwrap_or_default(),
    }
}

fn read_mapping(node: &Node<'_>) -> Option<Map<String, Value>> {
    let mapping = node.mapping().cloned();
    mapping.or_else(|| node.wrong("expected a mapping"))
}

/// The engine must serve `/tokenize`, and renders templates by itself.
fn check_engine(section: &Section<'_>, engine: EngineKind) {
    if !engine.may_tokenize() {
        let found = format!("the engine {} has no `/tokenize`", engine.name());
        section.error("engine", found, "set `path`, the directory of the model");
    }
    for key in ["template", "contentFormat", "templateKwargs"] {
        if section.has(key) {
            section.warn(
                key,
                "has no effect: the engines render templates themselves",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::diagnostics::Diagnostics;

    fn settings(value: &Value, engine: EngineKind) -> Result<TokenizerSettings, String> {
        let diagnostics = Diagnostics::default();
        let node = Node::new(value, "tokenizer", &diagnostics);
        let settings = Section::read(&node, |section| read(section, engine)).flatten();
        let errors = diagnostics.into_errors();
        if errors.is_empty() {
            settings.ok_or_else(String::new)
        } else {
            Err(errors.to_string())
        }
    }

    #[test]
    fn a_path_is_enough() {
        let read = settings(&json!({"path": "/models/qwen"}), EngineKind::Vllm).expect("good");
        let files = TokenizerFiles {
            path: "/models/qwen".into(),
            template: None,
            content: None,
            kwargs: serde_json::Map::new(),
        };
        let expected = TokenizerSettings {
            way: Way::Files(files),
            cache: 64 << 20,
            timeout: Duration::from_millis(20),
            longest: 512 << 10,
            key_file: None,
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn files_and_the_engine_are_one_or_the_other() {
        assert_eq!(
            settings(&json!({"engine": true}), EngineKind::Vllm)
                .expect("good")
                .way,
            Way::Engine
        );
        for (value, engine, complaint) in [
            (json!({}), EngineKind::Vllm, "tokenizer.path: found missing"),
            (json!({"engine": false}), EngineKind::Vllm, "tokenizer.path"),
            (
                json!({"engine": true, "path": "/m"}),
                EngineKind::Vllm,
                "set only one of the two",
            ),
            (
                json!({"engine": true}),
                EngineKind::Tgi,
                "the engine tgi has no `/tokenize`",
            ),
        ] {
            let errors = settings(&value, engine).expect_err("an error");
            assert!(
                errors.contains(complaint) || errors.contains("missing"),
                "{errors}"
            );
        }
    }
}
