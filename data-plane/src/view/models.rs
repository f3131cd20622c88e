//! `GET /v1/models`: what all pools serve, merged, in OpenAI's shape.

use std::collections::BTreeMap;

use bytes::Bytes;
use hermes_core::{nearest::nearest, snapshot::Model};
use hermes_runtime::percent;
use serde_json::{Value, json};

use crate::{
    request::local_reply::{LocalReply, echo},
    view::RoutingView,
};

/// Every model once, LoRA adapters included; sorted by name.
pub(crate) fn list(view: &RoutingView) -> Bytes {
    let data: Vec<Value> = all(view).into_values().map(card).collect();
    Bytes::from(json!({"object": "list", "data": data}).to_string())
}

/// One model. Names may contain slashes and arrive percent-encoded or not.
pub(crate) fn one(view: &RoutingView, path: &str) -> Result<Bytes, LocalReply> {
    let asked = decoded(path.strip_prefix("/v1/models/").unwrap_or(path));
    let models = all(view);
    match models.get(&*asked) {
        Some(model) => Ok(Bytes::from(card(model).to_string())),
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

fn all(view: &RoutingView) -> BTreeMap<&str, &Model> {
    let models = view.pools.iter().flat_map(|pool| &pool.pool.models);
    // Requests for a name that two pools serve go to the first pool, so the first pool's model is
    // listed.
    models.rev().map(|model| (&*model.name, &**model)).collect()
}

fn card(model: &Model) -> Value {
    let Model {
        name,
        parent,
        max_model_len,
        holders: _,
    } = model;
    json!({
        "id": name, "object": "model", "created": 0, "owned_by": "hermes",
        "root": parent.as_ref().unwrap_or(name), "parent": parent, "max_model_len": max_model_len,
    })
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
