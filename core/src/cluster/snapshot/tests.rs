//! Properties of snapshots and of the names in them.

use std::{collections::BTreeSet, time::Duration};

use serde_json::Value;

use super::*;
use crate::policy::{
    ClassicWeights, DisaggregationPolicy, KvAware, PairDialect, PrefixCacheRules, SessionAffinity,
    SessionKey, Strategy, TenantKey,
};
use crate::{
    address::{DnsName, ServerScheme},
    inference_pool::{ModelPriority, PickerFailure},
    listener::ListenerTls,
    rewrites::RewriteTarget,
    route::{
        BackendTarget, FieldMatch, HeaderEdits, HeaderField, PathEdit, PathMatch, RouteBackend,
        RouteFilters, RouteMatch, RouteMirror, RouteRedirect, RouteRule, RouteTimeouts, TextMatch,
        TextPattern, UrlRewrite,
    },
};

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
const FIELDS: [&str; 135] = [
    "add",
    "address",
    "asked_picker",
    "authority",
    "backend_request",
    "backends",
    "base_time",
    "block_bytes",
    "bootstrap_port",
    "budget",
    "certificates",
    "client_timeout",
    "connect",
    "consecutive_failures",
    "cors_origins",
    "created",
    "default_cache_tokens",
    "default_prefill_rate",
    "dialect",
    "disaggregation",
    "ejection",
    "endpoints",
    "engine_id",
    "epoch",
    "exact",
    "except",
    "expose_endpoint",
    "extra_paths",
    "fallback",
    "filters",
    "first_byte",
    "full",
    "gamma",
    "gamma_waiting",
    "group",
    "header",
    "headers",
    "hermes-classic",
    "holders",
    "hostname",
    "hostnames",
    "http2",
    "id",
    "idle",
    "in_flight",
    "keep_alive_timeout",
    "keys",
    "kv-aware",
    "late",
    "lease",
    "listeners",
    "load_factor",
    "lookup_text",
    "matches",
    "max_attempts",
    "max_body_bytes",
    "max_bytes",
    "max_concurrent",
    "max_model_len",
    "max_priority",
    "max_requests",
    "max_time",
    "max_wait",
    "method",
    "min_uncached_tokens",
    "mirrors",
    "miss",
    "model",
    "models",
    "name",
    "namespace",
    "nanos",
    "node",
    "objectives",
    "on_failure",
    "parent",
    "path",
    "pattern",
    "pending",
    "pickers",
    "policy",
    "priorities",
    "pool",
    "pools",
    "port",
    "prefix",
    "prefix-cache",
    "priority",
    "query",
    "queue",
    "rank",
    "ranks",
    "redirect",
    "remove",
    "request",
    "request_headers",
    "response_headers",
    "retry",
    "rewrite",
    "rewrites",
    "role",
    "routes",
    "routes_only",
    "rules",
    "scale",
    "scheme",
    "score_deadline",
    "secs",
    "send_timeout",
    "server_name",
    "service",
    "session-affinity",
    "set",
    "settings",
    "share",
    "slow_start",
    "some",
    "spec",
    "status",
    "strategy",
    "target",
    "targets",
    "tenant",
    "threshold",
    "timeouts",
    "tls",
    "trust",
    "url",
    "usage",
    "value",
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
            priorities: [ModelPriority {
                model: "chat".into(),
                priority: 1,
            }]
            .into(),
            objectives: [Objective {
                name: "batch".into(),
                priority: -1,
            }]
            .into(),
            asked_picker: Some(AskedPicker {
                authority: "picker.ai.svc:9002".into(),
                tls: true,
                on_failure: PickerFailure::Close,
            }),
            http2: true,
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
        routes: vec![Arc::new(route_with_everything())].into(),
        listeners: vec![Arc::new(secured_listener())].into(),
        ..Snapshot::default()
    }
}

fn secured_listener() -> Listener {
    Listener {
        name: "https".into(),
        address: ([0, 0, 0, 0], 8443).into(),
        hostname: "*.example.com".parse().ok(),
        tls: Some(ListenerTls {
            certificates: vec!["example".into()],
        }),
        routes_only: true,
    }
}

fn route_with_everything() -> Route {
    let pattern = || TextPattern::parse(".*").expect("an expression");
    let field = |value| FieldMatch {
        name: "x".into(),
        value,
    };
    let paths = [
        PathMatch::Exact("/a".into()),
        PathMatch::Prefix("/a".into()),
        PathMatch::Pattern(pattern()),
    ];
    let wanted = |path| RouteMatch {
        path,
        method: Some("GET".into()),
        headers: vec![field(TextMatch::Exact("1".into()))],
        query: vec![field(TextMatch::Pattern(pattern()))],
    };
    let header = || HeaderField {
        name: "x".into(),
        value: "1".into(),
    };
    let edits = || HeaderEdits {
        set: vec![header()],
        add: vec![header()],
        remove: vec!["x".into()],
    };
    let hostname: Option<DnsName> = "example.com".parse().ok();
    let pool = || BackendTarget::Pool("chat".into());
    let filters = RouteFilters {
        request_headers: edits(),
        response_headers: edits(),
        redirect: Some(RouteRedirect {
            scheme: Some(ServerScheme::Https),
            hostname: hostname.clone(),
            port: NonZeroU16::new(443),
            path: Some(PathEdit::Full("/a".into())),
            status: 302,
        }),
        rewrite: Some(UrlRewrite {
            hostname,
            path: Some(PathEdit::Prefix("/a".into())),
        }),
        mirrors: vec![RouteMirror {
            target: pool(),
            share: 0.5,
        }],
    };
    let rule = RouteRule {
        matches: paths.map(wanted).into(),
        filters,
        backends: [pool(), BackendTarget::Invalid]
            .map(|target| RouteBackend { target, weight: 1 })
            .into(),
        timeouts: RouteTimeouts {
            request: Some(Duration::from_secs(1)),
            backend_request: Some(Duration::from_secs(1)),
        },
    };
    Route {
        name: "route".into(),
        listeners: vec!["https".into()],
        hostnames: "*.example.com".parse().into_iter().collect(),
        created: 1,
        rules: vec![rule],
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
