//! The cases of the conformance suite of the Inference Extension, by its objects: what they have to
//! become.

use super::*;

/// What the suite begins with, beside [`BASE`].
const SUITE: &str = "
kind: Gateway
metadata: {name: secondary, namespace: infra}
spec:
  gatewayClassName: hermes
  listeners:
  - name: http
    port: 80
    protocol: HTTP
    hostname: secondary.example.com
    allowedRoutes: {namespaces: {from: All}, kinds: [{kind: HTTPRoute}]}
---
kind: Service
metadata: {name: first-picker, namespace: app}
spec: {ports: [{port: 9002, appProtocol: http2}]}
---
kind: Service
metadata: {name: second-picker, namespace: app}
spec: {ports: [{port: 9002, appProtocol: http2}]}
---
kind: InferencePool
metadata: {name: first, namespace: app}
spec: {endpointPickerRef: {name: first-picker}}
---
kind: InferencePool
metadata: {name: second, namespace: app}
spec: {endpointPickerRef: {name: second-picker, failureMode: FailOpen}}
";

/// A route of the namespace `app` to a Gateway.
fn route(name: &str, gateway: &str, host: &str, rules: &str) -> String {
    let hosts = if host.is_empty() { "" } else { "hostnames: " };
    let host = if host.is_empty() {
        String::new()
    } else {
        format!("[{host}]")
    };
    format!(
        "
kind: HTTPRoute
metadata: {{name: {name}, namespace: app}}
spec:
  parentRefs: [{{name: {gateway}, namespace: infra}}]
  {hosts}{host}
  rules:
{rules}
"
    )
}

/// A rule for a path.
fn rule(path: &str, backends: &str) -> String {
    format!(
        "  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]\n    backendRefs: [{backends}]\n"
    )
}

/// A reference to a pool.
fn to(pool: &str, more: &str) -> String {
    format!("{{group: inference.networking.k8s.io, kind: InferencePool, name: {pool}{more}}}")
}

fn suite(objects: &[String]) -> Scene {
    let scene = Scene::new(SUITE);
    objects.iter().fold(scene, |scene, text| scene.and(text))
}

const GOOD: &str = "primary: Accepted ResolvedRefs";

#[test]
fn the_gateways_are_accepted_programmed_and_have_addresses() {
    let scene = suite(&[]);
    for gateway in ["primary", "secondary"] {
        assert_eq!(scene.gateway(gateway), "Accepted Programmed");
    }
    let compiled = scene.compile();
    let listeners: Vec<_> = (compiled.listeners.iter())
        .map(|one| (&*one.name, one.address.port(), one.routes_only))
        .collect();
    assert_eq!(
        listeners,
        [
            ("infra/primary/http", 20_000, true),
            ("infra/secondary/http", 20_100, true)
        ]
    );
    let class = &compiled.class_statuses["hermes"];
    assert_eq!(conditions(&class.conditions), "Accepted");
}

/// `InferencePoolAccepted`, `GatewayFollowingEPPRouting`, `GatewayFollowingEPPRoutingWithDataParallelism`,
/// `GatewayDestinationEndpointServed`, `InferencePoolAppProtocol`.
#[test]
fn a_pool_that_a_route_names_is_accepted_and_its_picker_is_asked() {
    let scene = suite(&[route(
        "r",
        "primary",
        "primary.example.com",
        &rule("/a", &to("first", "")),
    )]);
    assert_eq!(scene.rules(), ["app/r: /a -> app/first*1"]);
    assert_eq!(scene.route("r"), [GOOD]);
    assert_eq!(
        scene.pool("first"),
        ["infra/primary: Accepted ResolvedRefs"]
    );
    let used = scene.compile().used.pools;
    assert_eq!(used, [NamespacedName::new("app", "first")].into());
}

/// `InferencePoolHTTPRoutePortValidation`.
#[test]
fn the_port_of_a_reference_to_a_pool_is_not_read() {
    for port in ["", ", port: 3000", ", port: 8888"] {
        let rule = rule("/a", &to("first", port));
        let scene = suite(&[route("r", "primary", "", &rule)]);
        assert_eq!(scene.rules(), ["app/r: /a -> app/first*1"], "{port}");
        assert_eq!(scene.route("r"), [GOOD], "{port}");
    }
}

/// `HTTPRouteInvalidInferencePoolRef`.
#[test]
fn a_pool_that_is_absent_is_answered_with_500() {
    let scene = suite(&[route("r", "primary", "", &rule("/a", &to("absent", "")))]);
    assert_eq!(scene.rules(), ["app/r: /a -> 500*1"]);
    assert_eq!(
        scene.route("r"),
        ["primary: Accepted ResolvedRefs!=BackendNotFound"]
    );
}

/// `InferencePoolInvalidEPPService`.
#[test]
fn a_pool_whose_picker_is_absent_is_not_resolved_and_answered_with_500_unless_it_fails_open() {
    let scene = suite(&[route("r", "primary", "", &rule("/a", &to("first", "")))]);
    let scene = scene.without("Service", "first-picker");
    assert_eq!(scene.rules(), ["app/r: /a -> 500*1"]);
    assert_eq!(
        scene.route("r"),
        ["primary: Accepted ResolvedRefs!=BackendNotFound"]
    );
    let unresolved = ["infra/primary: Accepted ResolvedRefs!=InvalidExtensionRef"];
    assert_eq!(scene.pool("first"), unresolved);

    let open = suite(&[route("r", "primary", "", &rule("/a", &to("second", "")))]);
    let open = open.without("Service", "second-picker");
    assert_eq!(open.rules(), ["app/r: /a -> app/second*1"]);
    assert_eq!(open.pool("second"), unresolved);
}

/// `InferencePoolMissingEPPRef`.
#[test]
fn a_pool_without_a_picker_is_served_by_this_router() {
    let pool = "kind: InferencePool\nmetadata: {name: own, namespace: app}\nspec: {}\n".to_owned();
    let scene = suite(&[pool, route("r", "primary", "", &rule("/a", &to("own", "")))]);
    assert_eq!(scene.route("r"), [GOOD]);
    assert_eq!(scene.pool("own"), ["infra/primary: Accepted ResolvedRefs"]);
}

/// `InferencePoolResolvedRefsCondition`.
#[test]
fn a_pool_has_an_entry_for_each_gateway_until_no_route_names_it() {
    let to_first = rule("/a", &to("first", ""));
    let scene = suite(&[
        route("one", "primary", "primary.example.com", &to_first),
        route("two", "secondary", "secondary.example.com", &to_first),
    ]);
    let entry = |gateway: &str| format!("infra/{gateway}: Accepted ResolvedRefs");
    assert_eq!(scene.pool("first"), [entry("primary"), entry("secondary")]);
    let scene = scene.without("HTTPRoute", "one");
    assert_eq!(scene.pool("first"), [entry("secondary")]);
    assert_eq!(scene.rules(), ["app/two: /a -> app/first*1"]);
    let scene = scene.without("HTTPRoute", "two");
    assert!(scene.pool("first").is_empty() && scene.rules().is_empty());
}

/// `HTTPRouteMultipleGatewaysDifferentPools`.
#[test]
fn routes_of_two_gateways_are_attached_to_the_listeners_of_their_own() {
    let scene = suite(&[
        route(
            "one",
            "primary",
            "primary.example.com",
            &rule("/a", &to("first", "")),
        ),
        route(
            "two",
            "secondary",
            "secondary.example.com",
            &rule("/b", &to("second", "")),
        ),
    ]);
    let compiled = scene.compile();
    let attached: Vec<_> = compiled
        .routes
        .iter()
        .map(|route| &*route.listeners[0])
        .collect();
    assert_eq!(attached, ["infra/primary/http", "infra/secondary/http"]);
    assert_eq!(
        scene.rules(),
        ["app/one: /a -> app/first*1", "app/two: /b -> app/second*1"]
    );
}

/// `InferencePoolMultipleRulesDifferentPools`, `GatewayWeightedAcrossTwoInferencePools`,
/// `EppUnAvailableFailOpen`.
#[test]
fn rules_share_requests_between_pools_by_weight() {
    let both = format!(
        "{}, {}",
        to("first", ", weight: 70"),
        to("second", ", weight: 30")
    );
    let rules = rule("/first", &to("first", "")) + &rule("/both", &both);
    let scene = suite(&[route("r", "primary", "", &rules)]);
    assert_eq!(
        scene.rules(),
        [
            "app/r: /first -> app/first*1",
            "app/r: /both -> app/first*70 + app/second*30"
        ]
    );
    assert_eq!(
        scene.pool("second"),
        ["infra/primary: Accepted ResolvedRefs"]
    );
}

#[test]
fn a_picker_that_is_an_external_name_is_not_followed_even_where_failures_open() {
    let rules = rule("/second", &to("second", ""));
    let scene = suite(&[route("r", "primary", "", &rules)])
        .without("Service", "second-picker")
        .and(
            "
kind: Service
metadata: {name: second-picker, namespace: app}
spec: {type: ExternalName, externalName: example.com, ports: [{port: 9002}]}
",
        );
    assert_eq!(scene.rules(), ["app/r: /second -> 500*1"]);
}
