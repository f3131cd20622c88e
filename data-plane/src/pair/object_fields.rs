//! The fields of a JSON object in their order, each value as the bytes that it has.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// See the module.
pub(super) struct ObjectFields<'a>(Vec<ObjectField<'a>>);

struct ObjectField<'a> {
    name: Cow<'a, str>,
    json: Cow<'a, str>,
}

struct FieldsVisitor;

impl<'a> ObjectFields<'a> {
    /// Those of an object in JSON; `None` if it is no object.
    pub(super) fn parse(json: &'a str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }

    /// The value of this name, unless it is `null`; of several the last.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut fields = self.0.iter().rev();
        let field = fields.find(|field| field.name == name)?;
        Some(&*field.json).filter(|json| *json != "null")
    }

    /// Whether there is a field of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|field| field.name == name)
    }

    /// With one field of this name, which has this value: where it was first, else at the end.
    pub(super) fn set(&mut self, name: &'static str, json: impl Into<Cow<'a, str>>) {
        let at = self.0.iter().position(|field| field.name == name);
        self.remove(name);
        let (name, json) = (Cow::Borrowed(name), json.into());
        let at = at.unwrap_or(self.0.len());
        self.0.insert(at, ObjectField { name, json });
    }

    /// Without fields of this name.
    pub(super) fn remove(&mut self, name: &str) {
        self.0.retain(|field| field.name != name);
    }

    /// The object.
    pub(super) fn to_json(&self) -> String {
        let fields = self.0.iter().map(|ObjectField { name, json }| {
            let name = serde_json::Value::from(&**name);
            format!("{name}:{json}")
        });
        format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for ObjectFields<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(FieldsVisitor)
    }
}

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = ObjectFields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some((name, value)) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
            let json = Cow::Borrowed(value.get());
            fields.push(ObjectField { name, json });
        }
        Ok(ObjectFields(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_changed_keeps_its_bytes_and_its_place() {
        let json = r#"{"a":1.50,"b\n":"\u00e9","c":null,"a":[ 1, 2 ]}"#;
        let mut fields = ObjectFields::parse(json).expect("an object");
        assert_eq!(fields.to_json(), json);
        assert_eq!(fields.get("a"), Some("[ 1, 2 ]"), "the last counts");
        assert!(fields.has("c") && fields.get("c").is_none());
        fields.set("a", "2");
        fields.set("d", "{}");
        fields.remove("c");
        assert_eq!(fields.to_json(), r#"{"a":2,"b\n":"\u00e9","d":{}}"#);
        assert!(ObjectFields::parse("[1]").is_none());
        assert!(ObjectFields::parse("{").is_none());
    }
}
