//! Objects of the Gateway API Inference Extension as the configuration of a router, from an API
//! server over HTTP to answers of engines.

use std::net::SocketAddr;

use hermes_bench::fleet::{Plane, control_plane_with, instant, proxy};
use hermes_control_plane::{
    app::{ConfigSource, ControlPlane, Options},
    config::Config,
    discovery::client,
};
use hermes_data_plane::app::DataPlane;
use hermes_engine_sim::{Engine, EngineConfig, EngineHandle};
use hermes_testkit::apiserver::{ApiServer, Collection};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::client::{ask, client as http, eventually, json_of, send};

const EARLIER: &str = "inference.networking.x-k8s.io";

/// What the file says in most of these tests.
const OBJECTS: &str = "inferencePools: {namespaces: [ai], policy: {scoreDeadline: 5s}}";

/// An API server, a router that reads objects from it, and the engines of its pods.
struct Router {
    api: ApiServer,
    engines: Vec<EngineHandle>,
    control: Plane<ControlPlane>,
    proxy: Plane<DataPlane>,
}

fn earlier(plural: &str) -> Collection {
    Collection::custom(EARLIER, "v1alpha2", plural)
}

impl Router {
    /// A router with this configuration, for objects that are there already.
    async fn start(api: ApiServer, yaml: &str) -> Self {
        hermes_runtime::crypto::install_default_crypto();
        let url = api.url().parse().expect("an address is a URL");
        let kube = client::connect(kube::Config::new(url)).expect("no credentials are needed");
        let config = Config::parse(yaml).expect("a configuration of this test");
        let options = Options {
            kube: Some(kube),
            ..Options::local(ConfigSource::Value(config))
        };
        let control = control_plane_with(options).await.expect("starts");
        let proxy = proxy(&[control.bound.grpc]).await.expect("starts");
        Self {
            api,
            engines: Vec::new(),
            control,
            proxy,
        }
    }

    /// Starts an engine with this model; returns its port.
    async fn engine(&mut self, model: &str) -> u16 {
        let engine = Engine::start(EngineConfig {
            model: model.to_owned(),
            ..instant()
        })
        .await
        .expect("starts");
        let port = engine.addr().port();
        self.engines.push(engine);
        port
    }

    /// Asks for a chat with a model: the status and the answer.
    async fn ask(&self, model: &str) -> (u16, Value) {
        let body = json!({
            "model": model, "max_tokens": 2,
            "messages": [{"role": "user", "content": "Hi, here's some system prompt"}],
        });
        json_of(send(ask(&self.proxy.url(), &body)).await).await
    }

    async fn await_status(&self, what: &'static str, model: &str, status: u16) {
        eventually(what, || async { self.ask(model).await.0 == status }).await;
    }

    async fn readyz(&self) -> (u16, String) {
        self.control_page("/readyz").await
    }

    /// A page of the control plane's admin port.
    async fn control_page(&self, path: &str) -> (u16, String) {
        let admin: SocketAddr = self.control.bound.admin.expect("an admin port");
        let response = http().get(format!("http://{admin}{path}")).send().await;
        let response = response.expect("answers");
        let status = response.status().as_u16();
        (status, response.text().await.expect("text"))
    }

    /// What the proxy has; nothing before its first snapshot.
    async fn snapshot(&self) -> Value {
        let url = format!("{}/debug/snapshot", self.proxy.admin_url());
        let page = http().get(url).send().await.expect("answers");
        let text = page.text().await.expect("text");
        serde_json::from_str(&text).unwrap_or_default()
    }
}

/// A ready pod of the namespace `ai` on this machine, with the label of the guide.
pub(crate) fn pod(name: &str) -> Pod {
    let pod = json!({
        "metadata": {"name": name, "namespace": "ai", "labels": {"app": "qwen"}},
        "spec": {"containers": [{"name": "custom-serving"}]},
        "status": {
            "phase": "Running",
            "podIP": "127.0.0.1",
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    });
    serde_json::from_value(pod).expect("a pod")
}

/// The pool of the guide to prefix-aware routing, but for the port.
fn guide_pool(port: u16) -> Value {
    json!({
        "apiVersion": "inference.networking.x-k8s.io/v1alpha2",
        "kind": "InferencePool",
        "metadata": {
            "namespace": "ai",
            "annotations": {"inference.networking.x-k8s.io/routing-strategy": "PREFIX_CACHE"},
            "name": "vllm-qwen-pool",
        },
        "spec": {
            "targetPortNumber": port,
            "selector": {"app": "qwen"},
            "extensionRef": {"name": "inference-gateway-ext-proc"},
        },
    })
}

/// The model of the same guide.
fn guide_model() -> Value {
    json!({
        "apiVersion": "inference.networking.x-k8s.io/v1alpha2",
        "kind": "InferenceModel",
        "metadata": {"namespace": "ai", "name": "inferencemodel-qwen"},
        "spec": {
            "modelName": "/model/qwen",
            "criticality": "Critical",
            "poolRef": {
                "group": "inference.networking.x-k8s.io",
                "kind": "InferencePool",
                "name": "vllm-qwen-pool",
            },
            "targetModels": [{"name": "/model/qwen", "weight": 100}],
        },
    })
}

#[tokio::test]
async fn the_objects_of_the_guide_are_a_pool_that_serves_its_model() {
    let api = ApiServer::start().await.expect("starts");
    let mut router = Router::start(api, OBJECTS).await;
    let port = router.engine("/model/qwen").await;
    router.api.apply(&pod("qwen-0"));
    router
        .api
        .apply_value(&earlier("inferencepools"), guide_pool(port));
    router
        .api
        .apply_value(&earlier("inferencemodels"), guide_model());
    router
        .await_status("the model is served", "/model/qwen", 200)
        .await;
    let spec = &router.snapshot().await["snapshot"]["pools"][0]["spec"];
    assert_eq!(spec["name"], "ai/vllm-qwen-pool");
    assert_eq!(spec["pickers"][0]["service"], "inference-gateway-ext-proc");
    assert_eq!(spec["rewrites"][0]["model"], "/model/qwen");
    assert!(spec["policy"]["strategy"]["kv-aware"].is_object(), "{spec}");

    router
        .api
        .delete_value(&earlier("inferencepools"), "ai", "vllm-qwen-pool");
    router
        .await_status("the pool is gone", "/model/qwen", 404)
        .await;
}

#[tokio::test]
async fn a_faulty_version_of_a_pool_leaves_it_and_others_in_use() {
    let api = ApiServer::start().await.expect("starts");
    let mut router = Router::start(api, OBJECTS).await;
    let (port, other) = (router.engine("qwen").await, router.engine("llama").await);
    router.api.apply(&pod("qwen-0"));
    let mut pool = guide_pool(port);
    router
        .api
        .apply_value(&earlier("inferencepools"), pool.clone());
    router
        .await_status("the model is served", "qwen", 200)
        .await;

    pool["spec"]["selector"] = json!({"app": "no label at all"});
    pool["spec"]["targetPortNumber"] = json!(70_000);
    router.api.apply_value(&earlier("inferencepools"), pool);
    let mut second = guide_pool(other);
    second["metadata"]["name"] = json!("llama");
    router.api.apply_value(&earlier("inferencepools"), second);
    router
        .await_status("a pool that came later is served", "llama", 200)
        .await;
    assert_eq!(router.ask("qwen").await.0, 200, "by the last good version");
    let (_, page) = router.control_page("/debug/objects").await;
    assert!(page.contains(r#""state":"refused""#), "{page}");
    assert!(page.contains("spec.selector.app"), "{page}");
}

#[tokio::test]
async fn each_target_port_is_an_endpoint() {
    let api = ApiServer::start().await.expect("starts");
    let mut router = Router::start(api, OBJECTS).await;
    let ports = [router.engine("qwen").await, router.engine("qwen").await];
    router.api.apply(&pod("qwen-0"));
    let stable = Collection::custom("inference.networking.k8s.io", "v1", "inferencepools");
    let pool = json!({
        "metadata": {"namespace": "ai", "name": "ranks"},
        "spec": {
            "selector": {"matchLabels": {"app": "qwen"}},
            "targetPorts": ports.map(|port| json!({"number": port})),
        },
    });
    router.api.apply_value(&stable, pool);
    eventually("both ports are endpoints", || async {
        let page = router.snapshot().await.to_string();
        ports
            .iter()
            .all(|port| page.contains(&format!("ai/qwen-0:{port}")))
    })
    .await;
    assert_eq!(router.ask("qwen").await.0, 200);
}

#[tokio::test]
async fn pools_of_the_file_and_of_objects_are_served_together() {
    let api = ApiServer::start().await.expect("starts");
    let file_engine = Engine::start(instant()).await.expect("starts");
    let yaml = format!(
        "pools: [{{name: file, endpoints: ['http://{}']}}]\n{OBJECTS}",
        file_engine.addr()
    );
    let mut router = Router::start(api, &yaml).await;
    let port = router.engine("qwen").await;
    router.api.apply(&pod("qwen-0"));
    router
        .api
        .apply_value(&earlier("inferencepools"), guide_pool(port));
    router
        .await_status("the pool of the object is served", "qwen", 200)
        .await;
    router.await_status("so is the file's", "sim", 200).await;
}

#[tokio::test]
async fn a_replica_that_cannot_list_objects_says_why_and_publishes_nothing() {
    let api = ApiServer::start().await.expect("starts");
    api.forbid_collection(&earlier("inferencemodels"));
    api.undefine(&Collection::custom(
        "llm-d.ai",
        "v1alpha2",
        "inferenceobjectives",
    ));
    let mut router = Router::start(api, OBJECTS).await;
    let port = router.engine("qwen").await;
    router.api.apply(&pod("qwen-0"));
    router
        .api
        .apply_value(&earlier("inferencepools"), guide_pool(port));
    eventually("it waits for the list", || async {
        let (status, text) = router.readyz().await;
        status == 503 && text.contains("inferencemodels.inference.networking.x-k8s.io")
    })
    .await;
    router.api.permit_all();
    router.await_status("the pool is served", "qwen", 200).await;
    assert_eq!(router.readyz().await, (200, "ready\n".to_owned()));
}

/// The condition `Accepted` of an object, once it has one.
async fn accepted(router: &Router, collection: &Collection, name: &'static str) -> Value {
    let find = || {
        let objects = router.api.objects_in(collection).into_iter();
        let mut named = objects.filter(|object| object["metadata"]["name"] == name);
        let conditions = named.next()?["status"]["conditions"].as_array().cloned();
        let mut conditions = conditions?.into_iter();
        conditions.find(|condition| condition["type"] == "Accepted")
    };
    eventually("the object has a condition", || async { find().is_some() }).await;
    find().expect("it has")
}

#[tokio::test]
async fn conditions_are_written_once_by_equal_replicas() {
    let api = ApiServer::start().await.expect("starts");
    let models = earlier("inferencemodels");
    api.apply_value(&earlier("inferencepools"), guide_pool(8000));
    api.apply_value(&models, guide_model());
    let mut younger = guide_model();
    younger["metadata"] = json!({
        "namespace": "ai", "name": "second", "generation": 3,
        "creationTimestamp": "2027-01-01T00:00:00Z",
    });
    younger["status"] = json!({"conditions": [{"type": "Ready", "status": "Unknown"}]});
    api.apply_value(&models, younger);
    let router = Router::start(api, OBJECTS).await;
    let kube = kube::Config::new(router.api.url().parse().expect("an address is a URL"));
    let second = control_plane_with(Options {
        kube: Some(client::connect(kube).expect("no credentials are needed")),
        ..Options::local(ConfigSource::Value(Config::parse(OBJECTS).expect("valid")))
    })
    .await
    .expect("starts");

    let first = accepted(&router, &models, "inferencemodel-qwen").await;
    assert_eq!(
        (&first["status"], &first["reason"]),
        (&json!("True"), &json!("Accepted"))
    );
    let refused = accepted(&router, &models, "second").await;
    assert_eq!(refused["status"], "False");
    assert_eq!(refused["reason"], "ModelNameInUse");
    assert_eq!(refused["observedGeneration"], 3);
    let objects = router.api.objects_in(&models);
    let conditions = objects[1]["status"]["conditions"]
        .as_array()
        .expect("a list");
    assert_eq!(conditions.len(), 2, "conditions of others stay");

    // Both replicas have read what was written, and the second one had nothing to add.
    let written = router.api.requests().applied_statuses;
    assert!(
        (2..=4).contains(&written),
        "{written} writes for two conditions"
    );
    drop(second);
}

#[tokio::test]
async fn nothing_is_written_into_objects_of_another_picker() {
    let api = ApiServer::start().await.expect("starts");
    let yaml = "inferencePools: {namespaces: [ai], pickers: [hermes]}";
    let mut router = Router::start(api, yaml).await;
    let port = router.engine("llama").await;
    router.api.apply(&pod("qwen-0"));
    router
        .api
        .apply_value(&earlier("inferencepools"), guide_pool(port));
    router
        .api
        .apply_value(&earlier("inferencemodels"), guide_model());
    let mut ours = guide_pool(port);
    ours["metadata"]["name"] = json!("ours");
    ours["spec"]["extensionRef"]["name"] = json!("hermes");
    router.api.apply_value(&earlier("inferencepools"), ours);
    let mut model = guide_model();
    model["metadata"]["name"] = json!("ours");
    model["spec"]["poolRef"]["name"] = json!("ours");
    router.api.apply_value(&earlier("inferencemodels"), model);

    accepted(&router, &earlier("inferencemodels"), "ours").await;
    router
        .await_status("the pool is served", "llama", 200)
        .await;
    let foreign = router.api.objects_in(&earlier("inferencemodels")).remove(0);
    assert_eq!(foreign["metadata"]["name"], "inferencemodel-qwen");
    assert_eq!(foreign["status"], Value::Null);
}
