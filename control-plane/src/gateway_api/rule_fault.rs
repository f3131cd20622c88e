//! Why a rule of an `HTTPRoute` cannot be followed as it is written.

/// Why a rule cannot be followed as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RuleFault {
    /// As conditions have it.
    pub(super) reason: &'static str,
    /// What is the matter.
    pub(super) message: String,
}

// === RuleFault ===

impl RuleFault {
    /// Something has a value that is not supported.
    pub(super) fn unsupported(message: String) -> Self {
        Self {
            reason: "UnsupportedValue",
            message,
        }
    }

    /// Filters contradict each other.
    pub(super) fn incompatible(message: String) -> Self {
        Self {
            reason: "IncompatibleFilters",
            message,
        }
    }
}
