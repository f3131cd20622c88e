//! Routes.

mod filters;

use std::time::Duration;

use hermes_core::route::{
    BackendTarget, FieldMatch, HostPattern, PathMatch, Route, RouteBackend, RouteFilters,
    RouteMatch, RouteRule, RouteTimeouts, TextMatch, TextPattern,
};

use super::{Invalid, each, policy::millis, required};
use crate::v1::{self, field_match::Value, route_match::Path};

// === Route ===

impl From<&Route> for v1::Route {
    fn from(route: &Route) -> Self {
        let Route {
            name,
            listeners,
            hostnames,
            created,
            rules,
        } = route;
        Self {
            name: name.to_string(),
            listeners: listeners.iter().map(ToString::to_string).collect(),
            hostnames: hostnames.iter().map(ToString::to_string).collect(),
            created: *created,
            rules: rules.iter().map(v1::RouteRule::from).collect(),
        }
    }
}

impl TryFrom<v1::Route> for Route {
    type Error = Invalid;

    fn try_from(wire: v1::Route) -> Result<Self, Invalid> {
        let v1::Route {
            name,
            listeners,
            hostnames,
            created,
            rules,
        } = wire;
        if name.is_empty() {
            return Err(Invalid::new("name", "is empty; a route needs a name"));
        }
        let hostnames = hostnames.iter().enumerate();
        let hostnames = hostnames.map(|(index, text)| {
            let field = format!("hostnames[{index}]");
            hostname(text, &field)
        });
        Ok(Self {
            name: name.into(),
            listeners: listeners.into_iter().map(Into::into).collect(),
            hostnames: hostnames.collect::<Result<_, _>>()?,
            created,
            rules: each(rules, "rules")?,
        })
    }
}

/// The hostname in the field `field`.
pub(super) fn hostname(text: &str, field: &str) -> Result<HostPattern, Invalid> {
    let problem = "must be a DNS name, or *. and one";
    text.parse().map_err(|_| Invalid::new(field, problem))
}

// === RouteRule ===

impl From<&RouteRule> for v1::RouteRule {
    fn from(rule: &RouteRule) -> Self {
        let RouteRule {
            matches,
            filters,
            backends,
            timeouts,
        } = rule;
        let has_timeouts = *timeouts != RouteTimeouts::default();
        let time = |time: Option<Duration>| time.map_or(0, millis);
        Self {
            matches: matches.iter().map(v1::RouteMatch::from).collect(),
            filters: Some(v1::RouteFilters::from(filters)),
            backends: backends.iter().map(v1::RouteBackend::from).collect(),
            timeouts: has_timeouts.then(|| v1::RouteTimeouts {
                request_ms: time(timeouts.request),
                backend_request_ms: time(timeouts.backend_request),
            }),
        }
    }
}

impl TryFrom<v1::RouteRule> for RouteRule {
    type Error = Invalid;

    fn try_from(wire: v1::RouteRule) -> Result<Self, Invalid> {
        let v1::RouteRule {
            matches,
            filters,
            backends,
            timeouts,
        } = wire;
        let filters = RouteFilters::try_from(filters.unwrap_or_default());
        let time = |millis: u64| (millis > 0).then(|| Duration::from_millis(millis));
        let timeouts = timeouts.unwrap_or_default();
        Ok(Self {
            matches: each(matches, "matches")?,
            filters: filters.map_err(|e| e.inside("filters"))?,
            backends: backends.into_iter().map(RouteBackend::from).collect(),
            timeouts: RouteTimeouts {
                request: time(timeouts.request_ms),
                backend_request: time(timeouts.backend_request_ms),
            },
        })
    }
}

// === RouteBackend ===

impl From<&RouteBackend> for v1::RouteBackend {
    fn from(backend: &RouteBackend) -> Self {
        Self {
            pool: backend.target.pool().map(ToString::to_string),
            weight: backend.weight,
        }
    }
}

impl From<v1::RouteBackend> for RouteBackend {
    fn from(wire: v1::RouteBackend) -> Self {
        Self {
            target: target(wire.pool),
            weight: wire.weight,
        }
    }
}

fn target(pool: Option<String>) -> BackendTarget {
    pool.map_or(BackendTarget::Invalid, |pool| {
        BackendTarget::Pool(pool.into())
    })
}

// === RouteMatch ===

impl From<&RouteMatch> for v1::RouteMatch {
    fn from(one: &RouteMatch) -> Self {
        let RouteMatch {
            path,
            method,
            headers,
            query,
        } = one;
        let path = match path {
            PathMatch::Exact(path) => Path::Exact(path.to_string()),
            PathMatch::Prefix(path) => Path::Prefix(path.to_string()),
            PathMatch::Pattern(pattern) => Path::Pattern(pattern.as_str().to_owned()),
        };
        Self {
            path: Some(path),
            method: method.as_deref().map(str::to_owned),
            headers: headers.iter().map(v1::FieldMatch::from).collect(),
            query: query.iter().map(v1::FieldMatch::from).collect(),
        }
    }
}

impl TryFrom<v1::RouteMatch> for RouteMatch {
    type Error = Invalid;

    fn try_from(wire: v1::RouteMatch) -> Result<Self, Invalid> {
        let v1::RouteMatch {
            path,
            method,
            headers,
            query,
        } = wire;
        let unknown = "is missing, or of a kind that this release does not know";
        let path = match path.ok_or_else(|| Invalid::new("path", unknown))? {
            Path::Exact(path) => PathMatch::Exact(path.into()),
            Path::Prefix(path) => PathMatch::Prefix(path.into()),
            Path::Pattern(text) => PathMatch::Pattern(pattern(&text)?),
        };
        Ok(Self {
            path,
            method: method.map(Into::into),
            headers: each(headers, "headers")?,
            query: each(query, "query")?,
        })
    }
}

fn pattern(text: &str) -> Result<TextPattern, Invalid> {
    let problem = "is no regular expression that this release compiles";
    TextPattern::parse(text).map_err(|_| Invalid::new("pattern", problem))
}

// === FieldMatch ===

impl From<&FieldMatch> for v1::FieldMatch {
    fn from(FieldMatch { name, value }: &FieldMatch) -> Self {
        let value = match value {
            TextMatch::Exact(text) => Value::Exact(text.to_string()),
            TextMatch::Pattern(pattern) => Value::Pattern(pattern.as_str().to_owned()),
        };
        Self {
            name: name.to_string(),
            value: Some(value),
        }
    }
}

impl TryFrom<v1::FieldMatch> for FieldMatch {
    type Error = Invalid;

    fn try_from(wire: v1::FieldMatch) -> Result<Self, Invalid> {
        let v1::FieldMatch { name, value } = wire;
        let value = match required(value, "value")? {
            Value::Exact(text) => TextMatch::Exact(text.into()),
            Value::Pattern(text) => TextMatch::Pattern(pattern(&text)?),
        };
        Ok(Self {
            name: name.into(),
            value,
        })
    }
}

#[cfg(test)]
pub(super) mod tests;
