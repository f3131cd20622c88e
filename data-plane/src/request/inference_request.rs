//! A client's request with what routing reads of it.

use bytes::Bytes;
use hermes_core::responses::ResponseKey;
use http::{HeaderMap, Method, uri::PathAndQuery};

use crate::request::{
    api::{Api, Route},
    fields::{BodyFields, strip},
    local_reply::LocalReply,
    outgoing::Outgoing,
    prompt::Prompt,
};

/// A client's request, parsed and not routed yet.
pub(crate) struct InferenceRequest {
    pub(crate) api: Api,
    pub(crate) method: Method,
    /// Path and query at the engine.
    pub(crate) target: PathAndQuery,
    /// The client's headers, cleaned for an endpoint.
    pub(crate) headers: HeaderMap,
    /// The client's bytes, without control fields.
    pub(crate) body: Outgoing,
    pub(crate) model: Option<String>,
    pub(crate) stream: bool,
    /// The parts of the body that a selection uses.
    pub(crate) prompt: Prompt,
    /// The stored response that this request continues or refers to.
    pub(crate) response: Option<ResponseReference>,
    /// BodyFields were cut.
    pub(crate) stripped: bool,
}

impl InferenceRequest {
    /// Whether the first byte of the answer comes only after its last token was generated.
    pub(crate) const fn is_non_streaming(&self) -> bool {
        !self.stream
            && matches!(
                self.api,
                Api::Chat | Api::Completions | Api::Responses | Api::Messages
            )
    }
}

/// A reference to a stored response.
pub(crate) struct ResponseReference {
    pub(crate) id: String,
    pub(crate) key: ResponseKey,
}

impl From<&str> for ResponseReference {
    fn from(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            key: ResponseKey::of(id),
        }
    }
}

// === InferenceRequest ===

impl InferenceRequest {
    /// Parses a request whose body is complete.
    pub(crate) fn parse(
        route: Route<'_>,
        head: http::request::Parts,
        bytes: &Bytes,
    ) -> Result<Self, LocalReply> {
        let http::request::Parts {
            method,
            uri,
            mut headers,
            ..
        } = head;
        let target = target(route.path, uri.query())?;
        let priority = crate::request::headers::priority(&headers);
        crate::request::headers::clean_request(&mut headers);
        let mut call = Self {
            api: route.api,
            method,
            target,
            headers,
            body: Outgoing::from(bytes.clone()),
            model: None,
            stream: false,
            prompt: Prompt::unread(bytes.len()),
            response: None,
            stripped: false,
        };
        if route.api == Api::StoredResponse {
            let below = route.path.trim_start_matches("/v1/responses/");
            call.response = below.split('/').next().map(ResponseReference::from);
        }
        if route.api.reads_json() {
            let fields = BodyFields::parse(bytes)
                .map_err(|unreadable| LocalReply::BadBody(unreadable.to_string()))?;
            call.model = fields.model.as_deref().map(str::to_owned);
            call.stream = fields.stream;
            call.response = fields
                .previous_response_id
                .as_deref()
                .map(ResponseReference::from);
            call.prompt = Prompt::of(&fields, bytes);
            call.stripped = fields.has_control_fields;
            if call.stripped {
                call.body = Outgoing::from(strip(bytes));
            }
        }
        if let Some(priority) = priority {
            call.prompt.prioritize(priority);
        }
        Ok(call)
    }
}

fn target(path: &str, query: Option<&str>) -> Result<PathAndQuery, LocalReply> {
    let target = match query {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(path),
    };
    target.map_err(|_| LocalReply::UnknownPath)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(body: &str) -> InferenceRequest {
        parsed(http::Request::post("/v1/chat/completions"), body)
    }

    fn parsed(request: http::request::Builder, body: &str) -> InferenceRequest {
        let (head, ()) = request.body(()).expect("valid").into_parts();
        let route = crate::request::api::route(&Method::POST, "/v1/chat/completions", &["/x"])
            .expect("served");
        InferenceRequest::parse(route, head, &Bytes::copy_from_slice(body.as_bytes()))
            .expect("readable")
    }

    #[test]
    fn the_bodys_priority_is_lower_first_and_the_headers_is_higher_first_and_takes_precedence() {
        let priority = |header: Option<&str>| {
            let request = http::Request::post("/v1/chat/completions");
            let request = header.into_iter().fold(request, |request, value| {
                request.header("x-hermes-priority", value)
            });
            let call = parsed(request, r#"{"priority":3}"#);
            assert!(
                call.headers.is_empty(),
                "the header is for the router alone"
            );
            call.prompt
                .query(
                    &hermes_core::policy::Policy::default(),
                    None,
                    &call.headers,
                    false,
                )
                .priority
        };
        assert_eq!(
            (priority(None), priority(Some("5")), priority(Some("soon"))),
            (-3, 5, -3)
        );
    }

    #[test]
    fn control_fields_are_cut_from_what_is_sent() {
        let call =
            call(r#"{"model":"m","kv_transfer_params":{"remote_host":"evil"},"messages":[]}"#);
        assert!(call.stripped);
        assert_eq!(
            call.body.len(),
            r#"{"model":"m","messages":[]}"#.len() as u64
        );
    }
}
