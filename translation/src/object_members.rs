//! Reads an object so that no member of it is lost: what was not taken is refused in the end.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    json_string::JsonString, place::FieldPlace, untranslatable_request::UntranslatableRequest,
};

/// The members of one object that were not taken yet, in their order.
///
/// `null` is the same as an absent member, as in both APIs. Of a name that appears twice the last
/// value counts, as in the servers' parsers.
#[derive(Debug)]
pub(crate) struct ObjectMembers<'a, 'p> {
    place: &'p FieldPlace<'p>,
    members: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'a, 'p> ObjectMembers<'a, 'p> {
    pub(crate) fn read(
        json: &'a str,
        place: &'p FieldPlace<'p>,
    ) -> Result<Self, UntranslatableRequest> {
        let read: Result<Members<'a>, _> = serde_json::from_str(json);
        match read {
            Ok(Members(members)) => Ok(Self { place, members }),
            Err(_) => Err(UntranslatableRequest::new(*place, "must be a JSON object")),
        }
    }

    /// The members of a whole body.
    pub(crate) fn of_body(
        body: &'a [u8],
        place: &'p FieldPlace<'p>,
    ) -> Result<Self, UntranslatableRequest> {
        match std::str::from_utf8(body) {
            Ok(json) => Self::read(json, place),
            Err(_) => Err(UntranslatableRequest::new(*place, "the body must be UTF-8")),
        }
    }

    pub(crate) fn of(
        raw: &'a RawValue,
        place: &'p FieldPlace<'p>,
    ) -> Result<Self, UntranslatableRequest> {
        Self::read(raw.get(), place)
    }

    /// The place of a member.
    pub(crate) const fn at<'n>(&self, name: &'n str) -> FieldPlace<'n>
    where
        'p: 'n,
    {
        FieldPlace::Member(self.place, name)
    }

    pub(crate) fn refusal(
        &self,
        name: &str,
        reason: impl Into<Cow<'static, str>>,
    ) -> UntranslatableRequest {
        UntranslatableRequest::new(self.at(name), reason)
    }

    /// Takes a member.
    pub(crate) fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let mut found = None;
        self.members.retain(|(own, value)| {
            let is_other = own != name;
            if !is_other {
                found = Some(*value);
            }
            is_other
        });
        found.filter(|value| value.get() != "null")
    }

    /// Takes a member that the other API does not need: leaving it out changes no answer.
    pub(crate) fn leave_out(&mut self, name: &str) {
        self.take(name);
    }

    pub(crate) fn required(&mut self, name: &str) -> Result<&'a RawValue, UntranslatableRequest> {
        self.take(name)
            .ok_or_else(|| self.refusal(name, "is required"))
    }

    pub(crate) fn string(
        &mut self,
        name: &str,
    ) -> Result<Option<JsonString<'a>>, UntranslatableRequest> {
        let Some(raw) = self.take(name) else {
            return Ok(None);
        };
        match JsonString::of(raw) {
            Some(string) => Ok(Some(string)),
            None => Err(self.refusal(name, "must be a string")),
        }
    }

    pub(crate) fn required_string(
        &mut self,
        name: &str,
    ) -> Result<JsonString<'a>, UntranslatableRequest> {
        self.string(name)?
            .ok_or_else(|| self.refusal(name, "is required"))
    }

    /// The text of a string that is short, such as a role.
    pub(crate) fn text(
        &mut self,
        name: &str,
    ) -> Result<Option<Cow<'a, str>>, UntranslatableRequest> {
        let Some(string) = self.string(name)? else {
            return Ok(None);
        };
        match string.text() {
            Some(text) => Ok(Some(text)),
            None => Err(self.refusal(name, "must be valid text")),
        }
    }

    pub(crate) fn required_text(
        &mut self,
        name: &str,
    ) -> Result<Cow<'a, str>, UntranslatableRequest> {
        self.text(name)?
            .ok_or_else(|| self.refusal(name, "is required"))
    }

    pub(crate) fn flag(&mut self, name: &str) -> Result<Option<bool>, UntranslatableRequest> {
        match self.take(name).map(RawValue::get) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(self.refusal(name, "must be true or false")),
        }
    }

    /// A number, as it is written.
    pub(crate) fn number(
        &mut self,
        name: &str,
    ) -> Result<Option<&'a RawValue>, UntranslatableRequest> {
        let raw = self.take(name);
        if raw.is_some_and(|raw| {
            !raw.get()
                .starts_with(|c: char| c == '-' || c.is_ascii_digit())
        }) {
            return Err(self.refusal(name, "must be a number"));
        }
        Ok(raw)
    }

    pub(crate) fn count(&mut self, name: &str) -> Result<Option<u64>, UntranslatableRequest> {
        let Some(raw) = self.take(name) else {
            return Ok(None);
        };
        match serde_json::from_str(raw.get()) {
            Ok(count) => Ok(Some(count)),
            Err(_) => Err(self.refusal(name, "must be a whole number, not below 0")),
        }
    }

    pub(crate) fn array(
        &mut self,
        name: &str,
    ) -> Result<Option<Vec<&'a RawValue>>, UntranslatableRequest> {
        let Some(raw) = self.take(name) else {
            return Ok(None);
        };
        items(raw, &self.at(name)).map(Some)
    }

    /// Takes a member that may only have a value which asks for nothing.
    pub(crate) fn only(
        &mut self,
        name: &str,
        is_nothing: impl FnOnce(&'a RawValue) -> bool,
        reason: &'static str,
    ) -> Result<(), UntranslatableRequest> {
        match self.take(name) {
            Some(raw) if !is_nothing(raw) => Err(self.refusal(name, reason)),
            _ => Ok(()),
        }
    }

    /// Refuses what was not taken.
    pub(crate) fn finish(self) -> Result<(), UntranslatableRequest> {
        let mut left = self.members.iter();
        match left.find(|(_, value)| value.get() != "null") {
            Some((name, _)) => Err(self.refusal(name, NO_EQUIVALENT)),
            None => Ok(()),
        }
    }
}

/// Of a field that the other API does not have.
pub(crate) const NO_EQUIVALENT: &str =
    "has no equivalent in the API of the model's server, and must be left out";

/// The items of an array.
pub(crate) fn items<'a>(
    raw: &'a RawValue,
    place: &FieldPlace<'_>,
) -> Result<Vec<&'a RawValue>, UntranslatableRequest> {
    serde_json::from_str(raw.get())
        .map_err(|_| UntranslatableRequest::new(*place, "must be an array"))
}

struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members<'de>;

    fn expecting(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        text.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        #[derive(Deserialize)]
        struct Name<'a>(#[serde(borrow)] Cow<'a, str>);
        let mut members = Vec::new();
        while let Some((name, value)) = map.next_entry::<Name<'de>, &'de RawValue>()? {
            members.push((name.0, value));
        }
        Ok(Members(members))
    }
}
