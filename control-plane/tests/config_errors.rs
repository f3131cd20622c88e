//! Every key of the configuration is read, rejects a wrong value at its path, and has the default
//! that is documented.
//!
//! The keys come from the calls that read the file; nothing here lists them again.

use std::time::Duration;

use hermes_control_plane::config::{
    Config, ConfigErrors, DefaultValue, KeyDescription, ValueType, duration, reference,
};
use serde_json::{Value, json};

/// A key with the paths of the mappings that it is in.
struct Key {
    parents: Vec<String>,
    /// The deciding value of the mapping that the key applies to, such as a strategy's name.
    owner: Option<&'static str>,
    description: KeyDescription,
}

impl Key {
    fn path(&self) -> String {
        let mut path = self.parents.join(".").replace("[]", "[0]");
        if !path.is_empty() {
            path.push('.');
        }
        path + self.description.name
    }

    /// A document in which every section may be, with `value` for this key.
    fn document(&self, value: Value) -> Value {
        let mut document = base();
        let mut at = &mut document;
        for parent in &self.parents {
            at = match parent.strip_suffix("[]") {
                Some(list) => {
                    let list = &mut at[list];
                    if list.is_null() {
                        *list = json!([{}]);
                    }
                    &mut list[0]
                }
                None => &mut at[parent],
            };
            if at.is_null() {
                *at = json!({});
            }
            // The weights of a pool are a setting of one strategy.
            if parent == "strategy" && self.parents.last().is_some_and(|last| last == "weights") {
                at["name"] = json!("hermes-classic");
            }
        }
        if self.description.name == "pods" {
            at["services"] = Value::Null;
        }
        if let Some(owner) = self.owner {
            let decider = if at.get("url").is_some() {
                "protocol"
            } else {
                "name"
            };
            at[decider] = json!(owner);
        }
        at[self.description.name] = value;
        document
    }

    fn parse(&self, value: Value) -> Result<Config, ConfigErrors> {
        parse(&self.document(value))
    }
}

fn base() -> Value {
    let kv_manager = json!({"url": "http://m"});
    json!({
        "pools": [{
            "name": "chat",
            "endpoints": ["http://h:1"],
            "kubernetes": {"services": {"app": "vllm"}, "port": 8000},
            "strategy": {"name": "kv-aware"},
            "kvManager": kv_manager,
            "tokenizer": {"path": "/m"},
        }],
        "app": {"kvmanager": kv_manager},
    })
}

fn parse(document: &Value) -> Result<Config, ConfigErrors> {
    Config::parse(&document.to_string())
}

fn every_key() -> Vec<Key> {
    fn collect(parents: &[String], keys: Vec<KeyDescription>, into: &mut Vec<Key>) {
        for description in keys {
            let brackets = if matches!(description.value_type, ValueType::List(..)) {
                "[]"
            } else {
                ""
            };
            let mut inside = parents.to_vec();
            inside.push(format!("{}{brackets}", description.name));
            collect(&inside, description.keys().to_vec(), into);
            into.push(Key {
                parents: parents.to_vec(),
                owner: description.owners.first().copied(),
                description,
            });
        }
    }
    let mut keys = Vec::new();
    collect(&[], reference::keys(), &mut keys);
    keys
}

/// A value that no key of this type can have.
fn wrong(value_type: &ValueType) -> Value {
    match value_type {
        ValueType::Duration(_) => json!("soon"),
        ValueType::Size(_) => json!("big"),
        ValueType::Count(_) => json!("many"),
        ValueType::Number(_) => json!("much"),
        ValueType::Flag => json!("perhaps"),
        ValueType::OneOf(_) => json!("other"),
        ValueType::Text(_) => json!(7),
        ValueType::Texts(_) | ValueType::List(..) => json!("none"),
        ValueType::Port
        | ValueType::Map(_)
        | ValueType::Section(_)
        | ValueType::TextOrSection(..)
        | ValueType::FlagOrSection(_) => json!([]),
    }
}

/// The values just outside a range.
fn outside(value_type: &ValueType) -> Vec<Value> {
    let step = Duration::from_micros(1);
    match value_type {
        ValueType::Duration(range) => {
            let below = range.start().checked_sub(step).into_iter();
            let ends = below.chain([*range.end() + step]);
            ends.map(|end| json!(duration::display(end))).collect()
        }
        ValueType::Size(range) => vec![json!(range.start() - 1), json!(range.end() + 1)],
        ValueType::Count(range) => {
            let below = range.start().checked_sub(1).map(Value::from).into_iter();
            let above = json!(u64::from(*range.end()) + 1);
            below.chain([above, json!(-1), json!(1.5)]).collect()
        }
        ValueType::Number(range) => vec![json!(range.start() - 0.01), json!(range.end() + 1.0)],
        _ => Vec::new(),
    }
}

#[test]
fn every_key_is_read_and_rejects_a_wrong_value_at_its_path() {
    parse(&base()).expect("the base is right");
    for key in every_key() {
        let path = key.path();
        let errors = key
            .parse(wrong(&key.description.value_type))
            .expect_err(&path);
        let error = errors.iter().find(|error| error.path == path);
        let error = error.unwrap_or_else(|| panic!("{path} is not in {errors}"));
        assert!(error.found.starts_with("found "), "{error}");
        assert!(error.fix.starts_with("expected "), "{error}");
    }
}

#[test]
fn every_range_ends_where_it_is_documented_to() {
    for key in every_key() {
        let (path, range) = (key.path(), key.description.value_type.range());
        for value in outside(&key.description.value_type) {
            let errors = key.parse(value.clone()).expect_err(&path);
            let error = errors.iter().find(|error| error.path == path);
            let fix = error.map(|error| &*error.fix);
            assert!(
                fix.is_some_and(|fix| fix.contains(&range)),
                "{path}: {value}: {fix:?}"
            );
        }
    }
}

#[test]
fn every_documented_default_means_the_same_as_leaving_the_key_out() {
    for key in every_key() {
        let DefaultValue::Value(default) = &key.description.default else {
            continue;
        };
        let text = key.document(json!("DEFAULT")).to_string();
        let given = Config::parse(&text.replace("\"DEFAULT\"", default));
        assert_eq!(key.parse(Value::Null), given, "{}: {default}", key.path());
    }
}

#[test]
fn every_meaning_is_a_sentence() {
    for key in every_key() {
        let description = key.description.description();
        let is_list = key.description.name == "name";
        assert!(
            is_list || description.ends_with('.'),
            "{}: {description}",
            key.path()
        );
    }
}
