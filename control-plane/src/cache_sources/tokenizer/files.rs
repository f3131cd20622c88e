//! A model's tokenizer and chat template as files.
//!
//! ```text
//!   DIR/tokenizer.json           the tokenizer (required)
//!   DIR/tokenizer_config.json    special tokens by name; in older models the chat template too
//!   DIR/chat_template.jinja      the chat template; chat_template.json in some models
//! ```
//!
//! The directory is what an engine is started with; nothing is fetched. A file that cannot be used
//! is named, with what is wrong and what would be right.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    time::SystemTime,
};

use minijinja::Value;
use serde::Deserialize;
use serde_json::Value as Json;
use tokenizers::Tokenizer;

use super::{
    ContentFormat,
    encoder::Encoder,
    template::{ChatTemplate, TemplateSource},
};

/// Largest file that is read, in bytes. The largest vocabularies take a quarter of it.
const MAX_BYTES: u64 = 128 << 20;

const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
const TEMPLATE: &str = "chat_template.jinja";
const TEMPLATE_JSON: &str = "chat_template.json";

/// Keys of `tokenizer_config.json` whose values a template may print.
const SPECIAL: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];

/// Where the files are, and what the operator says about them.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizerFiles {
    /// A directory, or a `tokenizer.json` in one.
    pub path: PathBuf,
    /// Another chat template than the model's.
    pub template: Option<PathBuf>,
    /// How the template wants a message's content; found in it when absent.
    pub content: Option<ContentFormat>,
    /// Default arguments of every rendering, a JSON object.
    pub kwargs: serde_json::Map<String, Json>,
}

/// A file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {found}; {fix}", path.display())]
pub struct Unusable {
    /// Which one.
    pub path: PathBuf,
    /// What is wrong.
    pub found: String,
    /// What would be right.
    pub fix: &'static str,
}

/// When the files were written last, and how long they are: a change means that they must be read
/// again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp(Vec<Option<(SystemTime, u64)>>);

// === TokenizerFiles ===

impl TokenizerFiles {
    fn tokenizer(&self) -> PathBuf {
        if self.path.is_dir() {
            self.path.join(TOKENIZER)
        } else {
            self.path.clone()
        }
    }

    fn beside(&self, name: &str) -> PathBuf {
        if self.path.is_dir() {
            self.path.join(name)
        } else {
            self.path.with_file_name(name)
        }
    }

    /// How the files are now.
    pub(super) fn stamp(&self) -> Stamp {
        let beside = [CONFIG, TEMPLATE, TEMPLATE_JSON].map(|name| self.beside(name));
        let paths = [self.tokenizer()]
            .into_iter()
            .chain(beside)
            .chain(self.template.clone());
        let stamp = |path: PathBuf| {
            let metadata = fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        Stamp(paths.map(stamp).collect())
    }
}

/// One line for people: what the files hold.
///
/// # Errors
/// The first file that cannot be used.
pub fn describe(files: &TokenizerFiles) -> Result<String, Unusable> {
    let encoder = load(files, 0)?;
    let chats = if encoder.has_template() {
        "a chat template"
    } else {
        "no chat template: chats are not looked up"
    };
    Ok(format!("{} tokens, {chats}", encoder.vocabulary()))
}

/// Reads everything. Takes up to a second for the largest vocabularies.
pub(super) fn load(files: &TokenizerFiles, seed: u64) -> Result<Encoder, Unusable> {
    let path = files.tokenizer();
    let text = read(
        &path,
        "give the directory of the model, with its tokenizer.json",
    )?;
    let tokenizer = Tokenizer::from_str(&text).map_err(|error| {
        unusable(
            &path,
            &error,
            "give a tokenizer.json as `transformers` saves it",
        )
    })?;
    let config = read_json(&files.beside(CONFIG))?;
    let known = special_tokens(&config)
        .chain(files.kwargs.iter().map(|(name, value)| pair(name, value)))
        .collect();
    let Some((path, source)) = template(files, &config)? else {
        return Ok(Encoder::new(tokenizer, None, seed));
    };
    let template = ChatTemplate::compile(source, files.content, known).map_err(|error| {
        unusable(
            &path,
            &error,
            "give a Jinja template that `transformers` understands",
        )
    })?;
    Ok(Encoder::new(tokenizer, Some(template), seed))
}

/// The operator's template, or the model's, and where it stands.
fn template(
    files: &TokenizerFiles,
    config: &Json,
) -> Result<Option<(PathBuf, TemplateSource)>, Unusable> {
    if let Some(path) = &files.template {
        let default = read(path, "give a file with a Jinja template")?;
        return Ok(Some((
            path.clone(),
            TemplateSource {
                default,
                tool_use: None,
            },
        )));
    }
    let path = files.beside(TEMPLATE);
    if path.exists() {
        let default = read(&path, "let it be readable, or remove it")?;
        return Ok(Some((
            path,
            TemplateSource {
                default,
                tool_use: None,
            },
        )));
    }
    let in_config = source(config).map(|source| (files.beside(CONFIG), source));
    let path = files.beside(TEMPLATE_JSON);
    Ok(match source(&read_json(&path)?) {
        Some(source) => Some((path, source)),
        None => in_config,
    })
}

/// `chat_template` of a JSON file: a template, or a list of named ones.
fn source(json: &Json) -> Option<TemplateSource> {
    match json.get("chat_template")? {
        Json::String(default) => Some(TemplateSource {
            default: default.clone(),
            tool_use: None,
        }),
        Json::Array(named) => {
            let named = |wanted: &str| {
                let found = named
                    .iter()
                    .find(|item| item.get("name").and_then(Json::as_str) == Some(wanted))?;
                found.get("template")?.as_str().map(str::to_owned)
            };
            Some(TemplateSource {
                default: named("default")?,
                tool_use: named("tool_use"),
            })
        }
        _ => None,
    }
}

/// The special tokens by name, and those of the model alone (`image_token` and the like).
fn special_tokens(config: &Json) -> impl Iterator<Item = (String, Value)> {
    let text = |value: &Json| {
        value
            .as_str()
            .or_else(|| value.get("content")?.as_str())
            .map(Value::from)
    };
    let usual = SPECIAL
        .into_iter()
        .map(|name| (name.to_owned(), config.get(name)));
    let extra = ["extra_special_tokens", "model_specific_special_tokens"].into_iter();
    let extra = extra
        .filter_map(|key| config.get(key)?.as_object())
        .flatten();
    let extra = extra.map(|(name, value)| (name.clone(), Some(value)));
    let all: Vec<_> = usual
        .chain(extra)
        .filter_map(|(name, value)| Some((name, text(value?)?)))
        .collect();
    all.into_iter()
}

fn pair(name: &str, value: &Json) -> (String, Value) {
    // Every JSON value is one of a template's.
    (
        name.to_owned(),
        Value::deserialize(value).unwrap_or_default(),
    )
}

/// The file as JSON; null when it is not there.
fn read_json(path: &Path) -> Result<Json, Unusable> {
    if !path.exists() {
        return Ok(Json::Null);
    }
    let text = read(path, "let it be readable, or remove it")?;
    serde_json::from_str(&text)
        .map_err(|error| unusable(path, &error, "give valid JSON, or remove it"))
}

fn read(path: &Path, fix: &'static str) -> Result<String, Unusable> {
    let bytes = fs::metadata(path)
        .map_err(|error| unusable(path, &error, fix))?
        .len();
    if bytes > MAX_BYTES {
        return Err(unusable(
            path,
            &format_args!("{bytes} bytes"),
            "give a file of at most 128 MiB",
        ));
    }
    fs::read_to_string(path).map_err(|error: io::Error| unusable(path, &error, fix))
}

fn unusable(path: &Path, found: &dyn fmt::Display, fix: &'static str) -> Unusable {
    Unusable {
        path: path.to_owned(),
        found: found.to_string(),
        fix,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{copy, write};

    use super::*;
    use crate::cache_sources::tokenizer::fixture;

    fn complaint(files: &TokenizerFiles) -> String {
        load(files, 0).expect_err("unusable").to_string()
    }

    #[test]
    fn a_directory_or_the_file_in_it_is_the_same() {
        let directory = fixture::files();
        let file = TokenizerFiles {
            path: directory.path.join(TOKENIZER),
            ..directory.clone()
        };
        for files in [directory, file] {
            assert_eq!(
                describe(&files).expect("usable"),
                "306 tokens, a chat template"
            );
        }
    }

    #[test]
    fn what_is_unusable_is_named_with_what_would_be_right() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let files = TokenizerFiles {
            path: folder.path().to_owned(),
            ..fixture::files()
        };
        assert!(
            complaint(&files).contains("tokenizer.json: No such file"),
            "{}",
            complaint(&files)
        );
        write(folder.path().join(TOKENIZER), "{}").expect("written");
        assert!(complaint(&files).ends_with("give a tokenizer.json as `transformers` saves it"));
        copy(
            fixture::directory().join(TOKENIZER),
            folder.path().join(TOKENIZER),
        )
        .expect("copied");
        assert!(!load(&files, 0).expect("usable").has_template());
        write(folder.path().join(CONFIG), "[").expect("written");
        assert!(complaint(&files).contains(CONFIG));
        write(
            folder.path().join(CONFIG),
            r#"{"chat_template": "{% if %}"}"#,
        )
        .expect("written");
        assert!(
            complaint(&files).ends_with("give a Jinja template that `transformers` understands")
        );
        write(folder.path().join(TEMPLATE), "{{ bos_token }}").expect("written");
        assert!(
            load(&files, 0).expect("usable").has_template(),
            "the file counts before the configuration"
        );
    }

    #[test]
    fn a_model_may_have_another_template_for_tools() {
        let json = serde_json::json!({"chat_template": [
            {"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]});
        assert_eq!(
            source(&json),
            Some(TemplateSource {
                default: "a".into(),
                tool_use: Some("b".into())
            })
        );
        assert_eq!(source(&serde_json::json!({"chat_template": 7})), None);
    }

    #[test]
    fn a_change_of_a_file_is_noticed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let files = TokenizerFiles {
            path: folder.path().to_owned(),
            ..fixture::files()
        };
        let before = files.stamp();
        write(folder.path().join(TEMPLATE), "x").expect("written");
        assert_ne!(files.stamp(), before);
    }
}
