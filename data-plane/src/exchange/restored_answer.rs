//! The answer to a request whose model was rewritten, as its client gets it: for tools and
//! benchmarks.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};

use super::model_restorer::ModelRestorer;
use crate::request::api;

/// The pieces of an answer of this `content_type` to a `POST` to `path`, with `model` as its model.
/// `None` if such an answer passes as it is.
#[must_use]
pub fn of(
    path: &str,
    model: &str,
    content_type: &'static str,
    pieces: &[Bytes],
) -> Option<Vec<Bytes>> {
    let route = api::route(&Method::POST, path, &[] as &[&str]).ok()?;
    let kind = HeaderValue::from_static(content_type);
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]);
    let mut restorer = ModelRestorer::of(route.api, model, &headers)?;
    let pieces = pieces.iter().cloned();
    Some(pieces.map(|piece| restorer.restore(piece)).collect())
}
