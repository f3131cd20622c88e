//! What an `HTTPRoute` says (`sigs.k8s.io/gateway-api/apis/v1`). What is not one of a few known values
//! is read as text, so that a value of a later version of the API makes its rule invalid, and not the
//! object unreadable.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::gateway::GATEWAY_GROUP;

/// The specification of an `HTTPRoute`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HttpRouteSpec {
    #[serde(default)]
    pub(crate) parent_refs: Vec<ParentRef>,
    #[serde(default)]
    pub(crate) hostnames: Vec<Arc<str>>,
    #[serde(default = "one_rule")]
    pub(crate) rules: Vec<HttpRouteRule>,
}

/// A parent of a route, in the form that its status has too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ParentRef {
    #[serde(default = "gateway_group")]
    pub(crate) group: Arc<str>,
    #[serde(default = "gateway_kind")]
    pub(crate) kind: Arc<str>,
    pub(crate) namespace: Option<Arc<str>>,
    pub(crate) name: Arc<str>,
    pub(crate) section_name: Option<Arc<str>>,
    pub(crate) port: Option<u16>,
}

/// One rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HttpRouteRule {
    #[serde(default)]
    pub(crate) matches: Vec<HttpRouteMatch>,
    #[serde(default)]
    pub(crate) filters: Vec<HttpRouteFilter>,
    #[serde(default)]
    pub(crate) backend_refs: Vec<HttpBackendRef>,
    #[serde(default)]
    pub(crate) timeouts: HttpRouteTimeouts,
    /// Retries, which pools have by themselves.
    pub(crate) retry: Option<Value>,
    /// Which is not supported.
    pub(crate) session_persistence: Option<Value>,
}

/// One match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HttpRouteMatch {
    pub(crate) path: Option<FieldValue>,
    pub(crate) method: Option<Arc<str>>,
    #[serde(default)]
    pub(crate) headers: Vec<NamedValue>,
    #[serde(default)]
    pub(crate) query_params: Vec<NamedValue>,
}

/// What a path is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct FieldValue {
    #[serde(rename = "type")]
    pub(crate) form: Option<Arc<str>>,
    pub(crate) value: Option<Arc<str>>,
}

/// What a header or a parameter is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct NamedValue {
    #[serde(rename = "type")]
    pub(crate) form: Option<Arc<str>>,
    pub(crate) name: Arc<str>,
    pub(crate) value: Arc<str>,
}

/// One filter: the field of its type is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HttpRouteFilter {
    #[serde(rename = "type")]
    pub(crate) form: Arc<str>,
    pub(crate) request_header_modifier: Option<HeaderModifier>,
    pub(crate) response_header_modifier: Option<HeaderModifier>,
    pub(crate) request_mirror: Option<RequestMirror>,
    pub(crate) request_redirect: Option<RequestRedirect>,
    pub(crate) url_rewrite: Option<UrlRewriteSpec>,
}

/// Edits of headers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct HeaderModifier {
    #[serde(default)]
    pub(crate) set: Vec<NamedValue>,
    #[serde(default)]
    pub(crate) add: Vec<NamedValue>,
    #[serde(default)]
    pub(crate) remove: Vec<Arc<str>>,
}

/// Where copies go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RequestMirror {
    pub(crate) backend_ref: BackendRef,
    pub(crate) percent: Option<u32>,
    pub(crate) fraction: Option<Fraction>,
}

/// A share.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Fraction {
    pub(crate) numerator: u32,
    pub(crate) denominator: Option<u32>,
}

/// Where clients are sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RequestRedirect {
    pub(crate) scheme: Option<Arc<str>>,
    pub(crate) hostname: Option<Arc<str>>,
    pub(crate) path: Option<PathModifier>,
    pub(crate) port: Option<u16>,
    pub(crate) status_code: Option<u16>,
}

/// What endpoints get in place of what the client sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct UrlRewriteSpec {
    pub(crate) hostname: Option<Arc<str>>,
    pub(crate) path: Option<PathModifier>,
}

/// How a path is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PathModifier {
    #[serde(rename = "type")]
    pub(crate) form: Arc<str>,
    pub(crate) replace_full_path: Option<Arc<str>>,
    pub(crate) replace_prefix_match: Option<Arc<str>>,
}

/// A backend with its weight.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct HttpBackendRef {
    #[serde(flatten)]
    pub(crate) backend: BackendRef,
    pub(crate) weight: Option<u32>,
    /// Filters of this backend alone, which are not supported.
    #[serde(default)]
    pub(crate) filters: Vec<Value>,
}

/// A backend.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) struct BackendRef {
    /// The core group unless it is set.
    pub(crate) group: Option<Arc<str>>,
    /// `Service` unless it is set.
    pub(crate) kind: Option<Arc<str>>,
    /// That of the route unless it is set.
    pub(crate) namespace: Option<Arc<str>>,
    pub(crate) name: Arc<str>,
    /// Of a Service.
    pub(crate) port: Option<u16>,
}

/// How long requests may take, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HttpRouteTimeouts {
    pub(crate) request: Option<Arc<str>>,
    pub(crate) backend_request: Option<Arc<str>>,
}

fn one_rule() -> Vec<HttpRouteRule> {
    vec![HttpRouteRule::default()]
}

fn gateway_group() -> Arc<str> {
    GATEWAY_GROUP.into()
}

fn gateway_kind() -> Arc<str> {
    "Gateway".into()
}
