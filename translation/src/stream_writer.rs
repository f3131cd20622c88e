//! Events of both APIs, as they are written into a stream.

use serde::Serialize;

/// The end of a stream of chunks.
pub(crate) const DONE: &[u8] = b"data: [DONE]\n\n";

/// A comment: it keeps a connection open, and clients skip it.
pub(crate) const COMMENT: &[u8] = b":\n\n";

/// Writes an event with a name, as Anthropic's API has them.
pub(crate) fn write_event(name: &str, data: &impl Serialize, out: &mut Vec<u8>) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.push(b'\n');
    write_data(data, out);
}

/// Writes an event without a name, as OpenAI's API has them.
pub(crate) fn write_data(data: &impl Serialize, out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: ");
    // What is written has names and strings only, of which none can fail.
    let _ = serde_json::to_writer(&mut *out, data);
    out.extend_from_slice(b"\n\n");
}

/// Writes an event whose data is JSON already, in one line.
pub(crate) fn write_json(name: Option<&str>, json: &[u8], out: &mut Vec<u8>) {
    if let Some(name) = name {
        out.extend_from_slice(b"event: ");
        out.extend_from_slice(name.as_bytes());
        out.push(b'\n');
    }
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(json);
    out.extend_from_slice(b"\n\n");
}
