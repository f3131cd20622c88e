//! What became of an object when all were compiled.

use super::kind::ObjectKind;

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ObjectVerdict {
    /// It is in use; says what of it is not.
    Accepted(Option<String>),
    /// It is not in use.
    Refused {
        /// In one word, for programs.
        reason: RefusalReason,
        /// What is the matter, for people.
        message: String,
    },
    /// It is for another picker, or for a pool that is not there: nothing is said of it.
    Foreign,
}

/// Why an object is not in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusalReason {
    /// It never could be understood, nor which pool it is for.
    Unreadable,
    /// Its newest version cannot be used.
    Invalid,
    /// It is not supported as it is, or attached to nothing.
    NotAccepted,
    /// Another object of its pool has the same model.
    ModelNameInUse,
    /// An object of the newer group has the same name.
    Superseded,
}

// === ObjectVerdict ===

impl ObjectVerdict {
    /// Of an object whose name an object of the newer group has.
    pub(crate) fn superseded(kind: ObjectKind) -> Self {
        Self::Refused {
            reason: RefusalReason::Superseded,
            message: format!(
                "the {} of the same name in the newer API group is in use",
                kind.name()
            ),
        }
    }
}
