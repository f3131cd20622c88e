//! What holds of all streams: where they are cut changes nothing, nothing panics, what comes out can
//! be read, and what both APIs have comes back as it was.

use hermes_translation::{
    chat_client::{ChatAnswerTerms, ChunkStream},
    messages_client::{EventStream, MessagesAnswerTerms},
};
use proptest::prelude::*;
use serde_json::{Value, json};

const CHAT_TERMS: ChatAnswerTerms<'_> = ChatAnswerTerms {
    id: "request-1",
    model: Some("model"),
    created: 1,
    include_usage: true,
};

const MESSAGES_TERMS: MessagesAnswerTerms<'_> = MessagesAnswerTerms {
    id: "request-1",
    model: Some("model"),
    omit_thinking: false,
};

/// The chunks of these pieces of events.
fn chunks(pieces: &[&[u8]]) -> Vec<u8> {
    let mut stream = ChunkStream::new(&CHAT_TERMS);
    let mut out = Vec::new();
    for piece in pieces {
        stream.push(piece, &mut out);
    }
    stream.finish(&mut out);
    assert!(stream.is_ended());
    out
}

/// The events of these pieces of chunks.
fn events(pieces: &[&[u8]]) -> Vec<u8> {
    let mut stream = EventStream::new(&MESSAGES_TERMS);
    let mut out = Vec::new();
    for piece in pieces {
        stream.push(piece, &mut out);
    }
    stream.finish(&mut out);
    assert!(stream.is_ended());
    out
}

/// The data of a stream, without comments and pings.
fn data(stream: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(stream).expect("UTF-8");
    let mut found = Vec::new();
    for block in text.split("\n\n").filter(|block| !block.is_empty()) {
        let lines: Vec<&str> = block.lines().collect();
        let data = lines.last().and_then(|line| line.strip_prefix("data: "));
        let Some(data) = data else {
            assert_eq!(lines, [":"], "a comment");
            continue;
        };
        if data == "[DONE]" {
            continue;
        }
        let value: Value = serde_json::from_str(data).expect("data that is JSON");
        if lines.len() > 1 {
            let name = format!("event: {}", value["type"].as_str().expect("a type"));
            assert_eq!(lines, [&*name, lines[1]]);
        }
        if value["type"] != "ping" {
            found.push(value);
        }
    }
    found
}

/// The stream cut at these places.
fn cut<'s>(stream: &'s [u8], places: &[prop::sample::Index]) -> Vec<&'s [u8]> {
    let mut places: Vec<usize> = places.iter().map(|at| at.index(stream.len() + 1)).collect();
    places.push(stream.len());
    places.sort_unstable();
    let mut from = 0;
    let mut pieces = Vec::new();
    for to in places {
        pieces.push(&stream[from..to]);
        from = to;
    }
    pieces
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        ".{0,8}",
        Just("\u{1f600}\"\\\n".to_owned()),
        Just(String::new())
    ]
}

/// What one chunk may have, in or out of order.
fn delta() -> impl Strategy<Value = Value> {
    let fragments = ["{}", "{\"a\":", "[1]}", " ", ""]
        .map(str::to_owned)
        .to_vec();
    let fragment = prop_oneof![4 => prop::sample::select(fragments), 1 => text()];
    let call = (0..3_u64, any::<bool>(), 0..3_u8, fragment).prop_map(|(index, begins, id, text)| {
        let function = if begins {
            json!({"name": "f", "arguments": text})
        } else {
            json!({"arguments": text})
        };
        let id = begins.then(|| format!("call_{index}_{id}"));
        json!({"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]})
    });
    prop_oneof![
        text().prop_map(|text| json!({"content": text})),
        text().prop_map(|text| json!({"reasoning_content": text})),
        text().prop_map(|text| json!({"reasoning": text, "content": null})),
        text().prop_map(|text| json!({"refusal": text})),
        call,
        Just(json!({"role": "assistant"})),
    ]
}

/// A stream of chunks, and what its chunks have.
fn chunk_stream() -> impl Strategy<Value = (Vec<Value>, Vec<u8>)> {
    let reasons = prop_oneof![
        Just("stop"),
        Just("length"),
        Just("tool_calls"),
        Just("abort")
    ];
    let ends = prop_oneof![
        Just(""),
        Just("data: [DONE]\n\n"),
        Just("data: {\"error\":\"no\"}\n\n")
    ];
    let between = prop_oneof![
        Just("\n\n"),
        Just("\r\n\r\n"),
        Just("\r\r"),
        Just("\n\n: alive\n")
    ];
    let parts = (
        prop::collection::vec((delta(), between), 0..12),
        prop::option::of(reasons),
        ends,
    );
    parts.prop_map(|(deltas, reason, end)| {
        let mut stream = String::new();
        for (delta, between) in &deltas {
            let chunk = json!({"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta}]});
            stream.push_str(&format!("data: {chunk}{between}"));
        }
        if let Some(reason) = reason {
            let usage = json!({"prompt_tokens": 9, "completion_tokens": 3});
            let choice = json!({"index": 0, "delta": {}, "finish_reason": reason});
            let chunk = json!({"id": "c", "model": "m", "choices": [choice], "usage": usage});
            stream.push_str(&format!("data: {chunk}\n\n"));
        }
        stream.push_str(end);
        let deltas = deltas.into_iter().map(|(delta, _)| delta).collect();
        (deltas, stream.into_bytes())
    })
}

/// Calls with these inputs, in fragments of three letters. Each turn adds the next fragment of one.
fn mixed(inputs: &[Value], turns: &[prop::sample::Index]) -> Vec<u8> {
    let mut stream = String::new();
    let mut write = |index: usize, id: Option<String>, arguments: &str| {
        let function = json!({"name": id.as_ref().map(|_| "look"), "arguments": arguments});
        let call = json!({"index": index, "id": id, "function": function});
        let choice = json!({"index": 0, "delta": {"tool_calls": [call]}});
        stream.push_str(&format!("data: {}\n\n", json!({"choices": [choice]})));
    };
    let mut left: Vec<Vec<String>> = Vec::new();
    for (index, input) in inputs.iter().enumerate() {
        write(index, Some(format!("call_{index}")), "");
        let letters: Vec<char> = input.to_string().chars().collect();
        left.push(
            letters
                .rchunks(3)
                .map(|letters| letters.iter().collect())
                .collect(),
        );
    }
    for turn in turns {
        let index = turn.index(inputs.len());
        if let Some(fragment) = left[index].pop() {
            write(index, None, &fragment);
        }
    }
    for (index, mut left) in left.into_iter().enumerate() {
        while let Some(fragment) = left.pop() {
            write(index, None, &fragment);
        }
    }
    stream.push_str("data: [DONE]\n\n");
    stream.into_bytes()
}

/// Blocks of a message, of which chats have all.
fn block() -> impl Strategy<Value = Value> {
    prop_oneof![
        "[a-z\u{e9}\u{1f600}\"\\\\\n ]{1,9}".prop_map(|text| json!({"type": "text", "text": text})),
        ("[a-z_]{1,6}", any::<Option<i32>>()).prop_map(|(name, value)| {
            let input = value.map_or(json!({}), |value| json!({"a": [value, "}\"{"]}));
            json!({"type": "tool_use", "name": name, "input": input})
        }),
    ]
}

/// The events of a message with these blocks, as Anthropic's servers make them.
fn message(blocks: &[Value], fragments: usize) -> Vec<u8> {
    let mut stream = String::new();
    let mut write = |event: &Value| {
        let name = event["type"].as_str().expect("a type").to_owned();
        stream.push_str(&format!("event: {name}\ndata: {event}\n\n"));
    };
    let usage = json!({"input_tokens": 5, "cache_read_input_tokens": 2, "output_tokens": 1});
    write(
        &json!({"type": "message_start", "message": {"id": "msg_1", "model": "x", "content": [], "usage": usage}}),
    );
    for (index, block) in blocks.iter().enumerate() {
        let mut start = block.clone();
        let (kind, field, text) = match block["type"].as_str() {
            Some("text") => (
                "text_delta",
                "text",
                block["text"].as_str().expect("text").to_owned(),
            ),
            _ => (
                "input_json_delta",
                "partial_json",
                block["input"].to_string(),
            ),
        };
        if kind == "text_delta" {
            start["text"] = json!("");
        } else {
            start["input"] = json!({});
            start["id"] = json!(format!("toolu_{index}"));
        }
        write(&json!({"type": "content_block_start", "index": index, "content_block": start}));
        let letters: Vec<char> = text.chars().collect();
        for letters in letters.chunks(letters.len().div_ceil(fragments).max(1)) {
            let fragment: String = letters.iter().collect();
            let delta = json!({"type": kind, field: fragment});
            write(&json!({"type": "content_block_delta", "index": index, "delta": delta}));
        }
        write(&json!({"type": "content_block_stop", "index": index}));
    }
    let calls = blocks.iter().any(|block| block["type"] == "tool_use");
    let reason = if calls { "tool_use" } else { "max_tokens" };
    let delta = json!({"stop_reason": reason, "stop_sequence": null});
    write(&json!({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 7}}));
    write(&json!({"type": "message_stop"}));
    stream.into_bytes()
}

/// The blocks that a client builds from events, as Anthropic's SDKs do.
fn built(events: &[Value]) -> Vec<Value> {
    let mut blocks: Vec<Value> = Vec::new();
    let mut inputs: Vec<String> = Vec::new();
    let mut open = None;
    for event in events {
        match event["type"].as_str() {
            Some("content_block_start") => {
                assert_eq!(event["index"], blocks.len(), "blocks are numbered");
                assert_eq!(
                    open.replace(blocks.len()),
                    None,
                    "one block is open at a time"
                );
                blocks.push(event["content_block"].clone());
                inputs.push(String::new());
            }
            Some("content_block_delta") => {
                let at = open.expect("an open block");
                let delta = &event["delta"];
                for field in ["text", "thinking"] {
                    if let Some(text) = delta[field].as_str() {
                        let old = blocks[at][field].as_str().expect("the field of the block");
                        blocks[at][field] = json!(format!("{old}{text}"));
                    }
                }
                inputs[at].push_str(delta["partial_json"].as_str().unwrap_or_default());
            }
            Some("content_block_stop") => {
                let at = open.take().expect("an open block");
                if !inputs[at].is_empty() {
                    blocks[at]["input"] = serde_json::from_str(&inputs[at]).unwrap_or_default();
                }
            }
            _ => {}
        }
    }
    blocks
}

/// Texts that follow each other are one.
fn merged(blocks: &[Value]) -> Vec<Value> {
    let mut merged: Vec<Value> = Vec::new();
    for block in blocks {
        let mut block = block.clone();
        block.as_object_mut().expect("an object").remove("id");
        match merged.last_mut() {
            Some(last) if last["type"] == "text" && block["type"] == "text" => {
                let texts =
                    [&last["text"], &block["text"]].map(|text| text.as_str().expect("text"));
                last["text"] = json!(texts.concat());
            }
            _ => merged.push(block),
        }
    }
    merged
}

proptest! {
    #[test]
    fn events_do_not_depend_on_where_chunks_are_cut(
        (_, stream) in chunk_stream(),
        places in prop::collection::vec(any::<prop::sample::Index>(), 0..9),
    ) {
        prop_assert_eq!(events(&cut(&stream, &places)), events(&[&stream]));
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        prop_assert_eq!(events(&bytes), events(&[&stream]));
    }

    #[test]
    fn chunks_do_not_depend_on_where_events_are_cut(
        blocks in prop::collection::vec(block(), 0..4),
        places in prop::collection::vec(any::<prop::sample::Index>(), 0..9),
    ) {
        let stream = message(&blocks, 3);
        prop_assert_eq!(chunks(&cut(&stream, &places)), chunks(&[&stream]));
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        prop_assert_eq!(chunks(&bytes), chunks(&[&stream]));
    }

    #[test]
    fn all_chunks_become_blocks_that_are_open_one_at_a_time((_, stream) in chunk_stream()) {
        let events = data(&events(&[&stream]));
        built(&events);
        let last = events.last().expect("an event");
        prop_assert!(last["type"] == "message_stop" || last["type"] == "error");
    }

    #[test]
    fn no_text_is_lost_between_the_fragments_of_calls((given, stream) in chunk_stream()) {
        let events = data(&events(&[&stream]));
        prop_assume!(events.last().is_some_and(|last| last["type"] == "message_stop"));
        let blocks = built(&events);
        for (fields, kind) in [(["content", "refusal"], "text"), (["reasoning_content", "reasoning"], "thinking")] {
            let mut said = String::new();
            for delta in &given {
                said.extend(fields.map(|field| delta[field].as_str().unwrap_or_default()));
            }
            let field = if kind == "text" { "text" } else { "thinking" };
            let made: String = blocks.iter().filter_map(|block| block[field].as_str()).collect();
            prop_assert_eq!(made, said);
        }
    }

    #[test]
    fn fragments_of_calls_may_come_in_any_order(
        inputs in prop::collection::vec("[a-z\u{e9}\"\\\\{}]{0,9}", 1..5),
        turns in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
    ) {
        let inputs: Vec<Value> = inputs.iter().map(|text| json!({"a": [text, 1]})).collect();
        let stream = mixed(&inputs, &turns);
        let events = data(&events(&[&stream]));
        let made: Vec<Value> = built(&events).iter().map(|block| block["input"].clone()).collect();
        prop_assert_eq!(made, inputs);
        prop_assert_eq!(&events[events.len() - 2]["delta"]["stop_reason"], "tool_use");
    }

    #[test]
    fn texts_and_calls_come_back_as_they_were(
        blocks in prop::collection::vec(block(), 1..5),
        fragments in 1..5_usize,
    ) {
        let there = chunks(&[&message(&blocks, fragments)]);
        let back = data(&events(&[&there]));
        // A text behind a call stays behind it, because its chunk is.
        prop_assert_eq!(merged(&built(&back)), merged(&blocks));
        let end = &back[back.len() - 2];
        let has_calls = blocks.iter().any(|block| block["type"] == "tool_use");
        prop_assert_eq!(&end["delta"]["stop_reason"], if has_calls { "tool_use" } else { "max_tokens" });
        let usage = json!({"input_tokens": 5, "cache_read_input_tokens": 2, "output_tokens": 7});
        prop_assert_eq!(&end["usage"], &usage);
    }

    #[test]
    fn any_bytes_end_in_something_that_can_be_read(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        lines in "(data: ?[\\[\\]{}\":,a-z0-9]{0,20}[\r\n]{0,3}){0,9}",
    ) {
        for bytes in [&*bytes, lines.as_bytes()] {
            prop_assert!(!data(&chunks(&[bytes])).is_empty());
            prop_assert!(!data(&events(&[bytes])).is_empty());
        }
    }
}
