use super::*;

/// The Gateway `infra/primary` with these listeners, and a route to a Service.
fn scene(listeners: &str, more: &str) -> Scene {
    let gateway = format!(
        "kind: Gateway\nmetadata: {{name: primary, namespace: infra}}\nspec:\n  gatewayClassName: hermes\n  listeners:\n{listeners}"
    );
    let route = "
kind: HTTPRoute
metadata: {name: r, namespace: app}
spec:
  parentRefs: [{name: primary, namespace: infra}]
  rules: [{matches: [{path: {value: /}}], backendRefs: [{name: web, port: 8080}]}]
";
    let scene = Scene::new(route).without("Gateway", "primary");
    scene.and(&gateway).and(more)
}

const GOOD: &str = "Accepted Conflicted!=NoConflicts ResolvedRefs Programmed";

fn secret(name: &str) -> NamespacedName {
    NamespacedName::new("infra", name)
}

#[test]
fn a_listener_takes_routes_of_its_own_namespace_unless_it_says_otherwise() {
    let labelled = "kind: Namespace\nmetadata: {name: app, labels: {team: a}}\n";
    for (allowed, accepted) in [
        ("", false),
        (", allowedRoutes: {namespaces: {from: Same}}", false),
        (", allowedRoutes: {namespaces: {from: None}}", false),
        (", allowedRoutes: {namespaces: {from: All}}", true),
        (
            ", allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: a}}}}",
            true,
        ),
        (
            ", allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: b}}}}",
            false,
        ),
    ] {
        let scene = scene(
            &format!("  - {{name: http, port: 80, protocol: HTTP{allowed}}}\n"),
            labelled,
        );
        let expected = if accepted {
            "primary: Accepted ResolvedRefs"
        } else {
            "primary: Accepted!=NotAllowedByListeners ResolvedRefs"
        };
        assert_eq!(scene.route("r"), [expected], "{allowed}");
        assert_eq!(scene.rules().len(), usize::from(accepted), "{allowed}");
        let attached = format!("{} {GOOD}", usize::from(accepted));
        assert_eq!(scene.listener("http"), attached, "{allowed}");
    }
}

#[test]
fn a_protocol_that_is_not_supported_costs_its_listener_only() {
    let scene = scene(
        "  - {name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}\n  - {name: tcp, port: 81, protocol: TCP}\n",
        "",
    );
    assert_eq!(
        scene.gateway("primary"),
        "Accepted=ListenersNotValid Programmed"
    );
    assert_eq!(scene.listener("http"), format!("1 {GOOD}"));
    assert_eq!(
        scene.listener("tcp"),
        "0 Accepted!=UnsupportedProtocol Conflicted!=NoConflicts ResolvedRefs Programmed!=Invalid"
    );
    let compiled = scene.compile();
    assert_eq!(compiled.listeners.len(), 1);
    let demand = &compiled.gateways[&NamespacedName::new("infra", "primary")];
    assert_eq!(demand.ports, [80].into());
}

#[test]
fn listeners_that_conflict_are_not_served_and_others_are() {
    let scene = scene(
        "  - {name: a, port: 80, protocol: HTTP}
  - {name: b, port: 80, protocol: HTTPS, hostname: b.example.com, tls: {certificateRefs: [{name: x}]}}
  - {name: c, port: 81, protocol: HTTP, hostname: same.example.com}
  - {name: d, port: 81, protocol: HTTP, hostname: same.example.com}
  - {name: e, port: 81, protocol: HTTP}
",
        "",
    );
    for (name, reason) in [
        ("a", "ProtocolConflict"),
        ("b", "ProtocolConflict"),
        ("c", "HostnameConflict"),
        ("d", "HostnameConflict"),
    ] {
        let conditions = scene.listener(name);
        let expected =
            format!("0 Accepted!={reason} Conflicted={reason} ResolvedRefs Programmed!=Invalid");
        assert_eq!(conditions, expected, "{name}");
    }
    assert_eq!(scene.listener("e"), format!("0 {GOOD}"));
}

#[test]
fn kinds_of_routes_that_are_not_supported_are_named() {
    let kinds = |kinds: &str| {
        let scene = scene(
            &format!(
                "  - {{name: http, port: 80, protocol: HTTP, allowedRoutes: {{namespaces: {{from: All}}, kinds: [{kinds}]}}}}\n"
            ),
            "",
        );
        (scene.listener("http"), scene.rules().len())
    };
    let invalid = "Accepted Conflicted!=NoConflicts ResolvedRefs!=InvalidRouteKinds Programmed";
    assert_eq!(kinds("{kind: HTTPRoute}"), (format!("1 {GOOD}"), 1));
    assert_eq!(
        kinds("{kind: HTTPRoute}, {kind: TCPRoute}"),
        (format!("1 {invalid}"), 1)
    );
    assert_eq!(kinds("{kind: TCPRoute}"), (format!("0 {invalid}"), 0));
}

#[test]
fn a_secured_listener_has_the_certificates_that_its_gateway_may_use() {
    let listener = |references: &str| {
        format!(
            "  - {{name: https, port: 443, protocol: HTTPS, tls: {{certificateRefs: [{references}]}}}}\n"
        )
    };
    let mut scene_of = scene(&listener("{name: own}"), "");
    let names = |scene: &Scene| {
        let compiled = scene.compile();
        let listeners = compiled.listeners.first();
        let tls = listeners.and_then(|listener| listener.tls.clone());
        tls.map(|tls| tls.certificates).unwrap_or_default()
    };
    assert_eq!(names(&scene_of), ["infra/own".into()]);
    assert_eq!(scene_of.compile().certificates, [secret("own")].into());
    let start = "0 Accepted Conflicted!=NoConflicts";
    assert_eq!(
        scene_of.listener("https"),
        format!("{start} ResolvedRefs Programmed!=Pending")
    );
    scene_of.certificates.insert(secret("own"), Ok(()));
    assert_eq!(scene_of.listener("https"), format!("0 {GOOD}"));
    let broken = Err("it has no key".to_owned());
    scene_of.certificates.insert(secret("own"), broken);
    assert_eq!(
        scene_of.listener("https"),
        format!("{start} ResolvedRefs!=InvalidCertificateRef Programmed!=Invalid")
    );

    let foreign = listener("{name: other, namespace: vault}");
    let unresolved = format!("{start} ResolvedRefs!=RefNotPermitted Programmed!=Invalid");
    assert_eq!(scene(&foreign, "").listener("https"), unresolved);
    let grant = |to: &str| {
        format!(
            "kind: ReferenceGrant\nmetadata: {{name: g, namespace: vault}}\nspec: {{from: [{{group: gateway.networking.k8s.io, kind: Gateway, namespace: infra}}], to: [{{group: '', kind: Secret{to}}}]}}\n"
        )
    };
    assert_eq!(names(&scene(&foreign, &grant(""))), ["vault/other".into()]);
    assert_eq!(
        names(&scene(&foreign, &grant(", name: other"))),
        ["vault/other".into()]
    );
    let another = scene(&foreign, &grant(", name: another"));
    assert_eq!(another.listener("https"), unresolved);

    let map = scene(&listener("{kind: ConfigMap, name: own}"), "");
    assert_eq!(
        map.listener("https"),
        format!("{start} ResolvedRefs!=InvalidCertificateRef Programmed!=Invalid")
    );
}

#[test]
fn secured_listeners_that_share_hosts_say_so() {
    let listener = |name: &str, host: &str| {
        format!(
            "  - {{name: {name}, port: 443, protocol: HTTPS, hostname: '{host}', tls: {{certificateRefs: [{{name: x}}]}}}}\n"
        )
    };
    let listeners = listener("a", "foo.example.com")
        + &listener("b", "foo.example.org")
        + &listener("c", "*.example.com");
    let mut scene = scene(&listeners, "");
    scene.certificates.insert(secret("x"), Ok(()));
    for (name, overlaps) in [("a", true), ("b", false), ("c", true)] {
        let says = scene
            .listener(name)
            .contains("OverlappingTLSConfig=OverlappingHostnames");
        assert_eq!(says, overlaps, "{name}");
    }
}

#[test]
fn what_a_gateway_asks_for_that_is_not_supported_is_not_served() {
    let listeners = "  - {name: http, port: 80, protocol: HTTP}\n";
    for (keys, reason) in [
        ("  addresses: [{value: 10.0.0.9}]\n", "UnsupportedAddress"),
        (
            "  infrastructure: {parametersRef: {group: a, kind: B, name: c}}\n",
            "InvalidParameters",
        ),
    ] {
        let scene = scene(&format!("{listeners}{keys}"), "");
        assert_eq!(
            scene.gateway("primary"),
            format!("Accepted!={reason} Programmed!=Invalid")
        );
        assert!(scene.compile().listeners.is_empty(), "{reason}");
    }
    let verified = "  - {name: http, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: x}]}}\n  tls: {frontend: {default: {}}}\n";
    let scene = scene(verified, "");
    assert!(
        scene
            .listener("http")
            .starts_with("0 Accepted!=UnsupportedValue")
    );
}

#[test]
fn a_gateway_of_another_controller_is_left_to_it() {
    let other = "
kind: GatewayClass
metadata: {name: other}
spec: {controllerName: example.com/gateway}
---
kind: Gateway
metadata: {name: theirs, namespace: infra}
spec: {gatewayClassName: other, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
kind: HTTPRoute
metadata: {name: r, namespace: app}
spec: {parentRefs: [{name: theirs, namespace: infra}]}
";
    let scene = Scene::new(other);
    let compiled = scene.compile();
    assert_eq!(compiled.gateway_statuses.len(), 1);
    assert_eq!(compiled.class_statuses.len(), 1);
    assert!(scene.route("r").is_empty());
}

#[test]
fn a_class_with_parameters_is_not_accepted_and_its_gateways_are_not_served() {
    let class = "
kind: GatewayClass
metadata: {name: hermes}
spec: {controllerName: hermes.ai/gateway, parametersRef: {group: a, kind: B, name: c}}
";
    let compiled = Scene::new("")
        .without("GatewayClass", "hermes")
        .and(class)
        .compile();
    let status = &compiled.class_statuses["hermes"];
    assert_eq!(
        conditions(&status.conditions),
        "Accepted!=InvalidParameters"
    );
    assert!(compiled.listeners.is_empty());
}

#[test]
fn a_gateway_without_ports_of_the_proxies_waits_for_them() {
    let pending = "
kind: Gateway
metadata: {name: pending, namespace: infra}
spec: {gatewayClassName: hermes, listeners: [{name: http, port: 80, protocol: HTTP}]}
";
    let scene = Scene::new(pending);
    assert_eq!(scene.gateway("pending"), "Accepted Programmed!=Pending");
    let compiled = scene.compile();
    assert_eq!(compiled.listeners.len(), 1, "the other one's");
    assert_eq!(compiled.gateways.len(), 2);
}

#[test]
fn the_youngest_listeners_are_left_out_when_there_is_no_room() {
    let young = "
kind: Gateway
metadata: {name: another, namespace: infra, creationTimestamp: '2026-02-01T00:00:00Z'}
spec: {gatewayClassName: hermes, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
kind: Gateway
metadata: {name: older, namespace: infra, creationTimestamp: '2026-01-01T00:00:00Z'}
spec: {gatewayClassName: hermes, listeners: [{name: http, port: 80, protocol: HTTP}]}
";
    let mut scene = Scene::new(young).without("Gateway", "primary");
    scene.room = Some(GatewayRoom {
        listeners: 1,
        routes: 1,
        patterns: 1,
        services: 100,
    });
    assert_eq!(scene.gateway("older"), "Accepted Programmed");
    assert_eq!(
        scene.gateway("another"),
        "Accepted!=ListenersNotValid Programmed!=Invalid"
    );
}

#[test]
fn a_gateway_without_a_listener_that_is_served_is_wanted_without_ports() {
    let scene = Scene::new(
        "
kind: Gateway
metadata: {name: secure, namespace: infra}
spec:
  gatewayClassName: hermes
  listeners: [{name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: c, namespace: other}]}}]
",
    );
    let compiled = scene.compile();
    let demand = &compiled.gateways[&NamespacedName::new("infra", "secure")];
    assert!(demand.ports.is_empty(), "{demand:?}");
}

#[test]
fn gateways_of_a_class_that_is_not_accepted_are_refused_and_keep_their_services() {
    let scene = Scene::new(
        "
kind: GatewayClass
metadata: {name: hermes}
spec: {controllerName: hermes.ai/gateway, parametersRef: {group: g, kind: K, name: n}}
",
    );
    assert_eq!(
        scene.gateway("primary"),
        "Accepted!=InvalidParameters Programmed!=Invalid"
    );
    let compiled = scene.compile();
    assert!(compiled.listeners.is_empty());
    let demand = &compiled.gateways[&NamespacedName::new("infra", "primary")];
    assert!(demand.ports.is_empty(), "{demand:?}");
}

#[test]
fn the_youngest_certificates_are_left_out_when_there_is_no_room() {
    let gateway = |name: &str, year: u16, secrets: std::ops::Range<usize>| {
        let listeners = secrets.map(|number| {
            format!(
                "  - {{name: l{number}, port: 443, hostname: h{number}.example, protocol: HTTPS, \
                 tls: {{certificateRefs: [{{name: s{number}}}]}}}}\n"
            )
        });
        format!(
            "
kind: Gateway
metadata: {{name: {name}, namespace: infra, creationTimestamp: '{year}-01-01T00:00:00Z'}}
spec:
  gatewayClassName: hermes
  listeners:
{}",
            listeners.collect::<String>()
        )
    };
    let mut scene = Scene::new(&gateway("aaa", 2026, 300..301))
        .and(&gateway("zzz", 2025, 0..256))
        .without("Gateway", "primary");
    scene.room = Some(GatewayRoom {
        listeners: 1_000,
        routes: 1,
        patterns: 1,
        services: 1,
    });
    let compiled = scene.compile();
    assert_eq!(compiled.certificates.len(), 256);
    assert!(
        !compiled
            .certificates
            .contains(&NamespacedName::new("infra", "s300"))
    );
    assert!(
        scene
            .gateway("aaa")
            .starts_with("Accepted!=ListenersNotValid")
    );
}
