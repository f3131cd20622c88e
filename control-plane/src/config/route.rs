//! Reads one item of the list `routes`.

mod filters;
mod matches;
mod references;

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use hermes_core::route::{
    BackendTarget, HostPattern, PathEdit, PathMatch, Route, RouteBackend, RouteFilters, RouteRule,
    RouteTimeouts,
};

pub(super) use self::references::{KnownNames, merge};
use super::{
    duration::{DAY, SECOND},
    listener::HOSTNAME,
    names::is_dns_label,
    node::Node,
    section::Section,
};

/// Listeners, and hostnames, of one route.
const ATTACHED: RangeInclusive<usize> = 0..=64;

/// Rules of one route.
const RULES: RangeInclusive<usize> = 1..=64;

/// Matches of one rule.
const MATCHES: RangeInclusive<usize> = 0..=64;

/// Backends of one rule.
const BACKENDS: RangeInclusive<usize> = 0..=16;

/// What a route's name may be.
const NAME: &str = "1 to 63 characters of a-z, 0-9 and -";

/// One route with its path in the file.
#[derive(Debug)]
pub(super) struct RouteFragment {
    pub(super) path: String,
    pub(super) route: Arc<Route>,
}

/// One item of `routes`.
pub(super) fn read(section: &mut Section<'_>) -> Option<RouteFragment> {
    let name = section
        .text_where(
            "name",
            NAME,
            is_dns_label,
            "Name of the route in metrics, traces and explanations; unique. Of equal rules, that of the first route by name counts.",
        )
        .required("set 1 to 63 characters of a-z, 0-9 and -");
    let listeners = section
        .texts(
            "listeners",
            ATTACHED,
            "names of listeners",
            "The listeners whose requests it takes.",
            |node: &Node<'_>| node.text("a listener's name").map(Arc::<str>::from),
            Arc::<str>::to_string,
        )
        .or_unset("the proxies' usual port for clients");
    let hostnames = section
        .texts(
            "hostnames",
            ATTACHED,
            "hostnames",
            "The hosts whose requests it takes, such as chat.example.com or *.example.com.",
            |node: &Node<'_>| {
                let host: Option<HostPattern> = node.text(HOSTNAME)?.parse().ok();
                host.or_else(|| node.wrong(format!("expected {HOSTNAME}")))
            },
            HostPattern::to_string,
        )
        .or_unset("all");
    let rules = section.list("rules", RULES, "Which requests go where.", |section| {
        Some(read_rule(section))
    });
    if !section.has("rules") {
        section.error("rules", "missing", "set at least one rule");
    }
    let route = Route {
        name: name?,
        listeners: listeners.unwrap_or_default(),
        hostnames: hostnames.unwrap_or_default(),
        created: 0,
        rules,
    };
    Some(RouteFragment {
        path: section.path().to_owned(),
        route: Arc::new(route),
    })
}

fn read_rule(section: &mut Section<'_>) -> RouteRule {
    let matches = section.list(
        "matches",
        MATCHES,
        "Which requests follow the rule: those of which one match is true. Without one, all do.",
        |section| Some(matches::read(section)),
    );
    let filters = filters::read(section);
    let backends = section.list(
        "backends",
        BACKENDS,
        "The pools between which requests are shared.",
        read_backend,
    );
    let timeouts = section.section(
        "timeouts",
        "Time limits beside those of the pools; the shortest counts.",
        read_timeouts,
    );
    let rule = RouteRule {
        matches,
        filters,
        backends,
        timeouts,
    };
    check_rule(section, &rule);
    rule
}

fn read_backend(section: &mut Section<'_>) -> Option<RouteBackend> {
    let pool = section
        .text("pool", "a pool's name", "The pool. Its models are not chosen by then: what it does not serve is answered with 404.")
        .required("set the name of a pool");
    let weight = section
        .count(
            "weight",
            0..=1_000_000,
            "Its share of the requests is its weight over the sum of all.",
        )
        .or(1);
    Some(RouteBackend {
        target: BackendTarget::Pool(pool?),
        weight,
    })
}

fn read_timeouts(section: &mut Section<'_>) -> RouteTimeouts {
    let range = || SECOND / 100..=DAY;
    let timeouts = RouteTimeouts {
        request: section
            .duration(
                "request",
                range(),
                "Time from a request's head to the last byte of its response, all attempts and the queue included; above it the response is 504, or cut off.",
            )
            .or_unset("what the pool allows"),
        backend_request: section
            .duration(
                "backendRequest",
                range(),
                "Time from sending an attempt to the last byte of its response; at most `request`.",
            )
            .or_unset("what the pool allows"),
    };
    if timeouts.backend_request > timeouts.request.or(Some(Duration::MAX)) {
        let fix = "set it to at most `request`";
        section.error("backendRequest", "longer than `request`", fix);
    }
    timeouts
}

/// What the parts of a rule mean together.
fn check_rule(section: &Section<'_>, rule: &RouteRule) {
    let RouteFilters {
        redirect, rewrite, ..
    } = &rule.filters;
    match (redirect.is_some(), section.has("backends")) {
        (false, false) => section.error("backends", "missing", "set a pool, or `redirect`"),
        (true, true) => {
            let found = "never used: the rule redirects";
            section.error("backends", found, "remove it, or `redirect`");
        }
        _ => {}
    }
    if redirect.is_some() && rewrite.is_some() {
        let found = "a rule that redirects forwards nothing";
        section.error("rewrite", found, "remove it, or `redirect`");
    }
    let is_all_zero =
        !rule.backends.is_empty() && rule.backends.iter().all(|backend| backend.weight == 0);
    if is_all_zero {
        section.warn(
            "backends",
            "all weights are 0: every request is answered with 500",
        );
    }
    let edits = [
        (
            "redirect",
            redirect
                .as_ref()
                .and_then(|redirect| redirect.path.as_ref()),
        ),
        (
            "rewrite",
            rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref()),
        ),
    ];
    let is_prefix = |path: &PathMatch| matches!(path, PathMatch::Prefix(_));
    let has_others = rule.matches.iter().any(|one| !is_prefix(&one.path));
    for (key, edit) in edits {
        if has_others && matches!(edit, Some(PathEdit::Prefix(_))) {
            let found = "`replacePrefix` needs a prefix in every match of the rule";
            section.error(key, found, "use `path.prefix` in all, or `replacePath`");
        }
    }
}

#[cfg(test)]
mod tests;
