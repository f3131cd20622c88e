//! Headers that are removed, in both directions.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use smallvec::SmallVec;

/// The id under which a request is known to the client, the logs and the engine.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Which endpoint answered; only if the operator wants clients to know.
pub(crate) const ENDPOINT: HeaderName = HeaderName::from_static("x-hermes-endpoint");

/// Priority in queues: higher goes first, regardless of the engine's convention.
const PRIORITY: HeaderName = HeaderName::from_static("x-hermes-priority");

/// Hop-by-hop headers (RFC 9110, 7.6.1).
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Routers use these to direct a request to a host or rank behind an engine, a sidecar or another
/// router. Accepted from a client they would let it reach other hosts, or another tenant's rank.
fn is_control(name: &str) -> bool {
    matches!(
        name,
        "epp-profile"
            | "x-data-parallel-endpoint"
            | "x-data-parallel-host-port"
            | "x-data-parallel-rank"
            | "x-encoder-hosts-ports"
            | "x-gateway-destination-endpoint"
            | "x-gateway-destination-endpoint-subset"
            | "x-kv-cache-source-host-port"
            | "x-openfuyao-decode-pod-address-port"
            | "x-openfuyao-prefill-pod-address-port"
            | "x-prefiller-host-port"
            | "x-prefiller-url"
            | "x-vllm-priority"
    ) || name.starts_with("x-override-")
        || name.starts_with("x-hermes-")
}

/// Set again for each endpoint.
fn is_the_senders(name: &str) -> bool {
    matches!(name, "host" | "content-length" | "expect")
}

/// The longest request id of a client that is kept.
const LONGEST_ID: usize = 128;

/// Cleans a client's headers for an endpoint, which gets its own `Host`, `Content-Length` and trace
/// context.
pub(crate) fn clean_request(headers: &mut HeaderMap) {
    remove(headers, |name| {
        is_hop_by_hop(name) || is_control(name) || is_the_senders(name)
    });
}

/// Cleans an endpoint's headers for a client.
pub(crate) fn clean_response(headers: &mut HeaderMap) {
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
            .filter_map(|name| name.trim().parse().ok()),
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
                ("x-hermes-endpoint", "x"),
                ("accept", "*/*"),
            ]),
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
