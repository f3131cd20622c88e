//! Recorded pairs: what one API has, and what the translation makes of it.
//!
//! Each file of `pairs` has a head with its source, and two parts. `WRITE_PAIRS=1` writes the second
//! part of every file; what it wrote is to be read before it is kept.

use std::{fs, path::PathBuf};

use hermes_translation::{chat_client, chat_error, messages_client, messages_error};
use serde_json::Value;

const CHAT_TERMS: chat_client::ChatAnswerTerms<'_> = chat_client::ChatAnswerTerms {
    id: "request-1",
    model: None,
    created: 1_700_000_000,
    include_usage: true,
};

const MESSAGES_TERMS: messages_client::MessagesAnswerTerms<'_> =
    messages_client::MessagesAnswerTerms {
        id: "request-1",
        model: None,
        omit_thinking: false,
    };

struct Pair {
    path: PathBuf,
    head: String,
    given: String,
    made: String,
}

impl Pair {
    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).expect("a file of text");
        let (head, parts) = text.split_once("--- given\n").expect("a part `given`");
        assert!(
            head.contains("Source: "),
            "{} names its source",
            path.display()
        );
        let (given, made) = parts.split_once("--- made\n").expect("a part `made`");
        Self {
            path,
            head: head.to_owned(),
            given: given.to_owned(),
            made: made.to_owned(),
        }
    }

    fn name(&self) -> &str {
        let name = self.path.file_stem().and_then(|name| name.to_str());
        name.expect("a name")
    }

    /// The translation of `given`, which the name of the file begins with.
    fn translate(&self) -> String {
        let body = self.given.as_bytes();
        let name = self.name();
        if name.starts_with("chat_request") {
            let terms = chat_client::MessagesTerms {
                model: None,
                max_tokens: 4_096,
                late_system: chat_client::LateSystem::InPlace,
            };
            let made = chat_client::translate_request(body, &terms).expect("a translation");
            text(made.body)
        } else if name.starts_with("messages_request") {
            let dialect = match name.starts_with("messages_request_openai") {
                true => messages_client::ChatDialect::OpenAi,
                false => messages_client::ChatDialect::Engine,
            };
            let terms = messages_client::ChatTerms {
                model: None,
                dialect,
            };
            let made = messages_client::translate_request(body, &terms).expect("a translation");
            text(made.body)
        } else if name.starts_with("chat_answer") {
            let made = chat_client::translate_answer(body, &CHAT_TERMS).expect("a translation");
            text(made.body)
        } else if name.starts_with("messages_answer") {
            let made = messages_client::translate_answer(body, &MESSAGES_TERMS);
            text(made.expect("a translation").body)
        } else if name.starts_with("chat_stream") {
            let mut stream = chat_client::ChunkStream::new(&CHAT_TERMS);
            let mut out = Vec::new();
            stream.push(body, &mut out);
            stream.finish(&mut out);
            text(out)
        } else if name.starts_with("messages_stream") {
            let mut stream = messages_client::EventStream::new(&MESSAGES_TERMS);
            let mut out = Vec::new();
            stream.push(body, &mut out);
            stream.finish(&mut out);
            text(out)
        } else {
            self.translate_error()
        }
    }

    /// The status is in the name: `chat_error_529`.
    fn translate_error(&self) -> String {
        let (kind, status) = self.name().rsplit_once('_').expect("a status");
        let status = status.parse().expect("a number");
        let body = self.given.as_bytes();
        let (status, body) = match kind {
            "chat_error" => chat_error(status, body),
            "messages_error" => messages_error(status, body),
            _ => panic!("{kind} is no kind of a translation"),
        };
        format!("{status}\n{}", text(body))
    }

    fn assert_same(&self, made: &str) {
        if self.name().contains("stream") || self.name().contains("error") {
            assert_eq!(made.trim_end(), self.made.trim_end(), "{}", self.name());
        } else {
            let value = |text: &str| -> Value { serde_json::from_str(text).expect("JSON") };
            assert_eq!(value(made), value(&self.made), "{}", self.name());
        }
    }

    fn write(&self, made: &str) {
        let mut made = made.trim_end().to_owned();
        if let Ok(value) = serde_json::from_str::<Value>(&made)
            && value.is_object()
        {
            made = serde_json::to_string_pretty(&value).expect("JSON");
        }
        let text = format!("{}--- given\n{}--- made\n{made}\n", self.head, self.given);
        fs::write(&self.path, text).expect("a file that can be written");
    }
}

fn text(body: Vec<u8>) -> String {
    String::from_utf8(body).expect("UTF-8")
}

fn pairs() -> Vec<Pair> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pairs");
    let files = fs::read_dir(folder).expect("the folder of pairs");
    let paths = files.map(|file| file.expect("a file").path());
    let mut paths: Vec<PathBuf> = paths.collect();
    paths.sort();
    paths.into_iter().map(Pair::read).collect()
}

#[test]
fn each_recorded_pair_is_translated_as_recorded() {
    let writes = std::env::var_os("WRITE_PAIRS").is_some();
    let pairs = pairs();
    assert!(pairs.len() > 20, "{} pairs were found", pairs.len());
    for pair in pairs {
        let made = pair.translate();
        if writes {
            pair.write(&made);
        } else {
            pair.assert_same(&made);
        }
    }
}
