//! Properties of snapshots and of the names in them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::policy::{
    ClassicWeights, DisaggregationPolicy, KvAware, PairDialect, PrefixCacheRules, SessionAffinity,
    SessionKey, Strategy, TenantKey,
};
use crate::rewrites::RewriteTarget;

fn id(pool: &str, uid: &str) -> EndpointId {
    let address = ServerAddress::parse("http://10.0.0.7:8000").expect("an address");
    EndpointId::of(pool, &address, uid)
}

#[test]
fn another_incarnation_at_the_same_address_is_another_endpoint() {
    assert_eq!(id("chat", "uid-1"), id("chat", "uid-1"));
    assert_ne!(id("chat", "uid-1"), id("chat", "uid-2"));
    assert_ne!(id("chat", "uid-1"), id("other", "uid-1"));
}

#[test]
fn ids_never_change_between_releases() {
    assert_eq!(id("chat", "").to_string(), "85d4169572ba3495");
}

/// Every field of a snapshot. A snapshot goes to every proxy, and `/debug/snapshot` shows it to
/// anyone who reaches the admin port: a name is added here only if its value is no secret. What a
/// proxy needs of a credential is a reference to it.
const FIELDS: [&str; 94] = [
    "base_time",
    "block_bytes",
    "bootstrap_port",
    "budget",
    "client_timeout",
    "connect",
    "consecutive_failures",
    "cors_origins",
    "default_cache_tokens",
    "default_prefill_rate",
    "dialect",
    "disaggregation",
    "ejection",
    "endpoints",
    "engine_id",
    "epoch",
    "except",
    "expose_endpoint",
    "extra_paths",
    "fallback",
    "first_byte",
    "gamma",
    "gamma_waiting",
    "group",
    "header",
    "hermes-classic",
    "holders",
    "id",
    "idle",
    "in_flight",
    "keep_alive_timeout",
    "keys",
    "kv-aware",
    "late",
    "lease",
    "load_factor",
    "lookup_text",
    "max_attempts",
    "max_body_bytes",
    "max_bytes",
    "max_concurrent",
    "max_model_len",
    "max_priority",
    "max_requests",
    "max_time",
    "max_wait",
    "min_uncached_tokens",
    "miss",
    "model",
    "models",
    "name",
    "namespace",
    "nanos",
    "node",
    "objectives",
    "parent",
    "pending",
    "pickers",
    "policy",
    "pools",
    "port",
    "prefix-cache",
    "priority",
    "queue",
    "rank",
    "ranks",
    "request",
    "retry",
    "rewrites",
    "role",
    "scale",
    "score_deadline",
    "secs",
    "send_timeout",
    "server_name",
    "service",
    "session-affinity",
    "settings",
    "slow_start",
    "some",
    "spec",
    "strategy",
    "targets",
    "tenant",
    "threshold",
    "timeouts",
    "trust",
    "url",
    "usage",
    "version",
    "waiting",
    "weight",
    "window",
    "zone",
];

/// A pool of each strategy, with every optional part.
fn everything() -> Snapshot {
    let header = SessionKey::Header("x-session-id".into());
    let affinity = SessionAffinity {
        keys: vec![header, SessionKey::Key, SessionKey::User],
        ..SessionAffinity::default()
    };
    let strategies = [
        Strategy::RoundRobin,
        Strategy::SessionAffinity(affinity),
        Strategy::PrefixCache(PrefixCacheRules::default()),
        Strategy::KvAware(KvAware::default()),
        Strategy::HermesClassic(ClassicWeights::default()),
    ];
    let ids: Arc<[EndpointId]> = [EndpointId(1)].into();
    let holders = [
        ModelHolders::All,
        ModelHolders::Some(Arc::clone(&ids)),
        ModelHolders::Except(ids),
    ];
    let model = |holders| {
        Arc::new(Model {
            name: format!("{holders:?}").into(),
            parent: Some("base".into()),
            max_model_len: Some(1),
            holders,
        })
    };
    let models: Collection<Model> = holders.map(model).into_iter().collect();
    let server_name = "engine.internal".parse().expect("a name");
    let address = ServerAddress::parse("https://h:1").expect("an address");
    let endpoint = Endpoint {
        id: EndpointId(1),
        address: address.with_server_name(server_name),
        name: "ai/pod".into(),
        role: Role::Decode,
        group: Some("g".into()),
        pairing: PairingFacts {
            bootstrap_port: std::num::NonZeroU16::new(8998),
            version: Some("0.32.0".into()),
            ranks: Some(
                [EngineRank {
                    rank: 0,
                    engine_id: "6d1c".into(),
                }]
                .into(),
            ),
            location: EndpointLocation {
                node: Some("machine-1".into()),
                zone: Some("zone-a".into()),
            },
        },
    };
    let endpoints = Collection::from(vec![Arc::new(endpoint)]);
    let pool = |strategy: Strategy| {
        let plain = PoolSpec::new(
            strategy.name(),
            PoolPolicy {
                strategy,
                tenant: TenantKey::Header("x-tenant".into()),
                disaggregation: Some(DisaggregationPolicy::of(PairDialect::VllmNixl)),
                ..PoolPolicy::default()
            },
        );
        let spec = PoolSpec {
            pickers: [PickerReference {
                namespace: "ai".into(),
                service: "picker".into(),
                port: 9002,
            }]
            .into(),
            rewrites: [ModelRewrite {
                model: Some("chat".into()),
                targets: [RewriteTarget {
                    model: "llama".into(),
                    weight: 1,
                }]
                .into(),
            }]
            .into(),
            objectives: [Objective {
                name: "batch".into(),
                priority: -1,
            }]
            .into(),
            ..plain
        };
        Arc::new(Pool {
            spec: Arc::new(spec),
            models: models.clone(),
            endpoints: endpoints.clone(),
        })
    };
    Snapshot {
        pools: strategies.map(pool).into_iter().collect(),
        ..Snapshot::default()
    }
}

/// The names of all fields of `value`, at any depth.
fn fields(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                found.insert(name.clone());
                fields(value, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| fields(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn a_snapshot_has_no_field_but_those_that_are_known_to_be_no_secret() {
    let mut found = BTreeSet::new();
    fields(
        &serde_json::to_value(everything()).expect("JSON"),
        &mut found,
    );
    let known: BTreeSet<String> = FIELDS.map(String::from).into();
    assert_eq!(found, known);
}
