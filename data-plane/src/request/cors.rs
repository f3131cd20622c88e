//! Cross-origin requests of web pages (CORS, fetch.spec.whatwg.org), as the operator admits them.
//!
//! A browser asks before it sends a page's request to another origin (a preflight), and lets the
//! page read an answer only if the answer names the page's origin. The proxy answers preflights of
//! admitted origins itself, and marks every answer to them, its own and an engine's. Credentials
//! that browsers add by themselves, as cookies, are not admitted: clients send a key in a header.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};

/// How long a browser may use the answer to a preflight, in seconds; browsers have limits of their
/// own.
const MAX_AGE: HeaderValue = HeaderValue::from_static("7200");

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, DELETE");

/// What a page may read besides the headers that it always may.
const EXPOSED: HeaderValue =
    HeaderValue::from_static("x-request-id, x-hermes-endpoint, retry-after, allow");

/// Engines may set these, too: the operator's configuration of the router decides.
const ANSWERED: [HeaderName; 6] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
];

/// The origin of a page whose request is admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AdmittedOrigin(HeaderValue);

impl AdmittedOrigin {
    /// The origin of the request, if it has one among `origins`.
    pub(crate) fn of(origins: &[Arc<str>], headers: &HeaderMap) -> Option<Self> {
        if origins.is_empty() {
            return None;
        }
        let origin = headers.get(header::ORIGIN)?;
        let mut admitted = origins.iter();
        admitted
            .any(|admitted| &**admitted == "*" || admitted.as_bytes() == origin.as_bytes())
            .then(|| Self(origin.clone()))
    }

    /// The answer, if the request is a preflight.
    pub(crate) fn preflight<B, A: Default>(&self, request: &Request<B>) -> Option<Response<A>> {
        let asked = request.headers();
        if request.method() != Method::OPTIONS
            || !asked.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
        {
            return None;
        }
        let mut answer = Response::new(A::default());
        *answer.status_mut() = StatusCode::NO_CONTENT;
        let headers = answer.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
        // Headers are cleaned where requests are forwarded: none has to be refused here.
        if let Some(names) = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        }
        self.name(headers);
        Some(answer)
    }

    /// Marks an answer as one that the page may read.
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        for name in ANSWERED {
            headers.remove(name);
        }
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        self.name(headers);
    }

    fn name(&self, headers: &mut HeaderMap) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, self.0.clone());
        // The same answer is another one for another origin.
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admitted(origins: &[&str], origin: Option<&'static str>) -> Option<AdmittedOrigin> {
        let origins: Vec<Arc<str>> = origins.iter().map(|&origin| origin.into()).collect();
        let origin = origin.map(|origin| (header::ORIGIN, HeaderValue::from_static(origin)));
        AdmittedOrigin::of(&origins, &origin.into_iter().collect())
    }

    #[test]
    fn only_configured_origins_are_admitted() {
        let page = Some("https://chat.example.com");
        assert!(admitted(&[], page).is_none());
        assert!(admitted(&["https://chat.example.com"], page).is_some());
        assert!(admitted(&["*"], page).is_some());
        assert!(admitted(&["*"], None).is_none());
        for other in [
            "https://chat.example.com.evil.org",
            "https://chat.example.co",
            "http://chat.example.com",
            "null",
        ] {
            assert!(admitted(&["https://chat.example.com"], Some(other)).is_none());
        }
    }

    #[test]
    fn an_engines_own_headers_are_replaced() {
        let origin = admitted(&["*"], Some("https://a.org")).expect("admitted");
        let mut headers: HeaderMap = [
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, "https://b.org"),
            (header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true"),
            (header::VARY, "accept"),
        ]
        .map(|(name, value)| (name, HeaderValue::from_static(value)))
        .into_iter()
        .collect();
        origin.mark(&mut headers);
        let of = |name| headers.get_all(name).iter().cloned().collect::<Vec<_>>();
        assert_eq!(of(header::ACCESS_CONTROL_ALLOW_ORIGIN), ["https://a.org"]);
        assert!(of(header::ACCESS_CONTROL_ALLOW_CREDENTIALS).is_empty());
        assert_eq!(of(header::VARY), ["accept", "origin"]);
    }
}
