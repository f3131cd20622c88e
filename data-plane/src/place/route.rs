//! What the routes of its port make of a request, before it is read.

use std::{str::FromStr, sync::Arc};

use hermes_core::{
    address::{ServerHost, ServerScheme},
    rng::SeededRng,
    route::{PathEdit, RouteRedirect, UrlRewrite, with_prefix_replaced},
};
use http::{HeaderValue, Method, StatusCode, Uri, request, uri::PathAndQuery};
use tokio::time::Instant;

use super::Placer;
use crate::{
    exchange::{guard::RequestStart, trace},
    request::{
        api::{self, Api, ApiRoute, Unrouted},
        entry::ClientEntry,
        headers,
        leg_host::LegHost,
        local_reply::LocalReply,
        route_terms::RouteTerms,
        time_limits::{TimeLimit, TimeLimits},
    },
    telemetry::metrics::RouteResult,
    view::{
        RoutingPool, RoutingView,
        routes::{PreparedRule, RouteAnswer, authority},
    },
};

/// A request that follows a rule.
pub(super) struct RoutedRequest {
    pub(super) rule: Arc<PreparedRule>,
    /// The pool that was drawn.
    pub(super) pool: Arc<RoutingPool>,
    pub(super) terms: RouteTerms,
}

/// An answer that sends the client elsewhere.
pub(crate) struct Redirection {
    pub(crate) status: StatusCode,
    pub(crate) location: HeaderValue,
}

/// What becomes of a request.
pub(super) enum RouteDecision {
    /// No routes are in force: it is served by its model.
    ByModel,
    Redirected(Redirection),
    Routed(Box<RoutedRequest>),
}

/// Keeps the draw of a backend apart from what is random besides, of the same seed.
const DRAW: u64 = 0x726f_7574_6564_7261;

impl Placer {
    /// What the routes of its port make of a request.
    pub(super) fn follow(
        &self,
        view: &RoutingView,
        head: &mut request::Parts,
        entry: Option<&ClientEntry>,
        start: &RequestStart,
    ) -> Result<RouteDecision, LocalReply> {
        let Some(entry) = entry else {
            return Ok(RouteDecision::ByModel);
        };
        let sample = || SeededRng::new(self.seed(start.id) ^ DRAW).next_u64();
        let decision = follow(view, head, entry, (start.at, sample))?;
        if let RouteDecision::Routed(routed) = &decision {
            trace::followed(&start.trace.server, routed.rule.route());
        }
        Ok(decision)
    }
}

/// Finds the rule that a request follows, and makes its edits. `arrived`: when it came; `sample`
/// draws what decides between backends.
///
/// # Errors
///
/// When no rule takes it, or its backend is none.
fn follow(
    view: &RoutingView,
    head: &mut request::Parts,
    entry: &ClientEntry,
    (arrived, sample): (Instant, impl FnOnce() -> u64),
) -> Result<RouteDecision, LocalReply> {
    let (rule, prefix) = match view.routes.find(entry.port.as_ref(), head) {
        RouteAnswer::Unrouted => return Ok(RouteDecision::ByModel),
        RouteAnswer::NotFound => return Err(LocalReply::NoRoute),
        RouteAnswer::Rule(rule, prefix) => (rule, prefix),
    };
    let filters = &rule.rule().filters;
    if let Some(redirect) = &filters.redirect {
        rule.metrics.requests[RouteResult::Redirected].inc();
        let redirection = redirection(redirect, head, prefix, entry.scheme);
        return redirection
            .map(RouteDecision::Redirected)
            .ok_or(LocalReply::NoRoute);
    }
    let target = rule.rule().backend(sample());
    let pool = target.and_then(|target| view.pool(target.pool()?));
    let Some(pool) = pool else {
        rule.metrics.requests[RouteResult::InvalidBackend].inc();
        return Err(LocalReply::InvalidBackend);
    };
    rule.metrics.requests[RouteResult::Forwarded].inc();
    let host = rewrite(filters.rewrite.as_ref(), head, prefix).ok_or(LocalReply::NoRoute)?;
    rule.request_headers.apply(&mut head.headers);
    let timeouts = rule.rule().timeouts;
    let limits = TimeLimits {
        whole: timeouts.request.map(|limit| TimeLimit {
            at: arrived + limit,
            limit,
        }),
        attempt: timeouts.backend_request,
    };
    Ok(RouteDecision::Routed(Box::new(RoutedRequest {
        rule: Arc::clone(rule),
        pool: Arc::clone(pool),
        terms: RouteTerms { host, limits },
    })))
}

/// The API of a request. A route forwards every path and method to the pools that it names.
pub(super) fn api_route<'p>(
    view: &RoutingView,
    method: &Method,
    path: &'p str,
    routed: Option<&RoutedRequest>,
) -> Result<ApiRoute<'p>, LocalReply> {
    let known = api::route(method, path, &view.settings().extra_paths);
    let Some(routed) = routed else {
        return known.map_err(unrouted);
    };
    let has_models = || {
        let mut pools = served_pools(view, Some(routed));
        pools.any(|pool| !pool.pool.models.is_empty())
    };
    Ok(match known {
        // Only engines have lists of models.
        Ok(route) if matches!(route.api, Api::Models | Api::Model) && !has_models() => {
            ApiRoute::extra(path)
        }
        Ok(route) => route,
        Err(_) => ApiRoute::extra(path),
    })
}

/// The pools that serve requests such as this one: those of its rule, or all.
pub(super) fn served_pools<'v>(
    view: &'v RoutingView,
    routed: Option<&RoutedRequest>,
) -> impl Iterator<Item = &'v Arc<RoutingPool>> {
    view.pools.iter().filter(move |pool| {
        routed.is_none_or(|routed| routed.rule.rule().pools().any(|name| name == pool.name()))
    })
}

fn unrouted(why: Unrouted) -> LocalReply {
    match why {
        Unrouted::Path => LocalReply::UnknownPath,
        Unrouted::Method(only) => LocalReply::Method(only),
    }
}

/// Changes the path of a request, and returns the host for endpoints; `None` if the new path cannot
/// be one.
fn rewrite(
    rewrite: Option<&UrlRewrite>,
    head: &mut request::Parts,
    prefix: Option<&str>,
) -> Option<LegHost> {
    let asked = HeaderValue::from_str(authority(head)).ok();
    let asked = asked.filter(|asked| !asked.is_empty());
    let Some(UrlRewrite { hostname, path }) = rewrite else {
        return Some(asked.map_or(LegHost::Endpoints, LegHost::OfAddresses));
    };
    if let Some(edit) = path {
        let path = edited(edit, head.uri.path(), prefix);
        let target = match head.uri.query() {
            Some(query) => format!("{path}?{query}"),
            None => path,
        };
        head.uri = Uri::from(PathAndQuery::from_str(&target).ok()?);
    }
    let Some(hostname) = hostname else {
        return Some(asked.map_or(LegHost::Endpoints, LegHost::OfAddresses));
    };
    if let Some(asked) = asked {
        head.headers.entry(headers::FORWARDED_HOST).or_insert(asked);
    }
    HeaderValue::from_str(hostname.as_str())
        .ok()
        .map(LegHost::Always)
}

fn edited(edit: &PathEdit, path: &str, prefix: Option<&str>) -> String {
    match edit {
        PathEdit::Full(full) => full.to_string(),
        PathEdit::Prefix(replacement) => {
            with_prefix_replaced(path, prefix.unwrap_or_default(), replacement)
        }
    }
}

/// Where a rule sends the client; `None` if that is no URL. `scheme`: by which it came.
fn redirection(
    redirect: &RouteRedirect,
    head: &request::Parts,
    prefix: Option<&str>,
    scheme: ServerScheme,
) -> Option<Redirection> {
    let asked = authority(head);
    let (asked_host, asked_port) = match asked.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port),
        _ => (asked, ""),
    };
    let host = match &redirect.hostname {
        Some(name) => name.as_str(),
        // A client may send anything as a host.
        None => asked_host.parse::<ServerHost>().ok().map(|_| asked_host)?,
    };
    // The port that the client asks is that of the listener, or of what stands before it.
    let asked_port = || {
        asked_port
            .parse()
            .ok()
            .filter(|_| redirect.scheme.is_none())
    };
    let scheme = redirect.scheme.unwrap_or(scheme);
    let port = redirect
        .port
        .map(std::num::NonZeroU16::get)
        .or_else(asked_port);
    let port = match port.filter(|port| *port != scheme.default_port().get()) {
        Some(port) => format!(":{port}"),
        None => String::new(),
    };
    let path = match &redirect.path {
        Some(edit) => edited(edit, head.uri.path(), prefix),
        None => head.uri.path().to_owned(),
    };
    let query = head.uri.query().map(|query| format!("?{query}"));
    let query = query.unwrap_or_default();
    let location = format!("{}://{host}{port}{path}{query}", scheme.as_str());
    Some(Redirection {
        status: StatusCode::from_u16(redirect.status).ok()?,
        location: HeaderValue::from_str(&location).ok()?,
    })
}

#[cfg(test)]
mod tests;
