//! The status of objects of the Gateway API: what it should be, in the form that the API has.
//!
//! An object's status has parts of several controllers. Conditions and listeners are lists with keys,
//! in which each controller has its own entries; `parents` is one value for all of them
//! ([`ParentList`]).

use std::sync::Arc;

use serde_json::{Value, json};

use super::{condition::ConditionList, gateway::GATEWAY_GROUP, parent_list::ParentList};

/// What the status of an object should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GatewayApiStatus {
    /// Of a `GatewayClass`.
    Class(ClassStatus),
    /// Of a `Gateway`.
    Gateway(GatewayStatus),
    /// Of an `HTTPRoute`, or of an `InferencePool`.
    Child(ParentList),
}

/// What the status of a class should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClassStatus {
    pub(crate) conditions: ConditionList,
    /// Names of what is supported, sorted.
    pub(crate) features: &'static [&'static str],
}

/// What the status of a Gateway should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GatewayStatus {
    pub(crate) conditions: ConditionList,
    pub(crate) listeners: Vec<ListenerStatus>,
    pub(crate) addresses: Vec<AssignedAddress>,
}

/// An address of a Gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AssignedAddress {
    /// `IPAddress` or `Hostname`.
    pub(crate) form: &'static str,
    pub(crate) value: Arc<str>,
}

/// What the status of a listener should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ListenerStatus {
    pub(crate) name: Arc<str>,
    /// Whether it takes an `HTTPRoute`.
    pub(crate) takes_routes: bool,
    /// Routes that are attached.
    pub(crate) attached: usize,
    pub(crate) conditions: ConditionList,
}

// === GatewayApiStatus ===

impl GatewayApiStatus {
    /// The whole of the fields that this controller writes, as they should be. A condition that does
    /// not change its truth keeps its time.
    pub(crate) fn wanted(&self, observed: &Value, now: &str) -> Value {
        match self {
            Self::Class(status) => json!({
                "conditions": status.conditions.to_json(observed.get("conditions"), now),
                "supportedFeatures": status.features.iter().map(|name| json!({"name": name})).collect::<Value>(),
            }),
            Self::Gateway(status) => status.wanted(observed, now),
            Self::Child(parents) => {
                let key = parents.key();
                json!({key: parents.wanted(observed.get(key), now)})
            }
        }
    }

    /// Whether the observed status is as it should be, or is about a newer generation, which another
    /// replica knows.
    pub(crate) fn is_in(&self, observed: &Value) -> bool {
        let is_newer = match self {
            Self::Class(ClassStatus { conditions, .. })
            | Self::Gateway(GatewayStatus { conditions, .. }) => {
                conditions.is_older(observed.get("conditions"))
            }
            Self::Child(parents) => parents.is_older(observed),
        };
        if is_newer {
            return true;
        }
        // A time that no condition has makes a condition that changes its truth differ.
        let Value::Object(wanted) = self.wanted(observed, "") else {
            return false;
        };
        wanted.into_iter().all(|(key, wanted)| match &*key {
            "conditions" => includes(observed.get(&key), &wanted),
            "listeners" => listeners_are(observed.get(&key), &wanted),
            _ => *observed.get(&key).unwrap_or(&json!([])) == wanted,
        })
    }

    /// Whether the object has a part of this controller, or should have.
    pub(crate) fn matters(&self, observed: &Value) -> bool {
        match self {
            Self::Class(_) | Self::Gateway(_) => true,
            Self::Child(parents) => parents.matters(observed),
        }
    }

    /// Whether entries of others are written along, so that it must be the newest version that is
    /// replaced.
    pub(crate) const fn replaces_others(&self) -> bool {
        matches!(self, Self::Child(_))
    }
}

/// Whether each of these conditions is among those observed.
fn includes(observed: Option<&Value>, wanted: &Value) -> bool {
    let observed = observed.and_then(Value::as_array);
    let is_there = |one: &Value| observed.is_some_and(|list| list.contains(one));
    wanted
        .as_array()
        .is_some_and(|list| list.iter().all(is_there))
}

/// Whether these listeners are observed, and no others, in any order, each with its conditions in any
/// order.
fn listeners_are(observed: Option<&Value>, wanted: &Value) -> bool {
    let empty = Vec::new();
    let list = |value: Option<&Value>| value.and_then(Value::as_array).unwrap_or(&empty).clone();
    let sorted = |mut listeners: Vec<Value>| {
        for listener in &mut listeners {
            if let Some(conditions) = listener.get_mut("conditions").and_then(Value::as_array_mut) {
                conditions.sort_by_key(|condition| condition["type"].to_string());
            }
        }
        listeners.sort_by_key(|listener| listener["name"].to_string());
        listeners
    };
    sorted(list(observed)) == sorted(list(Some(wanted)))
}

// === GatewayStatus ===

impl GatewayStatus {
    fn wanted(&self, observed: &Value, now: &str) -> Value {
        let Self {
            conditions,
            listeners,
            addresses,
        } = self;
        let observed_listeners = observed.get("listeners").and_then(Value::as_array);
        let listeners = listeners.iter().map(|listener| {
            let is_same = |seen: &&Value| seen["name"] == *listener.name;
            let seen = observed_listeners.and_then(|list| list.iter().find(is_same));
            listener.wanted(seen, now)
        });
        let addresses = addresses.iter();
        let addresses =
            addresses.map(|address| json!({"type": address.form, "value": *address.value}));
        json!({
            "conditions": conditions.to_json(observed.get("conditions"), now),
            "listeners": listeners.collect::<Value>(),
            "addresses": addresses.collect::<Value>(),
        })
    }
}

// === ListenerStatus ===

impl ListenerStatus {
    fn wanted(&self, observed: Option<&Value>, now: &str) -> Value {
        let observed = observed.and_then(|seen| seen.get("conditions"));
        let kinds = if self.takes_routes {
            json!([{"group": GATEWAY_GROUP, "kind": "HTTPRoute"}])
        } else {
            json!([])
        };
        json!({
            "name": *self.name,
            "supportedKinds": kinds,
            "attachedRoutes": self.attached,
            "conditions": self.conditions.to_json(observed, now),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway_api::condition::StatusCondition;

    const THEN: &str = "2026-01-01T00:00:00Z";

    fn conditions(generation: i64, is_programmed: bool) -> ConditionList {
        let programmed = if is_programmed {
            StatusCondition::holds("Programmed", "Programmed", "served")
        } else {
            StatusCondition::fails("Programmed", "Pending", "no port")
        };
        let accepted = StatusCondition::holds("Accepted", "Accepted", "all is well");
        ConditionList::new(generation, vec![accepted, programmed])
    }

    fn gateway(generation: i64, is_programmed: bool, attached: usize) -> GatewayApiStatus {
        let listener = |name: &str| ListenerStatus {
            name: name.into(),
            takes_routes: true,
            attached,
            conditions: conditions(generation, is_programmed),
        };
        GatewayApiStatus::Gateway(GatewayStatus {
            conditions: conditions(generation, is_programmed),
            listeners: vec![listener("a"), listener("b")],
            addresses: vec![AssignedAddress {
                form: "IPAddress",
                value: "10.0.0.1".into(),
            }],
        })
    }

    #[test]
    fn what_was_written_is_as_it_should_be_in_any_order_and_with_conditions_of_others() {
        let status = gateway(1, true, 2);
        let mut observed = status.wanted(&Value::Null, THEN);
        assert!(status.is_in(&observed));
        let reverse = |list: &mut Value| list.as_array_mut().expect("a list").reverse();
        reverse(&mut observed["listeners"]);
        reverse(&mut observed["listeners"][0]["conditions"]);
        reverse(&mut observed["conditions"]);
        let other = json!({"type": "example.com/Scanned", "status": "True"});
        let list = observed["conditions"].as_array_mut().expect("a list");
        list.push(other);
        assert!(status.is_in(&observed));
    }

    #[test]
    fn each_difference_is_seen() {
        let status = gateway(1, true, 2);
        let observed = status.wanted(&Value::Null, THEN);
        assert!(!status.is_in(&Value::Null));
        assert!(!gateway(1, false, 2).is_in(&observed));
        assert!(!gateway(1, true, 3).is_in(&observed));
        assert!(!gateway(2, true, 2).is_in(&observed));
        let mut more = observed.clone();
        let listeners = more["listeners"].as_array_mut().expect("a list");
        listeners.push(json!({"name": "gone", "attachedRoutes": 0, "conditions": []}));
        assert!(!status.is_in(&more));
        let mut moved = observed;
        moved["addresses"][0]["value"] = json!("10.0.0.2");
        assert!(!status.is_in(&moved));
    }

    #[test]
    fn a_status_about_a_newer_generation_is_left_to_who_knows_it() {
        let newer = gateway(2, true, 2).wanted(&Value::Null, THEN);
        assert!(gateway(1, false, 0).is_in(&newer));
    }

    #[test]
    fn a_time_changes_with_the_truth_only() {
        let observed = gateway(1, false, 0).wanted(&Value::Null, THEN);
        let wanted = gateway(2, true, 0).wanted(&observed, "2026-02-01T00:00:00Z");
        let time = |at: usize| wanted["conditions"][at]["lastTransitionTime"].clone();
        assert_eq!(
            [time(0), time(1)],
            [json!(THEN), json!("2026-02-01T00:00:00Z")]
        );
    }
}
