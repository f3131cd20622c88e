//! Headers that are removed, in both directions.

use std::net::IpAddr;

use hermes_core::{
    address::ServerScheme,
    header_names::{is_control, is_hop_by_hop},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use smallvec::SmallVec;

/// The id under which a request is known to the client, the logs and the engine.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Which endpoint answered; only if the operator wants clients to know.
pub(crate) const ENDPOINT: HeaderName = HeaderName::from_static("x-hermes-endpoint");

/// Priority in queues: higher goes first, regardless of the engine's convention.
const PRIORITY: HeaderName = HeaderName::from_static("x-hermes-priority");

/// Set again for each endpoint. Answers are relayed as they are and read for their usage, so the
/// proxy accepts none that are compressed.
fn is_the_senders(name: &str) -> bool {
    matches!(
        name,
        "host" | "content-length" | "expect" | "accept-encoding"
    )
}

/// Headers of a request that belong to the connection to an endpoint, or are set for each endpoint:
/// another picker that edits the request does not set them.
pub(crate) fn is_for_the_connection(name: &str) -> bool {
    is_hop_by_hop(name) || is_the_senders(name)
}

/// Headers of a client that an endpoint does not get from a gateway, which keeps its own connections'
/// headers apart by itself: those by which a router is directed, and what would make answers
/// unreadable.
pub(crate) fn is_for_the_router(name: &str) -> bool {
    is_control(name) || name == header::ACCEPT_ENCODING.as_str()
}

/// Who sent a request: each proxy on its way adds the address from which it came.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// How it reached the first proxy.
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Which host the client asked, where endpoints get another one.
pub(crate) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// This run of the proxy, in the list of those that a request has passed (RFC 9110, 7.6.3).
#[derive(Debug)]
pub(crate) struct ViaEntry {
    text: String,
    value: HeaderValue,
}

/// The request has passed this proxy before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestLoop;

/// The longest request id of a client that is kept.
const LONGEST_ID: usize = 128;

/// Cleans a client's headers for an endpoint, which gets its own `Host`, `Content-Length` and trace
/// context.
pub(crate) fn clean_request(headers: &mut HeaderMap) {
    remove(headers, |name| {
        is_hop_by_hop(name) || is_control(name) || is_the_senders(name)
    });
    join_cookies(headers);
}

/// Adds the address of the client, which is the peer of its connection, and the scheme of that: what
/// the headers state besides is the claim of others.
pub(crate) fn forward_for(headers: &mut HeaderMap, client: IpAddr, scheme: ServerScheme) {
    append(headers, FORWARDED_FOR, &client.to_canonical().to_string());
    headers
        .entry(FORWARDED_PROTO)
        .or_insert(HeaderValue::from_static(scheme.as_str()));
}

/// States that there is no body, where a server may wait for one: hyper states lengths of bodies
/// that are there (RFC 9110, 8.6).
pub(crate) fn state_no_body(headers: &mut HeaderMap, method: &Method) {
    if matches!(*method, Method::POST | Method::PUT | Method::PATCH) {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
}

/// A client of HTTP/2 may send each cookie in a field of its own; HTTP/1.1 has one field for all
/// (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    if cookies.nth(1).is_none() {
        return;
    }
    let cookies = headers.get_all(header::COOKIE).iter();
    let cookies: Vec<&[u8]> = cookies.map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Adds an element to a header that is a list, in one field: many servers read only one.
fn append(headers: &mut HeaderMap, name: HeaderName, element: &str) {
    let present = headers.get_all(&name);
    let present = present.iter().map(HeaderValue::as_bytes);
    let elements = present.chain([element.as_bytes()]);
    let list = elements.collect::<SmallVec<[&[u8]; 4]>>().join(&b", "[..]);
    if let Ok(list) = HeaderValue::from_bytes(&list) {
        headers.insert(name, list);
    }
}

// === ViaEntry ===

impl ViaEntry {
    /// `run` is the random id of this run.
    pub(crate) fn new(run: u64) -> Self {
        let text = format!("1.1 hermes-{run:016x}");
        let value = HeaderValue::from_str(&text).expect("letters, digits, a dot, a space, a dash");
        Self { text, value }
    }

    /// Enters this proxy into the request's list.
    ///
    /// # Errors
    ///
    /// When it is there already: an endpoint's address leads back here.
    pub(crate) fn enter(&self, headers: &mut HeaderMap) -> Result<(), RequestLoop> {
        let mut entries = headers.get_all(header::VIA).iter();
        let is_own = |list: &[u8]| memchr::memmem::find(list, self.text.as_bytes()).is_some();
        if entries.any(|list| is_own(list.as_bytes())) {
            return Err(RequestLoop);
        }
        if headers.contains_key(header::VIA) {
            append(headers, header::VIA, &self.text);
        } else {
            headers.insert(header::VIA, self.value.clone());
        }
        Ok(())
    }
}

/// Cleans an endpoint's headers for a client. A length beside `Transfer-Encoding` is not the body's
/// (RFC 9112, 6.3).
pub(crate) fn clean_response(headers: &mut HeaderMap) {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
    remove(headers, |name| {
        is_hop_by_hop(name) || name == ENDPOINT.as_str()
    });
}

/// The client's priority, if it is a whole number. Clamped, so that it never overflows into another
/// meaning.
pub(crate) fn priority(headers: &HeaderMap) -> Option<i32> {
    let number: i64 = headers.get(PRIORITY)?.to_str().ok()?.trim().parse().ok()?;
    Some(number.clamp(-1_000_000, 1_000_000) as i32)
}

/// Whether the client prefers no answer to one for which its prompt has to be computed:
/// `Prefer: if-available`, as llm-d's coordinator sends it.
pub(crate) fn prefers_cached(headers: &HeaderMap) -> bool {
    let preferences = headers.get_all("prefer").iter();
    let mut preferences = preferences
        .filter_map(|list| list.to_str().ok())
        .flat_map(|list| list.split(','));
    preferences.any(|preference| preference.trim().eq_ignore_ascii_case("if-available"))
}

/// Headers that are for every recipient: a sender must not name them in `Connection` (RFC 9110,
/// 7.6.1), and one that does removes nothing.
const END_TO_END: [HeaderName; 6] = [
    FORWARDED_FOR,
    FORWARDED_PROTO,
    header::VIA,
    REQUEST_ID,
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
];

/// Removes what `drops` selects, and what `Connection` names: hop-by-hop headers.
fn remove(headers: &mut HeaderMap, drops: impl Fn(&str) -> bool) {
    // A request has few headers, so testing each is cheaper than looking up every name that must be
    // removed.
    let mut dropped: SmallVec<[HeaderName; 8]> = headers
        .keys()
        .filter(|name| drops(name.as_str()))
        .cloned()
        .collect();
    let named = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok());
    dropped.extend(
        named
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .filter(|name| !END_TO_END.contains(name)),
    );
    for name in dropped {
        headers.remove(name);
    }
}

/// The client's request id if it is one that can be logged, else a new one.
pub(crate) fn request_id(headers: &HeaderMap, fresh: impl FnOnce() -> String) -> HeaderValue {
    let kept = headers.get(REQUEST_ID).filter(|id| {
        let bytes = id.as_bytes();
        !bytes.is_empty() && bytes.len() <= LONGEST_ID && bytes.iter().all(u8::is_ascii_graphic)
    });
    kept.cloned().unwrap_or_else(|| {
        HeaderValue::from_str(&fresh()).unwrap_or_else(|_| HeaderValue::from_static("req-unknown"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_cannot_name_headers_of_every_recipient_as_its_connections() {
        let mut headers = HeaderMap::new();
        for name in END_TO_END {
            headers.insert(name, HeaderValue::from_static("x"));
        }
        headers.insert("x-own", HeaderValue::from_static("x"));
        let named = "x-forwarded-for, Via, x-request-id, X-Forwarded-Proto, authorization, content-type, x-own";
        headers.insert(header::CONNECTION, HeaderValue::from_static(named));
        clean_request(&mut headers);
        assert_eq!(headers.len(), END_TO_END.len(), "{headers:?}");
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    fn left(pairs: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut headers = headers(pairs);
        clean_request(&mut headers);
        headers.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn hop_by_hop_headers_and_those_that_connection_names_are_removed() {
        assert_eq!(
            left(&[
                ("connection", "close, x-secret-hop"),
                ("x-secret-hop", "1"),
                ("keep-alive", "timeout=5"),
                ("te", "trailers"),
                ("authorization", "Bearer k"),
            ]),
            ["authorization"]
        );
    }

    #[test]
    fn control_headers_of_clients_are_removed() {
        assert_eq!(
            left(&[
                ("x-prefiller-host-port", "10.0.0.1:80"),
                ("x-override-bootstrap-host", "evil"),
                ("x-data-parallel-rank", "3"),
                ("x-gateway-destination-endpoint", "10.0.0.1:80"),
                ("x-gateway-destination-endpoint-served", "10.0.0.1:80"),
                ("x-llm-d-model-name-rewrite", "other"),
                ("x-hermes-endpoint", "x"),
                ("accept", "*/*"),
            ]),
            ["accept"]
        );
    }

    #[test]
    fn the_clients_address_follows_what_it_claims() {
        let forwarded = |pairs: &[(&'static str, &'static str)], client: &str| {
            let mut headers = headers(pairs);
            let client = client.parse().expect("an address");
            forward_for(&mut headers, client, ServerScheme::Http);
            let value = |name| headers.get_all(name).iter().cloned().collect::<Vec<_>>();
            (value(FORWARDED_FOR), value(FORWARDED_PROTO))
        };
        let values = |value: &'static str| vec![HeaderValue::from_static(value)];
        assert_eq!(
            forwarded(&[], "10.0.0.7"),
            (values("10.0.0.7"), values("http"))
        );
        let claims = [
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-for", "7.7.7.7, 8.8.8.8"),
            ("x-forwarded-proto", "https"),
        ];
        assert_eq!(
            forwarded(&claims, "::ffff:10.0.0.7"),
            (
                values("6.6.6.6, 7.7.7.7, 8.8.8.8, 10.0.0.7"),
                values("https")
            )
        );
    }

    #[test]
    fn a_request_that_comes_back_is_a_loop() {
        let (ours, other) = (ViaEntry::new(7), ViaEntry::new(8));
        let mut headers = headers(&[("via", "1.0 fred")]);
        assert_eq!(ours.enter(&mut headers), Ok(()));
        assert_eq!(other.enter(&mut headers), Ok(()));
        let list = "1.0 fred, 1.1 hermes-0000000000000007, 1.1 hermes-0000000000000008";
        assert_eq!(headers[header::VIA], list);
        assert_eq!(ours.enter(&mut headers), Err(RequestLoop));
    }

    #[test]
    fn a_preference_for_cached_prompts_may_be_one_of_several() {
        let prefers = |value| prefers_cached(&headers(&[("prefer", value)]));
        assert!(prefers("if-available") && prefers("respond-async, If-Available"));
        assert!(!prefers("if-available-soon") && !prefers_cached(&HeaderMap::new()));
    }

    #[test]
    fn cookies_of_http2_become_one_field() {
        let mut headers = headers(&[("cookie", "a=1"), ("cookie", "b=2")]);
        clean_request(&mut headers);
        let cookies: Vec<_> = headers.get_all("cookie").iter().collect();
        assert_eq!(cookies, ["a=1; b=2"]);
    }

    #[test]
    fn engines_are_not_asked_to_compress() {
        assert_eq!(
            left(&[("accept-encoding", "gzip, br"), ("accept", "*/*")]),
            ["accept"]
        );
    }

    #[test]
    fn a_priority_is_a_whole_number_within_bounds_or_none() {
        let read = |value: &'static str| priority(&headers(&[("x-hermes-priority", value)]));
        assert_eq!(read(" 7"), Some(7));
        assert_eq!(read("-99999999999"), Some(-1_000_000));
        assert_eq!(read("high"), None);
    }

    #[test]
    fn a_request_id_is_kept_if_it_can_be_logged() {
        let id = |value: &'static str| {
            request_id(&headers(&[("x-request-id", value)]), || "fresh".into())
        };
        assert_eq!(id("abc-123"), "abc-123");
        assert_eq!(id("two words"), "fresh");
        assert_eq!(request_id(&HeaderMap::new(), || "fresh".into()), "fresh");
    }
}
