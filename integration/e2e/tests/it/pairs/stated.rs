//! Pairs of engines that state their part themselves.

use super::*;
use crate::client::client;

/// The page `/debug/snapshot` of a proxy.
async fn snapshot(proxy: &Plane<data::DataPlane>) -> String {
    let page = client().get(format!("{}/debug/snapshot", proxy.admin_url()));
    send(page).await.text().await.expect("a page")
}

/// Waits until the proxy has the names of this number of ranks.
pub(super) async fn ranks_are_known(proxy: &Plane<data::DataPlane>, ranks: usize) {
    eventually("every prefill engine was asked", || async {
        snapshot(proxy).await.matches("engine_id").count() == ranks
    })
    .await;
}

#[tokio::test]
async fn sglang_states_roles_and_ports_where_the_configuration_names_none() {
    let scene = PairedScene {
        are_roles_stated: true,
        ..PairedScene::sglang(2, 1)
    };
    let fleet = scene.start().await;
    eventually("every engine was asked", || async {
        let page = snapshot(&fleet.proxy).await;
        let roles = ["prefill", "decode", "aggregate"];
        let named = |role: &&str| page.matches(&format!("\"role\":\"{role}\"")).count();
        roles.map(|role| named(&role)) == [2, 1, 0]
    })
    .await;
    texts_are_those_of_one_engine(&fleet).await;
    assert_eq!(fleet.network.violations(), Vec::<String>::new());
    assert_eq!(fleet.pairs("answered").await, 4.0);
}
