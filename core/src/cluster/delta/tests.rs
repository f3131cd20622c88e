//! Scenarios and properties of [`SnapshotDelta`].

use proptest::prelude::*;

use super::*;
use crate::{
    collection::Collection,
    policy::PoolPolicy,
    snapshot::{Model, ModelHolders, Role},
};

fn endpoint(pool: &str, number: u32) -> Arc<Endpoint> {
    let url: Arc<str> = format!("http://10.0.{}.{}:8000", number >> 8, number & 0xff).into();
    let address = url.parse().expect("an address");
    let id = EndpointId::of(pool, &address, "");
    Arc::new(Endpoint {
        id,
        name: url,
        address,
        role: Role::Aggregate,
        group: None,
        pairing: crate::snapshot::PairingFacts::default(),
    })
}

fn pool(name: &str, block_bytes: u32, numbers: impl IntoIterator<Item = u32>) -> Arc<Pool> {
    let policy = PoolPolicy {
        block_bytes,
        ..PoolPolicy::default()
    };
    let endpoints = numbers.into_iter().map(|number| endpoint(name, number));
    Arc::new(Pool {
        spec: Arc::new(PoolSpec::new(name, policy)),
        models: Collection::default(),
        endpoints: endpoints.collect(),
    })
}

/// The pool with this model besides.
fn serving(pool: &Arc<Pool>, name: &str, holders: ModelHolders) -> Arc<Pool> {
    let model = Arc::new(Model {
        name: name.into(),
        parent: None,
        max_model_len: None,
        holders,
    });
    let models = pool.models.iter().cloned().chain([model]);
    Arc::new(Pool {
        models: models.collect(),
        ..Pool::clone(pool)
    })
}

fn ids(numbers: impl IntoIterator<Item = u64>) -> Arc<[EndpointId]> {
    numbers.into_iter().map(EndpointId).collect()
}

fn snapshot(version: u64, pools: Vec<Arc<Pool>>) -> Snapshot {
    Snapshot {
        epoch: Epoch(1),
        version: Version(version),
        pools: pools.into(),
        ..Snapshot::default()
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
    let pools = delta.content.pools.set();
    assert_eq!(pools.len(), 1);
    let PoolDelta {
        name,
        spec,
        models,
        endpoints,
    } = &pools[0];
    assert_eq!(
        (&**name, spec, endpoints.set().len(), endpoints.gone().len()),
        ("chat", &None, 1, 0)
    );
    assert!(models.is_empty());

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
        Err(WrongBase::Missing {
            kind: "pool",
            key: "chat".into()
        })
    );
}

#[test]
fn one_holder_of_thousands_is_one_id_in_the_delta_of_its_model() {
    let chat = pool("chat", 256, 0..3);
    let some = |numbers| ModelHolders::Some(ids(numbers));
    let old = serving(&chat, "sql", some(0..5_000));
    let old = serving(&old, "base", ModelHolders::All);
    let new = serving(&old, "sql", some(1..5_001));
    let (old, new) = (snapshot(1, vec![old]), snapshot(2, vec![new]));

    let delta = SnapshotDelta::between(&old, &new);
    let change = HoldersDelta {
        model: "sql".into(),
        added: vec![EndpointId(5_000)],
        removed: vec![EndpointId(0)],
    };
    let changed = &delta.content.pools.set()[0];
    assert_eq!(changed.models.set(), [ModelDelta::Holders(change)]);
    assert!(changed.endpoints.is_empty() && changed.spec.is_none());
    let made = delta.apply(&old).expect("it was made for this one");
    assert_eq!(made, new);
    assert!(
        Arc::ptr_eq(&made.pools[0].models[0], &old.pools[0].models[0]),
        "the base model"
    );
    assert!(
        made.pools[0]
            .endpoints
            .is_shared_with(&old.pools[0].endpoints)
    );
}

#[test]
fn holders_that_are_not_as_a_delta_expects_are_refused() {
    let sql = |holders| vec![serving(&pool("chat", 256, 0..1), "sql", holders)];
    let old = snapshot(1, sql(ModelHolders::Some(ids(0..10))));
    let new = snapshot(2, sql(ModelHolders::Some(ids(1..11))));
    let delta = SnapshotDelta::between(&old, &new);
    let different = WrongBase::Different {
        kind: "model",
        key: "sql".into(),
    };
    let others = [
        ModelHolders::All,
        ModelHolders::Some(ids(0..11)),
        ModelHolders::Some(ids(1..10)),
    ];
    for other in others {
        assert_eq!(
            delta.apply(&snapshot(1, sql(other))),
            Err(different.clone())
        );
    }
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

fn any_holders() -> impl Strategy<Value = ModelHolders> {
    let listed = proptest::collection::btree_set(0..12u64, 0..8);
    (0..3u8, listed).prop_map(|(kind, listed)| match kind {
        0 => ModelHolders::All,
        1 => ModelHolders::Some(ids(listed)),
        _ => ModelHolders::Except(ids(listed)),
    })
}

fn any_snapshot(version: u64) -> impl Strategy<Value = Snapshot> {
    let numbers = proptest::collection::btree_set(0..12u32, 0..8);
    let models = proptest::collection::btree_map("[x-z]", any_holders(), 0..3);
    let pools = proptest::collection::btree_map("[a-e]", (1..3u32, numbers, models), 0..4);
    let routes = proptest::collection::btree_map("[r-t]", 0..3u64, 0..3);
    let listeners = proptest::collection::btree_map("[l-n]", 1..3u16, 0..3);
    (pools, routes, listeners).prop_map(move |(pools, routes, listeners)| {
        let pools = pools.into_iter().map(|(name, (bytes, numbers, models))| {
            let empty = pool(&name, bytes * 128, numbers);
            models.into_iter().fold(empty, |pool, (name, holders)| {
                serving(&pool, &name, holders)
            })
        });
        Snapshot {
            routes: routes.into_iter().map(route).collect(),
            listeners: listeners.into_iter().map(listener).collect(),
            ..snapshot(version, pools.collect())
        }
    })
}

fn route((name, created): (String, u64)) -> Arc<Route> {
    Arc::new(Route {
        name: name.into(),
        listeners: Vec::new(),
        hostnames: Vec::new(),
        created,
        rules: Vec::new(),
    })
}

fn listener((name, port): (String, u16)) -> Arc<Listener> {
    Arc::new(Listener {
        name: name.into(),
        address: ([127, 0, 0, 1], port).into(),
        hostname: None,
        tls: None,
        routes_only: false,
    })
}

proptest! {
    #[test]
    fn applying_the_difference_makes_the_new_snapshot(old in any_snapshot(1), new in any_snapshot(2)) {
        let delta = SnapshotDelta::between(&old, &new);
        prop_assert_eq!(delta.apply(&old), Ok(new));
    }

    #[test]
    fn a_snapshot_is_the_delta_from_nothing(snapshot in any_snapshot(2)) {
        let nothing = Snapshot { epoch: Epoch(1), version: Version(2), ..Snapshot::default() };
        prop_assert_eq!(ContentDelta::whole(&snapshot).apply(&nothing), Ok(snapshot));
    }

    #[test]
    fn pools_that_did_not_change_are_shared(old in any_snapshot(1), new in any_snapshot(2)) {
        let made = SnapshotDelta::between(&old, &new).apply(&old).expect("it was made for this one");
        for pool in &made.pools {
            let before = old.pool(&pool.spec.name);
            let is_shared = before.is_some_and(|before| Arc::ptr_eq(before, pool));
            prop_assert_eq!(is_shared, before == Some(pool));
        }
    }

    #[test]
    fn routes_and_listeners_in_a_delta_are_those_that_differ(old in any_snapshot(1), new in any_snapshot(2)) {
        let ContentDelta { routes, listeners, .. } = SnapshotDelta::between(&old, &new).content;
        let changed = new.routes.iter().filter(|route| old.routes.find(&*route.name) != Some(route));
        prop_assert_eq!(routes.set().len(), changed.count());
        let gone = old.listeners.iter().filter(|listener| new.listeners.find(&*listener.name).is_none());
        prop_assert_eq!(listeners.gone().len(), gone.count());
    }

    #[test]
    fn endpoints_in_a_delta_are_those_that_differ(old in any_snapshot(1), new in any_snapshot(2)) {
        let ids = |snapshot: &Snapshot| -> std::collections::BTreeSet<EndpointId> {
            snapshot.pools.iter().flat_map(|pool| &pool.endpoints).map(|endpoint| endpoint.id).collect()
        };
        let (before, after) = (ids(&old), ids(&new));
        let delta = SnapshotDelta::between(&old, &new);
        let set: usize = delta.content.pools.set().iter().map(|pool| pool.endpoints.set().len()).sum();
        prop_assert_eq!(set, after.difference(&before).count());
    }
}
