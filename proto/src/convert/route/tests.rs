//! Routes and listeners with everything that they may have.

use std::sync::Arc;

use hermes_core::{
    collection::Collection,
    listener::{Listener, ListenerTls},
    route::{HeaderEdits, HeaderField, PathEdit, RouteMirror, RouteRedirect, UrlRewrite},
};
use proptest::prelude::*;

use super::*;

fn any_text() -> impl Strategy<Value = TextMatch> {
    prop_oneof![
        "[a-z]{1,4}".prop_map(|text| TextMatch::Exact(text.into())),
        "[a-z]{1,4}".prop_map(|text| TextMatch::Pattern(compiled(&text))),
    ]
}

fn compiled(text: &str) -> TextPattern {
    TextPattern::parse(text).expect("an expression")
}

fn any_match() -> impl Strategy<Value = RouteMatch> {
    let path = prop_oneof![
        "/[a-z]{0,4}".prop_map(|path| PathMatch::Exact(path.into())),
        "/[a-z]{0,4}".prop_map(|path| PathMatch::Prefix(path.into())),
        "/[a-z]{0,4}".prop_map(|path| PathMatch::Pattern(compiled(&path))),
    ];
    let fields = || proptest::collection::btree_map("[a-z]", any_text(), 0..3);
    let listed = |fields: std::collections::BTreeMap<String, TextMatch>| {
        let field = |(name, value): (String, TextMatch)| FieldMatch {
            name: name.into(),
            value,
        };
        fields.into_iter().map(field).collect()
    };
    (path, proptest::option::of("GET|POST"), fields(), fields()).prop_map(
        move |(path, method, headers, query)| RouteMatch {
            path,
            method: method.map(Into::into),
            headers: listed(headers),
            query: listed(query),
        },
    )
}

fn any_edits() -> impl Strategy<Value = HeaderEdits> {
    let fields = || {
        let names = proptest::collection::vec("[a-z]{1,4}", 0..3);
        names.prop_map(|names| {
            let field = |name: String| HeaderField {
                name: name.into(),
                value: "1".into(),
            };
            names.into_iter().map(field).collect::<Vec<_>>()
        })
    };
    (
        fields(),
        fields(),
        proptest::collection::vec("[a-z]{1,4}", 0..3),
    )
        .prop_map(|(set, add, remove)| HeaderEdits {
            set,
            add,
            remove: remove.into_iter().map(Into::into).collect(),
        })
}

fn any_path_edit() -> impl Strategy<Value = Option<PathEdit>> {
    proptest::option::of(prop_oneof![
        Just(PathEdit::Full("/a".into())),
        Just(PathEdit::Prefix("".into())),
    ])
}

fn any_filters() -> impl Strategy<Value = RouteFilters> {
    let host = || proptest::option::of(Just("a.b".parse().expect("a name")));
    let scheme = proptest::option::of(prop_oneof![
        Just(hermes_core::address::ServerScheme::Http),
        Just(hermes_core::address::ServerScheme::Https),
    ]);
    let redirect =
        (scheme, host(), 0..3u16, any_path_edit()).prop_map(|(scheme, hostname, port, path)| {
            RouteRedirect {
                scheme,
                hostname,
                port: std::num::NonZeroU16::new(port),
                path,
                status: 307,
            }
        });
    let rewrite =
        (host(), any_path_edit()).prop_map(|(hostname, path)| UrlRewrite { hostname, path });
    let redirect = proptest::option::of(redirect);
    let rewrite = proptest::option::of(rewrite);
    (
        any_edits(),
        any_edits(),
        redirect,
        rewrite,
        any_target(),
        0..3usize,
    )
        .prop_map(
            |(request_headers, response_headers, redirect, rewrite, target, mirrors)| {
                RouteFilters {
                    request_headers,
                    response_headers,
                    redirect,
                    rewrite,
                    mirrors: vec![RouteMirror { target, share: 0.5 }; mirrors],
                }
            },
        )
}

fn any_target() -> impl Strategy<Value = BackendTarget> {
    prop_oneof![
        Just(BackendTarget::Invalid),
        Just(BackendTarget::Pool("chat".into()))
    ]
}

fn any_rule() -> impl Strategy<Value = RouteRule> {
    let backend =
        (any_target(), 0..9u32).prop_map(|(target, weight)| RouteBackend { target, weight });
    let backends = proptest::collection::vec(backend, 0..3);
    let time = || (0..3u64).prop_map(|s| (s > 0).then(|| Duration::from_secs(s)));
    let timeouts = (time(), time());
    let matches = proptest::collection::vec(any_match(), 0..3);
    (matches, any_filters(), backends, timeouts).prop_map(
        |(matches, filters, backends, (request, backend_request))| RouteRule {
            matches,
            filters,
            backends,
            timeouts: RouteTimeouts {
                request,
                backend_request,
            },
        },
    )
}

/// Some routes, by name.
pub(in crate::convert) fn any_routes() -> impl Strategy<Value = Collection<Route>> {
    let rules = proptest::collection::vec(any_rule(), 0..3);
    let hosts = proptest::sample::subsequence(vec!["a.b", "*.b"], 0..=2);
    let listeners = proptest::sample::subsequence(vec!["l", "m"], 0..=2);
    let routes = proptest::collection::btree_map("[r-t]", (rules, hosts, listeners, 0..9u64), 0..3);
    routes.prop_map(|routes| {
        let route =
            |(name, (rules, hosts, listeners, created)): (String, (_, Vec<&str>, Vec<&str>, _))| {
                Arc::new(Route {
                    name: name.into(),
                    listeners: listeners.into_iter().map(Into::into).collect(),
                    hostnames: hosts
                        .iter()
                        .map(|text| text.parse().expect("a host"))
                        .collect(),
                    created,
                    rules,
                })
            };
        routes.into_iter().map(route).collect()
    })
}

/// Some listeners, by name.
pub(in crate::convert) fn any_listeners() -> impl Strategy<Value = Collection<Listener>> {
    let host = proptest::option::of(Just("*.b"));
    let certificates = proptest::collection::vec("[a-z]", 0..3);
    let listeners = proptest::collection::btree_map(
        "[l-n]",
        (0..9u16, host, certificates, any::<bool>()),
        0..3,
    );
    listeners.prop_map(|listeners| {
        let listener = |(name, (port, host, certificates, routes_only)): (
            String,
            (_, Option<&str>, Vec<String>, _),
        )| {
            let certificates: Vec<Arc<str>> = certificates.into_iter().map(Into::into).collect();
            Arc::new(Listener {
                name: name.into(),
                address: (std::net::Ipv6Addr::UNSPECIFIED, port).into(),
                hostname: host.map(|text| text.parse().expect("a host")),
                tls: (!certificates.is_empty()).then_some(ListenerTls { certificates }),
                routes_only,
            })
        };
        listeners.into_iter().map(listener).collect()
    })
}

#[test]
fn a_route_that_cannot_be_used_is_refused_by_the_name_of_its_field() {
    let refused = |wanted: v1::RouteMatch| {
        let route = v1::Route {
            name: "r".into(),
            rules: vec![v1::RouteRule {
                matches: vec![v1::RouteMatch::default(), wanted],
                ..v1::RouteRule::default()
            }],
            ..v1::Route::default()
        };
        Route::try_from(route)
            .expect_err("it cannot be used")
            .to_string()
    };
    assert_eq!(
        refused(v1::RouteMatch::default()),
        "rules[0].matches[0].path: is missing, or of a kind that this release does not know"
    );
}
