//! What routes and listeners in a file mean, and which mistakes are named.

use hermes_core::route::{PathMatch, TextMatch};

use crate::config::Config;

const POOLS: &str = "
pools:
- {name: chat, endpoints: ['http://10.0.0.7:8000']}
- {name: web, endpoints: ['http://10.0.0.8:8000']}
";

fn parsed(text: &str) -> Config {
    Config::parse(&format!("{POOLS}{text}")).expect("a good file")
}

fn refused(text: &str) -> String {
    let errors = Config::parse(&format!("{POOLS}{text}")).expect_err("it has a mistake");
    errors.to_string()
}

/// A route with one rule of these keys.
fn refused_rule(keys: &str) -> String {
    refused(&format!("routes: [{{name: r, rules: [{{{keys}}}]}}]"))
}

#[test]
fn a_route_needs_a_name_and_a_pool() {
    let config = parsed("routes: [{name: all, rules: [{backends: [{pool: web}]}]}]");
    let [route] = &config.routes[..] else {
        panic!("one route")
    };
    assert!(route.hostnames.is_empty() && route.listeners.is_empty());
    let rule = &route.rules[0];
    assert!(rule.matches.is_empty());
    assert_eq!(rule.backends[0].weight, 1);
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn a_match_is_read_as_it_is_written() {
    let config = parsed(
        "
routes:
- name: r
  hostnames: ['*.Example.com']
  rules:
  - matches:
    - {path: {prefix: /a}, method: POST, headers: [{name: X-Team, exact: blue}], query: [{name: v, pattern: '[0-9]+'}]}
    - path: {pattern: '/[ab]'}
    - {}
    backends: [{pool: chat, weight: 70}, {pool: web, weight: 30}]
",
    );
    let route = &config.routes[0];
    assert_eq!(route.hostnames[0].to_string(), "*.example.com");
    let [first, second, third] = &route.rules[0].matches[..] else {
        panic!("three matches")
    };
    assert_eq!(first.path, PathMatch::Prefix("/a".into()));
    assert_eq!(first.method.as_deref(), Some("POST"));
    assert_eq!(&*first.headers[0].name, "x-team");
    assert!(matches!(first.query[0].value, TextMatch::Pattern(_)));
    assert!(matches!(second.path, PathMatch::Pattern(_)));
    assert_eq!(third.path, PathMatch::Prefix("/".into()));
}

#[test]
fn what_a_route_refers_to_has_to_be_there() {
    let text = "routes: [{name: r, listeners: [https], rules: [{backends: [{pool: char}], mirrors: [{pool: wep}]}]}]";
    let errors = refused(text);
    for part in [
        "routes[0].listeners[0]: no listener is named `https`; name one of the listeners of this file",
        "routes[0].rules[0].backends[0].pool: no pool is named `char`; did you mean `chat`?",
        "routes[0].rules[0].mirrors[0].pool: no pool is named `wep`; did you mean `web`?",
    ] {
        assert!(errors.contains(part), "{part} is not in {errors}");
    }
    let errors = refused(
        "routes: [{name: r, rules: [{backends: [{pool: web}]}]}, {name: r, rules: [{backends: [{pool: web}]}]}]",
    );
    assert!(
        errors.contains("routes[1]: the name `r` is used by routes[0]"),
        "{errors}"
    );
}

#[test]
fn mistakes_in_a_rule_are_named_by_their_keys() {
    let backends = "backends: [{pool: web}]";
    for (keys, expected) in [
        ("timeouts: {request: 1s}", "rules[0].backends: missing"),
        (
            "matches: [{path: {exact: /a, prefix: /b}}], backends: [{pool: web}]",
            "rules[0].matches[0].path: several of",
        ),
        (
            "matches: [{path: {prefix: a}}], backends: [{pool: web}]",
            "rules[0].matches[0].path.prefix",
        ),
        (
            "matches: [{path: {prefix: /a/../b}}], backends: [{pool: web}]",
            "rules[0].matches[0].path.prefix",
        ),
        (
            "matches: [{path: {pattern: '('}}], backends: [{pool: web}]",
            "rules[0].matches[0].path.pattern",
        ),
        (
            "matches: [{headers: [{name: a, exact: x, pattern: x}]}], backends: [{pool: web}]",
            "headers[0]: not one value",
        ),
        (
            "matches: [{headers: [{name: a, exact: x}, {name: A, exact: y}]}], backends: [{pool: web}]",
            "headers: `a` is there twice",
        ),
        (
            "matches: [{method: get}], backends: [{pool: web}]",
            "matches[0].method: found `get`",
        ),
        (
            "redirect: {scheme: https}, backends: [{pool: web}]",
            "rules[0].backends: never used",
        ),
        (
            "redirect: {scheme: https}, rewrite: {replacePath: /a}",
            "rules[0].rewrite: a rule that redirects",
        ),
        (
            "redirect: {status: 305}",
            "rules[0].redirect.status: found 305",
        ),
        (
            "redirect: {replacePath: /a, replacePrefix: /b}",
            "rules[0].redirect: both",
        ),
        (
            "matches: [{path: {exact: /a}}], rewrite: {replacePrefix: /b}, backends: [{pool: web}]",
            "rules[0].rewrite: `replacePrefix` needs a prefix",
        ),
        (
            "timeouts: {request: 1s, backendRequest: 2s}, backends: [{pool: web}]",
            "timeouts.backendRequest: longer than",
        ),
    ] {
        let errors = refused_rule(keys);
        assert!(errors.contains(expected), "{expected} is not in {errors}");
    }
    for name in [
        "Transfer-Encoding",
        "host",
        "x-hermes-priority",
        "x-openfuyao-prefill-pod-address-port",
        "x-kv-cache-source-host-port",
        "Content-Length",
        "x-forwarded-for",
    ] {
        let errors = refused_rule(&format!(
            "requestHeaders: {{set: [{{name: {name}, value: '1'}}]}}, {backends}"
        ));
        assert!(
            errors.contains("rules[0].requestHeaders: the header"),
            "{name}: {errors}"
        );
    }
    let errors = refused_rule(&format!(
        "responseHeaders: {{remove: [a, Connection], add: [{{name: A, value: '1'}}]}}, {backends}"
    ));
    assert!(
        errors.contains("the header `connection`") && errors.contains("the header `a` twice"),
        "{errors}"
    );
}

#[test]
fn a_credential_may_be_removed_and_never_set() {
    let text = |edits: &str| format!("requestHeaders: {{{edits}}}, backends: [{{pool: web}}]");
    let errors = refused_rule(&text("add: [{name: Authorization, value: Bearer x}]"));
    assert!(
        errors.contains("the header `authorization`; leave it to clients"),
        "{errors}"
    );
    assert!(!errors.contains("Bearer"), "{errors}");
    let keys = text("remove: [authorization, cookie]");
    parsed(&format!("routes: [{{name: r, rules: [{{{keys}}}]}}]"));
}

#[test]
fn weights_that_are_all_zero_cause_a_warning() {
    let config = parsed("routes: [{name: r, rules: [{backends: [{pool: web, weight: 0}]}]}]");
    assert!(
        config.warnings[0].contains("answered with 500"),
        "{:?}",
        config.warnings
    );
}

#[test]
fn listeners_share_an_address_only_if_something_decides_between_them() {
    let config = parsed(
        "
listeners:
- {name: wide, address: '0.0.0.0:8443', hostname: '*.example.com', tls: {certificates: [wide]}}
- {name: one, address: '0.0.0.0:8443', hostname: a.example.com, tls: {certificates: [one, ns.two]}}
- {name: plain, address: '[::]:8080'}
",
    );
    let names: Vec<&str> = config
        .listeners
        .iter()
        .map(|listener| &*listener.name)
        .collect();
    assert_eq!(names, ["one", "plain", "wide"]);
    for (second, expected) in [
        (
            "{name: b, address: '0.0.0.0:80'}",
            "listeners[1]: listeners[0] has the same address and hostname",
        ),
        (
            "{name: a, address: '0.0.0.0:81'}",
            "listeners[1]: the name `a` is used by listeners[0]",
        ),
        (
            "{name: b, address: '0.0.0.0:80', hostname: h, tls: {certificates: [c]}}",
            "only one of both has `tls`",
        ),
        ("{name: b, address: ':80'}", "listeners[1].address"),
        (
            "{name: b, address: '0.0.0.0:81', tls: {}}",
            "listeners[1].tls.certificates: missing",
        ),
        (
            "{name: b, address: '0.0.0.0:81', tls: {certificates: [../etc]}}",
            "listeners[1].tls.certificates[0]",
        ),
        (
            "{name: b, address: '0.0.0.0:81', hostname: 10.0.0.7}",
            "listeners[1].hostname",
        ),
    ] {
        let errors = refused(&format!(
            "listeners: [{{name: a, address: '0.0.0.0:80'}}, {second}]"
        ));
        assert!(errors.contains(expected), "{expected} is not in {errors}");
    }
}
