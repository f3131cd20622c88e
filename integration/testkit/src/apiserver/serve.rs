//! From a request to its answer.

use std::{convert::Infallible, sync::Arc};

use http_body_util::{BodyExt, Limited, StreamBody};
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use k8s_openapi::api::events::v1::Event;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    Shared,
    collection::Collection,
    query::Query,
    refusal::Refusal,
    reply::{Body, LARGEST, json_response, object},
    store::Listed,
    stream::events,
    write,
};

/// Longest note of an Event, in bytes.
const LONGEST_NOTE: usize = 1_024;

/// Answers one request; refusals are answers too.
pub(crate) async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let is_status = request.uri().path().ends_with("/status");
    let response = match *request.method() {
        Method::POST => create(&shared, request).await,
        Method::PATCH if is_status => apply_status(&shared, request).await,
        Method::PATCH => write::apply(&shared, request).await,
        Method::DELETE => write::delete(&shared, request).await,
        _ => respond(shared, &request).await,
    };
    Ok(response.unwrap_or_else(|refusal| object(refusal.status(), &refusal.object())))
}

async fn respond(
    shared: Arc<Shared>,
    request: &Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    if request.method() != Method::GET {
        return Err(Refusal::read_only());
    }
    let query = Query::parse(request.uri())?;
    count(&shared, &query);
    let collection = &query.scope.collection;
    if shared.faults.lock().forbidden.contains(collection) {
        return Err(Refusal::forbidden(collection.plural()));
    }
    if shared.faults.lock().undefined.contains(collection) {
        return Err(Refusal::not_found());
    }
    if query.watch {
        let body = StreamBody::new(events(shared, query));
        return Ok(json_response(StatusCode::OK, BodyExt::boxed_unsync(body)));
    }
    let delay = shared.faults.lock().list_delay;
    if !delay.is_zero() {
        sleep(delay).await;
    }
    let listed = shared
        .store
        .lock()
        .list(&query.scope, query.limit, query.page.as_ref())?;
    Ok(object(StatusCode::OK, &list_object(&query, &listed)))
}

/// Creates an Event, the one kind that Hermes writes.
async fn create(shared: &Shared, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    let scope = Query::parse(request.uri())?.scope;
    if scope.collection != Collection::of::<Event>() {
        return Err(Refusal::read_only());
    }
    if shared.faults.lock().forbidden.contains(&scope.collection) {
        return Err(Refusal::forbidden(scope.collection.plural()));
    }
    let body = Limited::new(request.into_body(), LARGEST)
        .collect()
        .await
        .map_err(|_| Refusal::bad_parameter("body"))?;
    let mut event: Value =
        serde_json::from_slice(&body.to_bytes()).map_err(|_| Refusal::bad_parameter("body"))?;
    if event["note"]
        .as_str()
        .is_some_and(|note| note.len() > LONGEST_NOTE)
    {
        return Err(Refusal::bad_parameter("note"));
    }
    event["metadata"]["namespace"] = json!(scope.namespace);
    shared.edit(|store| store.put(&scope.collection, event.clone()));
    Ok(object(StatusCode::CREATED, &event))
}

/// Applies the status of an object as one field manager: conditions by their types, every other field
/// as a whole. A version that is given has to be the newest one.
async fn apply_status(
    shared: &Shared,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let (uri, headers) = (request.uri(), request.headers());
    let (collection, namespace, name) =
        Collection::parse_status(uri.path()).ok_or_else(Refusal::not_found)?;
    let content_type = headers.get(hyper::header::CONTENT_TYPE);
    if content_type.is_none_or(|given| given != "application/apply-patch+yaml") {
        return Err(Refusal::bad_parameter("content-type"));
    }
    if !uri.query().unwrap_or_default().contains("fieldManager=") {
        return Err(Refusal::bad_parameter("fieldManager"));
    }
    let body = Limited::new(request.into_body(), LARGEST)
        .collect()
        .await
        .map_err(|_| Refusal::bad_parameter("body"))?;
    let applied: Value =
        serde_json::from_slice(&body.to_bytes()).map_err(|_| Refusal::bad_parameter("body"))?;
    shared.requests.lock().applied_statuses += 1;
    let fields = applied["status"].as_object();
    let fields = fields.ok_or_else(|| Refusal::bad_parameter("status"))?;
    let edited = shared.edit(|store| {
        let found = store.find(&collection, &(namespace, name));
        let mut object = found.ok_or_else(Refusal::not_found)?;
        let (known, given) = (&object["metadata"], &applied["metadata"]["resourceVersion"]);
        if given.is_string() && *given != known["resourceVersion"] {
            return Err(Refusal::conflict("there is a newer version"));
        }
        for (field, value) in fields {
            let known = &mut object["status"][field];
            *known = match &**field {
                "conditions" => with_conditions(known, value),
                _ => value.clone(),
            };
        }
        store.put(&collection, object.clone());
        Ok(object)
    });
    Ok(object(StatusCode::OK, &edited?))
}

/// Conditions with `applied` ones in place of those of their types.
fn with_conditions(known: &Value, applied: &Value) -> Value {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (mut merged, applied) = (list(known), list(applied));
    merged.retain(|one| applied.iter().all(|new| new["type"] != one["type"]));
    merged.extend(applied);
    merged.into()
}

fn count(shared: &Shared, query: &Query) {
    let namespace = query.scope.namespace.as_deref().unwrap_or("*");
    let name = query.scope.name.as_deref().unwrap_or("*");
    let selected = (
        query.scope.collection.clone(),
        format!("{namespace}/{name}"),
    );
    shared.selected.lock().insert(selected);
    let mut requests = shared.requests.lock();
    let counter = if query.watch {
        &mut requests.watches
    } else {
        &mut requests.lists
    };
    *counter += 1;
}

/// The list object. Its kind is the plural, as kinds are not known here and clients do not look at
/// it.
fn list_object(query: &Query, listed: &Listed) -> Value {
    let Listed {
        version,
        items,
        next,
    } = listed;
    let collection = &query.scope.collection;
    let items: Vec<&Value> = items.iter().map(AsRef::as_ref).collect();
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if let Some(next) = next {
        metadata["continue"] = json!(next.token());
    }
    json!({
        "kind": format!("{}List", collection.plural()),
        "apiVersion": collection.api_version(),
        "metadata": metadata,
        "items": items,
    })
}
