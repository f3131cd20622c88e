//! Taking in a request: its body whole, and of it what routing needs.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hermes_core::responses::ResponseKey;
use http::{HeaderMap, Method, uri::PathAndQuery};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::timeout;

use crate::request::{
    admission::AdmissionPermit,
    api::{Api, Route},
    fields::{BodyFields, strip},
    local_reply::LocalReply,
    outgoing::Outgoing,
    prompt::Prompt,
};

/// Bytes of a request's headers at most.
const MAX_HEAD_BYTES: usize = 64 << 10;

/// A client's request, read and not yet placed.
pub(crate) struct InferenceRequest {
    pub(crate) api: Api,
    pub(crate) method: Method,
    /// Path and query as the engine knows them.
    pub(crate) target: PathAndQuery,
    /// Cleaned for an endpoint.
    pub(crate) headers: HeaderMap,
    /// What is sent: the client's bytes, or what is left of them after a cut.
    pub(crate) body: Outgoing,
    pub(crate) model: Option<String>,
    pub(crate) stream: bool,
    /// What a choice may read of the body.
    pub(crate) prompt: Prompt,
    /// The stored response that this one continues, or asks about.
    pub(crate) response: Option<ResponseReference>,
    /// BodyFields were cut.
    pub(crate) stripped: bool,
}

impl InferenceRequest {
    /// Whether the first byte of the answer comes only after its last token was generated.
    pub(crate) const fn is_unary(&self) -> bool {
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

// === The body ===

/// Reads the whole body, in bounded memory and time, and counts its bytes in `permit`.
///
/// `limit` is in bytes; `patience` is how long the client may pause.
pub(crate) async fn whole<B>(
    mut body: B,
    limit: u64,
    patience: Duration,
    permit: &mut AdmissionPermit,
) -> Result<Bytes, LocalReply>
where
    B: Body<Data = Bytes> + Unpin,
{
    let hint = body.size_hint();
    if hint.lower() > limit {
        return Err(LocalReply::TooLarge(limit));
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    loop {
        let frame = timeout(patience, body.frame())
            .await
            .map_err(|_| LocalReply::SlowClient)?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| LocalReply::BadBody("the body broke off".to_owned()))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if (first.len() + rest.len() + data.len()) as u64 > limit {
            return Err(LocalReply::TooLarge(limit));
        }
        if !permit.hold(data.len() as u64) {
            return Err(LocalReply::Overloaded);
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
            continue;
        }
        if rest.is_empty() {
            // A second piece: from here on the pieces are copied together. The hint is the client's word, so that
            // it may save growing, but not reserve what never comes.
            rest.reserve(
                usize::try_from(hint.lower())
                    .unwrap_or(usize::MAX)
                    .min(1 << 20),
            );
            rest.extend_from_slice(&first);
            first = Bytes::new();
        }
        rest.extend_from_slice(&data);
    }
    Ok(if rest.is_empty() {
        first
    } else {
        rest.freeze()
    })
}

/// Refuses a head that is too large, however it is spread over names and values.
pub(crate) fn check_head(headers: &HeaderMap) -> Result<(), LocalReply> {
    let bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    if bytes > MAX_HEAD_BYTES {
        Err(LocalReply::HeadTooLarge(MAX_HEAD_BYTES))
    } else {
        Ok(())
    }
}

// === The call ===

impl InferenceRequest {
    /// Reads what routing needs from a request whose body is complete.
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
    use std::collections::VecDeque;

    use http_body::Frame;
    use http_body_util::{Full, StreamBody};

    use super::*;

    fn permit() -> AdmissionPermit {
        crate::request::admission::AdmissionLimit::default()
            .enter(1)
            .expect("free")
    }

    fn call(body: &str) -> InferenceRequest {
        read(http::Request::post("/v1/chat/completions"), body)
    }

    fn read(request: http::request::Builder, body: &str) -> InferenceRequest {
        let (head, ()) = request.body(()).expect("valid").into_parts();
        let route = crate::request::api::route(&Method::POST, "/v1/chat/completions", &["/x"])
            .expect("served");
        InferenceRequest::parse(route, head, &Bytes::copy_from_slice(body.as_bytes()))
            .expect("readable")
    }

    #[tokio::test]
    async fn a_body_in_one_piece_is_not_copied() {
        let bytes = Bytes::from(vec![7u8; 1000]);
        let read = whole(
            Full::new(bytes.clone()),
            1000,
            Duration::from_secs(1),
            &mut permit(),
        )
        .await
        .expect("fits");
        assert_eq!(read.as_ptr(), bytes.as_ptr());
    }

    #[tokio::test]
    async fn pieces_come_together_and_too_many_are_refused() {
        let pieces = || {
            let frames: VecDeque<_> = (0..10u8)
                .map(|i| Ok::<_, std::io::Error>(Frame::data(Bytes::from(vec![i; 10]))))
                .collect();
            StreamBody::new(futures::stream::iter(frames))
        };
        let read = whole(pieces(), 100, Duration::from_secs(1), &mut permit())
            .await
            .expect("fits");
        assert_eq!((read.len(), read[99]), (100, 9));
        assert_eq!(
            whole(pieces(), 99, Duration::from_secs(1), &mut permit()).await,
            Err(LocalReply::TooLarge(99))
        );
        assert_eq!(
            whole(
                Full::new(Bytes::from(vec![0; 11])),
                10,
                Duration::ZERO,
                &mut permit()
            )
            .await,
            Err(LocalReply::TooLarge(10))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stalls_is_let_go() {
        let body = StreamBody::new(futures::stream::pending::<
            Result<Frame<Bytes>, std::io::Error>,
        >());
        assert_eq!(
            whole(body, 10, Duration::from_secs(30), &mut permit()).await,
            Err(LocalReply::SlowClient)
        );
    }

    #[test]
    fn the_bodys_priority_is_lower_first_and_the_headers_is_higher_first_and_counts_more() {
        let priority = |header: Option<&str>| {
            let request = http::Request::post("/v1/chat/completions");
            let request = header.into_iter().fold(request, |request, value| {
                request.header("x-hermes-priority", value)
            });
            let call = read(request, r#"{"priority":3}"#);
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
