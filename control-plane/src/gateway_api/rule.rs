//! A rule of an `HTTPRoute` as a [`RouteRule`].

use std::{sync::Arc, time::Duration};

use hermes_core::route::{
    FieldMatch, PathEdit, PathMatch, RouteBackend, RouteFilters, RouteMatch, RouteRule,
    RouteTimeouts, TextMatch, TextPattern, is_route_path,
};

use super::{
    filters::{self, header_name},
    http_route::{
        FieldValue, HttpBackendRef, HttpRouteMatch, HttpRouteRule, HttpRouteTimeouts, NamedValue,
    },
    references::BackendResolver,
    rule_fault::RuleFault,
};
use crate::config::duration;

/// The methods that a match may have.
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
];

/// A rule, and why it is not followed as it is written.
#[derive(Debug)]
pub(super) struct CompiledRule {
    /// `None` if no match of it can be read. A rule with a fault answers 500 to what it matches.
    pub(super) rule: Option<RouteRule>,
    pub(super) fault: Option<RuleFault>,
    /// What of it is not in use, although it is followed.
    pub(super) note: Option<&'static str>,
}

// === CompiledRule ===

impl CompiledRule {
    /// What the rule means.
    pub(super) fn new(rule: &HttpRouteRule, backends: &mut BackendResolver<'_>) -> Self {
        let (matches, bad_match) = matches(&rule.matches);
        let note = rule.retry.is_some();
        let note = note.then_some("`retry` is not read: pools have retries of their own");
        let content = content(rule, backends);
        let (content, fault) = match (content, bad_match) {
            (Ok(content), None) => (content, None),
            (Ok(_), Some(fault)) | (Err(fault), _) => (RouteRule::default(), Some(fault)),
        };
        let has_matches = rule.matches.is_empty() || !matches.is_empty();
        Self {
            rule: has_matches.then_some(RouteRule { matches, ..content }),
            fault,
            note,
        }
    }
}

/// All but the matches.
fn content(
    rule: &HttpRouteRule,
    backends: &mut BackendResolver<'_>,
) -> Result<RouteRule, RuleFault> {
    let filters = filters::compile(&rule.filters, backends)?;
    let list = rule.backend_refs.iter();
    let list = list.map(|reference| backend(reference, backends));
    let list: Vec<RouteBackend> = list.collect::<Result<_, _>>()?;
    if rule.session_persistence.is_some() {
        let message = "`sessionPersistence` is not supported".to_owned();
        return Err(RuleFault::unsupported(message));
    }
    if filters.redirect.is_some() && !list.is_empty() {
        let message = "a rule that redirects has no backends".to_owned();
        return Err(RuleFault::incompatible(message));
    }
    check_prefix(rule, &filters)?;
    Ok(RouteRule {
        matches: Vec::new(),
        filters,
        backends: list,
        timeouts: timeouts(&rule.timeouts)?,
    })
}

fn backend(
    reference: &HttpBackendRef,
    backends: &mut BackendResolver<'_>,
) -> Result<RouteBackend, RuleFault> {
    let target = backends.resolve(&reference.backend);
    if !reference.filters.is_empty() {
        let message = "filters of single backends are not supported".to_owned();
        return Err(RuleFault::unsupported(message));
    }
    Ok(RouteBackend {
        target,
        weight: reference.weight.unwrap_or(1),
    })
}

/// A prefix can be replaced only where one was matched.
fn check_prefix(rule: &HttpRouteRule, filters: &RouteFilters) -> Result<(), RuleFault> {
    let RouteFilters {
        redirect, rewrite, ..
    } = filters;
    let edits = [
        redirect
            .as_ref()
            .and_then(|redirect| redirect.path.as_ref()),
        rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref()),
    ];
    let replaces = edits
        .into_iter()
        .any(|edit| matches!(edit, Some(PathEdit::Prefix(_))));
    let is_other = |one: &HttpRouteMatch| {
        let form = one.path.as_ref().and_then(|path| path.form.as_deref());
        form.is_some_and(|form| form != "PathPrefix")
    };
    if replaces && rule.matches.iter().any(is_other) {
        let message = "`replacePrefixMatch` needs a PathPrefix in every match".to_owned();
        return Err(RuleFault::unsupported(message));
    }
    Ok(())
}

// === Matches ===

/// The matches that can be read, and what is the matter with the first that cannot.
fn matches(list: &[HttpRouteMatch]) -> (Vec<RouteMatch>, Option<RuleFault>) {
    let (mut matches, mut fault) = (Vec::new(), None);
    for one in list {
        match route_match(one) {
            Ok(one) => matches.push(one),
            Err(bad) => fault = fault.or(Some(bad)),
        }
    }
    (matches, fault)
}

fn route_match(one: &HttpRouteMatch) -> Result<RouteMatch, RuleFault> {
    let method = match one.method.as_deref() {
        Some(method) if !METHODS.contains(&method) => {
            let message = format!("the method {method} is not known");
            return Err(RuleFault::unsupported(message));
        }
        method => method.map(Arc::from),
    };
    Ok(RouteMatch {
        path: path_match(one.path.as_ref())?,
        method,
        headers: fields(&one.headers, header_name)?,
        query: fields(&one.query_params, |name| Ok(name.into()))?,
    })
}

fn path_match(path: Option<&FieldValue>) -> Result<PathMatch, RuleFault> {
    let Some(FieldValue { form, value }) = path else {
        return Ok(PathMatch::Prefix("/".into()));
    };
    let value: Arc<str> = value.clone().unwrap_or_else(|| "/".into());
    let form = form.as_deref().unwrap_or("PathPrefix");
    match form {
        "RegularExpression" => pattern(&value).map(PathMatch::Pattern),
        "Exact" | "PathPrefix" if !is_route_path(&value) => {
            let message = format!("`{value}` is no path that a request can be matched by");
            Err(RuleFault::unsupported(message))
        }
        "Exact" => Ok(PathMatch::Exact(value)),
        "PathPrefix" => Ok(PathMatch::Prefix(value)),
        other => Err(RuleFault::unsupported(format!(
            "paths are not matched by {other}"
        ))),
    }
}

/// Of several of one name the first counts.
fn fields(
    list: &[NamedValue],
    written: impl Fn(&str) -> Result<Arc<str>, RuleFault>,
) -> Result<Vec<FieldMatch>, RuleFault> {
    let mut fields: Vec<FieldMatch> = Vec::new();
    for NamedValue { form, name, value } in list {
        let name = written(name)?;
        if fields.iter().any(|field| field.name == name) {
            continue;
        }
        let value = match form.as_deref().unwrap_or("Exact") {
            "Exact" => TextMatch::Exact(Arc::clone(value)),
            "RegularExpression" => TextMatch::Pattern(pattern(value)?),
            other => {
                let message = format!("values are not matched by {other}");
                return Err(RuleFault::unsupported(message));
            }
        };
        fields.push(FieldMatch { name, value });
    }
    Ok(fields)
}

fn pattern(text: &str) -> Result<TextPattern, RuleFault> {
    TextPattern::parse(text)
        .map_err(|error| RuleFault::unsupported(format!("found `{text}`: {error}")))
}

// === Timeouts ===

fn timeouts(
    HttpRouteTimeouts {
        request,
        backend_request,
    }: &HttpRouteTimeouts,
) -> Result<RouteTimeouts, RuleFault> {
    let timeouts = RouteTimeouts {
        request: request.as_deref().map_or(Ok(None), timeout)?,
        backend_request: backend_request.as_deref().map_or(Ok(None), timeout)?,
    };
    if timeouts.backend_request > timeouts.request.or(Some(Duration::MAX)) {
        let message = "`backendRequest` is longer than `request`".to_owned();
        return Err(RuleFault::unsupported(message));
    }
    Ok(timeouts)
}

/// A time limit; none if it is 0.
fn timeout(text: &str) -> Result<Option<Duration>, RuleFault> {
    let is_unit = |text: &str| text.ends_with(|last: char| last.is_ascii_alphabetic());
    let parsed = duration::parse(text).filter(|_| is_unit(text));
    match parsed {
        Some(limit) => Ok(Some(limit).filter(|limit| !limit.is_zero())),
        None => Err(RuleFault::unsupported(format!("`{text}` is no duration"))),
    }
}
