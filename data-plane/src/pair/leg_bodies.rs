//! The bodies of both legs of a request, as a proxy sends them: for tools and benchmarks.

use bytes::Bytes;
use hermes_core::{policy::DisaggregationPolicy, snapshot::Endpoint};
use http::Method;

use super::{PairEndpoints, PairPlan, PrefillResult, after_prefill, plan};
use crate::request::{
    api,
    body_edit::{FieldPositions, edited},
    leg_body::LegBody,
    request_body::RequestBody,
};

/// The bodies of the prefill leg and of the decode leg of a `POST` of `body` to `path`, where the
/// prefill endpoint answers `answer`. Each is the pieces that are written to its connection. `None`
/// when the body is no JSON object, when one leg is sent to both endpoints, or when no decode leg
/// follows from the answer.
#[must_use]
pub fn of(
    rules: &DisaggregationPolicy,
    [prefill, decode]: [&Endpoint; 2],
    (path, body): (&str, &Bytes),
    answer: &Bytes,
) -> Option<[Vec<Bytes>; 2]> {
    let route = api::route(&Method::POST, path, &[] as &[&str]).ok()?;
    let body = RequestBody::from(body.clone());
    let endpoints = PairEndpoints { prefill, decode };
    let [prefill, decode] = match plan(rules, route.api, endpoints, 0).ok()? {
        PairPlan::Serial(first) => {
            let result = after_prefill(rules.dialect, route.api, answer);
            let PrefillResult::HandOver(handoff) = result else {
                return None;
            };
            [first, handoff.edits]
        }
        PairPlan::AtOnce(legs) => [legs.prefill, legs.decode],
        PairPlan::Through(..) => return None,
    };
    let own = (&body, &FieldPositions::default());
    let pieces = |edits| edited(own, edits).ok().map(LegBody::into_pieces);
    Some([pieces(&prefill.body)?, pieces(&decode.body)?])
}
