//! A value of an answer, whichever encoding it came in: as much of it as an answer is made of.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum AnswerValue {
    /// A whole number that can be a count of tokens.
    Count(u32),
    /// Any other number.
    Odd,
    /// By name, as it came.
    Map(Vec<(String, AnswerValue)>),
    /// Text, lists, nothing.
    Other,
}

// === AnswerValue ===

impl AnswerValue {
    /// What stands under the first of these names that is there.
    pub(super) fn get(&self, names: &[&str]) -> Option<&AnswerValue> {
        let Self::Map(fields) = self else { return None };
        names
            .iter()
            .find_map(|name| fields.iter().find(|(key, _)| key == name))
            .map(|(_, value)| value)
    }

    /// The fields of a map.
    pub(super) fn fields(&self) -> Option<&[(String, AnswerValue)]> {
        match self {
            Self::Map(fields) => Some(fields),
            Self::Count(_) | Self::Odd | Self::Other => None,
        }
    }
}

impl<'de> Deserialize<'de> for AnswerValue {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = AnswerValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_u64<E>(self, number: u64) -> Result<AnswerValue, E> {
        Ok(u32::try_from(number).map_or(AnswerValue::Odd, AnswerValue::Count))
    }

    fn visit_i64<E>(self, number: i64) -> Result<AnswerValue, E> {
        Ok(u32::try_from(number).map_or(AnswerValue::Odd, AnswerValue::Count))
    }

    fn visit_f64<E>(self, number: f64) -> Result<AnswerValue, E> {
        let is_count = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
        Ok(if is_count {
            AnswerValue::Count(number as u32)
        } else {
            AnswerValue::Odd
        })
    }

    fn visit_bool<E>(self, _: bool) -> Result<AnswerValue, E> {
        Ok(AnswerValue::Other)
    }

    fn visit_str<E>(self, _: &str) -> Result<AnswerValue, E> {
        Ok(AnswerValue::Other)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<AnswerValue, E> {
        Ok(AnswerValue::Other)
    }

    fn visit_unit<E>(self) -> Result<AnswerValue, E> {
        Ok(AnswerValue::Other)
    }

    fn visit_none<E>(self) -> Result<AnswerValue, E> {
        Ok(AnswerValue::Other)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<AnswerValue, D::Error> {
        AnswerValue::deserialize(from)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<AnswerValue, D::Error> {
        IgnoredAny::deserialize(from)?;
        Ok(AnswerValue::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<AnswerValue, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(AnswerValue::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<AnswerValue, A::Error> {
        let mut fields = Vec::new();
        while let Some((Name(name), value)) = map.next_entry()? {
            fields.push((name, value));
        }
        Ok(AnswerValue::Map(fields))
    }
}

/// A key; msgpack may have numbers there.
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct NameReader;
        impl Visitor<'_> for NameReader {
            type Value = Name;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }
            fn visit_str<E>(self, text: &str) -> Result<Name, E> {
                Ok(Name(text.to_owned()))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Name, E> {
                Ok(Name(number.to_string()))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Name, E> {
                Ok(Name(number.to_string()))
            }
        }
        from.deserialize_any(NameReader)
    }
}
