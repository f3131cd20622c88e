//! What a client wants of a stream, read where the proxy has to write the stream itself.

use serde::Deserialize;

use super::{object_scanner::ObjectScanner, request_body::RequestBody};

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// Whether `stream_options` of this body asks for the usage; of several the last counts.
pub(super) fn include_usage(body: &RequestBody) -> bool {
    let (mut scanner, mut options) = (ObjectScanner::default(), None);
    for piece in body.pieces() {
        let scanned = scanner.scan(piece, |field| {
            if field.name == b"stream_options" {
                options = Some(field.value);
            }
        });
        if scanned.is_err() {
            return false;
        }
    }
    let options = options.map(|span| body.contiguous(span));
    let options = options.and_then(|json| serde_json::from_slice(&json).ok());
    options.is_some_and(|options: StreamOptions| options.include_usage)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn the_usage_is_wanted_if_the_last_options_ask_for_it() {
        let wants = |body: &'static str| include_usage(&Bytes::from_static(body.as_bytes()).into());
        assert!(wants(
            r#"{"stream":true,"stream_options":{"x":1,"include_usage":true}}"#
        ));
        for other in [
            r#"{"stream":true}"#,
            r#"{"stream_options":null}"#,
            r#"{"stream_options":{"include_usage":true},"stream_options":{}}"#,
            r#"{"messages":[{"stream_options":{"include_usage":true}}]}"#,
        ] {
            assert!(!wants(other), "{other}");
        }
    }
}
