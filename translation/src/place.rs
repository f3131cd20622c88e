//! Where in a body a value is, as errors name it: `messages[3].content[0].type`.

use std::fmt;

/// The place of a value. It is built on the stack while a body is read, and becomes text only in a
/// refusal.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FieldPlace<'p> {
    /// The body itself.
    Body,
    /// A member of the object at this place.
    Member(&'p Self, &'p str),
    /// An item of the array at this place.
    Item(&'p Self, usize),
}

/// The longest name from a client that an error repeats, in bytes.
const LONGEST_NAME: usize = 64;

impl fmt::Display for FieldPlace<'_> {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Body => Ok(()),
            Self::Member(Self::Body, name) => text.write_str(short(name)),
            Self::Member(parent, name) => write!(text, "{parent}.{}", short(name)),
            Self::Item(parent, index) => write!(text, "{parent}[{index}]"),
        }
    }
}

fn short(name: &str) -> &str {
    &name[..name.floor_char_boundary(LONGEST_NAME)]
}
