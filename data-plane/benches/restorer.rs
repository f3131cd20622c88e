//! What it costs to put the client's name of a model back into an answer, in bytes a second.

use bytes::Bytes;
use divan::{Bencher, black_box, counter::BytesCount};
use hermes_data_plane::restored_answer;

/// Events of a streamed answer.
const EVENTS: usize = 5_000;
/// Bytes of an answer that is read at once.
const READ: usize = 16 << 10;
/// Bytes of an answer that is no stream.
const DOCUMENT: usize = 200_000;

const STREAM: &str = "text/event-stream";
const JSON: &str = "application/json";

fn main() {
    divan::main();
}

/// An event is a piece of its own.
#[divan::bench(args = [false, true])]
fn tokens(bencher: Bencher<'_, '_>, restored: bool) {
    measure(bencher, STREAM, &vec![event(); EVENTS], restored);
}

/// A fast answer, whose events are read together.
#[divan::bench(args = [false, true])]
fn reads(bencher: Bencher<'_, '_>, restored: bool) {
    let all = Bytes::from(event().repeat(EVENTS));
    measure(bencher, STREAM, &cut(&all), restored);
}

/// A document whose model comes first, as vLLM writes it.
#[divan::bench(args = [false, true])]
fn document(bencher: Bencher<'_, '_>, restored: bool) {
    let text = "word ".repeat(DOCUMENT / 5);
    let document = format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"served","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}]}}"#
    );
    measure(bencher, JSON, &cut(&Bytes::from(document)), restored);
}

/// One whose model comes last.
#[divan::bench(args = [false, true])]
fn document_with_model_last(bencher: Bencher<'_, '_>, restored: bool) {
    let text = "word ".repeat(DOCUMENT / 5);
    let document = format!(
        r#"{{"choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],"model":"served"}}"#
    );
    measure(bencher, JSON, &cut(&Bytes::from(document)), restored);
}

/// `restored`: as an answer to a request that was rewritten; otherwise its pieces only pass.
fn measure(bencher: Bencher<'_, '_>, kind: &'static str, pieces: &[Bytes], restored: bool) {
    let bytes: usize = pieces.iter().map(Bytes::len).sum();
    let bencher = bencher.counter(BytesCount::new(bytes));
    if restored {
        bencher.bench_local(|| {
            restored_answer::of("/v1/chat/completions", "asked", kind, black_box(pieces))
                .expect("it is edited")
        });
    } else {
        bencher.bench_local(|| black_box(pieces).to_vec());
    }
}

fn event() -> Bytes {
    Bytes::from_static(b"data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"served\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"finish_reason\":null}]}\n\n")
}

fn cut(answer: &Bytes) -> Vec<Bytes> {
    let begins = (0..answer.len()).step_by(READ);
    begins
        .map(|begin| answer.slice(begin..answer.len().min(begin + READ)))
        .collect()
}
