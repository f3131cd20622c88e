//! `GET /v1/models`: what all pools serve, merged, in OpenAI's shape.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use hermes_core::{
    nearest::nearest,
    rewrites::ModelRewrite,
    snapshot::{Model, Pool},
};
use hermes_runtime::percent;
use serde_json::{Value, json};

use crate::{
    request::local_reply::{LocalReply, echo},
    view::RoutingPool,
};

/// A name that clients may ask for.
struct ListedModel<'a> {
    name: &'a str,
    parent: Option<&'a str>,
    max_model_len: Option<u32>,
}

/// Every name that clients may ask this pool for, those that it rewrites included. A name may come
/// twice.
pub(super) fn names(pool: &Pool) -> impl Iterator<Item = &Arc<str>> {
    let rewritten = pool.spec.rewrites.iter();
    let own = pool.models.iter().map(|model| &model.name);
    own.chain(rewritten.filter_map(|rewrite| rewrite.model.as_ref()))
}

/// Every model of these pools once, LoRA adapters and rewritten names included; sorted by name.
pub(crate) fn list<'v>(pools: impl Iterator<Item = &'v Arc<RoutingPool>>) -> Bytes {
    let data: Vec<Value> = all(pools).values().map(ListedModel::card).collect();
    Bytes::from(json!({"object": "list", "data": data}).to_string())
}

/// One model of these pools. Names may contain slashes and arrive percent-encoded or not.
pub(crate) fn one<'v>(
    pools: impl Iterator<Item = &'v Arc<RoutingPool>>,
    path: &str,
) -> Result<Bytes, LocalReply> {
    let asked = decoded(path.strip_prefix("/v1/models/").unwrap_or(path));
    let models = all(pools);
    match models.get(&*asked) {
        Some(model) => Ok(Bytes::from(model.card().to_string())),
        None => {
            let nearest = nearest(&asked, models.keys().copied())
                .into_iter()
                .map(str::to_owned)
                .collect();
            Err(LocalReply::UnknownModel {
                model: echo(&asked),
                nearest,
            })
        }
    }
}

fn all<'v>(
    pools: impl Iterator<Item = &'v Arc<RoutingPool>>,
) -> BTreeMap<&'v str, ListedModel<'v>> {
    let mut listed = BTreeMap::new();
    // Requests for a name that two pools serve go to the first pool, so the first pool's model is
    // listed; and in a pool, the rewrite of a name goes before the model of that name.
    for pool in pools {
        let pool = &*pool.pool;
        let rewritten = pool.spec.rewrites.iter();
        let rewritten = rewritten.filter_map(|rewrite| ListedModel::rewritten(pool, rewrite));
        let own = pool.models.iter().map(|model| ListedModel::of(model));
        for model in rewritten.chain(own) {
            listed.entry(model.name).or_insert(model);
        }
    }
    listed
}

impl<'a> ListedModel<'a> {
    fn of(model: &'a Model) -> Self {
        let Model {
            name,
            parent,
            max_model_len,
            holders: _,
        } = model;
        Self {
            name,
            parent: parent.as_deref(),
            max_model_len: *max_model_len,
        }
    }

    /// The name that a rewrite applies to, if it is one. Its prompts must fit every target.
    fn rewritten(pool: &'a Pool, rewrite: &'a ModelRewrite) -> Option<Self> {
        let targets = rewrite.targets.iter();
        let models = targets.filter_map(|target| pool.model(&target.model));
        Some(Self {
            name: rewrite.model.as_deref()?,
            parent: None,
            max_model_len: models.filter_map(|model| model.max_model_len).min(),
        })
    }

    fn card(&self) -> Value {
        let Self {
            name,
            parent,
            max_model_len,
        } = self;
        json!({
            "id": name, "object": "model", "created": 0, "owned_by": "hermes",
            "root": parent.unwrap_or(name), "parent": parent, "max_model_len": max_model_len,
        })
    }
}

/// A model's name as a path spells it; a name with a malformed escape is taken as it is.
fn decoded(text: &str) -> String {
    percent::decode(text).unwrap_or_else(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_names_with_slashes_arrive_encoded_or_not() {
        assert_eq!(decoded("Qwen%2FQwen3-8B"), "Qwen/Qwen3-8B");
        assert_eq!(decoded("Qwen/Qwen3-8B"), "Qwen/Qwen3-8B");
        assert_eq!(decoded("100%"), "100%");
        assert_eq!(decoded("%zz%4"), "%zz%4");
    }
}
