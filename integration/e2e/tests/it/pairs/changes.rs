//! Pools of pairs that change under load: versions, numbers of either side, and groups that lack
//! one.

use futures::future::join_all;

use super::{
    cluster::{Crowd, EnginePod, PairedCluster},
    *,
};

const OLD: &str = "0.31.0";
const NEW: &str = "0.32.0";

/// The versions of both endpoints of each handoff that reached a decode engine.
fn paired_versions(cluster: &PairedCluster) -> Vec<[&'static str; 2]> {
    let decodes = cluster.pods.iter().filter(|pod| pod.role == "decode");
    let partners = |decode: &EnginePod| {
        let version = decode.version;
        let ports = sent(&decode.engine).into_iter().filter_map(|request| {
            let port = &request.json()["kv_transfer_params"]["remote_port"];
            port.as_u64()
        });
        let of = |port: u64| {
            let mut pods = cluster.pods.iter();
            let prefill = pods.find(|pod| pod.side_channel.map(u64::from) == Some(port));
            prefill.expect("a prefill engine").version
        };
        ports.map(|port| [of(port), version]).collect::<Vec<_>>()
    };
    decodes.flat_map(partners).collect()
}

#[tokio::test]
async fn a_rolling_upgrade_of_both_sides_pairs_no_old_engine_with_a_new_one() {
    let mut cluster = PairedCluster::start("vllm-nixl").await;
    for role in ["prefill", "decode", "prefill", "decode"] {
        cluster.add(role, OLD).await;
    }
    let crowd = Crowd::gather(&cluster.url(), 4);
    for role in ["prefill", "decode", "decode", "prefill"] {
        cluster.add(role, NEW).await;
        crowd.goes_on().await;
        cluster.remove(role, OLD).await;
        crowd.goes_on().await;
    }
    let record = crowd.disperse().await;
    assert_eq!(record.failed, []);
    let versions = paired_versions(&cluster);
    assert!(versions.contains(&[OLD, OLD]) && versions.contains(&[NEW, NEW]));
    let mixed = versions
        .iter()
        .filter(|[prefill, decode]| prefill != decode);
    assert_eq!(mixed.count(), 0);
    assert_eq!(cluster.network.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn either_side_is_scaled_under_load_without_a_failed_request() {
    let mut cluster = PairedCluster::start("vllm-nixl").await;
    for role in ["prefill", "decode", "prefill", "decode"] {
        cluster.add(role, NEW).await;
    }
    let crowd = Crowd::gather(&cluster.url(), 8);
    // 2P2D to 4P1D.
    cluster.add("prefill", NEW).await;
    cluster.add("prefill", NEW).await;
    cluster.remove("decode", NEW).await;
    crowd.goes_on().await;
    // To 1P3D.
    for _ in 0..2 {
        cluster.add("decode", NEW).await;
    }
    for _ in 0..3 {
        cluster.remove("prefill", NEW).await;
    }
    crowd.goes_on().await;
    let record = crowd.disperse().await;
    assert_eq!(record.failed, [], "of {} answered", record.answered);
    assert_eq!(cluster.network.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_group_that_leaves_as_a_whole_under_load_fails_no_request() {
    let mut cluster = PairedCluster::start("vllm-nixl").await;
    let mut versions = [OLD, NEW];
    for role in ["prefill", "decode"] {
        cluster.add(role, versions[0]).await;
    }
    let crowd = Crowd::gather(&cluster.url(), 8);
    for _ in 0..4 {
        let [leaving, coming] = versions;
        for role in ["prefill", "decode"] {
            cluster.add(role, coming).await;
        }
        crowd.goes_on().await;
        let sides = ["prefill", "decode"].map(|role| cluster.remove(role, leaving));
        join_all(sides).await;
        versions = [coming, leaving];
    }
    let record = crowd.disperse().await;
    assert_eq!(record.failed, [], "of {} answered", record.answered);
    assert_eq!(cluster.network.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_pool_without_prefill_engines_is_served_by_its_decode_engines_until_there_is_one() {
    let mut cluster = PairedCluster::start("vllm-nixl").await;
    cluster.add("decode", NEW).await;
    text_of(&cluster.url(), &long_chat("alone", true)).await;
    assert!(sent(&cluster.pods[0].engine)[0].json()["kv_transfer_params"].is_null());
    cluster.add("prefill", OLD).await;
    text_of(&cluster.url(), &long_chat("no partner", true)).await;
    assert_eq!(paired_versions(&cluster), [] as [[&str; 2]; 0]);
    cluster.add("prefill", NEW).await;
    text_of(&cluster.url(), &long_chat("a pair", true)).await;
    assert_eq!(paired_versions(&cluster), [[NEW, NEW]]);
}

#[tokio::test]
async fn a_pool_without_decode_engines_answers_at_once_that_it_serves_nothing() {
    let mut cluster = PairedCluster::start("vllm-nixl").await;
    cluster.add("prefill", NEW).await;
    let response = send(ask(&cluster.url(), &long_chat("no decode", true))).await;
    let (status, body) = json_of(response).await;
    assert_eq!(status, 503, "{body}");
    assert_eq!(sent(&cluster.pods[0].engine).len(), 0);
    cluster.add("both", NEW).await;
    text_of(&cluster.url(), &long_chat("aggregated", true)).await;
    assert_eq!(sent(&cluster.pods[1].engine).len(), 1);
}
