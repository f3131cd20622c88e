//! Any stream becomes one that can be read, and where it is cut changes nothing.
//!
//! Run with `translation/fuzz/run streams`.

#![no_main]

use hermes_translation::{
    chat_client::{ChatAnswerTerms, ChunkStream},
    messages_client::{EventStream, MessagesAnswerTerms},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|stream: &[u8]| {
    let chunks = |size| {
        let mut chunks = ChunkStream::new(&ChatAnswerTerms {
            id: "request-1",
            model: None,
            created: 1,
            include_usage: true,
        });
        let mut out = Vec::new();
        for piece in stream.chunks(size) {
            chunks.push(piece, &mut out);
        }
        chunks.finish(&mut out);
        assert!(chunks.is_ended());
        out
    };
    let events = |size| {
        let mut events = EventStream::new(&MessagesAnswerTerms {
            id: "request-1",
            model: None,
            omit_thinking: false,
        });
        let mut out = Vec::new();
        for piece in stream.chunks(size) {
            events.push(piece, &mut out);
        }
        events.finish(&mut out);
        assert!(events.is_ended());
        out
    };
    let whole = stream.len().max(1);
    let (whole_chunks, whole_events) = (chunks(whole), events(whole));
    assert_readable(&whole_chunks);
    assert_readable(&whole_events);
    for size in [1, 3] {
        assert_eq!(chunks(size), whole_chunks);
        assert_eq!(events(size), whole_events);
    }
});

fn assert_readable(stream: &[u8]) {
    let text = std::str::from_utf8(stream).expect("UTF-8");
    for line in text.lines() {
        let Some(data) = line.strip_prefix("data: ") else {
            assert!(line.is_empty() || line == ":" || line.starts_with("event: "));
            continue;
        };
        if data != "[DONE]" {
            let read: Result<&serde_json::value::RawValue, _> = serde_json::from_str(data);
            read.expect("JSON");
        }
    }
}
