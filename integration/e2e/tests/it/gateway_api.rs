//! Objects of the Gateway API as listeners and routes, from an API server over HTTP to answers of
//! engines, and their status.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use hermes_bench::fleet::{Plane, control_plane_with, instant, proxy};
use hermes_control_plane::{
    app::{ConfigSource, ControlPlane, Options},
    config::Config,
    discovery::client,
};
use hermes_data_plane::app::DataPlane;
use hermes_engine_sim::{Engine, EngineConfig, EngineHandle};
use hermes_testkit::apiserver::{ApiServer, Collection};
use k8s_openapi::{
    ByteString,
    api::{
        core::v1::{Secret, Service},
        discovery::v1::EndpointSlice,
    },
};
use reqwest::{Certificate, Client};
use serde_json::{Value, json};

use crate::{
    client::{client as http, eventually},
    inference_pools::pod,
    tls::authority::Authority,
};

const GATEWAYS: &str = "gateway.networking.k8s.io";

/// An API server, a router whose Gateways it describes, and the engine of the pod `ai/qwen-0`.
struct Router {
    api: ApiServer,
    engine: EngineHandle,
    /// The proxies' port for the Gateway.
    port: u16,
    _control: Plane<ControlPlane>,
    _proxy: Plane<DataPlane>,
}

fn gateway_kind(plural: &str) -> Collection {
    Collection::custom(GATEWAYS, "v1", plural)
}

fn pools() -> Collection {
    Collection::custom("inference.networking.k8s.io", "v1", "inferencepools")
}

/// What the system gives when it is asked for any port.
fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("bound").port()
}

impl Router {
    /// A router that serves the Gateway `ai/front`, with the pool `ai/chat`.
    async fn start() -> Self {
        hermes_runtime::crypto::install_default_crypto();
        let api = ApiServer::start().await.expect("starts");
        let engine = Engine::start(EngineConfig {
            model: "qwen".to_owned(),
            ..instant()
        });
        let engine = engine.await.expect("starts");
        let url = api.url().parse().expect("an address is a URL");
        let kube = client::connect(kube::Config::new(url)).expect("no credentials are needed");
        let port = free_port();
        let yaml = format!(
            "inferencePools: {{namespaces: [ai], policy: {{scoreDeadline: 5s}}}}
gatewayApi:
  namespaces: [ai]
  service: {{namespace: proxies, type: ClusterIP, selector: {{app: proxy}}, portRange: {port}-{port}}}
"
        );
        let config = Config::parse(&yaml).expect("a configuration of this test");
        let options = Options {
            kube: Some(kube),
            certificates_without_tls: true,
            ..Options::local(ConfigSource::Value(config))
        };
        let control = control_plane_with(options).await.expect("starts");
        let proxy = proxy(&[control.bound.grpc]).await.expect("starts");
        let router = Self {
            api,
            engine,
            port,
            _control: control,
            _proxy: proxy,
        };
        router.apply_base();
        router
    }

    fn apply_base(&self) {
        let class = json!({
            "metadata": {"namespace": "", "name": "hermes", "generation": 1},
            "spec": {"controllerName": "hermes.ai/gateway"},
        });
        self.api.apply_value(&gateway_kind("gatewayclasses"), class);
        self.apply_gateway(&json!({"name": "http", "port": 80, "protocol": "HTTP"}));
        self.api.apply(&pod("qwen-0"));
        let pool = json!({
            "metadata": {"namespace": "ai", "name": "chat", "generation": 2},
            "spec": {
                "selector": {"matchLabels": {"app": "qwen"}},
                "targetPorts": [{"number": self.engine.addr().port()}],
            },
        });
        self.api.apply_value(&pools(), pool);
    }

    /// The Gateway, with this listener.
    fn apply_gateway(&self, listener: &Value) {
        let gateway = json!({
            "metadata": {"namespace": "ai", "name": "front", "generation": 1},
            "spec": {"gatewayClassName": "hermes", "listeners": [listener]},
        });
        self.api.apply_value(&gateway_kind("gateways"), gateway);
    }

    fn apply_route(&self, spec: &Value) {
        let route = json!({
            "metadata": {"namespace": "ai", "name": "r", "generation": 5},
            "spec": spec,
        });
        self.api.apply_value(&gateway_kind("httproutes"), route);
    }

    /// The status of a request to the Gateway; 0 while nothing listens there.
    async fn get(&self, host: &str, path: &str) -> u16 {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let sent = http().get(url).header("host", host).send().await;
        sent.map_or(0, |response| response.status().as_u16())
    }

    async fn await_get(&self, what: &'static str, host: &str, path: &str, status: u16) {
        eventually(what, || async { self.get(host, path).await == status }).await;
    }

    /// The status of an object.
    fn status(&self, collection: &Collection, name: &str) -> Value {
        let mut objects = self.api.objects_in(collection).into_iter();
        let object = objects.find(|object| object["metadata"]["name"] == *name);
        object.map_or(Value::Null, |object| object["status"].clone())
    }

    async fn await_status(
        &self,
        what: &'static str,
        (collection, name): (&Collection, &str),
        is_right: impl Fn(&Value) -> bool,
    ) -> Value {
        eventually(what, || async { is_right(&self.status(collection, name)) }).await;
        self.status(collection, name)
    }
}

/// A route to the pool `chat` below `/a`.
fn to_pool() -> Value {
    json!({
        "parentRefs": [{"name": "front"}],
        "hostnames": ["chat.example.com"],
        "rules": [{
            "matches": [{"path": {"type": "PathPrefix", "value": "/a"}}],
            "filters": [{"type": "URLRewrite", "urlRewrite": {
                "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"},
            }}],
            "backendRefs": [{
                "group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "chat",
            }],
        }],
    })
}

fn is_true(conditions: &Value, form: &str) -> bool {
    let mut conditions = conditions.as_array().into_iter().flatten();
    conditions.any(|one| one["type"] == form && one["status"] == "True")
}

#[tokio::test]
async fn a_route_of_a_gateway_leads_to_a_pool_and_all_of_them_say_so() {
    let router = Router::start().await;
    router.apply_route(&to_pool());
    let host = "chat.example.com";
    let path = "/a/v1/models";
    router
        .await_get("the route is served", host, path, 200)
        .await;
    assert_eq!(router.get("other.example.com", path).await, 404);
    assert_eq!(
        router.get(host, "/v1/models").await,
        404,
        "no rule is for it"
    );

    let class = gateway_kind("gatewayclasses");
    let status = router.await_status("the class", (&class, "hermes"), |status| {
        is_true(&status["conditions"], "Accepted")
    });
    let features = status.await["supportedFeatures"].clone();
    assert!(features.to_string().contains("InferencePool"), "{features}");
    let gateways = gateway_kind("gateways");
    let status = router.await_status("the Gateway", (&gateways, "front"), |status| {
        status["listeners"][0]["attachedRoutes"] == 1
            && is_true(&status["conditions"], "Programmed")
    });
    let status = status.await;
    assert!(is_true(&status["conditions"], "Accepted"), "{status}");
    assert_eq!(status["addresses"][0]["type"], "IPAddress");
    assert_eq!(
        status["listeners"][0]["supportedKinds"][0]["kind"],
        "HTTPRoute"
    );
    let routes = gateway_kind("httproutes");
    let status = router.await_status("the route", (&routes, "r"), |status| {
        is_true(&status["parents"][0]["conditions"], "Accepted")
    });
    let status = status.await;
    assert!(
        is_true(&status["parents"][0]["conditions"], "ResolvedRefs"),
        "{status}"
    );
    assert_eq!(
        status["parents"][0]["conditions"][0]["observedGeneration"],
        5
    );
    assert_eq!(status["parents"][0]["controllerName"], "hermes.ai/gateway");
    let pools = pools();
    let status = router.await_status("the pool", (&pools, "chat"), |status| {
        is_true(&status["parents"][0]["conditions"], "Accepted")
    });
    let status = status.await;
    let parent = json!({
        "group": GATEWAYS, "kind": "Gateway", "namespace": "ai", "name": "front",
    });
    assert_eq!(status["parents"][0]["parentRef"], parent);

    router
        .api
        .delete_value(&gateway_kind("httproutes"), "ai", "r");
    router.await_get("the route is gone", host, path, 404).await;
    let is_empty = |status: &Value| status["parents"] == json!([]);
    router
        .await_status("the pool has no parent", (&pools, "chat"), is_empty)
        .await;
}

#[tokio::test]
async fn entries_of_other_controllers_stay_in_the_status_of_a_route() {
    let router = Router::start().await;
    let routes = gateway_kind("httproutes");
    let theirs = json!({
        "parentRef": {"name": "other", "namespace": "ai"},
        "controllerName": "example.com/gateway",
        "conditions": [],
    });
    router.api.apply_value(
        &routes,
        json!({
            "metadata": {"namespace": "ai", "name": "r", "generation": 5},
            "spec": to_pool(),
            "status": {"parents": [theirs]},
        }),
    );
    let status = router.await_status("this controller's entry", (&routes, "r"), |status| {
        status["parents"]
            .as_array()
            .is_some_and(|list| list.len() == 2)
    });
    assert_eq!(status.await["parents"][0], theirs);
}

#[tokio::test]
async fn a_service_is_a_backend_for_every_path() {
    let router = Router::start().await;
    let service = json!({
        "metadata": {"namespace": "ai", "name": "web"},
        "spec": {"ports": [{"name": "http", "port": 8080}]},
    });
    let service: Service = serde_json::from_value(service).expect("a Service");
    router.api.apply(&service);
    let slice = json!({
        "metadata": {
            "namespace": "ai", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": router.engine.addr().port()}],
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}],
    });
    let slice: EndpointSlice = serde_json::from_value(slice).expect("a slice");
    router.api.apply(&slice);
    router.apply_route(&json!({
        "parentRefs": [{"name": "front"}],
        "rules": [{"backendRefs": [{"name": "web", "port": 8080}]}],
    }));
    router
        .await_get("any path is served", "example.com", "/metrics", 200)
        .await;
    router.api.delete::<Service>("ai", "web");
    router
        .await_get("a backend that is gone", "example.com", "/metrics", 500)
        .await;
}

#[tokio::test]
async fn a_secured_listener_is_programmed_with_its_secret_and_shows_its_certificate() {
    let router = Router::start().await;
    let listener = json!({
        "name": "https", "port": 443, "protocol": "HTTPS",
        "tls": {"certificateRefs": [{"name": "cert"}]},
    });
    router.apply_gateway(&listener);
    router.apply_route(&to_pool());
    let gateways = gateway_kind("gateways");
    let condition = |status: &Value, form: &str| {
        let conditions = status["listeners"][0]["conditions"].as_array().cloned();
        let mut conditions = conditions.unwrap_or_default().into_iter();
        let found = conditions.find(|one| one["type"] == form);
        found.map(|one| (one["status"].clone(), one["reason"].clone()))
    };
    let absent = Some((json!("False"), json!("InvalidCertificateRef")));
    router
        .await_status("the Secret is missed", (&gateways, "front"), |status| {
            condition(status, "ResolvedRefs") == absent
        })
        .await;

    let authority = Authority::new();
    let signed = authority.sign(&["chat.example.com"], 2090);
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let mut secret = Secret {
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(
            [
                ("tls.crt".to_owned(), bytes(&signed.certificate)),
                ("tls.key".to_owned(), bytes(&signed.key)),
            ]
            .into(),
        ),
        ..Secret::default()
    };
    secret.metadata.namespace = Some("ai".to_owned());
    secret.metadata.name = Some("cert".to_owned());
    router.api.apply(&secret);
    let good = Some((json!("True"), json!("Programmed")));
    router
        .await_status(
            "the listener is programmed",
            (&gateways, "front"),
            |status| condition(status, "Programmed") == good,
        )
        .await;
    let root = Certificate::from_pem(authority.pem.as_bytes()).expect("PEM");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, router.port));
    let client = Client::builder().no_proxy().tls_certs_only([root]);
    let client = client.resolve("chat.example.com", address).build();
    let client = client.expect("a client");
    let url = format!("https://chat.example.com:{}/a/v1/models", router.port);
    eventually("a client trusts it", || async {
        let sent = client.get(&url).send().await;
        sent.is_ok_and(|response| response.status().as_u16() == 200)
    })
    .await;
}
