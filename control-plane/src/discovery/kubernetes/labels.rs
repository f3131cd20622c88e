//! Role and group of an endpoint, and what its partner needs to know of it, from the labels and
//! annotations of its pod or its Service.
//!
//! Services carry them where Services are selected, as slices do not: a Service for each role.

use std::collections::BTreeMap;

use hermes_core::snapshot::{PairingFacts, Role};
use kube::core::ObjectMeta;

/// Labels that name the role, strongest first: ours, the original router's, llm-d's.
const ROLE: [&str; 3] = ["hermes.ai/role", "openfuyao.com/pdRole", "llm-d.ai/role"];

/// Labels that name the group, strongest first.
const GROUP: [&str; 2] = ["hermes.ai/group", "openfuyao.com/pdGroupID"];

/// The annotation that names the port of a prefill server's bootstrap service.
const BOOTSTRAP_PORT: &str = "hermes.ai/bootstrap-port";

/// Annotations or labels that name the engine's release, strongest first.
const VERSION: [&str; 1] = ["hermes.ai/engine-version"];

/// Names that an operator has for roles and groups, besides the known ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleNames {
    /// The label that names the role, before all others.
    pub role_label: Option<String>,
    /// The label that names the group, before all others.
    pub group_label: Option<String>,
    /// Values of the role's label, besides the known ones.
    pub values: Vec<(String, Role)>,
}

/// What one object says about an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RoleLabels {
    /// `None` if no label names it.
    pub(crate) role: Option<Role>,
    pub(crate) group: Option<String>,
    pub(crate) pairing: PairingFacts,
}

/// Reads the role of an object, and what belongs to it.
///
/// # Errors
///
/// Gives back a role that is not understood. Guessing would send whole requests to an encoder.
pub(crate) fn role_labels<'a>(
    object: &'a ObjectMeta,
    names: &RoleNames,
) -> Result<RoleLabels, &'a str> {
    let (labels, annotations) = (object.labels.as_ref(), object.annotations.as_ref());
    let own = |label: &Option<String>| label.as_ref().and_then(|label| first(labels, &[label]));
    let named = own(&names.role_label).or_else(|| first(labels, &ROLE));
    let known = names.values.iter().find(|(value, _)| named == Some(value));
    let role = match named {
        _ if known.is_some() => known.map(|(_, role)| *role),
        None => None,
        Some("aggregate") => Some(Role::Aggregate),
        Some("both" | "prefill-decode" | "encode-prefill-decode") => Some(Role::Both),
        Some("prefill" | "encode-prefill") => Some(Role::Prefill),
        Some("decode" | "encode-decode") => Some(Role::Decode),
        Some("leader") => Some(Role::Leader),
        Some(other) => return Err(other),
    };
    let version = first(annotations, &VERSION).or_else(|| first(labels, &VERSION));
    let pairing = PairingFacts {
        bootstrap_port: first(annotations, &[BOOTSTRAP_PORT])
            .and_then(|port| port.trim().parse().ok()),
        version: version.map(Into::into),
        ..PairingFacts::default()
    };
    let group = own(&names.group_label).or_else(|| first(labels, &GROUP));
    Ok(RoleLabels {
        role,
        group: group.map(str::to_owned),
        pairing,
    })
}

/// The value of the strongest of `names` that is set; an empty value counts as unset.
fn first<'a>(labels: Option<&'a BTreeMap<String, String>>, names: &[&str]) -> Option<&'a str> {
    let labels = labels?;
    let mut values = names.iter().filter_map(|name| labels.get(*name));
    values.find(|value| !value.is_empty()).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn labelled(pairs: &[(&str, &str)]) -> ObjectMeta {
        ObjectMeta {
            labels: Some(strings(pairs)),
            ..ObjectMeta::default()
        }
    }

    fn role(pairs: &[(&str, &str)]) -> Option<Role> {
        role_labels(&labelled(pairs), &RoleNames::default())
            .ok()
            .map(|role_labels| role_labels.role.unwrap_or_default())
    }

    #[test]
    fn every_alias_names_the_role() {
        for name in ROLE {
            assert_eq!(role(&[(name, "prefill")]), Some(Role::Prefill), "{name}");
            assert_eq!(role(&[(name, "decode")]), Some(Role::Decode), "{name}");
            assert_eq!(role(&[(name, "both")]), Some(Role::Both), "{name}");
        }
    }

    #[test]
    fn no_label_and_an_empty_label_name_no_role() {
        assert_eq!(
            role_labels(&ObjectMeta::default(), &RoleNames::default()),
            Ok(RoleLabels {
                role: None,
                group: None,
                pairing: PairingFacts::default(),
            })
        );
        let empty = labelled(&[("hermes.ai/role", "")]);
        let empty = role_labels(&empty, &RoleNames::default()).expect("no role");
        assert_eq!(empty.role, None);
    }

    #[test]
    fn our_own_label_wins_over_the_aliases() {
        let both = [
            ("openfuyao.com/pdRole", "decode"),
            ("hermes.ai/role", "prefill"),
        ];
        assert_eq!(role(&both), Some(Role::Prefill));
    }

    #[test]
    fn an_unknown_role_is_refused_rather_than_guessed() {
        assert_eq!(role(&[("llm-d.ai/role", "encode")]), None);
    }

    #[test]
    fn the_eight_roles_of_llm_d_are_known() {
        let role = |value| role(&[("llm-d.ai/role", value)]);
        for value in ["both", "prefill-decode", "encode-prefill-decode"] {
            assert_eq!(role(value), Some(Role::Both), "{value}");
        }
        for value in ["prefill", "encode-prefill"] {
            assert_eq!(role(value), Some(Role::Prefill), "{value}");
        }
        for value in ["decode", "encode-decode"] {
            assert_eq!(role(value), Some(Role::Decode), "{value}");
        }
        assert_eq!(role("encode"), None, "it serves no request");
    }

    #[test]
    fn an_operators_own_labels_and_values_take_precedence() {
        let names = RoleNames {
            role_label: Some("app.kubernetes.io/component".to_owned()),
            group_label: Some("app.kubernetes.io/name".to_owned()),
            values: vec![("workload-prefill".to_owned(), Role::Prefill)],
        };
        let object = labelled(&[
            ("app.kubernetes.io/component", "workload-prefill"),
            ("app.kubernetes.io/name", "chat"),
            ("hermes.ai/role", "decode"),
            ("hermes.ai/group", "other"),
        ]);
        let read = role_labels(&object, &names).expect("a known role");
        assert_eq!(
            (read.role, read.group.as_deref()),
            (Some(Role::Prefill), Some("chat"))
        );
        let plain = labelled(&[("hermes.ai/role", "decode")]);
        let read = role_labels(&plain, &names).expect("a known role");
        assert_eq!(read.role, Some(Role::Decode));
    }

    #[test]
    fn what_a_partner_needs_is_in_annotations() {
        let object = ObjectMeta {
            annotations: Some(strings(&[
                (BOOTSTRAP_PORT, "8997"),
                ("hermes.ai/engine-version", "0.32.0"),
            ])),
            ..labelled(&[("openfuyao.com/pdRole", "leader")])
        };
        let read = role_labels(&object, &RoleNames::default()).expect("a known role");
        let port = read.pairing.bootstrap_port.map(std::num::NonZero::get);
        assert_eq!((read.role, port), (Some(Role::Leader), Some(8997)));
        assert_eq!(read.pairing.version.as_deref(), Some("0.32.0"));
        let unreadable = ObjectMeta {
            annotations: Some(strings(&[(BOOTSTRAP_PORT, "many")])),
            ..ObjectMeta::default()
        };
        let read = role_labels(&unreadable, &RoleNames::default()).expect("a known role");
        assert_eq!(read.pairing, PairingFacts::default());
    }

    #[test]
    fn every_alias_names_the_group() {
        for name in GROUP {
            let labelled = labelled(&[(name, "g1")]);
            let group = role_labels(&labelled, &RoleNames::default())
                .ok()
                .and_then(|role_labels| role_labels.group);
            assert_eq!(group.as_deref(), Some("g1"), "{name}");
        }
    }
}
