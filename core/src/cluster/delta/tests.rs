//! Scenarios and properties of [`SnapshotDelta`].

use proptest::prelude::*;

use super::*;
use crate::policy::PoolPolicy;

fn endpoint(pool: &str, number: u32) -> Arc<Endpoint> {
    let url: Arc<str> = format!("http://10.0.0.{number}:8000").into();
    let id = EndpointId::of(pool, &url, "");
    Arc::new(Endpoint {
        id,
        name: Arc::clone(&url),
        url,
        role: crate::snapshot::Role::Aggregate,
        group: None,
    })
}

fn pool(name: &str, block_bytes: u32, numbers: impl IntoIterator<Item = u32>) -> Arc<Pool> {
    let policy = PoolPolicy {
        block_bytes,
        ..PoolPolicy::default()
    };
    let mut endpoints: Vec<_> = numbers
        .into_iter()
        .map(|number| endpoint(name, number))
        .collect();
    endpoints.sort_by_key(|endpoint| endpoint.id);
    endpoints.dedup();
    Arc::new(Pool {
        spec: Arc::new(PoolSpec {
            name: name.into(),
            models: Vec::new(),
            policy,
            pending: crate::snapshot::PendingDiscovery::default(),
        }),
        endpoints,
    })
}

fn snapshot(version: u64, pools: Vec<Arc<Pool>>) -> Snapshot {
    Snapshot {
        epoch: Epoch(1),
        version: Version(version),
        pools,
        settings: Arc::default(),
    }
}

#[test]
fn one_new_endpoint_of_a_thousand_is_one_endpoint_in_the_delta() {
    let old = snapshot(1, vec![pool("chat", 256, 0..999), pool("code", 256, 0..10)]);
    let new = snapshot(
        2,
        vec![pool("chat", 256, 0..1_000), pool("code", 256, 0..10)],
    );

    let delta = SnapshotDelta::between(&old, &new);
    assert_eq!(delta.pools.len(), 1);
    let PoolDelta {
        name,
        spec,
        set,
        gone,
    } = &delta.pools[0];
    assert_eq!(
        (&**name, spec, set.len(), gone.len()),
        ("chat", &None, 1, 0)
    );

    let made = delta.apply(&old).expect("it was made for this one");
    assert_eq!(made, new);
    assert!(
        Arc::ptr_eq(&made.pools[1], &old.pools[1]),
        "the other pool is shared"
    );
    assert!(
        Arc::ptr_eq(&made.pools[0].spec, &old.pools[0].spec),
        "so is the specification"
    );
}

#[test]
fn a_delta_refuses_another_version_and_another_epoch() {
    let (old, new) = (snapshot(1, vec![]), snapshot(2, vec![]));
    let delta = SnapshotDelta::between(&old, &new);
    assert!(delta.is_empty());
    let refused = WrongBase::Version {
        epoch: Epoch(1),
        wanted: Version(1),
        found: Version(2),
    };
    assert_eq!(delta.apply(&new), Err(refused));
    let elsewhere = Snapshot {
        epoch: Epoch(2),
        ..old
    };
    assert!(matches!(
        delta.apply(&elsewhere),
        Err(WrongBase::Version { .. })
    ));
}

#[test]
fn a_change_of_a_pool_that_is_not_there_is_refused() {
    let old = snapshot(1, vec![pool("chat", 256, 0..2)]);
    let new = snapshot(2, vec![pool("chat", 256, 0..3)]);
    let delta = SnapshotDelta::between(&old, &new);
    assert_eq!(
        delta.apply(&snapshot(1, vec![])),
        Err(WrongBase::Pool("chat".into()))
    );
}

#[test]
fn changed_settings_travel() {
    let old = snapshot(1, vec![]);
    let settings = ProxySettings {
        max_concurrent: 7,
        ..ProxySettings::default()
    };
    let new = Snapshot {
        settings: Arc::new(settings),
        ..snapshot(2, vec![])
    };
    assert_eq!(SnapshotDelta::between(&old, &new).apply(&old), Ok(new));
}

fn any_snapshot(version: u64) -> impl Strategy<Value = Snapshot> {
    let pools = proptest::collection::btree_map(
        "[a-e]",
        (1..3u32, proptest::collection::btree_set(0..12u32, 0..8)),
        0..4,
    );
    pools.prop_map(move |pools| {
        let pools = pools
            .into_iter()
            .map(|(name, (bytes, numbers))| pool(&name, bytes * 128, numbers))
            .collect();
        snapshot(version, pools)
    })
}

proptest! {
    #[test]
    fn applying_the_difference_makes_the_new_snapshot(old in any_snapshot(1), new in any_snapshot(2)) {
        let delta = SnapshotDelta::between(&old, &new);
        prop_assert_eq!(delta.apply(&old), Ok(new));
    }

    #[test]
    fn endpoints_in_a_delta_are_those_that_differ(old in any_snapshot(1), new in any_snapshot(2)) {
        let ids = |snapshot: &Snapshot| -> std::collections::BTreeSet<EndpointId> {
            snapshot.pools.iter().flat_map(|pool| &pool.endpoints).map(|endpoint| endpoint.id).collect()
        };
        let (before, after) = (ids(&old), ids(&new));
        let delta = SnapshotDelta::between(&old, &new);
        let set: usize = delta.pools.iter().map(|pool| pool.set.len()).sum();
        prop_assert_eq!(set, after.difference(&before).count());
    }
}
