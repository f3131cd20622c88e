//! Filters: what a rule changes in requests and responses.

use std::{num::NonZeroU16, sync::Arc};

use serde::Serialize;

use super::BackendTarget;
use crate::{
    address::{DnsName, ServerScheme},
    header_names::{is_control, is_hop_by_hop},
};

/// The filters of a rule. Requests are matched as the client sent them, before any filter.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RouteFilters {
    /// Edits of the headers of requests.
    #[serde(skip_serializing_if = "HeaderEdits::is_empty")]
    pub request_headers: HeaderEdits,
    /// Edits of the headers of responses that come from an endpoint.
    #[serde(skip_serializing_if = "HeaderEdits::is_empty")]
    pub response_headers: HeaderEdits,
    /// The answer to every request of the rule; never beside [`Self::rewrite`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect: Option<RouteRedirect>,
    /// Another path or host for endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<UrlRewrite>,
    /// Where copies of requests go.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<RouteMirror>,
}

/// Edits of headers. Names are in lower case, and each is in one of the lists, once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HeaderEdits {
    /// They replace what is there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<HeaderField>,
    /// They are added to what is there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<HeaderField>,
    /// They are removed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<Arc<str>>,
}

/// A header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeaderField {
    /// Its name in lower case.
    pub name: Arc<str>,
    /// Its value: visible ASCII, and spaces inside.
    pub value: Arc<str>,
}

/// How the path of a request is changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PathEdit {
    /// It becomes this.
    Full(Arc<str>),
    /// The prefix by which it was matched becomes this, which may be empty.
    Prefix(Arc<str>),
}

/// An answer that redirects the client. What is not set is as in the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteRedirect {
    /// The scheme.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<ServerScheme>,
    /// The host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<DnsName>,
    /// The port. Without one, and with a scheme, it is that of the scheme; without both, it is the
    /// listener's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<NonZeroU16>,
    /// The path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathEdit>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// What endpoints get in place of what the client sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UrlRewrite {
    /// The header `Host`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<DnsName>,
    /// The path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathEdit>,
}

/// Where copies of requests go, whose responses are discarded.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RouteMirror {
    /// Where.
    pub target: BackendTarget,
    /// The share of requests that are copied, 0..=1.
    pub share: f32,
}

// === HeaderEdits ===

impl HeaderEdits {
    /// Whether nothing is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// The names in its lists.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        let fields = self.set.iter().chain(&self.add);
        fields.map(|field| &field.name).chain(&self.remove)
    }
}

// === Reserved names ===

/// Whether filters must leave a header of requests alone: it belongs to one connection (RFC 9110,
/// 7.6.1), describes the body, is set again for each endpoint, or controls a router.
#[must_use]
pub fn is_reserved_request_header(name: &str) -> bool {
    is_of_connection(name)
        || matches!(
            name,
            "host"
                | "expect"
                | "accept-encoding"
                | "via"
                | "forwarded"
                | "x-forwarded-for"
                | "x-forwarded-proto"
                | "x-forwarded-host"
                | "x-request-id"
                | "traceparent"
                | "tracestate"
        )
        || is_control(name)
}

/// Whether filters must leave a header of responses alone: it belongs to one connection, describes
/// the body, or is the proxy's own.
#[must_use]
pub fn is_reserved_response_header(name: &str) -> bool {
    is_of_connection(name) || name == "x-request-id" || name.starts_with("x-hermes-")
}

/// Whether a header belongs to one connection, or describes the body.
fn is_of_connection(name: &str) -> bool {
    is_hop_by_hop(name) || matches!(name, "content-encoding" | "content-length")
}
