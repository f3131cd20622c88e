//! Conditions of objects: what they should be.

use serde_json::{Value, json};

/// Longest message, in bytes; the API takes 32 KiB.
const MAX_MESSAGE: usize = 1_024;

/// A condition, but for when it changed last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StatusCondition {
    /// Its type.
    pub(crate) form: &'static str,
    pub(crate) is_true: bool,
    /// In one word, for programs.
    pub(crate) reason: &'static str,
    /// For people.
    pub(crate) message: String,
}

/// Conditions that are about one generation of a specification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConditionList {
    pub(crate) generation: i64,
    pub(crate) conditions: Vec<StatusCondition>,
}

// === StatusCondition ===

impl StatusCondition {
    /// One that is true.
    pub(crate) fn holds(form: &'static str, reason: &'static str, message: &str) -> Self {
        Self::new(form, true, reason, message)
    }

    /// One that is false.
    pub(crate) fn fails(form: &'static str, reason: &'static str, message: &str) -> Self {
        Self::new(form, false, reason, message)
    }

    fn new(form: &'static str, is_true: bool, reason: &'static str, message: &str) -> Self {
        let mut end = message.len().min(MAX_MESSAGE);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        Self {
            form,
            is_true,
            reason,
            message: message[..end].to_owned(),
        }
    }
}

// === ConditionList ===

impl ConditionList {
    pub(crate) const fn new(generation: i64, conditions: Vec<StatusCondition>) -> Self {
        Self {
            generation,
            conditions,
        }
    }

    /// The condition of this type.
    pub(crate) fn get(&self, form: &str) -> Option<&StatusCondition> {
        (self.conditions.iter()).find(|condition| condition.form == form)
    }

    /// Whether one of the same types is observed that is about a newer generation.
    pub(crate) fn is_older(&self, observed: Option<&Value>) -> bool {
        let observed = observed.and_then(Value::as_array);
        let mut observed = observed.into_iter().flatten();
        observed.any(|seen| {
            let is_known = seen["type"]
                .as_str()
                .is_some_and(|form| self.get(form).is_some());
            let generation = seen["observedGeneration"].as_i64();
            is_known && generation.is_some_and(|generation| generation > self.generation)
        })
    }

    /// As the API has it. A condition that is as true as the `observed` one keeps its time.
    pub(crate) fn to_json(&self, observed: Option<&Value>, now: &str) -> Value {
        let observed = observed.and_then(Value::as_array);
        let since = |condition: &StatusCondition, status: &str| {
            let is_same =
                |seen: &&Value| seen["type"] == condition.form && seen["status"] == status;
            let same = observed.and_then(|seen| seen.iter().find(is_same));
            let time = same.and_then(|seen| seen["lastTransitionTime"].as_str());
            time.unwrap_or(now).to_owned()
        };
        let list = self.conditions.iter().map(|condition| {
            let status = if condition.is_true { "True" } else { "False" };
            json!({
                "type": condition.form,
                "status": status,
                "reason": condition.reason,
                "message": condition.message,
                "observedGeneration": self.generation,
                "lastTransitionTime": since(condition, status),
            })
        });
        list.collect()
    }
}
