//! Bodies of answers, and how large one of a request may be.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{Response, StatusCode};
use serde_json::Value;

/// Largest object that a client may write, in bytes.
pub(crate) const LARGEST: usize = 1 << 20;

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

pub(crate) fn object(status: StatusCode, object: &Value) -> Response<Body> {
    json_response(
        status,
        BodyExt::boxed_unsync(Full::from(object.to_string())),
    )
}

pub(crate) fn json_response(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let json = hyper::header::HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, json);
    response
}
