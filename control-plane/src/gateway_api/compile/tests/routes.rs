use std::time::Duration;

use hermes_core::route::{PathEdit, RouteRule};

use super::*;

/// A route of the namespace `app` to the Gateway `infra/primary`.
fn route(spec: &str) -> String {
    format!(
        "
kind: HTTPRoute
metadata: {{name: r, namespace: app}}
spec:
  parentRefs: [{{name: primary, namespace: infra}}]
{spec}
"
    )
}

/// A rule with these keys and a backend, and the rule after it that is right.
fn with_rule(keys: &str) -> Scene {
    let backends = "backendRefs: [{name: web, port: 8080}]";
    Scene::new(&route(&format!(
        "  rules:\n  - {{{keys}, {backends}}}\n  - {{matches: [{{path: {{value: /good}}}}], {backends}}}\n"
    )))
}

fn first_rule(scene: &Scene) -> RouteRule {
    let compiled = scene.compile();
    compiled.routes[0].rules[0].clone()
}

const GOOD: &str = "primary: Accepted ResolvedRefs";

#[test]
fn a_service_is_a_pool_of_its_port() {
    let scene = Scene::new(&route(
        "  rules: [{matches: [{path: {value: /}}], backendRefs: [{name: web, port: 8080}]}]",
    ));
    assert_eq!(scene.rules(), ["app/r: / -> app/web:8080*1"]);
    assert_eq!(scene.route("r"), [GOOD]);
    let used = scene.compile().used.services;
    assert_eq!(used, [(NamespacedName::new("app", "web"), 8080)].into());
}

#[test]
fn a_reference_that_leads_nowhere_costs_its_share_and_has_a_reason() {
    let external = "
kind: Service
metadata: {name: outside, namespace: app}
spec: {type: ExternalName, externalName: example.com, ports: [{port: 80}]}
---
kind: Service
metadata: {name: sockets, namespace: app}
spec: {ports: [{port: 80, appProtocol: kubernetes.io/ws}]}
---
kind: Service
metadata: {name: theirs, namespace: other}
spec: {ports: [{port: 80}]}
";
    for (reference, reason) in [
        ("{name: absent, port: 80}", "BackendNotFound"),
        ("{name: web, port: 81}", "BackendNotFound"),
        ("{name: web}", "BackendNotFound"),
        ("{name: outside, port: 80}", "InvalidKind"),
        ("{name: sockets, port: 80}", "UnsupportedProtocol"),
        (
            "{name: theirs, namespace: other, port: 80}",
            "RefNotPermitted",
        ),
        (
            "{kind: Bucket, group: example.com, name: web}",
            "InvalidKind",
        ),
    ] {
        let rules = format!(
            "  rules: [{{matches: [{{path: {{value: /}}}}], backendRefs: [{reference}, {{name: web, port: 8080, weight: 3}}]}}]"
        );
        let scene = Scene::new(&route(&rules)).and(external);
        let expected = format!("primary: Accepted ResolvedRefs!={reason}");
        assert_eq!(scene.route("r"), [expected], "{reference}");
        assert_eq!(
            scene.rules(),
            ["app/r: / -> 500*1 + app/web:8080*3"],
            "{reference}"
        );
    }
}

#[test]
fn a_reference_to_another_namespace_is_followed_where_that_permits_it() {
    let objects = "
kind: InferencePool
metadata: {name: chat, namespace: models}
spec: {}
";
    let rules = "  rules: [{matches: [{path: {value: /}}], backendRefs: [{group: inference.networking.k8s.io, kind: InferencePool, name: chat, namespace: models}]}]";
    let scene = || Scene::new(&route(rules)).and(objects);
    let refused = "primary: Accepted ResolvedRefs!=RefNotPermitted";
    assert_eq!(scene().route("r"), [refused]);
    assert!(scene().compile().pool_parents.is_empty());
    let grant = |from: &str, kind: &str| {
        format!(
            "
kind: ReferenceGrant
metadata: {{name: g, namespace: models}}
spec:
  from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: {from}}}]
  to: [{{group: inference.networking.k8s.io, kind: {kind}}}]
"
        )
    };
    let permitted = scene().and(&grant("app", "InferencePool"));
    assert_eq!(permitted.route("r"), [GOOD]);
    assert_eq!(permitted.rules(), ["app/r: / -> models/chat*1"]);
    for other in [grant("web", "InferencePool"), grant("app", "Service")] {
        assert_eq!(scene().and(&other).route("r"), [refused], "{other}");
    }
}

#[test]
fn a_route_is_attached_by_section_port_and_hostname() {
    let gateway = "
kind: Gateway
metadata: {name: primary, namespace: infra}
spec:
  gatewayClassName: hermes
  listeners:
  - {name: plain, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}
  - {name: named, port: 81, protocol: HTTP, hostname: '*.example.com', allowedRoutes: {namespaces: {from: All}}}
";
    let attached = |reference: &str, hosts: &str| {
        let route = format!(
            "
kind: HTTPRoute
metadata: {{name: r, namespace: app}}
spec:
  parentRefs: [{{name: primary, namespace: infra{reference}}}]
  hostnames: [{hosts}]
  rules: [{{matches: [{{path: {{value: /}}}}]}}]
"
        );
        let scene = Scene::new(&route)
            .without("Gateway", "primary")
            .and(gateway);
        let listeners = scene.compile().routes.first().map(|route| {
            let names = route
                .listeners
                .iter()
                .map(|name| name.replace("infra/primary/", ""));
            names.collect::<Vec<_>>().join(" ")
        });
        listeners.unwrap_or_else(|| scene.route("r").join(" "))
    };
    assert_eq!(attached("", ""), "named plain");
    assert_eq!(attached(", sectionName: plain", ""), "plain");
    assert_eq!(attached(", port: 81", ""), "named");
    assert_eq!(attached("", "a.example.com"), "named plain");
    assert_eq!(attached("", "'*.a.example.com'"), "named plain");
    assert_eq!(attached("", "example.com"), "plain");
    let refused = |reason: &str| format!("primary: Accepted!={reason} ResolvedRefs");
    assert_eq!(
        attached(", sectionName: absent", ""),
        refused("NoMatchingParent")
    );
    assert_eq!(
        attached(", sectionName: plain, port: 81", ""),
        refused("NoMatchingParent")
    );
    assert_eq!(
        attached(", sectionName: named", "a.example.org"),
        refused("NoMatchingListenerHostname")
    );
    assert_eq!(attached("", "10.0.0.7"), refused("UnsupportedValue"));
}

#[test]
fn matches_and_filters_are_those_of_the_proxies() {
    let rule = first_rule(&with_rule(
        "matches: [{path: {type: Exact, value: /a}, method: POST, headers: [{name: X-Team, value: a}, {name: x-team, value: b}], queryParams: [{name: v, type: RegularExpression, value: '[0-9]+'}]}],
    filters: [
      {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: X-A, value: '1'}], add: [{name: x-b, value: '2'}], remove: [x-c]}},
      {type: ResponseHeaderModifier, responseHeaderModifier: {add: [{name: x-d, value: '4'}]}},
      {type: URLRewrite, urlRewrite: {hostname: engines.example.com, path: {type: ReplaceFullPath, replaceFullPath: /b}}},
      {type: RequestMirror, requestMirror: {backendRef: {name: web, port: 8080}, percent: 25}}],
    timeouts: {request: 1m30s, backendRequest: 500ms}",
    ));
    let one = &rule.matches[0];
    assert_eq!(one.path, PathMatch::Exact("/a".into()));
    assert_eq!(one.method.as_deref(), Some("POST"));
    assert_eq!(one.headers.len(), 1, "of one name the first counts");
    assert!(one.headers[0].value.matches(b"a") && one.query[0].value.matches(b"12"));
    let filters = &rule.filters;
    assert_eq!(&*filters.request_headers.set[0].name, "x-a");
    assert_eq!(filters.request_headers.remove, ["x-c".into()]);
    assert_eq!(&*filters.response_headers.add[0].value, "4");
    let rewrite = filters.rewrite.as_ref().expect("a rewrite");
    assert_eq!(rewrite.path, Some(PathEdit::Full("/b".into())));
    let [mirror] = &filters.mirrors[..] else {
        panic!("one mirror")
    };
    assert_eq!(mirror.target, BackendTarget::Pool("app/web:8080".into()));
    assert!((mirror.share - 0.25).abs() < 1e-6);
    assert_eq!(rule.timeouts.request, Some(Duration::from_secs(90)));
    assert_eq!(
        rule.timeouts.backend_request,
        Some(Duration::from_millis(500))
    );
}

#[test]
fn a_redirect_has_no_backends_and_a_status() {
    let scene = Scene::new(&route(
        "  rules: [{filters: [{type: RequestRedirect, requestRedirect: {scheme: https, port: 8443, statusCode: 301}}]}]",
    ));
    let rule = first_rule(&scene);
    let redirect = rule.filters.redirect.expect("a redirect");
    assert_eq!(redirect.status, 301);
    assert_eq!(redirect.port.map(u16::from), Some(8443));
    assert!(rule.backends.is_empty());
}

/// Each key that is not supported: its requests get an error, and other rules are served.
#[test]
fn a_rule_that_cannot_be_followed_answers_500_and_the_others_are_served() {
    for keys in [
        "filters: [{type: ExtensionRef, extensionRef: {group: a, kind: B, name: c}}]",
        "filters: [{type: CORS, cors: {}}]",
        "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: host, value: a}]}}]",
        "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: authorization, value: a}]}}]",
        "filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-a, value: a}], remove: [X-A]}}]",
        "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /a/../b}}}]",
        "filters: [{type: URLRewrite, urlRewrite: {}}, {type: URLRewrite, urlRewrite: {}}]",
        "filters: [{type: RequestMirror, requestMirror: {backendRef: {name: web, port: 8080}, percent: 200}}]",
        "filters: [{type: RequestRedirect, requestRedirect: {}}]",
        "filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /b}}}], matches: [{path: {type: Exact, value: /a}}]",
        "timeouts: {request: fast}",
        "timeouts: {request: 1s, backendRequest: 2s}",
        "sessionPersistence: {}",
    ] {
        let scene = with_rule(keys);
        let parents = scene.route("r");
        assert_eq!(
            parents,
            ["primary: Accepted ResolvedRefs PartiallyInvalid=UnsupportedValue"],
            "{keys}"
        );
        let rule = first_rule(&scene);
        let is_served = !rule.backends.is_empty() || rule.filters.redirect.is_some();
        assert!(!is_served, "{keys}");
        assert_eq!(scene.compile().routes[0].rules.len(), 2, "{keys}");
    }
}

#[test]
fn a_match_that_cannot_be_read_matches_nothing() {
    for one in [
        "{path: {type: RegularExpression, value: '('}}",
        "{path: {type: Near, value: /a}}",
        "{path: {value: 'a b'}}",
        "{method: BREW}",
        "{headers: [{name: x, type: Near, value: a}]}",
    ] {
        let scene = with_rule(&format!("matches: [{one}]"));
        let partial = "primary: Accepted ResolvedRefs PartiallyInvalid=UnsupportedValue";
        assert_eq!(scene.route("r"), [partial], "{one}");
        assert_eq!(scene.rules(), ["app/r: /good -> app/web:8080*1"], "{one}");
    }
}

#[test]
fn a_route_of_which_no_rule_can_be_followed_is_not_accepted() {
    let scene = Scene::new(&route("  rules: [{filters: [{type: CORS, cors: {}}]}]"));
    assert_eq!(
        scene.route("r"),
        ["primary: Accepted!=UnsupportedValue ResolvedRefs"]
    );
    assert!(scene.rules().is_empty());
    assert!(scene.listener("http").starts_with("0 "));
}

#[test]
fn the_youngest_routes_are_left_out_when_there_is_no_room() {
    let aged = |name: &str, month: u8| {
        format!(
            "
kind: HTTPRoute
metadata: {{name: {name}, namespace: app, creationTimestamp: '2026-0{month}-01T00:00:00Z'}}
spec: {{parentRefs: [{{name: primary, namespace: infra}}], rules: [{{matches: [{{path: {{value: /}}}}]}}]}}
"
        )
    };
    let mut scene = Scene::new(&aged("a", 3)).and(&aged("b", 2));
    scene.room = Some(GatewayRoom {
        listeners: 1,
        routes: 1,
        patterns: 0,
        services: 100,
    });
    assert_eq!(scene.rules(), ["app/b: / -> "]);
    assert_eq!(
        scene.route("a"),
        ["primary: Accepted!=TooManyRoutes ResolvedRefs"]
    );
    let route = &scene.compile().routes[0];
    assert_eq!(route.created, 1_769_904_000, "2026-02-01");
}

#[test]
fn a_route_that_no_listener_allows_takes_no_room() {
    let mut scene = Scene::new(
        "
kind: HTTPRoute
metadata: {name: a, namespace: app, creationTimestamp: '2025-01-01T00:00:00Z'}
spec: {parentRefs: [{name: primary, namespace: infra, sectionName: none}], rules: [{matches: [{path: {value: /a}}]}]}
---
kind: HTTPRoute
metadata: {name: b, namespace: app, creationTimestamp: '2026-01-01T00:00:00Z'}
spec: {parentRefs: [{name: primary, namespace: infra}], rules: [{matches: [{path: {value: /b}}]}]}
",
    );
    scene.room = Some(GatewayRoom {
        listeners: 1,
        routes: 1,
        patterns: 0,
        services: 1,
    });
    assert_eq!(
        scene.route("a"),
        ["primary: Accepted!=NoMatchingParent ResolvedRefs"]
    );
    assert_eq!(scene.rules(), ["app/b: /b -> "]);
}

#[test]
fn the_youngest_route_is_left_out_whose_services_have_no_room() {
    let aged = |name: &str, year: u16, port: u16| {
        format!(
            "
kind: HTTPRoute
metadata: {{name: {name}, namespace: app, creationTimestamp: '{year}-01-01T00:00:00Z'}}
spec:
  parentRefs: [{{name: primary, namespace: infra}}]
  rules: [{{matches: [{{path: {{value: /{name}}}}}], backendRefs: [{{name: web, port: {port}}}]}}]
"
        )
    };
    let mut scene = Scene::new(
        "
kind: Service
metadata: {name: web, namespace: app}
spec: {ports: [{port: 8080}, {name: other, port: 9090}]}
",
    )
    .and(&aged("a", 2026, 8080))
    .and(&aged("b", 2025, 9090))
    .and(&aged("c", 2027, 9090));
    scene.room = Some(GatewayRoom {
        listeners: 1,
        routes: 9,
        patterns: 0,
        services: 1,
    });
    assert_eq!(
        scene.rules(),
        ["app/b: /b -> app/web:9090*1", "app/c: /c -> app/web:9090*1"]
    );
    assert_eq!(
        scene.route("a"),
        ["primary: Accepted!=TooManyRoutes ResolvedRefs"]
    );
}
