//! The condition `Accepted` of an object: what it should be, and what it is.

use serde_json::{Value, json};

use super::verdict::{ObjectVerdict, RefusalReason};

/// The one condition that a picker writes.
const ACCEPTED: &str = "Accepted";

/// Longest message, in bytes; the API takes 32 KiB.
const MAX_MESSAGE: usize = 1_024;

/// A condition, but for when it changed last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AcceptedCondition {
    is_accepted: bool,
    reason: String,
    message: String,
    /// The generation of the specification that it is about.
    generation: i64,
}

/// A condition as it is in an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObservedCondition {
    condition: AcceptedCondition,
    /// When it became true or false.
    since: String,
}

// === AcceptedCondition ===

impl AcceptedCondition {
    /// What an object of this generation should say; `None` if it is for others to say.
    pub(crate) fn of(verdict: &ObjectVerdict, generation: i64) -> Option<Self> {
        let (is_accepted, reason, message) = match verdict {
            ObjectVerdict::Accepted(None) => (true, "Accepted", "in use"),
            ObjectVerdict::Accepted(Some(note)) => (true, "Accepted", &**note),
            ObjectVerdict::Refused { reason, message } => (false, reason.name()?, &**message),
            ObjectVerdict::Foreign => return None,
        };
        Some(Self {
            is_accepted,
            reason: reason.to_owned(),
            message: shortened(message),
            generation,
        })
    }

    /// The status to apply. A condition that does not change its truth keeps its time.
    pub(crate) fn status(&self, observed: Option<&ObservedCondition>, now: &str) -> Value {
        let same = observed.filter(|seen| seen.condition.is_accepted == self.is_accepted);
        let since = same.map_or(now, |seen| &seen.since);
        json!({"conditions": [{
            "type": ACCEPTED,
            "status": if self.is_accepted { "True" } else { "False" },
            "reason": self.reason,
            "message": self.message,
            "observedGeneration": self.generation,
            "lastTransitionTime": since,
        }]})
    }
}

// === ObservedCondition ===

impl ObservedCondition {
    /// The condition in this object, if it has one that is understood.
    pub(crate) fn read(object: &Value) -> Option<Self> {
        let conditions = object.get("status")?.get("conditions")?.as_array()?;
        let text = |condition: &Value, key: &str| {
            let text = condition.get(key).and_then(Value::as_str);
            text.map(str::to_owned)
        };
        let accepted = |condition: &&Value| condition.get("type") == Some(&ACCEPTED.into());
        let found = conditions.iter().find(accepted)?;
        let is_accepted = match found.get("status")?.as_str()? {
            "True" => true,
            "False" => false,
            _ => return None,
        };
        Some(Self {
            condition: AcceptedCondition {
                is_accepted,
                reason: text(found, "reason")?,
                message: text(found, "message").unwrap_or_default(),
                generation: found
                    .get("observedGeneration")
                    .and_then(Value::as_i64)
                    .unwrap_or_default(),
            },
            since: text(found, "lastTransitionTime")?,
        })
    }

    /// Whether it says the same.
    pub(crate) fn is(&self, wanted: &AcceptedCondition) -> bool {
        self.condition == *wanted
    }
}

// === RefusalReason ===

impl RefusalReason {
    /// The reason of the condition; `None` if it is not known whose object it is.
    fn name(self) -> Option<&'static str> {
        match self {
            // Parts of Gateways in a status have reasons of their own.
            Self::Unreadable | Self::NotAccepted => None,
            Self::Invalid => Some("Invalid"),
            Self::ModelNameInUse => Some("ModelNameInUse"),
            Self::Superseded => Some("Superseded"),
        }
    }
}

/// At most [`MAX_MESSAGE`] bytes, cut between characters.
fn shortened(message: &str) -> String {
    let mut end = message.len().min(MAX_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const THEN: &str = "2026-01-01T00:00:00Z";
    const NOW: &str = "2026-02-01T00:00:00Z";

    fn in_use() -> AcceptedCondition {
        AcceptedCondition::of(&ObjectVerdict::Accepted(None), 3).expect("it is ours")
    }

    fn in_conflict() -> AcceptedCondition {
        let verdict = ObjectVerdict::Refused {
            reason: RefusalReason::ModelNameInUse,
            message: "an older one".to_owned(),
        };
        AcceptedCondition::of(&verdict, 3).expect("it is ours")
    }

    fn observed(wanted: &AcceptedCondition, since: &str) -> ObservedCondition {
        let object = json!({"status": wanted.status(None, since)});
        ObservedCondition::read(&object).expect("a condition")
    }

    #[test]
    fn what_was_written_is_what_was_wanted() {
        for wanted in [in_use(), in_conflict()] {
            assert!(observed(&wanted, THEN).is(&wanted));
        }
        assert!(!observed(&in_use(), THEN).is(&in_conflict()));
    }

    #[test]
    fn the_time_changes_with_the_truth_only() {
        let time = |wanted: &AcceptedCondition, seen: &ObservedCondition| {
            wanted.status(Some(seen), NOW)["conditions"][0]["lastTransitionTime"].clone()
        };
        let seen = observed(&in_use(), THEN);
        let later = AcceptedCondition {
            generation: 4,
            ..in_use()
        };
        assert_eq!(time(&later, &seen), THEN);
        assert_eq!(time(&in_conflict(), &seen), NOW);
    }

    #[test]
    fn nothing_is_said_of_objects_of_others() {
        assert_eq!(AcceptedCondition::of(&ObjectVerdict::Foreign, 1), None);
        let unreadable = ObjectVerdict::Refused {
            reason: RefusalReason::Unreadable,
            message: String::new(),
        };
        assert_eq!(AcceptedCondition::of(&unreadable, 1), None);
    }

    proptest! {
        #[test]
        fn any_message_is_cut_to_the_limit(message in "\\PC{0,1500}") {
            let verdict = ObjectVerdict::Accepted(Some(message));
            let condition = AcceptedCondition::of(&verdict, 1).expect("it is ours");
            prop_assert!(condition.message.len() <= MAX_MESSAGE);
        }
    }
}
