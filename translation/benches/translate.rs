//! What a translation costs, by the bytes that are given.

use std::hint::black_box;

use divan::{Bencher, counter::BytesCount};
use hermes_translation::{
    chat_client::{self, ChatAnswerTerms, ChunkStream, LateSystem, MessagesTerms},
    messages_client::{self, ChatDialect, ChatTerms, EventStream, MessagesAnswerTerms},
};
use serde_json::{Value, json};

/// Turns of a conversation of which each has about 2 KiB of text and a call.
const TURNS: [usize; 3] = [1, 16, 256];

fn main() {
    divan::main();
}

fn text() -> String {
    "The quick brown fox \"jumps\" over the lazy dog.\n".repeat(42)
}

fn chat_body(turns: usize) -> Vec<u8> {
    let mut messages = vec![json!({"role": "system", "content": text()})];
    for turn in 0..turns {
        let id = format!("call_{turn}");
        let function =
            json!({"name": "look", "arguments": r#"{"path": "/src/main.rs", "lines": [1, 200]}"#});
        let call = json!({"id": id, "type": "function", "function": function});
        messages.push(json!({"role": "user", "content": text()}));
        messages.push(json!({"role": "assistant", "content": null, "tool_calls": [call]}));
        messages.push(json!({"role": "tool", "tool_call_id": id, "content": text()}));
    }
    messages.push(json!({"role": "user", "content": "Go on."}));
    let schema = json!({"type": "object", "properties": {"path": {"type": "string"}}});
    let tool = json!({"type": "function", "function": {"name": "look", "parameters": schema}});
    json!({"model": "m", "messages": messages, "tools": [tool], "stream": true})
        .to_string()
        .into()
}

fn messages_body(turns: usize) -> Vec<u8> {
    let terms = MessagesTerms {
        model: None,
        max_tokens: 4_096,
        late_system: LateSystem::InPlace,
    };
    let request = chat_client::translate_request(&chat_body(turns), &terms);
    request.expect("a translation").body
}

#[divan::bench(args = TURNS)]
fn chat_request(bencher: Bencher<'_, '_>, turns: usize) {
    let body = chat_body(turns);
    let terms = MessagesTerms {
        model: None,
        max_tokens: 4_096,
        late_system: LateSystem::InPlace,
    };
    bencher
        .counter(BytesCount::from(body.len()))
        .bench(|| chat_client::translate_request(black_box(&body), &terms));
}

#[divan::bench(args = TURNS)]
fn messages_request(bencher: Bencher<'_, '_>, turns: usize) {
    let body = messages_body(turns);
    let terms = ChatTerms {
        model: None,
        dialect: ChatDialect::Engine,
    };
    bencher
        .counter(BytesCount::from(body.len()))
        .bench(|| messages_client::translate_request(black_box(&body), &terms));
}

/// What reading and writing the same body as values costs, without a translation.
#[divan::bench(args = TURNS)]
fn request_as_values(bencher: Bencher<'_, '_>, turns: usize) {
    let body = chat_body(turns);
    bencher.counter(BytesCount::from(body.len())).bench(|| {
        let value: Value = serde_json::from_slice(black_box(&body)).expect("JSON");
        serde_json::to_vec(&value)
    });
}

/// An image of 4 MiB in a data URI.
#[divan::bench]
fn chat_request_image(bencher: Bencher<'_, '_>) {
    let url = format!("data:image/png;base64,{}", "iVBORw0K".repeat(512 << 10));
    let part = json!({"type": "image_url", "image_url": {"url": url}});
    let body = json!({"model": "m", "messages": [{"role": "user", "content": [part]}]});
    let body = body.to_string().into_bytes();
    let terms = MessagesTerms {
        model: None,
        max_tokens: 4_096,
        late_system: LateSystem::InPlace,
    };
    bencher
        .counter(BytesCount::from(body.len()))
        .bench(|| chat_client::translate_request(black_box(&body), &terms));
}

/// A stream of 1,000 tokens, as vLLM writes it.
fn chunks() -> Vec<u8> {
    let mut stream = String::new();
    for token in 0..1_000 {
        let choice = json!({"index": 0, "delta": {"content": format!(" token{token}")}, "logprobs": null,
            "finish_reason": (token == 999).then_some("stop"), "token_ids": null});
        let chunk = json!({"id": "chatcmpl-9ad245cb6c8ddfd6", "object": "chat.completion.chunk",
            "created": 1_795_320_189, "model": "tiny", "choices": [choice],
            "usage": {"prompt_tokens": 11, "total_tokens": 11 + token, "completion_tokens": token}});
        stream.push_str(&format!("data: {chunk}\n\n"));
    }
    stream.push_str("data: [DONE]\n\n");
    stream.into_bytes()
}

const MESSAGES_ANSWER: MessagesAnswerTerms<'_> = MessagesAnswerTerms {
    id: "request-1",
    model: Some("model"),
    omit_thinking: false,
};

fn events() -> Vec<u8> {
    let mut out = Vec::new();
    EventStream::new(&MESSAGES_ANSWER).push(&chunks(), &mut out);
    out
}

/// Each event is one piece, as it arrives.
fn pieces(stream: &[u8]) -> Vec<Vec<u8>> {
    let text = std::str::from_utf8(stream).expect("UTF-8");
    let pieces = text.split_inclusive("\n\n");
    pieces.map(|piece| piece.as_bytes().to_vec()).collect()
}

#[divan::bench]
fn messages_stream_of_1000_tokens(bencher: Bencher<'_, '_>) {
    let stream = chunks();
    let pieces = pieces(&stream);
    bencher.counter(BytesCount::from(stream.len())).bench(|| {
        let mut events = EventStream::new(&MESSAGES_ANSWER);
        let mut out = Vec::new();
        for piece in &pieces {
            out.clear();
            events.push(black_box(piece), &mut out);
        }
        events.is_ended()
    });
}

#[divan::bench]
fn chat_stream_of_1000_tokens(bencher: Bencher<'_, '_>) {
    let stream = events();
    let pieces = pieces(&stream);
    let terms = ChatAnswerTerms {
        id: "request-1",
        model: Some("model"),
        created: 1,
        include_usage: true,
    };
    bencher.counter(BytesCount::from(stream.len())).bench(|| {
        let mut chunks = ChunkStream::new(&terms);
        let mut out = Vec::new();
        for piece in &pieces {
            out.clear();
            chunks.push(black_box(piece), &mut out);
        }
        chunks.is_ended()
    });
}
