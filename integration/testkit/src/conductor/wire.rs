//! What the two conductors take and say.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Dialect, Held, Query};

/// Fields that `/query` in C++ knows.
const QUERY: [&str; 7] = [
    "model",
    "block_size",
    "token_ids",
    "tenant_id",
    "lora_name",
    "cache_salt",
    "instance_id",
];

/// Fields that `/register` in C++ knows.
const REGISTER: [&str; 11] = [
    "endpoint",
    "type",
    "modelname",
    "instance_id",
    "block_size",
    "dp_rank",
    "hash_profile",
    "replay_endpoint",
    "lora_name",
    "tenant_id",
    "cache_group",
];

/// The four fields of a hash profile, all needed.
const PROFILE: [&str; 4] = [
    "strategy",
    "algorithm",
    "python_hash_seed",
    "index_projection",
];

/// A body in msgpack whose ids are bytes, as a JSON value.
#[derive(Deserialize)]
#[serde(untagged)]
enum Packed {
    Bytes(#[serde(with = "words")] Vec<u32>),
    Value(Value),
}

// === Dialect ===

impl Dialect {
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Msgpack => "application/msgpack",
        }
    }

    pub(super) fn read(self, body: &[u8]) -> Option<Value> {
        if self == Self::Json {
            return serde_json::from_slice(body).ok();
        }
        let fields: std::collections::BTreeMap<String, Packed> =
            rmp_serde::from_slice(body).ok()?;
        let value = |packed| match packed {
            Packed::Bytes(ids) => json!(ids),
            Packed::Value(value) => value,
        };
        Some(Value::Object(
            fields
                .into_iter()
                .map(|(key, packed)| (key, value(packed)))
                .collect(),
        ))
    }

    pub(super) fn write(self, body: &Value) -> Bytes {
        match self {
            Self::Json => body.to_string().into(),
            Self::Msgpack => rmp_serde::to_vec_named(body).unwrap_or_default().into(),
        }
    }

    /// A question, or why it is refused.
    pub(super) fn query(self, body: &Value) -> Result<Query, &'static str> {
        let fields = self.known(body, &QUERY)?;
        let text = |key: &str| {
            fields
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let ids = fields
            .get("token_ids")
            .and_then(Value::as_array)
            .ok_or("invalid_type")?;
        let ids = ids
            .iter()
            .map(|id| u32::try_from(id.as_u64()?).ok())
            .collect::<Option<_>>();
        let tenant = text("tenant_id");
        Ok(Query {
            model: Some(text("model"))
                .filter(|model| !model.is_empty())
                .ok_or("invalid_value")?,
            tenant: if tenant.is_empty() {
                "default".to_owned()
            } else {
                tenant
            },
            block_size: number(fields, "block_size")
                .filter(|size| *size > 0)
                .ok_or("out_of_range")? as u32,
            token_ids: ids.ok_or("invalid_value")?,
            lora: text("lora_name"),
            salt: text("cache_salt"),
        })
    }

    /// What is answered to `query`.
    pub(super) fn rows(self, query: &Query, held: &[(String, Held)]) -> Value {
        let row = |Held { gpu, cpu, disk }: &Held| match self {
            Self::Json => {
                json!({"longest_matched": disk, "GPU": gpu, "DP": {"0": gpu}, "CPU": cpu, "DISK": if disk > cpu { disk } else { &0 }})
            }
            Self::Msgpack => json!({
                "longest_matched": disk, "gpu": gpu, "dp": {"0": gpu}, "cpu": cpu, "disk": disk,
                "rank_matches": {"0": {"gpu": gpu, "cpu": cpu, "disk": disk}},
            }),
        };
        let rows: Map<String, Value> = held
            .iter()
            .map(|(instance, held)| (instance.clone(), row(held)))
            .collect();
        match self {
            Self::Json if rows.is_empty() => json!({}),
            Self::Json => json!({ query.tenant.clone(): rows }),
            Self::Msgpack => json!({ "instances": rows }),
        }
    }

    /// The row that a registration is for, or why it is refused.
    pub(super) fn registration(self, body: &Value) -> Result<(String, u64), &'static str> {
        let fields = self.known(body, &REGISTER)?;
        let needed = ["endpoint", "type", "modelname"];
        if needed.iter().any(|key| {
            fields
                .get(*key)
                .and_then(Value::as_str)
                .is_none_or(str::is_empty)
        }) {
            return Err("invalid_registration");
        }
        if number(fields, "block_size").is_none_or(|size| size == 0) {
            return Err("out_of_range");
        }
        let profile = fields.get("hash_profile").and_then(Value::as_object);
        let is_whole = |profile: &Map<String, Value>| {
            profile.len() == PROFILE.len() && PROFILE.iter().all(|key| profile.contains_key(*key))
        };
        if self == Self::Msgpack && !profile.is_some_and(is_whole) {
            return Err("invalid_registration");
        }
        self.row(body)
    }

    /// The row that a body names.
    pub(super) fn row(self, body: &Value) -> Result<(String, u64), &'static str> {
        let instance = body["instance_id"].as_str().ok_or("invalid_type")?;
        Ok((
            instance.to_owned(),
            body["dp_rank"].as_u64().ok_or("invalid_type")?,
        ))
    }

    /// The fields, if all are known to who reads them.
    fn known<'a>(
        self,
        body: &'a Value,
        names: &[&str],
    ) -> Result<&'a Map<String, Value>, &'static str> {
        let fields = body.as_object().ok_or("invalid_type")?;
        let is_known = |name: &String| names.contains(&name.as_str());
        if self == Self::Msgpack && !fields.keys().all(is_known) {
            return Err("unknown_field");
        }
        Ok(fields)
    }
}

fn number(fields: &Map<String, Value>, key: &str) -> Option<u64> {
    fields.get(key)?.as_u64()
}

/// Bytes of little-endian words.
mod words {
    use serde::{Deserializer, de};

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u32>, D::Error> {
        struct Reader;
        impl de::Visitor<'_> for Reader {
            type Value = Vec<u32>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("words of four bytes")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u32>, E> {
                let words = bytes.chunks_exact(4);
                if !words.remainder().is_empty() {
                    return Err(E::custom("not whole words"));
                }
                Ok(words
                    .filter_map(|word| word.try_into().ok())
                    .map(u32::from_le_bytes)
                    .collect())
            }
        }
        from.deserialize_bytes(Reader)
    }
}
