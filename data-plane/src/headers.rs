//! Headers that do not pass, in both directions.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// The id under which a request is known to the client, the logs and the engine.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Which endpoint answered; only if the operator wants clients to know.
pub(crate) const ENDPOINT: HeaderName = HeaderName::from_static("x-hermes-endpoint");

/// They concern one connection and not the request (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Likewise, but without a constant in `http`.
const HOP_BY_HOP_NAMES: [&str; 2] = ["keep-alive", "proxy-connection"];

/// By these a router tells an engine, a sidecar or another router where a request belongs. From a client they would
/// reach other hosts, or another tenant's rank.
const CONTROL: [&str; 13] = [
    "x-data-parallel-rank",
    "x-data-parallel-host-port",
    "x-data-parallel-endpoint",
    "x-prefiller-host-port",
    "x-prefiller-url",
    "x-encoder-hosts-ports",
    "x-kv-cache-source-host-port",
    "x-gateway-destination-endpoint",
    "x-gateway-destination-endpoint-subset",
    "x-openfuyao-prefill-pod-address-port",
    "x-openfuyao-decode-pod-address-port",
    "x-vllm-priority",
    "epp-profile",
];

/// Whole families of such headers.
const CONTROL_PREFIXES: [&str; 2] = ["x-override-", "x-hermes-"];

/// The longest request id of a client that is kept.
const LONGEST_ID: usize = 128;

/// Makes a client's headers fit for an endpoint. `Host`, `Content-Length` and the trace context are the sender's.
pub(crate) fn clean_request(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    headers.remove(header::HOST);
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::EXPECT);
    for name in CONTROL {
        headers.remove(name);
    }
    let prefixed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| CONTROL_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix)))
        .cloned()
        .collect();
    for name in prefixed {
        headers.remove(name);
    }
}

/// Makes an endpoint's headers fit for a client.
pub(crate) fn clean_response(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    headers.remove(ENDPOINT);
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // `Connection` names further headers of the same kind.
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    for name in HOP_BY_HOP_NAMES {
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
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn left(pairs: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut headers = headers(pairs);
        clean_request(&mut headers);
        headers.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn headers_of_one_connection_and_those_it_names_do_not_pass() {
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
    fn control_headers_of_clients_do_not_pass() {
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
    fn a_request_id_is_kept_if_it_can_be_logged() {
        let id = |value: &'static str| request_id(&headers(&[("x-request-id", value)]), || "fresh".into());
        assert_eq!(id("abc-123"), "abc-123");
        assert_eq!(id("two words"), "fresh");
        assert_eq!(request_id(&HeaderMap::new(), || "fresh".into()), "fresh");
    }
}
