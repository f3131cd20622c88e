//! Filters of a rule of an `HTTPRoute` as those of [`RouteFilters`].
//!
//! A filter that cannot be applied as it is written makes its rule invalid. It is never skipped: it
//! may be what keeps a request out.

use std::{collections::BTreeSet, num::NonZeroU16, sync::Arc};

use hermes_core::{
    address::{DnsName, ServerScheme},
    header_names::is_credential,
    route::{
        HeaderEdits, HeaderField, PathEdit, RouteFilters, RouteMirror, RouteRedirect, UrlRewrite,
        is_reserved_request_header, is_reserved_response_header, is_route_path,
    },
};
use http::{HeaderName, HeaderValue};

use super::{
    http_route::{
        HeaderModifier, HttpRouteFilter, NamedValue, PathModifier, RequestMirror, RequestRedirect,
        UrlRewriteSpec,
    },
    references::BackendResolver,
    rule_fault::RuleFault,
};

/// The filters of a rule.
pub(super) fn compile(
    filters: &[HttpRouteFilter],
    backends: &mut BackendResolver<'_>,
) -> Result<RouteFilters, RuleFault> {
    let mut compiled = RouteFilters::default();
    let mut seen = BTreeSet::new();
    for filter in filters {
        if &*filter.form != "RequestMirror" && !seen.insert(&filter.form) {
            let message = format!("the filter {} is there twice", filter.form);
            return Err(RuleFault::incompatible(message));
        }
        add(&mut compiled, filter, backends)?;
    }
    if compiled.redirect.is_some() && compiled.rewrite.is_some() {
        let message = "a rule that redirects forwards nothing that URLRewrite could change";
        return Err(RuleFault::incompatible(message.to_owned()));
    }
    Ok(compiled)
}

fn add(
    compiled: &mut RouteFilters,
    filter: &HttpRouteFilter,
    backends: &mut BackendResolver<'_>,
) -> Result<(), RuleFault> {
    let HttpRouteFilter {
        form,
        request_header_modifier,
        response_header_modifier,
        request_mirror,
        request_redirect,
        url_rewrite,
    } = filter;
    match (
        &**form,
        request_header_modifier,
        response_header_modifier,
        request_mirror,
        request_redirect,
        url_rewrite,
    ) {
        ("RequestHeaderModifier", Some(edits), ..) => {
            compiled.request_headers = header_edits(edits, is_reserved_request_header)?;
        }
        ("ResponseHeaderModifier", _, Some(edits), ..) => {
            compiled.response_headers = header_edits(edits, is_reserved_response_header)?;
        }
        ("RequestMirror", _, _, Some(mirror), ..) => {
            compiled.mirrors.push(RouteMirror {
                share: share(mirror)?,
                target: backends.resolve(&mirror.backend_ref),
            });
        }
        ("RequestRedirect", _, _, _, Some(spec), _) => compiled.redirect = Some(redirect(spec)?),
        ("URLRewrite", .., Some(spec)) => {
            let UrlRewriteSpec { hostname, path } = spec;
            compiled.rewrite = Some(UrlRewrite {
                hostname: hostname.as_deref().map(dns_name).transpose()?,
                path: path.as_ref().map(path_edit).transpose()?,
            });
        }
        (form, ..) => {
            let message = format!("the filter {form} is not supported, or has no such field");
            return Err(RuleFault::unsupported(message));
        }
    }
    Ok(())
}

// === Headers ===

fn header_edits(
    HeaderModifier { set, add, remove }: &HeaderModifier,
    is_reserved: impl Fn(&str) -> bool,
) -> Result<HeaderEdits, RuleFault> {
    let fields = |list: &[NamedValue]| list.iter().map(header_field).collect::<Result<Vec<_>, _>>();
    let removed = remove.iter().map(|name| header_name(name));
    let edits = HeaderEdits {
        set: fields(set)?,
        add: fields(add)?,
        remove: removed.collect::<Result<_, _>>()?,
    };
    let mut given = edits.set.iter().chain(&edits.add);
    if let Some(field) = given.find(|field| is_credential(&field.name)) {
        let message = format!(
            "the header {} is a credential, which every proxy and its debug pages would have",
            field.name
        );
        return Err(RuleFault::unsupported(message));
    }
    let mut names = BTreeSet::new();
    for name in edits.names() {
        if is_reserved(name) {
            let message = format!("the header {name} is the proxy's own");
            return Err(RuleFault::unsupported(message));
        }
        if !names.insert(name) {
            let message = format!("the header {name} is edited twice");
            return Err(RuleFault::unsupported(message));
        }
    }
    Ok(edits)
}

fn header_field(NamedValue { name, value, .. }: &NamedValue) -> Result<HeaderField, RuleFault> {
    let is_plain = value.trim() == &**value && !value.is_empty();
    let is_value = HeaderValue::from_str(value).is_ok() && value.is_ascii();
    if !is_plain || !is_value {
        let message = format!("the value of the header {name} has other than visible ASCII");
        return Err(RuleFault::unsupported(message));
    }
    Ok(HeaderField {
        name: header_name(name)?,
        value: Arc::clone(value),
    })
}

/// The name in lower case.
pub(super) fn header_name(name: &str) -> Result<Arc<str>, RuleFault> {
    match HeaderName::try_from(name) {
        Ok(name) => Ok(name.as_str().into()),
        Err(_) => Err(RuleFault::unsupported(format!(
            "`{name}` is no header's name"
        ))),
    }
}

// === Paths and hosts ===

fn path_edit(
    PathModifier {
        form,
        replace_full_path,
        replace_prefix_match,
    }: &PathModifier,
) -> Result<PathEdit, RuleFault> {
    let checked = |path: &Arc<str>| {
        if path.is_empty() || is_route_path(path) {
            return Ok(Arc::clone(path));
        }
        let message = format!("`{path}` is no path that endpoints can get");
        Err(RuleFault::unsupported(message))
    };
    match (&**form, replace_full_path, replace_prefix_match) {
        ("ReplaceFullPath", Some(path), _) if path.is_empty() => Ok(PathEdit::Full("/".into())),
        ("ReplaceFullPath", Some(path), _) => checked(path).map(PathEdit::Full),
        ("ReplacePrefixMatch", _, Some(path)) => checked(path).map(PathEdit::Prefix),
        _ => Err(RuleFault::unsupported(format!(
            "paths are not changed by {form}"
        ))),
    }
}

fn dns_name(text: &str) -> Result<DnsName, RuleFault> {
    text.parse()
        .map_err(|_| RuleFault::unsupported(format!("`{text}` is no DNS name")))
}

// === Redirects and mirrors ===

fn redirect(
    RequestRedirect {
        scheme,
        hostname,
        path,
        port,
        status_code,
    }: &RequestRedirect,
) -> Result<RouteRedirect, RuleFault> {
    let scheme = match scheme.as_deref() {
        None => None,
        Some("http") => Some(ServerScheme::Http),
        Some("https") => Some(ServerScheme::Https),
        Some(other) => {
            let message = format!("the scheme {other} of a redirect is not supported");
            return Err(RuleFault::unsupported(message));
        }
    };
    let status = status_code.unwrap_or(302);
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        let message = format!("the status {status} of a redirect is not supported");
        return Err(RuleFault::unsupported(message));
    }
    Ok(RouteRedirect {
        scheme,
        hostname: hostname.as_deref().map(dns_name).transpose()?,
        port: port.and_then(NonZeroU16::new),
        path: path.as_ref().map(path_edit).transpose()?,
        status,
    })
}

/// The share of requests that are copied, 0..=1.
fn share(mirror: &RequestMirror) -> Result<f32, RuleFault> {
    let (part, whole) = match (&mirror.fraction, mirror.percent) {
        (Some(fraction), None) => (fraction.numerator, fraction.denominator.unwrap_or(100)),
        (None, percent) => (percent.unwrap_or(100), 100),
        (Some(_), Some(_)) => {
            let message = "a mirror has both `percent` and `fraction`".to_owned();
            return Err(RuleFault::unsupported(message));
        }
    };
    if part > whole || whole == 0 {
        let message = format!("{part} of {whole} is no share of requests");
        return Err(RuleFault::unsupported(message));
    }
    Ok((f64::from(part) / f64::from(whole)) as f32)
}
