//! What is said about every key that is wrong, and that every key is read at all.

use std::{env, fs, path::Path};

use serde_json::{Value, json};

use super::{
    Config, duration,
    mistakes::Mistakes,
    reader::Notes,
    sections::{ALL, Key, Kind, Section},
    size,
};

/// A document in which every section can stand.
fn base() -> Value {
    let kv_manager = json!({"url": "http://m"});
    let tokenizer = json!({"path": "/m"});
    json!({
        "pools": [{
            "name": "chat",
            "endpoints": ["http://h:1"],
            "kubernetes": {"services": {"app": "vllm"}, "port": 8000},
            "strategy": {"name": "kv-aware"},
            "kvManager": kv_manager,
            "tokenizer": tokenizer,
        }],
        "app": {"kvmanager": kv_manager},
    })
}

/// The base, with `value` for one key.
fn with(section: &Section, key: &Key, value: Value) -> Value {
    let mut document = base();
    let mut at = &mut document;
    for part in section.path.split('.').filter(|part| !part.is_empty()) {
        if part == "weights" && section.path.starts_with("pools") {
            at["name"] = json!("hermes-classic");
        }
        at = match part.strip_suffix("[]") {
            Some(list) => &mut at[list][0],
            None => &mut at[part],
        };
        if at.is_null() {
            *at = json!({});
        }
    }
    if key.name == "pods" {
        at["services"] = Value::Null;
    }
    let owner = match key.name {
        "keys" | "loadFactor" => Some("session-affinity"),
        "threshold" => Some("prefix-cache"),
        "weights" | "scale" => Some("hermes-classic"),
        _ => None,
    };
    if let Some(owner) = owner.filter(|_| section.path.ends_with("strategy")) {
        at["name"] = json!(owner);
    }
    at[key.name] = value;
    document
}

fn parse(document: &Value) -> Result<Config, Mistakes> {
    Config::parse(&document.to_string())
}

/// A value that no key of this kind can have.
fn wrong(kind: &Kind) -> Value {
    match kind {
        Kind::Duration(..) => json!("soon"),
        Kind::Size(..) => json!("big"),
        Kind::Count(..) => json!("many"),
        Kind::Number(..) => json!("much"),
        Kind::Flag => json!("perhaps"),
        Kind::OneOf(_) => json!("other"),
        Kind::Text(_) => json!(7),
        Kind::List(_) => json!("none"),
        Kind::Mapping(_) => json!([]),
    }
}

/// The values just outside a range.
fn outside(kind: &Kind) -> Vec<Value> {
    let step = std::time::Duration::from_micros(1);
    match kind {
        Kind::Duration(min, max) => {
            let below = min.checked_sub(step).into_iter();
            below
                .chain([*max + step])
                .map(|value| json!(duration::display(value)))
                .collect()
        }
        Kind::Size(min, max) => vec![json!(size::display(min - 1)), json!(max + 1)],
        Kind::Count(min, max) => {
            let below = min.checked_sub(1).map(Value::from).into_iter();
            below
                .chain([json!(u64::from(*max) + 1), json!(-1), json!(1.5)])
                .collect()
        }
        Kind::Number(min, max) => vec![json!(min - 0.01), json!(max + 1.0)],
        Kind::Flag | Kind::OneOf(_) | Kind::Text(_) | Kind::List(_) | Kind::Mapping(_) => {
            Vec::new()
        }
    }
}

fn path_of(section: &Section, key: &Key) -> String {
    let path = section.path.replace("[]", "[0]");
    if path.is_empty() {
        key.name.to_owned()
    } else {
        format!("{path}.{}", key.name)
    }
}

fn every_key() -> impl Iterator<Item = (&'static Section, &'static Key)> {
    ALL.into_iter()
        .flat_map(|section| section.keys.iter().map(move |key| (section, key)))
}

/// Mistakes between values and between keys, each with what is wrong in it.
const SPECIAL: [&str; 39] = [
    "",
    "[]",
    "{}",
    "config: {pools: []}",
    "pools: []",
    "pools: [{}]",
    "replicas: 3\nexposeEndpoints: true",
    "app: {}\napp: {timeout: 0}\npools: [",
    "app: {}\napp: {timeout: 0, timeout: 0}",
    "pools: [{name: -a, endpoints: ['http://h:1']}, {name: Chat, endpoints: ['http://h:1']}]",
    "pools: [{name: a, endpoints: ['http://h:1']}, {name: a, endpoints: ['http://h:2']}]",
    "app: {}\npools: [{name: default, endpoints: ['http://h:1']}]",
    "pools: [{name: a, endpoints: ['https://h:1', 'h:1', 'http://h:0', 'http://h_:1', 'http://h:1?q', 'http://h:1/v1']}]",
    "pools: [{name: a, endpoints: ['http://user:secret@h:1', 'http://h', 'http://H:80/']}]",
    "pools: [{name: a, models: [m, m, 7], endpoints: ['http://h:1']}]",
    "pools: [{name: a, kubernetes: {port: 8000}}]",
    "pools: [{name: a, kubernetes: {services: {a: b}, pods: {a: b}}}]",
    "pools: [{name: a, kubernetes: {pods: {}, port: 0, namespace: A}}]",
    "pools: [{name: a, kubernetes: {pods: {-a: b, c: 1, d: e f}, port: Http}}]",
    "pools: [{name: a, endpoints: ['http://h:1'], strategy: kv-awear}]",
    "pools: [{name: a, endpoints: ['http://h:1'], strategy: prefix-cashe}]",
    "pools: [{name: a, endpoints: ['http://h:1'], strategy: {weights: {}}}]",
    "pools: [{name: a, endpoints: ['http://h:1'], strategy: {name: rr, weights: {}, loadFactor: 2}}]",
    "pools: [{name: a, endpoints: ['http://h:1'], strategy: {name: hermes-classic, weights: {miss: 1, kvCacheHitNotRateWeight: 1}}}]",
    "pools: [{name: a, endpoints: ['http://h:1'], strategy: {name: hermes-classic, weights: {miss: 0, usage: 0, waiting: 0, inFlight: 0}}}]",
    "pools: [{name: a, endpoints: ['http://h:1'], strategy: {name: session-affinity, keys: [user, user, ip, 'header:a b', 'header:Authorization']}}]",
    "pools: [{name: a, endpoints: ['http://h:1'], ejection: {baseTime: 1m}, metrics: {path: metrics, staleAfter: 1s}}]",
    "pools: [{name: a, endpoints: ['http://h:1'], kvManager: {}}]",
    "pools: [{name: a, endpoints: ['http://h:1'], kvManager: {url: 'https://m', protocol: conductor, kind: match-sort}}]",
    "pools: [{name: a, endpoints: ['http://h:1'], kvManager: {url: 'http://m:1/a', port: 2, path: /b, idKeys: [x, x]}}]",
    "pools: [{name: a, endpoints: ['http://h:1'], kvManager: {url: 'http://m/a/../b', path: match_sort}}]",
    "pools: [{name: a, endpoints: ['http://h:1'], kvEvents: {port: 1, replayPort: 1, portName: A, replayPortName: '1'}}]",
    "pools: [{name: a, endpoints: ['http://h:1'], kvManager: {url: 'http://c/', protocol: conductor, conductor: {instances: {i: nowhere}, register: {port: 65535, ranks: 2}}}}]",
    "pools: [{name: a, endpoints: ['http://h:1'], tokenizer: {engine: true, path: /m}}, {name: b, endpoints: ['http://i:1'], tokenizer: {template: /t}}]",
    "pools: [{name: a, engine: tgi, endpoints: ['http://h:1'], tokenizer: {engine: true}}]",
    "app: {strategy: {name: hermes-classic, weights: {}}, weights: {}}",
    "app: {kvmanager: {}, discovery: {type: dns}, collector: {metrics: [1]}}",
    "app: {labelSelector: {app: vllm}, timeOut: 120, kvmanager: {path: /match_sort, url: 'http://m'}}",
    "app: {}\nextraPaths: [v2, /a/../b, /a, /a]",
];

/// With `WRITE_GOLDEN=1` in the environment the list is brought up to date instead, to be read in review.
#[test]
fn every_message_is_as_reviewed() {
    let documents =
        every_key().map(|(section, key)| with(section, key, wrong(&key.kind)).to_string());
    let mut messages = String::new();
    for mistakes in documents.map(|document| Config::parse(&document).expect_err("one wrong value"))
    {
        messages.push_str(&format!("{mistakes}\n"));
    }
    for document in SPECIAL {
        let mistakes = Config::parse(document).expect_err(document);
        messages.push_str(&format!(
            "\n# {}\n{mistakes}\n",
            document.replace('\n', " ⏎ ")
        ));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/messages.txt");
    if env::var_os("WRITE_GOLDEN").is_some() {
        fs::write(&path, &messages).expect("the list can be written");
        return;
    }
    let golden = fs::read_to_string(&path).expect("the list exists");
    for (line, (said, reviewed)) in messages.lines().zip(golden.lines()).enumerate() {
        assert_eq!(said, reviewed, "line {}", line + 1);
    }
    assert_eq!(messages.lines().count(), golden.lines().count());
}

#[test]
fn every_key_is_read_and_refuses_a_wrong_value_at_its_path() {
    parse(&base()).expect("the base is good");
    for (section, key) in every_key() {
        let path = path_of(section, key);
        let mistakes = parse(&with(section, key, wrong(&key.kind))).expect_err(&path);
        assert!(
            mistakes.iter().any(|mistake| mistake.path == path),
            "{path} is not in {mistakes}"
        );
    }
}

#[test]
fn every_range_ends_where_it_says() {
    for (section, key) in every_key() {
        let path = path_of(section, key);
        for value in outside(&key.kind) {
            let mistakes = parse(&with(section, key, value.clone())).expect_err(&path);
            let fix = mistakes
                .iter()
                .find(|mistake| mistake.path == path)
                .map(|mistake| &*mistake.fix);
            assert!(
                fix.is_some_and(|fix| fix.contains(&key.kind.range())),
                "{path}: {value}: {fix:?}"
            );
        }
    }
}

#[test]
fn every_documented_default_is_the_real_one() {
    for (section, key) in
        every_key().filter(|(_, key)| !key.default.is_empty() && !key.default.starts_with('('))
    {
        let default: Value =
            super::tree::parse(key.default, &Notes::default()).expect("a default is YAML");
        // An empty list of endpoints is what one leaves out, not what one writes.
        if key.name == "endpoints" {
            continue;
        }
        let (without, given) = (
            parse(&with(section, key, Value::Null)),
            parse(&with(section, key, default)),
        );
        assert_eq!(without, given, "{}", path_of(section, key));
    }
}
