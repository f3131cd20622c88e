//! Role and group of an endpoint, from the labels of its pod or its Service.

use std::collections::BTreeMap;

use hermes_core::snapshot::Role;

/// Labels that name the role, strongest first: ours, the original router's, llm-d's.
const ROLE: [&str; 3] = ["hermes.ai/role", "openfuyao.com/pdRole", "llm-d.ai/role"];

/// Labels that name the group, strongest first.
const GROUP: [&str; 2] = ["hermes.ai/group", "openfuyao.com/pdGroupID"];

/// What the labels of one object say about an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RoleLabels {
    pub(crate) role: Role,
    pub(crate) group: Option<String>,
}

/// Reads role and group; no role label means that the server does both.
///
/// # Errors
///
/// Gives back a role that is not understood. Guessing would send whole requests to an encoder or to
/// another proxy.
pub(crate) fn role_labels(labels: Option<&BTreeMap<String, String>>) -> Result<RoleLabels, &str> {
    let role = match first(labels, &ROLE) {
        None | Some("aggregate" | "both" | "prefill-decode" | "encode-prefill-decode") => {
            Role::Aggregate
        }
        Some("prefill") => Role::Prefill,
        Some("decode") => Role::Decode,
        Some(other) => return Err(other),
    };
    let group = first(labels, &GROUP).map(str::to_owned);
    Ok(RoleLabels { role, group })
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

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn role(pairs: &[(&str, &str)]) -> Option<Role> {
        role_labels(Some(&labels(pairs)))
            .ok()
            .map(|role_labels| role_labels.role)
    }

    #[test]
    fn every_alias_names_the_role() {
        for name in ROLE {
            assert_eq!(role(&[(name, "prefill")]), Some(Role::Prefill), "{name}");
            assert_eq!(role(&[(name, "decode")]), Some(Role::Decode), "{name}");
            assert_eq!(role(&[(name, "both")]), Some(Role::Aggregate), "{name}");
        }
    }

    #[test]
    fn no_label_and_an_empty_label_mean_aggregate() {
        assert_eq!(
            role_labels(None),
            Ok(RoleLabels {
                role: Role::Aggregate,
                group: None
            })
        );
        assert_eq!(role(&[("hermes.ai/role", "")]), Some(Role::Aggregate));
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
    fn every_alias_names_the_group() {
        for name in GROUP {
            let labels = labels(&[(name, "g1")]);
            let group = role_labels(Some(&labels))
                .ok()
                .and_then(|role_labels| role_labels.group);
            assert_eq!(group.as_deref(), Some("g1"), "{name}");
        }
    }
}
