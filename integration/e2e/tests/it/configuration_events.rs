//! Where a rejected configuration is reported: the metric, `/readyz`, and a Kubernetes Event.

use std::{fs, path::Path};

use hermes_bench::fleet::{Plane, control_plane_with};
use hermes_control_plane::{
    app::{ConfigSource, ControlPlane, Options},
    discovery::client,
    events::Pod,
};
use hermes_testkit::apiserver::ApiServer;
use k8s_openapi::api::events::v1::Event;
use serde_json::Value;
use tempfile::TempDir;

use crate::client::{client as http, eventually, metric};

const GOOD: &str = "pools: [{name: chat, endpoints: ['http://127.0.0.1:1']}]";
const OTHER: &str = "pools: [{name: other, endpoints: ['http://127.0.0.1:1']}]";
const BAD: &str = "pools: [{name: CHAT}]";

fn options(api: &ApiServer, file: &Path) -> Options {
    hermes_runtime::crypto::install_default_crypto();
    let url = api.url().parse().expect("an address is a URL");
    let kube = client::connect(kube::Config::new(url)).expect("plain HTTP needs no credentials");
    let pod = Pod {
        name: "router-0".to_owned(),
        namespace: "ai".to_owned(),
        uid: Some("uid-of-the-pod".to_owned()),
    };
    Options {
        kube: Some(kube),
        pod: Some(pod),
        ..Options::local(ConfigSource::File(file.to_owned()))
    }
}

fn reasons(api: &ApiServer) -> Vec<String> {
    api.objects::<Event>()
        .iter()
        .map(|event| event["reason"].as_str().unwrap_or_default().to_owned())
        .collect()
}

async fn await_events(api: &ApiServer, reason: &'static str, times: usize) {
    eventually(reason, || async {
        reasons(api).iter().filter(|event| *event == reason).count() == times
    })
    .await;
}

async fn readyz(plane: &Plane<ControlPlane>) -> (u16, String) {
    let url = format!(
        "http://{}/readyz",
        plane.bound.admin.expect("an admin port")
    );
    let response = http().get(url).send().await.expect("answers");
    (
        response.status().as_u16(),
        response.text().await.expect("text"),
    )
}

#[tokio::test]
async fn a_rejected_configuration_is_reported_by_an_event_and_by_readyz_until_it_is_corrected() {
    let (api, folder) = (
        ApiServer::start().await.expect("starts"),
        TempDir::new().expect("a folder"),
    );
    let file = folder.path().join("config.yaml");
    fs::write(&file, GOOD).expect("written");
    let plane = control_plane_with(options(&api, &file))
        .await
        .expect("starts");
    eventually("it is ready", || async {
        readyz(&plane).await == (200, "ready\n".to_owned())
    })
    .await;

    fs::write(&file, BAD).expect("written");
    await_events(&api, "ConfigurationRejected", 1).await;
    let event: Value = api.objects::<Event>().remove(0);
    assert_eq!(
        (&event["type"], &event["regarding"]["kind"]),
        (&"Warning".into(), &"Pod".into())
    );
    assert_eq!(event["regarding"]["name"], "router-0");
    assert_eq!(event["regarding"]["uid"], "uid-of-the-pod");
    assert_eq!(event["metadata"]["namespace"], "ai");
    let note = event["note"].as_str().expect("a note");
    assert!(note.contains("pools[0].name"), "{note}");
    let (status, text) = readyz(&plane).await;
    assert_eq!(status, 200, "the last good version serves");
    assert!(
        text.starts_with("ready\nconfiguration: refused") && text.contains("pools[0].name"),
        "{text}"
    );
    let admin = format!("http://{}", plane.bound.admin.expect("an admin port"));
    assert_eq!(
        metric(&admin, "hermes_control_plane_config_last_reload_successful").await,
        0.0
    );

    fs::write(&file, OTHER).expect("written");
    await_events(&api, "ConfigurationAccepted", 1).await;
    assert_eq!(readyz(&plane).await, (200, "ready\n".to_owned()));

    fs::write(&file, BAD).expect("written");
    await_events(&api, "ConfigurationRejected", 2).await;
}

#[tokio::test]
async fn an_api_server_that_rejects_events_does_not_delay_reloads() {
    let (api, folder) = (
        ApiServer::start().await.expect("starts"),
        TempDir::new().expect("a folder"),
    );
    api.forbid::<Event>();
    let file = folder.path().join("config.yaml");
    fs::write(&file, GOOD).expect("written");
    let plane = control_plane_with(options(&api, &file))
        .await
        .expect("starts");
    fs::write(&file, BAD).expect("written");
    eventually("it is refused", || async {
        readyz(&plane).await.1.contains("refused")
    })
    .await;
    fs::write(&file, OTHER).expect("written");
    eventually("the next is accepted", || async {
        !readyz(&plane).await.1.contains("refused")
    })
    .await;
    api.permit_all();
    await_events(&api, "ConfigurationAccepted", 1).await;
    assert_eq!(
        reasons(&api),
        ["ConfigurationAccepted"],
        "a superseded rejection is not reported"
    );
}

#[tokio::test]
async fn a_rejection_at_startup_is_reported_before_the_process_exits() {
    let (api, folder) = (
        ApiServer::start().await.expect("starts"),
        TempDir::new().expect("a folder"),
    );
    let file = folder.path().join("config.yaml");
    fs::write(&file, BAD).expect("written");
    let error = control_plane_with(options(&api, &file))
        .await
        .expect_err("refused")
        .to_string();
    assert!(error.contains("pools[0].name"), "{error}");
    assert_eq!(reasons(&api), ["ConfigurationRejected"]);
}
