//! How requests of a pool are split between prefill and decode endpoints.

use std::num::NonZeroU16;

use hermes_core::{
    policy::{DisaggregationPolicy, PairDialect, PairFallback},
    snapshot::Role,
};

use super::{
    duration::{HOUR, SECOND},
    names::{is_label_name, is_label_value},
    section::Section,
    source::{self, EndpointSource},
};
use crate::discovery::RoleNames;

/// What the mapping `disaggregation` of a pool says.
#[derive(Debug, Default)]
pub(super) struct PoolRoles {
    /// Absent if there is no mapping, or its dialect is wrong.
    pub(super) policy: Option<DisaggregationPolicy>,
    /// Static endpoints with roles.
    pub(super) sources: Vec<EndpointSource>,
    /// How roles are called in Kubernetes.
    pub(super) names: RoleNames,
}

/// The mapping `disaggregation` of a pool.
pub(super) fn read(section: &mut Section<'_>) -> PoolRoles {
    let dialect = section
        .one_of(
            "dialect",
            &PairDialect::ALL.map(|dialect| (dialect.name(), dialect)),
            "What the endpoints are sent: see [disaggregation](disaggregation.md).",
        )
        .required("set what the engines understand, such as `vllm-nixl`");
    let defaults = DisaggregationPolicy::of(dialect.unwrap_or(PairDialect::VllmNixl));
    let policy = DisaggregationPolicy {
        fallback: section
            .one_of(
                "onFailure",
                &FALLBACKS.map(|fallback| (fallback.name(), fallback)),
                "What follows when a pair fails before the first byte of its answer: the next pair and then an endpoint \
                 that can serve the request alone; such an endpoint at once; or the failure.",
            )
            .or(defaults.fallback),
        min_uncached_tokens: section
            .count(
                "minUncachedTokens",
                0..=1_000_000,
                "A request with fewer uncached prompt tokens at an endpoint that can serve it alone goes there. With more, \
                 [costs](disaggregation.md#when-a-request-is-split) decide.",
            )
            .or(defaults.min_uncached_tokens),
        lease: section
            .duration(
                "lease",
                SECOND * 10..=HOUR,
                "For `vllm-nixl` and `trtllm`: how long a prefill endpoint keeps a KV cache that was not taken over \
                 (`kv_lease_duration`, `kv_transfer_timeout_ms`).",
            )
            .or(defaults.lease),
        bootstrap_port: bootstrap_port(section, defaults.bootstrap_port),
        ..defaults
    };
    let roles = [
        ("prefill", Role::Prefill, "Static prefill endpoints."),
        ("decode", Role::Decode, "Static decode endpoints."),
        (
            "both",
            Role::Both,
            "For `vllm-nixl` and `shared-storage`: static endpoints that may be either half of a pair, and serve whole \
             requests. With the other dialects, they only serve whole requests.",
        ),
        (
            "leaders",
            Role::Leader,
            "For `leader-headers`: static proxies in front of these pairs.",
        ),
    ];
    let sources =
        roles.map(|(name, role, meaning)| source::read_role(section, name, role, meaning));
    PoolRoles {
        policy: dialect.map(|_| policy),
        sources: sources.into_iter().flatten().collect(),
        names: read_names(section),
    }
}

/// The keys for labels of other names.
fn read_names(section: &mut Section<'_>) -> RoleNames {
    let mut label = |name, meaning| {
        let expected = "a label's name, such as app.kubernetes.io/component";
        let label = section.text_where(name, expected, is_label_name, meaning);
        label.or_unset("none").map(|label| label.to_string())
    };
    let role_label = label(
        "roleLabel",
        "Label that names the role, before the known ones.",
    );
    let group_label = label(
        "groupLabel",
        "Label that names the group, before the known ones.",
    );
    let values = [
        (
            "prefillValue",
            Role::Prefill,
            "Value of the role's label for prefill endpoints, besides the known ones.",
        ),
        (
            "decodeValue",
            Role::Decode,
            "The same for decode endpoints.",
        ),
        (
            "bothValue",
            Role::Both,
            "The same for endpoints that do both.",
        ),
        ("leaderValue", Role::Leader, "The same for leaders."),
    ];
    let values = values.into_iter().filter_map(|(name, role, meaning)| {
        let value = section.text_where(name, "a label's value", is_label_value, meaning);
        let value = value.or_unset("none")?;
        Some((value.to_string(), role))
    });
    RoleNames {
        role_label,
        group_label,
        values: values.collect(),
    }
}

/// The key `bootstrapPort`.
fn bootstrap_port(section: &mut Section<'_>, default: NonZeroU16) -> NonZeroU16 {
    let port: u16 = section
        .count(
            "bootstrapPort",
            1..=u32::from(u16::MAX),
            "For `sglang` and `vllm-mooncake`: the bootstrap port of prefill endpoints of which neither the annotation \
             `hermes.ai/bootstrap-port` nor the engine states one.",
        )
        .or(default.get());
    NonZeroU16::new(port).unwrap_or(default)
}

/// Every fallback.
const FALLBACKS: [PairFallback; 3] = [
    PairFallback::OtherPrefill,
    PairFallback::Aggregate,
    PairFallback::Fail,
];
