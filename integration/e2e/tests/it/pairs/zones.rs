//! Pairs of engines whose pods are in zones.

use super::{cluster::PairedCluster, *};

#[tokio::test]
async fn while_engines_are_idle_pairs_stay_in_their_zone() {
    let mut cluster = PairedCluster::start("vllm-nixl").await;
    for zone in ["zone-a", "zone-b"] {
        cluster.add_in(zone, "prefill", "1").await;
        cluster.add_in(zone, "decode", "1").await;
    }
    for turn in 0..12 {
        let body = long_chat(&format!("turn {turn}"), turn % 2 == 0);
        text_of(&cluster.url(), &body).await;
        eventually("nothing is booked", || async {
            booked_by(&cluster.control).await == 0.0
        })
        .await;
    }
    let pods = cluster.pods.iter();
    let sent: Vec<usize> = pods.map(|pod| sent(&pod.engine).len()).collect();
    assert_eq!(sent.iter().sum::<usize>(), 24);
    assert_eq!((sent[0], sent[2]), (sent[1], sent[3]), "each zone's own");
    assert_eq!(cluster.network.violations(), Vec::<String>::new());
}
