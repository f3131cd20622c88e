//! Encoded bodies of requests, which are refused.
//!
//! Decoding would let a client make the proxy hold a thousand times what it sent, on the thread
//! that serves others, for a saving that prompts seldom need; and no engine decodes bodies, so no
//! client depends on it. RFC 9110, 15.5.16, has the answer: 415, with the encodings that are read.

use http::{HeaderMap, header};

use crate::request::{
    api::Api,
    local_reply::{LocalReply, echo},
};

/// Rejects a request whose body would be read and is encoded.
pub(crate) fn check(api: Api, headers: &HeaderMap) -> Result<(), LocalReply> {
    if !api.reads_json() {
        return Ok(());
    }
    let codings = headers.get_all(header::CONTENT_ENCODING).iter();
    let codings = codings.flat_map(|list| list.as_bytes().split(|byte| *byte == b','));
    let mut codings = codings.map(<[u8]>::trim_ascii);
    let encoded = |coding: &&[u8]| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity");
    match codings.find(encoded) {
        Some(coding) => Err(LocalReply::Encoded(echo(&String::from_utf8_lossy(coding)))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn checked(api: Api, values: &[&'static str]) -> Option<String> {
        let values = values.iter().map(|value| HeaderValue::from_static(value));
        let headers = values.map(|value| (header::CONTENT_ENCODING, value));
        check(api, &headers.collect())
            .err()
            .map(|reply| reply.to_string())
    }

    #[test]
    fn a_body_that_is_read_must_not_be_encoded() {
        for plain in [&[][..], &[""], &["identity"], &["Identity, identity", ","]] {
            assert_eq!(checked(Api::Chat, plain), None, "{plain:?}");
        }
        for (encoded, named) in [
            (&["gzip"][..], "gzip"),
            (&["identity", "zstd"], "zstd"),
            (&["identity,BR"], "BR"),
            (&["x"], "x"),
        ] {
            let reply = checked(Api::Chat, encoded).expect("refused");
            assert!(reply.contains(&format!("`{named}`")), "{reply}");
        }
    }

    #[test]
    fn a_body_that_is_only_forwarded_may_be_encoded() {
        assert_eq!(checked(Api::Extra, &["gzip"]), None);
    }
}
