//! The requests to send: OpenAI chat bodies of a few shapes.
//!
//! Bodies are made once or one at a time, never a whole run's at once.

use bytes::Bytes;
use serde::Serialize;

use super::client::Call;
use super::synthesis;
use super::trace::Record;

/// Different prompts that a fixed workload cycles through, so that prefix-aware routing has a
/// choice to make.
const VARIANTS: u64 = 16;

/// One message of a chat.
#[derive(Clone, Debug, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: &'static str,
    /// The text.
    pub content: String,
}

/// What all requests of a run have in common.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The `model` field.
    pub model: String,
    /// Answer as a stream, with usage in the last event.
    pub stream: bool,
    /// Ask engines to go on to `max_tokens` (`ignore_eos`, which vLLM and SGLang know), so that
    /// answers have the lengths a trace names.
    pub ignore_eos: bool,
}

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    messages: &'a [Message],
    max_tokens: usize,
    stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_options: Option<StreamOptions>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ignore_eos: bool,
}

#[derive(Serialize)]
struct StreamOptions {
    include_usage: bool,
}

impl Shape {
    /// The call for a chat of `messages` with an answer of at most `max_tokens`.
    #[must_use]
    pub fn chat(&self, messages: &[Message], max_tokens: usize) -> Call {
        let Self {
            model,
            stream,
            ignore_eos,
        } = self;
        let body = Body {
            model,
            messages,
            max_tokens: max_tokens.max(1),
            stream: *stream,
            stream_options: stream.then_some(StreamOptions {
                include_usage: true,
            }),
            ignore_eos: *ignore_eos,
        };
        let body = serde_json::to_vec(&body)
            .expect("strings, numbers and booleans always have a JSON form");
        Call {
            path: "/v1/chat/completions",
            body: Bytes::from(body),
            keep_text: false,
        }
    }

    /// The call for one request of a trace, whose lengths are divided by `shrink`.
    ///
    /// Blocks shrink with the prompt, so that prompts which shared a prefix still share it.
    #[must_use]
    pub fn traced(&self, record: &Record, shrink: usize) -> Call {
        let block_tokens = record.block_tokens().round() as usize;
        let shrink = shrink.clamp(1, block_tokens);
        let input = record.input_length.div_ceil(shrink);
        let content = synthesis::prompt(&record.hash_ids, input, block_tokens / shrink);
        self.chat(
            &[Message {
                role: "user",
                content,
            }],
            record.output_length.div_ceil(shrink),
        )
    }

    /// A few calls of the same size and different prompts, of about `prompt_bytes` each, to cycle
    /// through.
    #[must_use]
    pub fn fixed(&self, prompt_bytes: usize, max_tokens: usize, seed: u64) -> Vec<Call> {
        let tokens = prompt_bytes / synthesis::BYTES_PER_TOKEN;
        let of = |variant: u64| {
            let mut content = String::with_capacity(prompt_bytes);
            synthesis::push_block(
                &mut content,
                seed.wrapping_mul(VARIANTS).wrapping_add(variant),
                tokens,
            );
            self.chat(
                &[Message {
                    role: "user",
                    content,
                }],
                max_tokens,
            )
        };
        (0..VARIANTS).map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn shape(stream: bool) -> Shape {
        Shape {
            model: "m".to_owned(),
            stream,
            ignore_eos: false,
        }
    }

    fn read(call: &Call) -> Value {
        serde_json::from_slice(&call.body).unwrap()
    }

    #[test]
    fn a_traced_request_has_the_lengths_of_its_record() {
        let record = Record {
            timestamp: 0,
            input_length: 1_030,
            output_length: 52,
            hash_ids: vec![0, 5, 9],
            ..Record::default()
        };
        let body = read(&shape(true).traced(&record, 1));
        assert_eq!(
            body["messages"][0]["content"].as_str().unwrap().len(),
            1_030 * 4
        );
        assert_eq!(
            (&body["max_tokens"], &body["stream"]),
            (&Value::from(52), &Value::from(true))
        );
        assert_eq!(body["stream_options"]["include_usage"], true);
    }

    #[test]
    fn shrinking_keeps_shared_prefixes_shared() {
        let of = |hash_ids| Record {
            input_length: 1_536,
            output_length: 80,
            hash_ids,
            ..Record::default()
        };
        let text = |record: &Record| {
            let body = read(&shape(true).traced(record, 8));
            body["messages"][0]["content"].as_str().unwrap().to_owned()
        };
        let (left, right) = (text(&of(vec![1, 2, 3])), text(&of(vec![1, 2, 4])));
        assert_eq!(left.len(), 1_536 / 8 * 4);
        assert_eq!(left[..512], right[..512]);
        assert_ne!(left[512..], right[512..]);
    }

    #[test]
    fn fixed_calls_have_one_size_and_different_prompts() {
        let calls = shape(false).fixed(220_000, 16, 1);
        let sizes: Vec<usize> = calls.iter().map(|call| call.body.len()).collect();
        assert!(
            sizes
                .iter()
                .all(|&size| size == sizes[0] && (220_000..221_000).contains(&size)),
            "{sizes:?}"
        );
        assert_ne!(calls[0].body, calls[1].body);
        assert!(read(&calls[0]).get("stream_options").is_none());
    }
}
