//! Who sends a request: its session, its tenant and its priority. Only hashes of a client's values
//! are kept.

use hermes_core::{
    inference_pool::{self, FAIRNESS_HEADERS, OBJECTIVE_HEADERS},
    policy::{SessionAffinity, SessionKey, TenantKey},
    snapshot::PoolSpec,
};
use http::{HeaderMap, HeaderValue, header};
use xxhash_rust::xxh3::xxh3_64;

use crate::request::fields::BodyFields;

/// What the body and the priority header state about the client.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ClientIdentity {
    /// The priority header's, or the body's; higher goes first.
    priority: i32,
    /// It is the header's.
    has_priority_header: bool,
    /// Hash of the end user.
    user: Option<u64>,
}

impl ClientIdentity {
    /// `priority` is the header's.
    pub(crate) fn of(fields: &BodyFields, priority: Option<i32>) -> Self {
        Self {
            // The convention of the body, which is vLLM's, is that lower goes first.
            priority: priority.unwrap_or(-fields.priority),
            has_priority_header: priority.is_some(),
            user: fields.user,
        }
    }

    /// Its priority in a pool, higher first: the header's; else that of the pool's objective that
    /// another header names; else the body's; else that of the `model` that the client names. What
    /// clients can choose freely is bounded.
    pub(crate) fn priority(
        &self,
        pool: &PoolSpec,
        model: Option<&str>,
        headers: &HeaderMap,
    ) -> i32 {
        let highest = pool.policy.kv_aware_or_default().queue.max_priority;
        if self.has_priority_header {
            return self.priority.min(highest);
        }
        let named = match &*pool.objectives {
            [] => None,
            _ => either(headers, OBJECTIVE_HEADERS).and_then(|name| name.to_str().ok()),
        };
        if let Some(known) = named.and_then(|name| inference_pool::priority(&pool.objectives, name))
        {
            return known.min(highest);
        }
        match model {
            Some(model) if self.priority == 0 => {
                inference_pool::model_priority(&pool.priorities, model)
            }
            _ => self.priority.min(highest),
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
        TenantKey::Header(name) => header(headers, name).map(HeaderValue::as_bytes),
        TenantKey::Key => headers
            .get(header::AUTHORIZATION)
            .map(HeaderValue::as_bytes),
        TenantKey::Model => model.map(str::as_bytes),
    };
    value.filter(|value| !value.is_empty()).map(xxh3_64)
}

/// The header of this name; one of llm-d also by its other name.
fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a HeaderValue> {
    if FAIRNESS_HEADERS.contains(&name) {
        either(headers, FAIRNESS_HEADERS)
    } else {
        headers.get(name)
    }
}

/// The first of two headers that the request has.
fn either<'a>(headers: &'a HeaderMap, names: [&str; 2]) -> Option<&'a HeaderValue> {
    names.into_iter().find_map(|name| headers.get(name))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hermes_core::{
        inference_pool::{ModelPriority, Objective},
        policy::{KvAware, PoolPolicy, Strategy},
    };

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

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let header = |&(name, value): &(&'static str, &'static str)| {
            let name = http::HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        };
        pairs.iter().map(header).collect()
    }

    fn policy_with_priorities_up_to(highest: i32) -> PoolPolicy {
        let mut rules = KvAware::default();
        rules.queue.max_priority = highest;
        PoolPolicy {
            strategy: Strategy::KvAware(rules),
            ..PoolPolicy::default()
        }
    }

    #[test]
    fn an_objective_gives_its_priority_unless_the_request_states_one() {
        let objectives = [("batch", -2), ("chat", 3)].map(|(name, priority)| Objective {
            name: name.into(),
            priority,
        });
        let pool = PoolSpec {
            objectives: objectives.into(),
            ..PoolSpec::new("pool", policy_with_priorities_up_to(2))
        };
        let fields = BodyFields::parse(&Bytes::from_static(br#"{"priority":7}"#).into());
        let fields = fields.expect("valid");
        let priority = |stated, pairs: &[(&'static str, &'static str)]| {
            ClientIdentity::of(&fields, stated).priority(&pool, None, &headers(pairs))
        };
        let (now, before) = (OBJECTIVE_HEADERS[0], OBJECTIVE_HEADERS[1]);
        assert_eq!(priority(None, &[(now, "chat")]), 2);
        assert_eq!(priority(None, &[(before, "batch")]), -2);
        assert_eq!(priority(None, &[(before, "batch"), (now, "chat")]), 2);
        assert_eq!(priority(Some(1), &[(now, "chat")]), 1);
        assert_eq!(priority(Some(9), &[(now, "chat")]), 2);
        assert_eq!(priority(None, &[(now, "unknown")]), -7);
        assert_eq!(priority(None, &[]), -7);
        let client = ClientIdentity::of(&BodyFields::default(), None);
        let plain = PoolSpec::new("plain", PoolPolicy::default());
        assert_eq!(client.priority(&plain, None, &headers(&[(now, "chat")])), 0);
    }

    #[test]
    fn a_model_gives_its_priority_to_requests_that_state_none() {
        let pool = PoolSpec {
            priorities: [("chat", 1), ("draft", -1)]
                .map(|(model, priority)| ModelPriority {
                    model: model.into(),
                    priority,
                })
                .into(),
            objectives: [Objective {
                name: "zero".into(),
                priority: 0,
            }]
            .into(),
            ..PoolSpec::new("pool", PoolPolicy::default())
        };
        let silent = BodyFields::default();
        let stated = BodyFields::parse(&Bytes::from_static(br#"{"priority":7}"#).into());
        let of = |fields: &BodyFields, header, pairs: &[(&'static str, &'static str)]| {
            ClientIdentity::of(fields, header).priority(&pool, Some("draft"), &headers(pairs))
        };
        assert_eq!(of(&silent, None, &[]), -1);
        assert_eq!(of(&stated.expect("valid"), None, &[]), -7);
        assert_eq!(of(&silent, Some(0), &[]), 0);
        assert_eq!(of(&silent, None, &[(OBJECTIVE_HEADERS[0], "zero")]), 0);
        let other = ClientIdentity::of(&silent, None);
        assert_eq!(other.priority(&pool, Some("chat"), &HeaderMap::new()), 1);
        assert_eq!(other.priority(&pool, Some("chats"), &HeaderMap::new()), 0);
    }

    #[test]
    fn a_fairness_id_is_read_by_both_of_its_names() {
        let key = TenantKey::Header(FAIRNESS_HEADERS[0].into());
        for name in FAIRNESS_HEADERS {
            let headers = headers(&[(name, "team-a")]);
            assert_eq!(tenant(&key, None, &headers), Some(xxh3_64(b"team-a")));
        }
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
