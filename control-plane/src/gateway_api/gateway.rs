//! What a `GatewayClass` and a `Gateway` say (`sigs.k8s.io/gateway-api/apis/v1`). Fields that are not
//! read are left out; those whose presence changes what is promised are read as any value.

use std::{collections::BTreeMap, sync::Arc};

use serde::Deserialize;
use serde_json::Value;

/// The group of the Gateway API.
pub(crate) const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";

/// The specification of a `GatewayClass`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GatewayClassSpec {
    /// Whose Gateways these are.
    pub(crate) controller_name: Arc<str>,
    /// Parameters in another object, which are not supported.
    pub(crate) parameters_ref: Option<Value>,
}

/// The specification of a `Gateway`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GatewaySpec {
    /// Its class.
    pub(crate) gateway_class_name: Arc<str>,
    /// Its listeners.
    pub(crate) listeners: Vec<ListenerSpec>,
    /// Addresses that are asked for, which are not supported.
    #[serde(default)]
    pub(crate) addresses: Vec<Value>,
    /// What its Service gets.
    #[serde(default)]
    pub(crate) infrastructure: GatewayInfrastructure,
    /// TLS of all listeners.
    #[serde(default)]
    pub(crate) tls: GatewayTlsSpec,
}

/// One listener of a `Gateway`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListenerSpec {
    /// Its name, unique in its Gateway.
    pub(crate) name: Arc<str>,
    /// Whose requests it takes.
    pub(crate) hostname: Option<Arc<str>>,
    /// Its port.
    pub(crate) port: u16,
    /// `HTTP`, `HTTPS`, or one that is not supported.
    pub(crate) protocol: Arc<str>,
    /// How connections are secured.
    pub(crate) tls: Option<ListenerTlsSpec>,
    /// Which routes may be attached.
    #[serde(default)]
    pub(crate) allowed_routes: AllowedRoutes,
}

/// How a listener's connections are secured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListenerTlsSpec {
    /// `Terminate` unless it is set.
    pub(crate) mode: Option<Arc<str>>,
    /// The certificates.
    #[serde(default)]
    pub(crate) certificate_refs: Vec<ObjectRef>,
}

/// TLS of a whole Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GatewayTlsSpec {
    /// How clients' certificates are verified, which is not supported.
    pub(crate) frontend: Option<Value>,
}

/// What the Service of a Gateway gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct GatewayInfrastructure {
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) annotations: BTreeMap<String, String>,
    /// Parameters in another object, which are not supported.
    pub(crate) parameters_ref: Option<Value>,
}

/// Which routes may be attached to a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AllowedRoutes {
    #[serde(default)]
    pub(crate) namespaces: RouteNamespaces,
    #[serde(default)]
    pub(crate) kinds: Vec<RouteKind>,
}

/// From which namespaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RouteNamespaces {
    /// `Same` unless it is set.
    pub(crate) from: Option<Arc<str>>,
    /// For `Selector`.
    pub(crate) selector: Option<LabelSelector>,
}

/// A kind of routes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct RouteKind {
    pub(crate) group: Option<Arc<str>>,
    pub(crate) kind: Arc<str>,
}

/// A reference to an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct ObjectRef {
    pub(crate) group: Option<Arc<str>>,
    pub(crate) kind: Option<Arc<str>>,
    /// That of the referring object unless it is set.
    pub(crate) namespace: Option<Arc<str>>,
    pub(crate) name: Arc<str>,
}

/// Labels that objects must have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LabelSelector {
    #[serde(default)]
    match_labels: BTreeMap<String, String>,
    #[serde(default)]
    match_expressions: Vec<LabelExpression>,
}

/// What one label must be.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct LabelExpression {
    key: String,
    operator: String,
    #[serde(default)]
    values: Vec<String>,
}

/// Labels of an object.
pub(crate) type LabelMap = BTreeMap<String, String>;

// === LabelSelector ===

impl LabelSelector {
    /// Whether an object with these labels is selected. An operator that is not known selects
    /// nothing.
    pub(crate) fn selects(&self, labels: &LabelMap) -> bool {
        let has = |(key, value): (&String, &String)| labels.get(key) == Some(value);
        let holds = |expression: &LabelExpression| expression.holds(labels);
        self.match_labels.iter().all(has) && self.match_expressions.iter().all(holds)
    }
}

// === LabelExpression ===

impl LabelExpression {
    fn holds(&self, labels: &LabelMap) -> bool {
        let value = labels.get(&self.key);
        let is_listed = value.is_some_and(|value| self.values.contains(value));
        match &*self.operator {
            "In" => is_listed,
            "NotIn" => !is_listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_selector_selects_as_kubernetes_has_it() {
        let labels = LabelMap::from([("team".to_owned(), "a".to_owned())]);
        let selects = |selector: Value| {
            let selector: LabelSelector = serde_json::from_value(selector).expect("a selector");
            selector.selects(&labels)
        };
        let expression = |key: &str, operator: &str, values: &[&str]| {
            let one = json!({"key": key, "operator": operator, "values": values});
            selects(json!({"matchExpressions": [one]}))
        };
        assert!(selects(json!({})));
        assert!(selects(json!({"matchLabels": {"team": "a"}})));
        assert!(!selects(json!({"matchLabels": {"team": "b"}})));
        assert!(expression("team", "In", &["a", "b"]));
        assert!(!expression("other", "In", &["a"]));
        assert!(expression("other", "NotIn", &["a"]));
        assert!(!expression("team", "NotIn", &["a"]));
        assert!(expression("team", "Exists", &[]));
        assert!(expression("other", "DoesNotExist", &[]));
        assert!(!expression("team", "Near", &["a"]));
    }
}
