//! What consecutive views share.

use hermes_core::{
    collection::Collection,
    policy::PoolPolicy,
    snapshot::{Endpoint, Epoch, PendingDiscovery, PoolSpec},
};
use prometheus_client::registry::Registry;

use super::*;

fn snapshot(epoch: u64, ids: &[u64], is_pending: bool) -> Arc<Snapshot> {
    let endpoint = |&id: &u64| {
        Arc::new(Endpoint {
            id: EndpointId(id),
            address: format!("http://10.0.0.{id}:8000")
                .parse()
                .expect("an address"),
            name: "pod".into(),
            role: Default::default(),
            group: None,
        })
    };
    let pool = Pool {
        spec: Arc::new(PoolSpec {
            name: "chat".into(),
            policy: PoolPolicy::default(),
            pending: PendingDiscovery {
                endpoints: is_pending,
                models: is_pending,
            },
        }),
        models: Collection::default(),
        endpoints: ids.iter().map(endpoint).collect(),
    };
    Arc::new(Snapshot {
        epoch: Epoch(epoch),
        pools: vec![Arc::new(pool)].into(),
        ..Snapshot::default()
    })
}

fn next(previous: Option<&RoutingView>, snapshot: Arc<Snapshot>) -> RoutingView {
    let metrics = ProxyMetrics::register(&mut Registry::default());
    RoutingView::build(snapshot, previous, &metrics, NonZeroUsize::MIN)
}

#[test]
fn a_pool_that_another_replica_has_too_is_not_built_again() {
    let first = next(None, snapshot(1, &[1, 2], false));
    let second = next(Some(&first), snapshot(2, &[1, 2], false));
    assert!(Arc::ptr_eq(&first.pools[0], &second.pools[0]));
    let third = next(Some(&second), snapshot(2, &[1, 3], false));
    assert!(!Arc::ptr_eq(&second.pools[0], &third.pools[0]));
    assert!(Arc::ptr_eq(
        &second.pools[0].upstreams[0],
        &third.pools[0].upstreams[0]
    ));
}

#[test]
fn a_pending_pool_is_built_once_for_all_versions_in_which_it_stays_the_same() {
    let first = next(None, snapshot(1, &[1, 2], false));
    let pending = next(Some(&first), snapshot(2, &[2], true));
    assert_eq!(pending.pools[0].upstreams.len(), 2, "one is retained");
    let later = next(Some(&pending), snapshot(2, &[2], true));
    assert!(Arc::ptr_eq(&pending.pools[0], &later.pools[0]));
    let complete = next(Some(&later), snapshot(2, &[2], false));
    assert_eq!(complete.pools[0].upstreams.len(), 1);
}
