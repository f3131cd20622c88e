//! The specification's sentences, and a naive reading of them that the table has to agree with.

use std::{borrow::Cow, cmp::Reverse};

use proptest::prelude::*;

use super::*;
use crate::route::{FieldMatch, RouteTimeouts, TextMatch, TextPattern};

/// Headers as pairs.
struct Pairs<'a>(&'a [(&'a str, &'a str)]);

impl HeaderValues for Pairs<'_> {
    fn value(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        let found = self.0.iter().find(|(own, _)| *own == name);
        found.map(|(_, value)| value.as_bytes().into())
    }
}

fn path(text: &str) -> PathMatch {
    match text.as_bytes() {
        [b'=', ..] => PathMatch::Exact(text[1..].into()),
        [b'~', ..] => PathMatch::Pattern(TextPattern::parse(&text[1..]).expect("an expression")),
        _ => PathMatch::Prefix(text.into()),
    }
}

fn fields(pairs: &[(&str, &str)]) -> Vec<FieldMatch> {
    let field = |(name, value): &(&str, &str)| FieldMatch {
        name: (*name).into(),
        value: TextMatch::Exact((*value).into()),
    };
    pairs.iter().map(field).collect()
}

fn on(path_text: &str) -> RouteMatch {
    RouteMatch {
        path: path(path_text),
        ..RouteMatch::default()
    }
}

/// A route with a rule for each match.
fn route(name: &str, hostnames: &[&str], matches: Vec<RouteMatch>) -> Route {
    let rule = |wanted| RouteRule {
        matches: vec![wanted],
        ..RouteRule::default()
    };
    Route {
        name: name.into(),
        listeners: Vec::new(),
        hostnames: hostnames
            .iter()
            .map(|text| text.parse().expect("a hostname"))
            .collect(),
        created: 0,
        rules: matches.into_iter().map(rule).collect(),
    }
}

fn listener(name: &str, port: u16, hostname: Option<&str>, routes_only: bool) -> Arc<Listener> {
    Arc::new(Listener {
        name: name.into(),
        address: ([127, 0, 0, 1], port).into(),
        hostname: hostname.map(|text| text.parse().expect("a hostname")),
        tls: None,
        routes_only,
    })
}

fn table(routes: Vec<Route>) -> RouteTable {
    RouteTable::compile(
        &routes.into_iter().map(Arc::new).collect(),
        &Collection::default(),
    )
}

fn head<'a>(authority: &'a str, path: &'a str) -> RouteInput<'a, NoHeaders> {
    RouteInput {
        authority,
        path,
        query: None,
        method: "GET",
        headers: &NoHeaders,
    }
}

/// The route's name and the number of its rule.
fn found(lookup: &RouteLookup<'_>) -> Option<(String, usize)> {
    match lookup {
        RouteLookup::Found(found) => Some((found.route.name.to_string(), found.rule_position)),
        RouteLookup::Unrouted | RouteLookup::NotFound => None,
    }
}

fn chosen<H: HeaderValues>(table: &RouteTable, head: &RouteInput<'_, H>) -> String {
    let (name, rule) = found(&table.find(None, head)).expect("a rule takes it");
    format!("{name}/{rule}")
}

#[test]
fn exact_paths_go_before_expressions_and_those_before_the_longest_prefix() {
    let matches = ["/", "/a", "/a/b", "~/a/.*", "=/a/b/c"].map(on);
    let table = table(vec![route("r", &[], matches.into())]);
    for (path, expected) in [
        ("/x", "r/0"),
        ("/a", "r/1"),
        ("/a/b", "r/3"),
        ("/a/b/c", "r/4"),
        ("/ab", "r/0"),
    ] {
        assert_eq!(chosen(&table, &head("h", path)), expected, "{path}");
    }
}

#[test]
fn the_host_goes_before_the_path_and_a_rule_of_a_wider_host_serves_what_is_left() {
    let table = table(vec![
        route("any", &[], vec![on("=/a/b")]),
        route("exact", &["a.example.com"], vec![on("/a")]),
        route("star", &["*.example.com"], vec![on("/")]),
        route("wide", &["*.com"], vec![on("=/a")]),
    ]);
    for (host, path, expected) in [
        ("A.example.com:80", "/a/b", "exact/0"),
        ("a.example.com", "/x", "star/0"),
        ("b.example.com", "/a", "star/0"),
        ("example.com", "/a", "wide/0"),
        ("other", "/a/b", "any/0"),
    ] {
        assert_eq!(chosen(&table, &head(host, path)), expected, "{host}{path}");
    }
    assert!(matches!(
        table.find(None, &head("other", "/x")),
        RouteLookup::NotFound
    ));
}

#[test]
fn method_headers_query_age_and_name_decide_in_this_order() {
    let with =
        |method: Option<&str>, headers: &[(&str, &str)], query: &[(&str, &str)]| RouteMatch {
            method: method.map(Into::into),
            headers: fields(headers),
            query: fields(query),
            ..on("/")
        };
    let (one, two) = ([("x-a", "1")], [("x-a", "1"), ("x-b", "2")]);
    let old = Route {
        created: 1,
        ..route("z-old", &[], vec![with(None, &one, &[])])
    };
    let young = |name: &str| Route {
        created: 2,
        ..route(name, &[], vec![with(None, &one, &[])])
    };
    let mut routes = vec![
        route("by-method", &[], vec![with(Some("GET"), &[], &[])]),
        route("two-headers", &[], vec![with(None, &two, &[])]),
        route("query", &[], vec![with(None, &one, &[("q", "a b")])]),
        old,
        young("a-young"),
        young("b-young"),
    ];
    let sent = Pairs(&[("x-a", "1"), ("x-b", "2")]);
    let head = RouteInput {
        headers: &sent,
        query: Some("p&q=a%20b&q=c"),
        ..head_with(&sent)
    };
    for expected in [
        "by-method/0",
        "two-headers/0",
        "query/0",
        "z-old/0",
        "a-young/0",
        "b-young/0",
    ] {
        assert_eq!(chosen(&table(routes.clone()), &head), expected);
        routes.remove(0);
    }
}

fn head_with<H>(headers: &H) -> RouteInput<'_, H> {
    RouteInput {
        authority: "h",
        path: "/",
        query: None,
        method: "GET",
        headers,
    }
}

#[test]
fn a_path_that_a_server_may_resolve_elsewhere_follows_no_route() {
    let table = table(vec![route("r", &[], vec![on("/")])]);
    for path in ["/public/../admin", "/public/%2e%2e/admin", "/a/.."] {
        assert!(
            matches!(table.find(None, &head("h", path)), RouteLookup::NotFound),
            "{path}"
        );
    }
}

#[test]
fn a_request_belongs_to_the_most_specific_listener_of_its_port() {
    let attached = |name: &str, listener: &str| Route {
        listeners: vec![listener.into()],
        ..route(name, &[], vec![on("/")])
    };
    let routes = [attached("star", "star"), attached("other", "elsewhere")];
    let listeners = [
        listener("star", 80, Some("*.example.com"), false),
        listener("exact", 80, Some("a.example.com"), true),
        listener("plain", 81, None, false),
    ];
    let table = RouteTable::compile(
        &routes.map(Arc::new).into_iter().collect(),
        &listeners.into_iter().collect(),
    );
    let find = |port: u16, host| table.find(Some(&([127, 0, 0, 1], port).into()), &head(host, "/"));
    assert_eq!(found(&find(80, "b.example.com")), Some(("star".into(), 0)));
    assert!(
        matches!(find(80, "a.example.com"), RouteLookup::NotFound),
        "it has no route"
    );
    assert!(
        matches!(find(80, "other.org"), RouteLookup::NotFound),
        "no listener has this host"
    );
    assert!(matches!(find(81, "other.org"), RouteLookup::Unrouted));
    assert!(
        matches!(find(82, "other.org"), RouteLookup::NotFound),
        "a listener that is gone"
    );
    let usual = table.find(None, &head("b.example.com", "/"));
    assert!(matches!(usual, RouteLookup::Unrouted));
}

/// The sentences of the specification, read one by one over all matches.
fn naive(routes: &[Arc<Route>], head: &RouteInput<'_, Pairs<'_>>) -> Option<(String, usize)> {
    let mut held = Vec::new();
    for route in routes {
        let hosts: Vec<Option<String>> = match &route.hostnames[..] {
            [] => vec![None],
            some => some.iter().map(|host| Some(host.to_string())).collect(),
        };
        for host in hosts {
            let specificity = match &host {
                None => (0, 0),
                Some(host) if *host == *head.authority => (host.len(), host.len()),
                Some(host) => match host.strip_prefix('*') {
                    Some(end) if head.authority.ends_with(end) => (0, host.len()),
                    _ => continue,
                },
            };
            for (number, rule) in route.rules.iter().enumerate() {
                for wanted in &rule.matches {
                    if wanted.path.matches(head.path) && head.fulfils(wanted) {
                        let (kind, length) = match &wanted.path {
                            PathMatch::Exact(_) => (2, 0),
                            PathMatch::Pattern(pattern) => (1, pattern.as_str().len()),
                            PathMatch::Prefix(path) => (0, path.trim_end_matches('/').len()),
                        };
                        let key = (
                            Reverse(specificity),
                            Reverse((kind, length)),
                            Reverse(wanted.method.is_some()),
                            Reverse((wanted.headers.len(), wanted.query.len())),
                            (route.created, route.name.to_string(), number),
                        );
                        held.push(key);
                    }
                }
            }
        }
    }
    let (.., (_, name, number)) = held.into_iter().min()?;
    Some((name, number))
}

fn any_path() -> impl Strategy<Value = &'static str> {
    let exact = prop_oneof![Just("=/"), Just("=/a"), Just("=/a/b")];
    let pattern = prop_oneof![Just("~/a.*"), Just("~/[ab]"), Just("~.*b")];
    let prefix = prop_oneof![Just("/"), Just("/a"), Just("/a/"), Just("/a/b"), Just("/b")];
    prop_oneof![exact, pattern, prefix]
}

fn any_match() -> impl Strategy<Value = RouteMatch> {
    let method = proptest::option::of(prop_oneof![Just("GET"), Just("POST")]);
    let headers = proptest::sample::subsequence(vec![("x-a", "1"), ("x-b", "2")], 0..=2);
    let query = proptest::sample::subsequence(vec![("p", "1"), ("q", "2")], 0..=2);
    (any_path(), method, headers, query).prop_map(|(path, method, headers, query)| RouteMatch {
        method: method.map(Into::into),
        headers: fields(&headers),
        query: fields(&query),
        ..on(path)
    })
}

fn any_route() -> impl Strategy<Value = Route> {
    let hosts = vec!["a.x.com", "*.x.com", "*.com", "b.com"];
    let hostnames = proptest::sample::subsequence(hosts, 0..=2);
    let rules = proptest::collection::vec(proptest::collection::vec(any_match(), 1..3), 0..4);
    ("[a-f]", hostnames, rules, 0..2u64).prop_map(|(name, hostnames, rules, created)| {
        let rule = |matches| RouteRule {
            matches,
            timeouts: RouteTimeouts::default(),
            ..RouteRule::default()
        };
        Route {
            created,
            rules: rules.into_iter().map(rule).collect(),
            ..route(&name, &hostnames, Vec::new())
        }
    })
}

proptest! {
    #[test]
    fn the_table_reads_the_specification_as_it_is_written(
        routes in proptest::collection::vec(any_route(), 1..6),
        authority in prop_oneof![Just("a.x.com"), Just("c.x.com"), Just("x.com"), Just("b.com"), Just("h")],
        path in prop_oneof![Just("/"), Just("/a"), Just("/a/"), Just("/a/b"), Just("/a/b/c"), Just("/ab"), Just("/b")],
        method in prop_oneof![Just("GET"), Just("POST")],
        headers in proptest::sample::subsequence(vec![("x-a", "1"), ("x-b", "2")], 0..=2),
        query in prop_oneof![Just(None), Just(Some("p=1")), Just(Some("q=2&p=1")), Just(Some("p=3&p=1"))],
    ) {
        let routes: Collection<Route> = routes.into_iter().map(Arc::new).collect();
        let table = RouteTable::compile(&routes, &Collection::default());
        let headers = Pairs(&headers);
        let head = RouteInput { authority, path, query, method, headers: &headers };
        prop_assert_eq!(found(&table.find(None, &head)), naive(&routes, &head));
    }

    #[test]
    fn any_head_is_looked_up_without_a_panic(
        routes in proptest::collection::vec(any_route(), 1..4),
        authority in "\\PC{0,40}|[a-zA-Z.:\\[\\]]{0,300}",
        path in "/[\\PC]{0,30}|[/.%2eEfF\\\\;a]{0,40}",
        query in proptest::option::of("[\\PC&=%]{0,30}"),
    ) {
        let table = table(routes);
        let head = RouteInput { query: query.as_deref(), ..head(&authority, &path) };
        _ = table.find(None, &head);
    }
}
