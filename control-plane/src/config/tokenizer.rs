//! How prompts become the engines' token ids.

use std::time::Duration;

use super::{pool::Engine, reader::Node, sections::TOKENIZER};
use crate::cache_sources::tokenizer::{ContentFormat, TokenizerFiles, TokenizerSettings, Way};

/// How long a request waits when nothing else is configured.
const TIMEOUT: Duration = Duration::from_millis(20);

/// Bytes of what is remembered when nothing else is configured.
const CACHE: u64 = 64 << 20;

/// The longest prompt when nothing else is configured, in bytes.
const LONGEST: u64 = 512 << 10;

/// What is done where nothing is said: the engines are asked.
pub(super) fn engines() -> TokenizerSettings {
    TokenizerSettings {
        way: Way::Engine,
        cache: CACHE as usize,
        timeout: TIMEOUT,
        longest: LONGEST as usize,
    }
}

/// The mapping `tokenizer` of a pool whose endpoints are such engines.
pub(super) fn read(node: &Node<'_>, engine: Engine) -> Option<TokenizerSettings> {
    let fields = node.fields(&TOKENIZER)?;
    let (path, template) = (fields.text("path"), fields.text("template"));
    let content = match fields.one_of("contentFormat") {
        Some("string") => Some(ContentFormat::Text),
        Some("openai") => Some(ContentFormat::Parts),
        _ => None,
    };
    let kwargs = fields
        .node("templateKwargs")
        .and_then(|node| node.free("a mapping"))
        .unwrap_or_default();
    let asks = fields.flag("engine").unwrap_or(false);
    let size = |key: &str, usual: u64| fields.size(key).unwrap_or(usual) as usize;
    let (cache, longest) = (size("cacheSize", CACHE), size("maxPromptSize", LONGEST));
    let timeout = fields.duration("timeout").unwrap_or(TIMEOUT);
    let way = match (path, asks) {
        (Some(path), false) => Way::Files(TokenizerFiles {
            path: path.into(),
            template: template.map(Into::into),
            content,
            kwargs,
        }),
        (None, true) => {
            refuse_others(&fields, engine);
            Way::Engine
        }
        (Some(_), true) => {
            fields.mistake("engine", "`path` is given too", "give one of the two");
            return None;
        }
        (None, false) => {
            // A wrong path was noted already.
            if fields.node("path").is_none() {
                fields.missing("path", "give the directory of the model, or `engine: true`");
            }
            return None;
        }
    };
    Some(TokenizerSettings {
        way,
        cache,
        timeout,
        longest,
    })
}

/// Only vLLM is known to answer `/tokenize` as it is asked; another server may do the same.
fn refuse_others(fields: &super::reader::Fields<'_>, engine: Engine) {
    if !matches!(engine, Engine::Vllm | Engine::OpenAi) {
        let found = format!("the engine {} has no such call", engine.name());
        fields.mistake("engine", found, "give `path`, the directory of the model");
    }
    for key in ["template", "contentFormat", "templateKwargs"] {
        if fields.node(key).is_some() {
            fields.warn(format!(
                "{} has no effect: the engines render with their own",
                fields.path_of(key)
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::reader::Notes;

    fn settings(value: &Value, engine: Engine) -> Result<TokenizerSettings, String> {
        let notes = Notes::default();
        let settings = read(&Node::new(value, "tokenizer", &notes), engine);
        let mistakes = notes.into_mistakes();
        if mistakes.is_empty() {
            settings.ok_or_else(String::new)
        } else {
            Err(mistakes.to_string())
        }
    }

    #[test]
    fn a_path_is_enough() {
        let read = settings(&json!({"path": "/models/qwen"}), Engine::Vllm).expect("good");
        let files = TokenizerFiles {
            path: "/models/qwen".into(),
            template: None,
            content: None,
            kwargs: serde_json::Map::new(),
        };
        let expected = TokenizerSettings {
            way: Way::Files(files),
            cache: 64 << 20,
            timeout: TIMEOUT,
            longest: 512 << 10,
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn files_and_the_engine_are_one_or_the_other() {
        assert_eq!(
            settings(&json!({"engine": true}), Engine::Vllm)
                .expect("good")
                .way,
            Way::Engine
        );
        for (value, engine, complaint) in [
            (json!({}), Engine::Vllm, "tokenizer.path: found missing"),
            (json!({"engine": false}), Engine::Vllm, "tokenizer.path"),
            (
                json!({"engine": true, "path": "/m"}),
                Engine::Vllm,
                "give one of the two",
            ),
            (
                json!({"engine": true}),
                Engine::Tgi,
                "the engine tgi has no such call",
            ),
        ] {
            let mistakes = settings(&value, engine).expect_err("a mistake");
            assert!(
                mistakes.contains(complaint) || mistakes.contains("missing"),
                "{mistakes}"
            );
        }
    }
}
