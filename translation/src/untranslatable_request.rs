//! Why a request cannot be translated.

use std::{borrow::Cow, fmt};

use crate::place::FieldPlace;

/// A request that has no equivalent in the other API. The client can correct it: a response with it
/// has the status 400.
///
/// It names the field and what would be right, and repeats no value of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UntranslatableRequest {
    field: Box<str>,
    reason: Cow<'static, str>,
}

impl UntranslatableRequest {
    pub(crate) fn new(place: FieldPlace<'_>, reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            field: place.to_string().into(),
            reason: reason.into(),
        }
    }

    /// The path of the field, such as `messages[3].content[0].type`. It is empty if the body as a
    /// whole is meant.
    #[must_use]
    pub fn field(&self) -> &str {
        &self.field
    }

    /// What is wrong with the field, and what would be right.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for UntranslatableRequest {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.field {
            "" => text.write_str(&self.reason),
            field => write!(text, "`{field}`: {}", self.reason),
        }
    }
}

impl std::error::Error for UntranslatableRequest {}
