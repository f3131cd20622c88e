//! This router's own door as the picker of another proxy, in plain text and by TLS.

use std::{fs, path::PathBuf};

use hermes_bench::fleet::{self, Plane, instant};
use hermes_control_plane::app::ConfigSource;
use hermes_data_plane::app::{DataPlane, DataPlaneOptions, PickerOptions};
use hermes_engine_sim::{Engine, EngineHandle};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::timeout;

use super::asked;
use crate::{
    client::{chat, client, eventually, json_of, metric, pieces, send},
    recorder::LONG,
    tls::authority::{Authority, Mounted},
};

/// One proxy that asks, and one that is asked, of one control plane.
async fn check(tls: Option<PathBuf>) {
    let engines: Vec<EngineHandle> = vec![
        Engine::start(instant()).await.expect("an engine starts"),
        Engine::start(instant()).await.expect("an engine starts"),
    ];
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("hermes.yaml");
    let yaml = |keys: &str| {
        let urls: Vec<String> = engines
            .iter()
            .map(|engine| format!("'{}'", engine.url()))
            .collect();
        format!(
            "pools:\n- name: chat\n  strategy: kv-aware\n  scoreDeadline: 5s\n  endpoints: [{}]\n{keys}",
            urls.join(", ")
        )
    };
    fs::write(&file, yaml("")).expect("written");
    let control = fleet::control_plane(ConfigSource::File(file.clone()))
        .await
        .expect("starts");
    let options = || DataPlaneOptions::local(vec![control.bound.grpc.to_string()]);
    let is_secured = tls.is_some();
    let options_of_asked = DataPlaneOptions {
        picker: Some(PickerOptions {
            tls,
            ..PickerOptions::plain(([127, 0, 0, 1], 0).into())
        }),
        ..options()
    };
    let answering = fleet::proxy_with(options_of_asked).await.expect("starts");
    let asking = fleet::proxy_with(options()).await.expect("starts");
    for proxy in [&answering, &asking] {
        let ready = timeout(LONG, proxy.bound.readiness.ready()).await;
        ready.expect("the proxy has a snapshot");
    }
    let door = answering.bound.picker.expect("a door");
    let keys = format!("  askPicker: {{address: '{door}', tls: {is_secured}}}\n");
    fs::write(&file, yaml(&keys)).expect("written");
    for proxy in [&answering, &asking] {
        eventually("the proxy has the new file", || has_picker(proxy)).await;
    }

    let answer = send(chat(&asking.url(), false, 3)).await;
    assert_eq!(answer.status(), 200);
    let (read, is_whole) = pieces(send(chat(&asking.url(), true, 30)).await).await;
    assert!(is_whole && read.concat().ends_with("data: [DONE]\n\n"));
    eventually("the door has seen both to their ends", || async {
        let series = "hermes_picker_streams_total{end=\"served\"}";
        metric(&answering.admin_url(), series).await > 1.5
    })
    .await;
    let picked = "hermes_asked_picker_questions_total{pool=\"chat\",result=\"picked\"}";
    assert!(metric(&asking.admin_url(), picked).await > 1.5);
    let own = metric(&answering.admin_url(), picked).await;
    assert!(own < 0.5, "a gateway that asks gets this router's choice");
    let seen: usize = engines.iter().map(|engine| asked(engine).len()).sum();
    assert_eq!(seen, 2);
}

async fn has_picker(proxy: &Plane<DataPlane>) -> bool {
    let request = client().get(format!("{}/debug/snapshot", proxy.admin_url()));
    let (_, page) = json_of(send(request).await).await;
    page["snapshot"]["pools"][0]["spec"]["asked_picker"] != Value::Null
}

#[tokio::test]
async fn the_door_of_another_proxy_is_a_picker_in_plain_text() {
    check(None).await;
}

#[tokio::test]
async fn a_picker_with_any_certificate_is_asked_by_tls() {
    let authority = Authority::new();
    let mounted = Mounted::new(&[&authority], &authority.sign(&["other.example"], 2090));
    check(Some(mounted.path())).await;
}
