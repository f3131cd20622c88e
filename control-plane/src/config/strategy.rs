//! A strategy by its name, or a mapping with the name and what that strategy takes.

use hermes_core::policy::{
    ClassicWeights, CountScale, KvAware, PrefixCacheRules, SessionAffinity, SessionKey, Strategy,
};

use super::{
    nearest::nearest,
    reader::{Fields, Node},
    sections::{STRATEGY, WEIGHTS},
};

/// Every name, the documented one of each strategy first; the others are the original's and the field's.
const NAMES: [(&str, &[&str]); 8] = [
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

/// Which settings belong to which strategies.
const OWNERS: [(&str, &[&str]); 11] = [
    ("weights", &["hermes-classic"]),
    ("scale", &["hermes-classic"]),
    ("keys", &["session-affinity"]),
    ("loadFactor", &["session-affinity", "prefix-cache"]),
    ("threshold", &["prefix-cache"]),
    ("binding", &["kv-aware"]),
    ("window", &["kv-aware"]),
    ("gamma", &["kv-aware"]),
    ("gammaWaiting", &["kv-aware"]),
    ("defaultPrefillRate", &["kv-aware"]),
    ("defaultCacheTokens", &["kv-aware"]),
];

/// Most places to look for a session.
const MAX_KEYS: usize = 8;

/// The value of `strategy`: a name or a mapping; nothing when it is wrong, which has been noted.
pub(super) fn read(node: &Node<'_>) -> Option<Strategy> {
    if !node.is_mapping() {
        return by_name(node);
    }
    let fields = node.fields(&STRATEGY)?;
    let Some(name) = fields.node("name") else {
        fields.missing("name", &format!("give {}", known()));
        return None;
    };
    let strategy = by_name(&name);
    refuse_foreign(&fields, strategy.as_ref());
    match strategy? {
        Strategy::KvAware(defaults) => Some(Strategy::KvAware(read_kv_aware(&fields, defaults))),
        Strategy::PrefixCache(defaults) => Some(Strategy::PrefixCache(PrefixCacheRules {
            threshold: fields.number("threshold").unwrap_or(defaults.threshold),
            load_factor: fields.number("loadFactor").unwrap_or(defaults.load_factor),
        })),
        Strategy::HermesClassic(defaults) => {
            Some(Strategy::HermesClassic(read_classic(&fields, defaults)))
        }
        Strategy::SessionAffinity(defaults) => {
            Some(Strategy::SessionAffinity(read_affinity(&fields, defaults)))
        }
        simple @ (Strategy::RoundRobin
        | Strategy::Random
        | Strategy::LeastRequest
        | Strategy::PowerOfTwo) => Some(simple),
    }
}

/// The mapping `weights`; what is absent keeps its default.
pub(super) fn read_weights(node: &Node<'_>, defaults: ClassicWeights) -> Option<ClassicWeights> {
    let fields = node.fields(&WEIGHTS)?;
    let weights = ClassicWeights {
        miss: fields.number("miss").unwrap_or(defaults.miss),
        usage: fields.number("usage").unwrap_or(defaults.usage),
        waiting: fields.number("waiting").unwrap_or(defaults.waiting),
        in_flight: fields.number("inFlight").unwrap_or(defaults.in_flight),
        scale: defaults.scale,
    };
    if [
        weights.miss,
        weights.usage,
        weights.waiting,
        weights.in_flight,
    ]
    .iter()
    .all(|weight| *weight == 0.0)
    {
        node.mistake(
            node.path(),
            "every weight is 0",
            "give at least one above 0, or the strategy random",
        );
    }
    Some(weights)
}

fn by_name(node: &Node<'_>) -> Option<Strategy> {
    let typed = node.text(&known())?;
    let folded = typed.to_ascii_lowercase();
    let entry = NAMES
        .iter()
        .find(|(name, also)| *name == folded || also.contains(&&*folded));
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
            let names = NAMES.iter().map(|(name, _)| *name);
            let meant = nearest(typed, names).map(|name| format!("did you mean {name}? Else "));
            return node.wrong(format!("{}give {}", meant.unwrap_or_default(), known()));
        }
    };
    Some(strategy)
}

fn known() -> String {
    format!("one of {}", NAMES.map(|(name, _)| name).join(", "))
}

/// Settings that belong to another strategy would silently do nothing.
fn refuse_foreign(fields: &Fields<'_>, strategy: Option<&Strategy>) {
    let Some(strategy) = strategy else { return };
    for (key, owners) in OWNERS {
        if fields.node(key).is_some() && !owners.contains(&strategy.name()) {
            let found = format!(
                "a setting of {}, and the strategy is {}",
                owners.join(" and "),
                strategy.name()
            );
            fields.mistake(key, found, "leave it out, or choose the other strategy");
        }
    }
}

fn read_kv_aware(fields: &Fields<'_>, defaults: KvAware) -> KvAware {
    KvAware {
        late: fields
            .one_of("binding")
            .map_or(defaults.late, |binding| binding == "late"),
        window: fields.duration("window").unwrap_or(defaults.window),
        gamma: fields.number("gamma").unwrap_or(defaults.gamma),
        gamma_waiting: fields
            .number("gammaWaiting")
            .unwrap_or(defaults.gamma_waiting),
        default_prefill_rate: fields
            .number("defaultPrefillRate")
            .unwrap_or(defaults.default_prefill_rate),
        default_cache_tokens: fields
            .count("defaultCacheTokens")
            .unwrap_or(defaults.default_cache_tokens),
        queue: defaults.queue,
    }
}

fn read_classic(fields: &Fields<'_>, defaults: ClassicWeights) -> ClassicWeights {
    let weights = fields
        .node("weights")
        .and_then(|node| read_weights(&node, defaults))
        .unwrap_or(defaults);
    let scale = match fields.one_of("scale") {
        Some("raw") => CountScale::Raw,
        Some(_) | None => CountScale::Max,
    };
    ClassicWeights { scale, ..weights }
}

fn read_affinity(fields: &Fields<'_>, defaults: SessionAffinity) -> SessionAffinity {
    let keys = fields
        .node("keys")
        .and_then(|node| read_keys(&node))
        .unwrap_or(defaults.keys);
    SessionAffinity {
        keys,
        load_factor: fields.number("loadFactor").unwrap_or(defaults.load_factor),
    }
}

fn read_keys(node: &Node<'_>) -> Option<Vec<SessionKey>> {
    let items = node.items(1, MAX_KEYS, "of `user`, `key` and `header:NAME`")?;
    let mut keys = Vec::with_capacity(items.len());
    for item in &items {
        let Some(key) = read_key(item) else { continue };
        if keys.contains(&key) {
            item.wrong::<()>("leave it out: it is in the list already");
            continue;
        }
        keys.push(key);
    }
    Some(keys)
}

fn read_key(node: &Node<'_>) -> Option<SessionKey> {
    let text = node.text("`user`, `key` or `header:NAME`")?;
    match (text, text.strip_prefix("header:")) {
        ("user", _) => Some(SessionKey::User),
        ("key", _) => Some(SessionKey::Key),
        (_, Some(name)) if name.eq_ignore_ascii_case("authorization") => {
            node.wrong("give `key`: it is the credential, hashed before it leaves the proxy")
        }
        (_, Some(name)) if http::HeaderName::try_from(name).is_ok() => {
            Some(SessionKey::Header(name.to_ascii_lowercase().into()))
        }
        (_, Some(_) | None) => node.wrong("give `user`, `key` or `header:NAME`"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::reader::Notes;

    fn read_value(value: &Value) -> Option<Strategy> {
        let notes = Notes::default();
        read(&Node::new(value, "strategy", &notes))
    }

    #[test]
    fn every_documented_name_is_the_name_of_its_strategy() {
        for (name, also) in NAMES {
            for spelling in also.iter().copied().chain([name]) {
                let strategy = read_value(&json!(spelling)).unwrap_or_else(|| panic!("{spelling}"));
                assert_eq!(strategy.name(), name);
            }
        }
    }

    #[test]
    fn both_spellings_of_the_original_weight_are_the_miss_weight() {
        for name in ["kvCacheHitNotRateWeight", "kvCacheNotHitRateWeight", "miss"] {
            let read = read_value(&json!({"name": "hermes-classic", "weights": {name: 2.5}}));
            assert_eq!(
                read,
                Some(Strategy::HermesClassic(ClassicWeights {
                    miss: 2.5,
                    ..ClassicWeights::default()
                })),
                "{name}"
            );
        }
    }

    #[test]
    fn a_session_header_is_kept_in_lower_case() {
        let read = read_value(
            &json!({"name": "session-affinity", "keys": ["header:X-User", "key"], "loadFactor": 2}),
        );
        let keys = vec![SessionKey::Header("x-user".into()), SessionKey::Key];
        assert_eq!(
            read,
            Some(Strategy::SessionAffinity(SessionAffinity {
                keys,
                load_factor: 2.0
            }))
        );
    }
}
