//! Which models a pool serves, and which of its endpoints serve each: from the configuration, or
//! else from what the engines answer.
//!
//! An endpoint that has not reported its models counts as serving the base models while all that
//! have reported agree on these, so that traffic does not wait. Where they differ it serves nothing
//! until it reports: half of what it was sent would fail. It never counts as having an adapter
//! loaded.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hermes_core::{
    collection::Collection,
    snapshot::{EndpointId, Model, ModelHolders},
};

use super::members::PoolMembers;
use crate::engines::ModelCard;

/// Most models of one pool.
const MAX_MODELS: usize = 4_096;

/// What engines reported about one name.
#[derive(Debug, Default)]
struct ReportedModel {
    parent: Option<Arc<str>>,
    /// The longest that any of them takes: nothing is refused that one endpoint would serve.
    max_model_len: Option<u32>,
    /// Sorted, as members are.
    holders: Vec<EndpointId>,
}

/// The models of `pool`: those that the operator `named`, or, when there are none,
/// those that its engines answer to.
pub(super) fn of(pool: &str, named: &[Arc<str>], members: &PoolMembers) -> Collection<Model> {
    let mut reported = reported_models(members);
    let names: Vec<Arc<str>> = if named.is_empty() {
        reported.keys().cloned().collect()
    } else {
        named.to_vec()
    };
    if names.len() > MAX_MODELS {
        tracing::warn!(
            pool,
            models = names.len(),
            "engines serve more than {MAX_MODELS} models, the rest is left out"
        );
    }
    let assumed = do_base_models_agree(members);
    let mut of_pool = BTreeMap::new();
    for name in names.into_iter().take(MAX_MODELS) {
        let known = reported.remove(&name);
        of_pool
            .entry(Arc::clone(&name))
            .or_insert_with(|| Arc::new(model(known, name, members, assumed)));
    }
    of_pool.into_values().collect()
}

fn reported_models(members: &PoolMembers) -> BTreeMap<Arc<str>, ReportedModel> {
    let mut reported: BTreeMap<Arc<str>, ReportedModel> = BTreeMap::new();
    for member in members.iter() {
        for ModelCard {
            name,
            parent,
            max_model_len,
        } in member.models.iter().flatten()
        {
            let model = reported.entry(Arc::clone(name)).or_default();
            model.parent = model.parent.take().or_else(|| parent.clone());
            model.max_model_len = model.max_model_len.max(*max_model_len);
            model.holders.push(member.endpoint.id);
        }
    }
    reported
}

/// Whether all endpoints that have reported any models serve the same base models.
fn do_base_models_agree(members: &PoolMembers) -> bool {
    let reported = members.iter().filter_map(|member| member.models.as_ref());
    let mut bases = reported.filter(|models| !models.is_empty()).map(|models| {
        let bases = models.iter().filter(|card| card.parent.is_none());
        bases.map(|card| &card.name).collect::<BTreeSet<_>>()
    });
    let first = bases.next();
    bases.all(|other| Some(other) == first)
}

/// The model with its holders. If `assumed`, endpoints that have not reported hold base models.
fn model(
    reported: Option<ReportedModel>,
    name: Arc<str>,
    members: &PoolMembers,
    assumed: bool,
) -> Model {
    // The operator may configure names that engines do not list, such as one that an engine accepts
    // as any.
    let Some(ReportedModel {
        parent,
        max_model_len,
        mut holders,
    }) = reported
    else {
        return Model {
            name,
            parent: None,
            max_model_len: None,
            holders: ModelHolders::All,
        };
    };
    if parent.is_none() && assumed {
        holders.extend(
            members
                .iter()
                .filter(|member| member.models.is_none())
                .map(|member| member.endpoint.id),
        );
        holders.sort_unstable();
    }
    // An engine may list a name twice.
    holders.dedup();
    Model {
        name,
        parent,
        max_model_len,
        holders: listed(holders, members),
    }
}

/// The shorter of two lists: of those that hold it, or of those that do not.
fn listed(holders: Vec<EndpointId>, members: &PoolMembers) -> ModelHolders {
    let others = members.iter().count() - holders.len();
    if others == 0 {
        return ModelHolders::All;
    }
    if others >= holders.len() {
        return ModelHolders::Some(holders.into());
    }
    let is_other = |id: &EndpointId| holders.binary_search(id).is_err();
    ModelHolders::Except(members.ids().filter(is_other).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::DiscoveredEndpoint;

    /// Names of models, each with its parent; `None` for an endpoint that has not reported.
    type Reported<'a> = Option<&'a [(&'a str, Option<&'a str>)]>;

    fn members(models: &[Reported<'_>]) -> PoolMembers {
        let found: Vec<DiscoveredEndpoint> = (0..models.len())
            .map(|index| DiscoveredEndpoint {
                address: format!("http://10.0.0.{index}:8000")
                    .parse()
                    .expect("an address"),
                uid: String::new(),
                name: index.to_string(),
                role: None,
                group: None,
                pairing: hermes_core::snapshot::PairingFacts::default(),
                kv_events: None,
            })
            .collect();
        let mut members = PoolMembers::default();
        members.replace("chat", None, found.iter(), std::time::Duration::ZERO);
        for (found, models) in found.iter().zip(models) {
            let Some(models) = models else { continue };
            let card = |&(name, parent): &(&str, Option<&str>)| ModelCard {
                name: name.into(),
                parent: parent.map(Into::into),
                max_model_len: Some(4096),
            };
            members.set_models(
                EndpointId::of("chat", &found.address, ""),
                models.iter().map(card).collect(),
            );
        }
        members
    }

    fn holders(models: &Collection<Model>, name: &str) -> Option<usize> {
        match &models
            .iter()
            .find(|model| &*model.name == name)
            .expect("the model is there")
            .holders
        {
            ModelHolders::All => None,
            ModelHolders::Some(some) => Some(some.len()),
            ModelHolders::Except(_) => panic!("more endpoints hold {name} than do not"),
        }
    }

    #[test]
    fn without_a_configured_name_the_engines_decide() {
        let members = members(&[
            Some(&[("base", None), ("lora", Some("base"))]),
            Some(&[("base", None)]),
        ]);
        let models = of("chat", &[], &members);
        assert_eq!(
            models.iter().map(|model| &*model.name).collect::<Vec<_>>(),
            ["base", "lora"]
        );
        assert_eq!(
            (holders(&models, "base"), holders(&models, "lora")),
            (None, Some(1))
        );
        assert_eq!(models[1].parent.as_deref(), Some("base"));
        assert_eq!(models[0].max_model_len, Some(4096));
    }

    #[test]
    fn an_endpoint_without_reported_models_serves_the_base_model_and_no_adapter() {
        let members = members(&[Some(&[("base", None), ("lora", Some("base"))]), None]);
        let models = of("chat", &[], &members);
        assert_eq!(
            (holders(&models, "base"), holders(&models, "lora")),
            (None, Some(1))
        );
    }

    #[test]
    fn an_endpoint_without_reported_models_serves_none_where_its_peers_serve_different_ones() {
        let members = members(&[
            Some(&[("llama", None)]),
            Some(&[("qwen", None), ("lora", Some("qwen"))]),
            None,
        ]);
        let models = of("chat", &[], &members);
        let held = ["llama", "qwen", "lora"].map(|name| holders(&models, name));
        assert_eq!(held, [Some(1); 3]);
    }

    #[test]
    fn an_adapter_that_most_endpoints_have_lists_the_others() {
        let lora: Reported<'_> = Some(&[("lora", Some("base"))]);
        let members = members(&[lora, lora, None, lora]);
        let models = of("chat", &[], &members);
        let address = "http://10.0.0.2:8000".parse().expect("an address");
        let other = EndpointId::of("chat", &address, "");
        assert_eq!(models[0].holders, ModelHolders::Except([other].into()));
    }

    #[test]
    fn an_endpoint_that_lists_a_name_twice_holds_it_once() {
        let twice: Reported<'_> = Some(&[("lora", Some("base")), ("lora", Some("base"))]);
        let models = of("chat", &[], &members(&[twice, Some(&[]), None]));
        assert_eq!(holders(&models, "lora"), Some(1));
    }

    #[test]
    fn configured_models_need_not_be_reported() {
        let named = ["alias".into(), "base".into()];
        let models = of(
            "chat",
            &named,
            &members(&[
                Some(&[("base", None), ("other", None)]),
                Some(&[("other", None)]),
            ]),
        );
        assert_eq!(
            models.iter().map(|model| &*model.name).collect::<Vec<_>>(),
            ["alias", "base"]
        );
        assert_eq!(
            (holders(&models, "alias"), holders(&models, "base")),
            (None, Some(1))
        );
    }

    #[test]
    fn without_reported_or_configured_models_any_name_is_forwarded() {
        assert_eq!(
            of("chat", &[], &members(&[None, None])),
            Collection::default()
        );
    }
}
