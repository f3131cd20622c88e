//! Whole objects that clients write: applied as one field manager, and deleted.
//!
//! As with a server, what the manager applied before and does not apply again is taken away, and what
//! others have set stays. Lists are one field: the newest whole list counts.

use std::collections::BTreeMap;

use http_body_util::{BodyExt, Limited};
use hyper::{Request, Response, StatusCode, Uri, body::Incoming};
use serde_json::{Map, Value, json};

use super::{
    Shared,
    collection::Collection,
    refusal::Refusal,
    reply::{Body, LARGEST, object},
};

/// What was applied last, by collection, namespace and name.
pub(crate) type AppliedObjects = BTreeMap<(Collection, String, String), Value>;

/// Applies an object.
pub(crate) async fn apply(
    shared: &Shared,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let (collection, namespace, name) = written(shared, request.uri())?;
    let content_type = request.headers().get(hyper::header::CONTENT_TYPE);
    if content_type.is_none_or(|given| given != "application/apply-patch+yaml") {
        return Err(Refusal::bad_parameter("content-type"));
    }
    let query = request.uri().query().unwrap_or_default().to_owned();
    let manager = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("fieldManager="))
        .ok_or_else(|| Refusal::bad_parameter("fieldManager"))?
        .to_owned();
    let applied = body(request).await?;
    let key = (collection.clone(), namespace.clone(), name.clone());
    let last = shared.applied.lock().get(&key).cloned();
    let result = shared.edit(|store| {
        let known = store.find(&collection, &(namespace, name));
        if let Some(known) = &known {
            let is_other = |_| Refusal::immutable("metadata.uid");
            check_uid(&applied["metadata"]["uid"], known).map_err(is_other)?;
        } else if applied["metadata"]["uid"].is_string() {
            return Err(Refusal::conflict("there is no object with this uid"));
        }
        let is_forced = query.split('&').any(|pair| pair == "force=true");
        let is_new = known.is_none();
        let mut merged = known.unwrap_or_else(|| json!({}));
        let last = last.unwrap_or(Value::Null);
        if !is_forced && !is_new && overwrites(&merged, &applied, &last) {
            return Err(Refusal::conflict("another manager has set these fields"));
        }
        merge(&mut merged, &applied, &last);
        merged["metadata"]["managedFields"] = json!([{"manager": manager, "operation": "Apply"}]);
        if is_new && collection.plural() == "services" {
            let number = store.version() % 250;
            merged["spec"]["clusterIP"] = json!(format!("10.96.0.{number}"));
        }
        store.put(&collection, merged.clone());
        Ok(merged)
    });
    let merged = result?;
    shared.applied.lock().insert(key, applied);
    Ok(object(StatusCode::OK, &merged))
}

/// Deletes an object.
pub(crate) async fn delete(
    shared: &Shared,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let (collection, namespace, name) = written(shared, request.uri())?;
    let options = body(request).await.unwrap_or_default();
    let key = (namespace.clone(), name.clone());
    let known = shared.store.lock().find(&collection, &key);
    let known = known.ok_or_else(Refusal::not_found)?;
    check_uid(&options["preconditions"]["uid"], &known)?;
    shared.edit(|store| store.remove(&collection, &namespace, &name));
    shared.applied.lock().remove(&(collection, namespace, name));
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    Ok(object(StatusCode::OK, &status))
}

/// The object that is to be written, if that is allowed.
fn written(shared: &Shared, uri: &Uri) -> Result<(Collection, String, String), Refusal> {
    let object = Collection::parse_object(uri.path()).ok_or_else(Refusal::not_found)?;
    shared.requests.lock().writes += 1;
    if shared.faults.lock().read_only.contains(&object.0) {
        return Err(Refusal::forbidden(object.0.plural()));
    }
    Ok(object)
}

async fn body(request: Request<Incoming>) -> Result<Value, Refusal> {
    let body = Limited::new(request.into_body(), LARGEST).collect().await;
    let body = body.map_err(|_| Refusal::bad_parameter("body"))?;
    serde_json::from_slice(&body.to_bytes()).map_err(|_| Refusal::bad_parameter("body"))
}

fn check_uid(wanted: &Value, known: &Value) -> Result<(), Refusal> {
    let uid = &known["metadata"]["uid"];
    if wanted.is_string() && wanted != uid {
        return Err(Refusal::conflict(format!("the uid is {uid}")));
    }
    Ok(())
}

/// Whether a field that was set by others has another value in `applied`.
fn overwrites(known: &Value, applied: &Value, last: &Value) -> bool {
    match (known, applied) {
        (Value::Object(known), Value::Object(applied)) => applied.iter().any(|(field, value)| {
            let (known, last) = (known.get(field), last.get(field).unwrap_or(&Value::Null));
            known.is_some_and(|known| overwrites(known, value, last))
        }),
        _ => known != applied && known != last,
    }
}

/// Puts `applied` into `known`, and takes away what only `last` has.
fn merge(known: &mut Value, applied: &Value, last: &Value) {
    let Value::Object(applied) = applied else {
        known.clone_from(applied);
        return;
    };
    if !known.is_object() {
        *known = Value::Object(Map::new());
    }
    for (field, value) in applied {
        merge(&mut known[field], value, &last[field]);
    }
    let gone = last.as_object().into_iter().flatten();
    for (field, _) in gone.filter(|(field, _)| !applied.contains_key(*field)) {
        if let Some(known) = known.as_object_mut()
            && field != "uid"
        {
            known.remove(field);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_set_stays_and_what_is_not_applied_again_goes() {
        let mut known = json!({"labels": {"a": "1", "theirs": "x"}, "ports": [1]});
        let last = json!({"labels": {"a": "1"}, "ports": [1]});
        let applied = json!({"labels": {"b": "2"}, "ports": [2, 3]});
        assert!(!overwrites(&known, &applied, &last));
        merge(&mut known, &applied, &last);
        let expected = json!({"labels": {"b": "2", "theirs": "x"}, "ports": [2, 3]});
        assert_eq!(known, expected);
        assert!(overwrites(
            &known,
            &json!({"labels": {"theirs": "y"}}),
            &applied
        ));
    }
}
