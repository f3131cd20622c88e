//! A strategy: its name, or a mapping with its name and its settings.

use std::{ops::RangeInclusive, time::Duration};

use hermes_core::{
    nearest::nearest,
    policy::{
        ClassicWeights, CountScale, KvAware, PrefixCacheRules, SessionAffinity, SessionKey,
        Strategy,
    },
};

use super::{
    duration::SECOND,
    header,
    key::ValueType,
    node::Node,
    section::{Reading, Section},
};

/// Every strategy with the other spellings of its name: the original's and the field's.
const ALIASES: [(&str, &[&str]); 8] = [
    (
        "kv-aware",
        &[
            "kv-cache-aware",
            "kvcache-aware",
            "aggregate-kv-cache-aware",
            "kvcache",
        ],
    ),
    ("round-robin", &["roundrobin", "rr"]),
    ("random", &[]),
    ("least-request", &["least-requests", "least-connections"]),
    ("power-of-two", &["power-of-two-choices", "p2c"]),
    ("session-affinity", &[]),
    ("prefix-cache", &["prefix_cache"]),
    ("hermes-classic", &[]),
];

/// What a session key may be.
const SESSION_KEY: &str = "`user`, `key` or `header:NAME`";

/// Places to look for a session.
const SESSION_KEYS: RangeInclusive<usize> = 1..=8;

/// What a weight may be.
const WEIGHT: RangeInclusive<f32> = 0.0..=1_000.0;

/// The key `strategy`, whose value is a name or a mapping.
pub(super) fn key<'s, 'a>(
    section: &'s mut Section<'a>,
    meaning: &'static str,
) -> Reading<'s, 'a, Strategy, impl Fn(&Strategy) -> String> {
    let (_, keys) = Section::describe(read_settings);
    let value_type = ValueType::TextOrSection("a strategy's name, or a mapping with `name`", keys);
    let show = |strategy: &Strategy| strategy.name().to_owned();
    section.value("strategy", value_type, meaning, read, show)
}

/// A strategy's name, or a mapping with the name and its settings.
pub(super) fn read(node: &Node<'_>) -> Option<Strategy> {
    if node.mapping().is_some() {
        Section::read(node, read_settings)?
    } else {
        by_name(node)
    }
}

fn read_settings(section: &mut Section<'_>) -> Option<Strategy> {
    let named = section
        .value(
            "name",
            ValueType::Text("a strategy's name"),
            ALIASES.map(|(name, _)| format!("`{name}`")).join(", "),
            by_name,
            |strategy| strategy.name().to_owned(),
        )
        .required(&format!("set one of {}", names()));
    let kv_aware = section.only_for(&["kv-aware"], read_kv_aware);
    let classic = section.only_for(&["hermes-classic"], read_classic);
    let keys = section.only_for(&["session-affinity"], read_session_keys);
    let load_factor = section.only_for(&["session-affinity", "prefix-cache"], read_load_factor);
    let threshold = section.only_for(&["prefix-cache"], read_threshold);
    let named = named?;
    reject_foreign(section, &named);
    Some(match named {
        Strategy::KvAware(_) => Strategy::KvAware(kv_aware),
        Strategy::HermesClassic(_) => Strategy::HermesClassic(classic),
        Strategy::SessionAffinity(defaults) => Strategy::SessionAffinity(SessionAffinity {
            keys,
            load_factor: load_factor.unwrap_or(defaults.load_factor),
        }),
        Strategy::PrefixCache(defaults) => Strategy::PrefixCache(PrefixCacheRules {
            threshold,
            load_factor: load_factor.unwrap_or(defaults.load_factor),
        }),
        simple @ (Strategy::RoundRobin
        | Strategy::Random
        | Strategy::LeastRequest
        | Strategy::PowerOfTwo) => simple,
    })
}

fn read_kv_aware(section: &mut Section<'_>) -> KvAware {
    let defaults = KvAware::default();
    KvAware {
        late: section
            .one_of(
                "binding",
                &[("late", true), ("early", false)],
                "whether a request waits in the control plane until an endpoint has room (`late`), \
                 or is sent at once and waits in an engine's queue (`early`).",
            )
            .or(defaults.late),
        window: section
            .duration(
                "window",
                Duration::from_millis(1)..=SECOND * 10,
                "an endpoint has room while the prefill work sent to it and not yet answered takes less time than this.",
            )
            .or(defaults.window),
        gamma: section
            .number(
                "gamma",
                WEIGHT,
                "weight of the delay that redundant prefill causes to requests still to come; \
                 1 is the value of queueing theory.",
            )
            .or(defaults.gamma),
        gamma_waiting: section
            .number(
                "gammaWaiting",
                WEIGHT,
                "weight of the delay that redundant prefill causes to requests already queued; \
                 1 is the value of queueing theory.",
            )
            .or(defaults.gamma_waiting),
        default_prefill_rate: section
            .number(
                "defaultPrefillRate",
                1.0..=1e7,
                "prefill rate in tokens per second to assume for an endpoint until it is measured.",
            )
            .or(defaults.default_prefill_rate),
        default_cache_tokens: section
            .count(
                "defaultCacheTokens",
                1_000..=1_000_000_000,
                "cache capacity in tokens to assume for an endpoint whose engine does not report it.",
            )
            .or(defaults.default_cache_tokens),
        queue: defaults.queue,
    }
}

fn read_classic(section: &mut Section<'_>) -> ClassicWeights {
    let weights = section.section("weights", "weights of the score.", read_weights);
    ClassicWeights {
        scale: section
            .one_of(
                "scale",
                &[("max", CountScale::Max), ("raw", CountScale::Raw)],
                "whether counts are divided by the largest among the candidates (`max`) or used as they are (`raw`).",
            )
            .or(weights.scale),
        ..weights
    }
}

/// The mapping `weights`.
pub(super) fn read_weights(section: &mut Section<'_>) -> ClassicWeights {
    let defaults = ClassicWeights::default();
    let weights = ClassicWeights {
        miss: section
            .number(
                (
                    "miss",
                    ["kvCacheHitNotRateWeight", "kvCacheNotHitRateWeight"],
                ),
                WEIGHT,
                "Weight of the share of the prompt that the endpoint has not cached.",
            )
            .or(defaults.miss),
        usage: section
            .number(
                ("usage", ["xpuCacheUsageWeight"]),
                WEIGHT,
                "Weight of the KV cache's usage.",
            )
            .or(defaults.usage),
        waiting: section
            .number(
                ("waiting", ["waitingRequestWeight"]),
                WEIGHT,
                "Weight of the requests that wait in the engine.",
            )
            .or(defaults.waiting),
        in_flight: section
            .number(
                ("inFlight", ["inflightWeight"]),
                WEIGHT,
                "Weight of the prompt tokens sent to the endpoint and not yet answered.",
            )
            .or(defaults.in_flight),
        scale: defaults.scale,
    };
    let ClassicWeights {
        miss,
        usage,
        waiting,
        in_flight,
        scale: _,
    } = weights;
    if [miss, usage, waiting, in_flight] == [0.0; 4] {
        section.own_error(
            "every weight is 0",
            "set at least one above 0, or use the strategy random",
        );
    }
    weights
}

fn read_session_keys(section: &mut Section<'_>) -> Vec<SessionKey> {
    section
        .texts(
            "keys",
            SESSION_KEYS,
            "of `user`, `key` and `header:NAME`",
            "where the session key is read, in this order: a header, the body's `user`, or the API key.",
            session_key,
            show_session_key,
        )
        .or(SessionAffinity::default().keys)
}

fn read_load_factor(section: &mut Section<'_>) -> Option<f32> {
    let (affinity, prefix) = (SessionAffinity::default(), PrefixCacheRules::default());
    let (default, other) = (affinity.load_factor, prefix.load_factor);
    section
        .number(
            "loadFactor",
            1.01..=100.0,
            "an endpoint takes at most this multiple of the mean load.",
        )
        .or_unset(format!("{default}; {other} for `prefix-cache`"))
}

fn read_threshold(section: &mut Section<'_>) -> f32 {
    section
        .number(
            "threshold",
            0.0..=1.0,
            "share of the prompt that an endpoint must have cached for its cache to count.",
        )
        .or(PrefixCacheRules::default().threshold)
}

fn by_name(node: &Node<'_>) -> Option<Strategy> {
    let typed = node.text(&format!("one of {}", names()))?;
    let folded = typed.to_ascii_lowercase();
    let entry = ALIASES
        .iter()
        .find(|(name, aliases)| *name == folded || aliases.contains(&&*folded));
    let strategy = match entry.map(|(name, _)| *name) {
        Some("kv-aware") => Strategy::KvAware(KvAware::default()),
        Some("round-robin") => Strategy::RoundRobin,
        Some("random") => Strategy::Random,
        Some("least-request") => Strategy::LeastRequest,
        Some("power-of-two") => Strategy::PowerOfTwo,
        Some("prefix-cache") => Strategy::PrefixCache(PrefixCacheRules::default()),
        Some("hermes-classic") => Strategy::HermesClassic(ClassicWeights::default()),
        Some("session-affinity") => Strategy::SessionAffinity(SessionAffinity::default()),
        Some(_) | None => {
            let close = nearest(typed, ALIASES.map(|(name, _)| name));
            return node.wrong(match close.first() {
                Some(meant) => format!("did you mean {meant}? The strategies are {}", names()),
                None => format!("expected one of {}", names()),
            });
        }
    };
    Some(strategy)
}

/// For a message: every strategy.
fn names() -> String {
    ALIASES.map(|(name, _)| name).join(", ")
}

/// Settings of another strategy would silently have no effect.
fn reject_foreign(section: &Section<'_>, strategy: &Strategy) {
    for key in section.foreign(strategy.name()) {
        let (owners, name) = (key.owners.join(" and "), strategy.name());
        section.error(
            key.name,
            format!("a setting of {owners}, and the strategy is {name}"),
            "remove it, or choose the other strategy",
        );
    }
}

fn session_key(node: &Node<'_>) -> Option<SessionKey> {
    let text = node.text(SESSION_KEY)?;
    match (text, text.strip_prefix("header:")) {
        ("user", _) => Some(SessionKey::User),
        ("key", _) => Some(SessionKey::Key),
        (_, Some(name)) => header::read(node, name, SESSION_KEY).map(SessionKey::Header),
        (_, None) => node.wrong(format!("expected {SESSION_KEY}")),
    }
}

fn show_session_key(key: &SessionKey) -> String {
    match key {
        SessionKey::User => "user".to_owned(),
        SessionKey::Key => "key".to_owned(),
        SessionKey::Header(name) => format!("header:{name}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::diagnostics::Diagnostics;

    fn read_value(value: &Value) -> Option<Strategy> {
        let diagnostics = Diagnostics::default();
        read(&Node::new(value, "strategy", &diagnostics))
    }

    #[test]
    fn every_documented_name_is_the_name_of_its_strategy() {
        for (name, aliases) in ALIASES {
            for spelling in aliases.iter().copied().chain([name]) {
                let strategy = read_value(&json!(spelling)).unwrap_or_else(|| panic!("{spelling}"));
                assert_eq!(strategy.name(), name);
            }
        }
    }

    #[test]
    fn both_spellings_of_the_original_weight_are_the_miss_weight() {
        for name in ["kvCacheHitNotRateWeight", "kvCacheNotHitRateWeight", "miss"] {
            let read = read_value(&json!({"name": "hermes-classic", "weights": {name: 2.5}}));
            let weights = ClassicWeights {
                miss: 2.5,
                ..ClassicWeights::default()
            };
            assert_eq!(read, Some(Strategy::HermesClassic(weights)), "{name}");
        }
    }

    #[test]
    fn a_session_header_is_kept_in_lower_case() {
        let read = read_value(
            &json!({"name": "session-affinity", "keys": ["header:X-User", "key"], "loadFactor": 2}),
        );
        let affinity = SessionAffinity {
            keys: vec![SessionKey::Header("x-user".into()), SessionKey::Key],
            load_factor: 2.0,
        };
        assert_eq!(read, Some(Strategy::SessionAffinity(affinity)));
    }
}
