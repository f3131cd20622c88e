//! Names of headers by what they are for, in lower case: what both planes agree on.

/// Whether a header belongs to one connection (RFC 9110, 7.6.1).
#[must_use]
pub fn is_hop_by_hop(name: &str) -> bool {
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

/// Whether routers use a header to direct a request to a host or rank behind an engine, a sidecar or
/// another router. Accepted from a client it would let it reach other hosts, or another tenant's
/// rank.
#[must_use]
pub fn is_control(name: &str) -> bool {
    matches!(
        name,
        "epp-profile"
            | "x-data-parallel-endpoint"
            | "x-data-parallel-host-port"
            | "x-data-parallel-rank"
            | "x-encoder-hosts-ports"
            | "x-gateway-model-name"
            | "x-gateway-model-name-rewrite"
            | "x-kv-cache-source-host-port"
            | "x-llm-d-model-name-rewrite"
            | "x-openfuyao-decode-pod-address-port"
            | "x-openfuyao-prefill-pod-address-port"
            | "x-prefiller-host-port"
            | "x-prefiller-url"
            | "x-vllm-priority"
    ) || name.starts_with("x-gateway-destination-endpoint")
        || name.starts_with("x-override-")
        || name.starts_with("x-hermes-")
}

/// Whether the value of a header is a credential, which no snapshot may have.
#[must_use]
pub fn is_credential(name: &str) -> bool {
    matches!(
        name,
        "authorization" | "api-key" | "x-api-key" | "cookie" | "set-cookie"
    )
}
