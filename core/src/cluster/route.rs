//! Routes: which requests go to which pools, and what is changed on the way.
//!
//! The model is that of an HTTPRoute of the Gateway API (`sigs.k8s.io/gateway-api`, v1): a route is
//! attached to listeners, serves hostnames, and has rules; a rule has matches, of which one has to
//! hold, filters, and weighted backends. Which of several rules a request follows is decided by
//! [`crate::route_table`].
//!
//! A [`Route`] holds checked values only: expressions are compiled, names are in lower case.

mod filters;
mod host;
mod path;
mod pattern;

use std::{sync::Arc, time::Duration};

use serde::Serialize;

pub use self::{
    filters::{
        HeaderEdits, HeaderField, PathEdit, RouteFilters, RouteMirror, RouteRedirect, UrlRewrite,
        is_reserved_request_header, is_reserved_response_header,
    },
    host::HostPattern,
    path::{PathMatch, has_dot_segment, is_route_path, is_under, with_prefix_replaced},
    pattern::{BadPattern, TextMatch, TextPattern},
};
use crate::collection::Keyed;

/// One route.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Route {
    /// Unique in a snapshot: a name, or `namespace/name`. Of equal rules of two routes of one age,
    /// those of the first name count.
    pub name: Arc<str>,
    /// The listeners that it is attached to, by name; if it names none, the proxies' usual port for
    /// clients.
    pub listeners: Vec<Arc<str>>,
    /// The hostnames that it serves; if there are none, all.
    pub hostnames: Vec<HostPattern>,
    /// When it was made, in seconds of Unix time. Of equal rules those of the oldest route count.
    pub created: u64,
    /// In the order of their precedence, as far as nothing else decides.
    pub rules: Vec<RouteRule>,
}

/// What happens to the requests for which one of its matches holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RouteRule {
    /// One of them has to hold. If there are none, every request follows the rule, with the
    /// precedence of the path prefix `/`.
    pub matches: Vec<RouteMatch>,
    /// What is changed in requests and responses.
    pub filters: RouteFilters,
    /// Where requests go. If there are none, or all have the weight 0, requests are answered with
    /// 500, unless the rule redirects them.
    pub backends: Vec<RouteBackend>,
    /// How long requests may take.
    pub timeouts: RouteTimeouts,
}

/// What has to be true of a request; all of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RouteMatch {
    /// The path, as the client sent it, without the query.
    pub path: PathMatch,
    /// The method in upper case; `None`: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<Arc<str>>,
    /// Headers, by name in lower case; each name once. Several fields of one name are one value,
    /// joined by commas.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<FieldMatch>,
    /// Parameters of the query; each name once. Of several of one name the first counts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<FieldMatch>,
}

/// A field of a request, and what its value has to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldMatch {
    /// The field's name.
    pub name: Arc<str>,
    /// What its value has to be.
    pub value: TextMatch,
}

/// One of the places where the requests of a rule go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RouteBackend {
    /// Where.
    pub target: BackendTarget,
    /// Its share of the requests is its weight over the sum of all weights.
    pub weight: u32,
}

/// Where requests of a route go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendTarget {
    /// The pool of this name. While there is none, its requests are answered with 500.
    Pool(Arc<str>),
    /// A reference that leads nowhere, or may not be followed; its requests are answered with 500.
    Invalid,
}

/// How long requests of a route may take, beside the timeouts of the pool; the shortest counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RouteTimeouts {
    /// From the request's head to the last byte of the response, all attempts included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<Duration>,
    /// From sending an attempt to an endpoint to the last byte of its response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<Duration>,
}

// === Route ===

impl Keyed for Route {
    type Key = Arc<str>;
    const KIND: &'static str = "route";

    fn key(&self) -> &Arc<str> {
        &self.name
    }
}

// === RouteRule ===

impl RouteRule {
    /// The backend of a request; `None` if none has a weight. `sample`: uniform over all values.
    #[must_use]
    pub fn backend(&self, sample: u64) -> Option<&BackendTarget> {
        let weights = self
            .backends
            .iter()
            .map(|backend| u64::from(backend.weight));
        let total: u64 = weights.sum();
        // Multiply-shift (Lemire 2016): a number below the total.
        let mut drawn = ((u128::from(sample) * u128::from(total)) >> 64) as u64;
        for backend in &self.backends {
            let weight = u64::from(backend.weight);
            if drawn < weight {
                return Some(&backend.target);
            }
            drawn -= weight;
        }
        None
    }

    /// Regular expressions in its matches.
    #[must_use]
    pub fn patterns(&self) -> usize {
        let is_pattern = |field: &&FieldMatch| matches!(field.value, TextMatch::Pattern(_));
        let of_match = |one: &RouteMatch| {
            let fields = one.headers.iter().chain(&one.query).filter(is_pattern);
            usize::from(matches!(one.path, PathMatch::Pattern(_))) + fields.count()
        };
        self.matches.iter().map(of_match).sum()
    }

    /// The pools that it names, backends of weight 0 left out.
    pub fn pools(&self) -> impl Iterator<Item = &Arc<str>> {
        let used = self.backends.iter().filter(|backend| backend.weight > 0);
        used.filter_map(|backend| backend.target.pool())
    }
}

// === BackendTarget ===

impl BackendTarget {
    /// The pool's name, unless the reference is invalid.
    #[must_use]
    pub const fn pool(&self) -> Option<&Arc<str>> {
        match self {
            Self::Pool(name) => Some(name),
            Self::Invalid => None,
        }
    }
}

// === RouteMatch ===

impl Default for RouteMatch {
    /// Any request.
    fn default() -> Self {
        Self {
            path: PathMatch::Prefix("/".into()),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(weights: &[u32]) -> RouteRule {
        let backend = |(index, &weight): (usize, &u32)| RouteBackend {
            target: BackendTarget::Pool(index.to_string().into()),
            weight,
        };
        RouteRule {
            backends: weights.iter().enumerate().map(backend).collect(),
            ..RouteRule::default()
        }
    }

    #[test]
    fn each_backend_gets_the_share_of_its_weight() {
        let rule = rule(&[70, 0, 30]);
        let step = u64::MAX / 1_000;
        let mut counts = [0_u32; 3];
        for index in 0..1_000 {
            let target = rule.backend(step * index).and_then(BackendTarget::pool);
            let chosen: usize = target.expect("weights").parse().expect("a number");
            counts[chosen] += 1;
        }
        assert!(counts[0].abs_diff(700) <= 1 && counts[1] == 0, "{counts:?}");
    }

    #[test]
    fn without_weights_there_is_no_backend() {
        assert_eq!(rule(&[]).backend(7), None);
        assert_eq!(rule(&[0, 0]).backend(u64::MAX), None);
        assert!(rule(&[u32::MAX, u32::MAX]).backend(u64::MAX).is_some());
    }
}
