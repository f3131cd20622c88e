//! The list `parents` in the status of an `HTTPRoute` or an `InferencePool`: an entry for each Gateway
//! by that Gateway's controller.
//!
//! The list is one value for the API server. Who writes it writes entries of others along: they are
//! kept as they are, where they are.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::{Value, json};

use super::{
    condition::ConditionList, gateway::GATEWAY_GROUP, http_route::ParentRef, name::NamespacedName,
};

/// Most entries, as the definitions have it.
const MAX_PARENTS: usize = 32;

/// The entries of this controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ParentList {
    /// Its name.
    pub(crate) controller: Arc<str>,
    pub(crate) form: ParentForm,
    pub(crate) parents: Vec<(ParentReference, ConditionList)>,
}

/// The kind of objects that have the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ParentForm {
    /// `HTTPRoute`, and `InferencePool` of the stable group.
    Named,
    /// `InferencePool` as it was before: no entry has the name of its controller. Those for these
    /// Gateways are this controller's.
    Unnamed(Arc<BTreeSet<NamespacedName>>),
}

/// How a parent is referred to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ParentReference {
    /// As a route has it.
    OfRoute(ParentRef),
    /// A Gateway.
    Gateway(NamespacedName),
}

// === ParentList ===

impl ParentList {
    /// Its name in the status.
    pub(crate) const fn key(&self) -> &'static str {
        match self.form {
            ParentForm::Named => "parents",
            ParentForm::Unnamed(_) => "parent",
        }
    }

    /// The whole list: entries of others as they are, this controller's where they are, and new ones
    /// behind them.
    pub(crate) fn wanted(&self, observed: Option<&Value>, now: &str) -> Value {
        let wanted = self.parents.iter();
        let mut left: Vec<(Value, &ConditionList)> = wanted
            .map(|(parent, conditions)| (parent.to_json(), conditions))
            .collect();
        let mut list = Vec::new();
        for seen in observed.and_then(Value::as_array).into_iter().flatten() {
            let same = left
                .iter()
                .position(|(parent, _)| *parent == seen["parentRef"]);
            match same.filter(|_| self.is_own(seen)) {
                Some(at) => {
                    let (parent, conditions) = left.remove(at);
                    list.push(self.entry(&parent, conditions, Some(seen), now));
                }
                None if self.is_own(seen) || self.is_placeholder(seen) => {}
                None => list.push(seen.clone()),
            }
        }
        let new = left.iter();
        list.extend(new.map(|(parent, conditions)| self.entry(parent, conditions, None, now)));
        list.truncate(MAX_PARENTS);
        Value::Array(list)
    }

    /// Whether the status has entries of this controller, or should have.
    pub(crate) fn matters(&self, observed: &Value) -> bool {
        let seen = observed.get(self.key()).and_then(Value::as_array);
        let mut seen = seen.into_iter().flatten();
        !self.parents.is_empty() || seen.any(|entry| self.is_own(entry))
    }

    /// Whether an entry of this controller is about a newer generation.
    pub(crate) fn is_older(&self, observed: &Value) -> bool {
        let seen = observed.get(self.key()).and_then(Value::as_array);
        let mut own = seen.into_iter().flatten().filter(|seen| self.is_own(seen));
        own.any(|seen| {
            let conditions = seen.get("conditions");
            (self.parents.iter()).any(|(_, wanted)| wanted.is_older(conditions))
        })
    }

    fn entry(
        &self,
        parent: &Value,
        conditions: &ConditionList,
        seen: Option<&Value>,
        now: &str,
    ) -> Value {
        let before = seen.and_then(|seen| seen.get("conditions"));
        let mut entry = json!({
            "parentRef": parent,
            "conditions": conditions.to_json(before, now),
        });
        if matches!(self.form, ParentForm::Named) {
            entry["controllerName"] = json!(*self.controller);
        }
        entry
    }

    fn is_own(&self, entry: &Value) -> bool {
        let parent = &entry["parentRef"];
        match &self.form {
            ParentForm::Named => entry["controllerName"] == *self.controller,
            ParentForm::Unnamed(gateways) => {
                let (namespace, name) = (parent["namespace"].as_str(), parent["name"].as_str());
                let name = namespace
                    .zip(name)
                    .map(|(namespace, name)| NamespacedName::new(namespace, name));
                let kind = parent["kind"].as_str().unwrap_or("Gateway");
                kind == "Gateway" && name.is_some_and(|name| gateways.contains(&name))
            }
        }
    }

    /// Whether it is the entry of pools that have no Gateway.
    fn is_placeholder(&self, entry: &Value) -> bool {
        let is_status = entry["parentRef"]["kind"] == "Status";
        is_status && matches!(self.form, ParentForm::Unnamed(_)) && !self.parents.is_empty()
    }
}

// === ParentReference ===

impl ParentReference {
    fn to_json(&self) -> Value {
        match self {
            Self::Gateway(NamespacedName { namespace, name }) => json!({
                "group": GATEWAY_GROUP,
                "kind": "Gateway",
                "namespace": **namespace,
                "name": **name,
            }),
            Self::OfRoute(parent) => {
                let ParentRef {
                    group,
                    kind,
                    namespace,
                    name,
                    section_name,
                    port,
                } = parent;
                let mut reference = json!({"group": **group, "kind": **kind, "name": **name});
                let texts = [("namespace", namespace), ("sectionName", section_name)];
                for (key, text) in texts {
                    if let Some(text) = text {
                        reference[key] = json!(**text);
                    }
                }
                if let Some(port) = port {
                    reference["port"] = json!(port);
                }
                reference
            }
        }
    }
}

#[cfg(test)]
mod tests;
