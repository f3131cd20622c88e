//! The prompt text that a proxy sends to exact cache sources for a request. For tools and tests that must build it
//! exactly as the proxy does; the proxy itself does not use this file.

use bytes::Bytes;
use hermes_proto::v1::LookupText;
use http::Method;

use crate::request::{api, fields::BodyFields, prompt::Prompt};

/// The lookup for a `POST` of `body` to `path`; `None` when the body is invalid or has no prompt.
#[must_use]
pub fn of(path: &str, body: &Bytes) -> Option<LookupText> {
    let route = api::route(&Method::POST, path, &[] as &[&str]).ok()?;
    let fields = BodyFields::parse(body).ok()?;
    Prompt::of(&fields, body).lookup_text(route.api)
}

#[cfg(test)]
mod tests {
    use hermes_proto::v1::lookup_text::Api;

    use super::*;

    #[test]
    fn a_lookup_is_that_of_the_api_behind_the_path() {
        let body = Bytes::from_static(br#"{"prompt":"hello"}"#);
        assert_eq!(
            of("/v1/completions", &body).expect("a prompt").api(),
            Api::Completions
        );
        assert!(of("/nowhere", &body).is_none() && of("/v1/completions", &Bytes::new()).is_none());
    }
}
