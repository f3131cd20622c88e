//! Who sends a request: its session, its tenant and its priority. Only hashes of a client's values
//! are kept.

use hermes_core::policy::{SessionAffinity, SessionKey, TenantKey};
use http::{HeaderMap, HeaderValue, header};
use xxhash_rust::xxh3::xxh3_64;

use crate::request::fields::BodyFields;

/// What the body and the priority header state about the client.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ClientIdentity {
    /// Higher goes first.
    pub(crate) priority: i32,
    /// Hash of the end user.
    user: Option<u64>,
}

impl ClientIdentity {
    /// `priority` is the header's; without one the body's counts, where vLLM's convention is that
    /// lower goes first.
    pub(crate) fn of(fields: &BodyFields, priority: Option<i32>) -> Self {
        Self {
            priority: priority.unwrap_or(-fields.priority),
            user: fields.user,
        }
    }

    /// A hash of the first session key that the request has.
    pub(crate) fn session(&self, affinity: &SessionAffinity, headers: &HeaderMap) -> Option<u64> {
        affinity.keys.iter().find_map(|key| {
            let value = match key {
                SessionKey::Header(name) => headers.get(&**name),
                SessionKey::Key => headers.get(header::AUTHORIZATION),
                SessionKey::User => return self.user,
            };
            value
                .map(HeaderValue::as_bytes)
                .filter(|value| !value.is_empty())
                .map(xxh3_64)
        })
    }
}

/// A hash of the value that identifies the tenant, if the request has it.
pub(crate) fn tenant(key: &TenantKey, model: Option<&str>, headers: &HeaderMap) -> Option<u64> {
    let value = match key {
        TenantKey::None => None,
        TenantKey::Header(name) => headers.get(&**name).map(HeaderValue::as_bytes),
        TenantKey::Key => headers
            .get(header::AUTHORIZATION)
            .map(HeaderValue::as_bytes),
        TenantKey::Model => model.map(str::as_bytes),
    };
    value.filter(|value| !value.is_empty()).map(xxh3_64)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn session_keys_are_tried_in_order_and_only_hashes_are_kept() {
        let body = Bytes::from_static(br#"{"user":"alice","messages":[]}"#);
        let fields = BodyFields::parse(&body.into()).expect("valid");
        let client = ClientIdentity::of(&fields, None);
        let session = |headers: &HeaderMap| client.session(&SessionAffinity::default(), headers);
        assert_eq!(session(&HeaderMap::new()), Some(xxh3_64(b"alice")));
        let headers = HeaderMap::from_iter([(
            http::HeaderName::from_static("x-session-id"),
            HeaderValue::from_static("s-1"),
        )]);
        assert_eq!(session(&headers), Some(xxh3_64(b"s-1")));
    }

    #[test]
    fn tenants_are_identified_as_configured_and_only_hashes_are_kept() {
        let headers = HeaderMap::from_iter([
            (header::AUTHORIZATION, HeaderValue::from_static("Bearer k")),
            (
                http::HeaderName::from_static("x-team"),
                HeaderValue::from_static("blue"),
            ),
        ]);
        let tenant = |key, headers: &HeaderMap| tenant(&key, Some("m"), headers);
        assert_eq!(tenant(TenantKey::Key, &headers), Some(xxh3_64(b"Bearer k")));
        assert_eq!(
            tenant(TenantKey::Header("x-team".into()), &headers),
            Some(xxh3_64(b"blue"))
        );
        assert_eq!(tenant(TenantKey::Model, &headers), Some(xxh3_64(b"m")));
        assert_eq!(tenant(TenantKey::Key, &HeaderMap::new()), None);
        assert_eq!(tenant(TenantKey::None, &headers), None);
    }
}
