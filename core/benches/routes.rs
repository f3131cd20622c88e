//! The cost of finding the rule of a request, by the number of routes.
#![allow(missing_docs, reason = "a bench has no users")]

use std::{hint::black_box, sync::Arc};

use divan::{AllocProfiler, Bencher};
use hermes_core::{
    collection::Collection,
    route::{FieldMatch, PathMatch, Route, RouteMatch, RouteRule, TextMatch},
    route_table::{NoHeaders, RouteInput, RouteLookup, RouteTable},
};

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

/// `count` routes, each with a host of its own and two rules, and one without a host.
fn table(count: usize) -> RouteTable {
    let rule = |path| RouteRule {
        matches: vec![RouteMatch {
            path,
            ..RouteMatch::default()
        }],
        ..RouteRule::default()
    };
    let route = |index: usize| {
        let host = format!("team-{index}.example.com");
        Arc::new(Route {
            name: format!("route-{index}").into(),
            listeners: Vec::new(),
            hostnames: vec![host.parse().expect("a hostname")],
            created: 0,
            rules: vec![
                rule(PathMatch::Prefix("/v1".into())),
                rule(PathMatch::Exact("/docs".into())),
            ],
        })
    };
    let canary = RouteMatch {
        headers: vec![FieldMatch {
            name: "x-canary".into(),
            value: TextMatch::Exact("1".into()),
        }],
        ..RouteMatch::default()
    };
    let rest = Arc::new(Route {
        name: "rest".into(),
        listeners: Vec::new(),
        hostnames: Vec::new(),
        created: 0,
        rules: vec![RouteRule {
            matches: vec![canary],
            ..RouteRule::default()
        }],
    });
    let routes: Collection<Route> = (0..count).map(route).chain([rest]).collect();
    RouteTable::compile(&routes, &Collection::default())
}

fn is_found(table: &RouteTable, authority: &str) -> bool {
    let head = RouteInput {
        authority: black_box(authority),
        path: black_box("/v1/chat/completions"),
        query: None,
        method: "POST",
        headers: &NoHeaders,
    };
    matches!(table.find(None, &head), RouteLookup::Found(_))
}

#[divan::bench(args = [1, 10, 1_000])]
fn found(bencher: Bencher<'_, '_>, routes: usize) {
    let table = table(routes);
    let host = format!("team-{}.example.com:8000", routes / 2);
    bencher.bench(|| is_found(&table, &host));
}

#[divan::bench(args = [1, 10, 1_000])]
fn not_found(bencher: Bencher<'_, '_>, routes: usize) {
    let table = table(routes);
    bencher.bench(|| is_found(&table, "Other.Example.COM"));
}

#[divan::bench]
fn without_routes(bencher: Bencher<'_, '_>) {
    let table = RouteTable::default();
    bencher.bench(|| is_found(&table, "any"));
}
