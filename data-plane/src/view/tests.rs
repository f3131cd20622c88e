//! What consecutive views share.

use hermes_core::{
    address::ServerAddress,
    collection::Collection,
    policy::PoolPolicy,
    snapshot::{Endpoint, Epoch, ModelHolders, PendingDiscovery, PoolSpec},
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
            pairing: hermes_core::snapshot::PairingFacts::default(),
        })
    };
    let pool = Pool {
        spec: Arc::new(PoolSpec {
            pending: PendingDiscovery {
                endpoints: is_pending,
                models: is_pending,
            },
            ..PoolSpec::new("chat", PoolPolicy::default())
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

#[test]
fn routes_that_did_not_change_are_not_compiled_again() {
    let routed = |epoch, created| {
        let route = hermes_core::route::Route {
            name: "all".into(),
            listeners: Vec::new(),
            hostnames: Vec::new(),
            created,
            rules: Vec::new(),
        };
        Arc::new(Snapshot {
            routes: vec![Arc::new(route)].into(),
            ..Snapshot::clone(&snapshot(epoch, &[1], false))
        })
    };
    let first = next(None, routed(1, 0));
    let second = next(Some(&first), routed(2, 0));
    assert!(Arc::ptr_eq(&first.routes, &second.routes));
    let third = next(Some(&second), routed(2, 1));
    assert!(!Arc::ptr_eq(&second.routes, &third.routes));
}

/// The pool's endpoints with other labels.
fn relabelled(snapshot: &Snapshot) -> Arc<Snapshot> {
    let pool = &snapshot.pools[0];
    let endpoints = pool.endpoints.iter().map(|endpoint| {
        Arc::new(Endpoint {
            name: "renamed".into(),
            group: Some("rack-1".into()),
            pairing: hermes_core::snapshot::PairingFacts::default(),
            ..Endpoint::clone(endpoint)
        })
    });
    let pool = Pool {
        endpoints: endpoints.collect(),
        ..Pool::clone(pool)
    };
    Arc::new(Snapshot {
        pools: vec![Arc::new(pool)].into(),
        ..Snapshot::clone(snapshot)
    })
}

#[test]
fn a_changed_label_keeps_the_counts_of_an_endpoint() {
    let before = snapshot(1, &[1], false);
    let first = next(None, Arc::clone(&before));
    let upstream = &first.pools[0].upstreams[0];
    let in_flight = upstream.enter(100);
    let second = next(Some(&first), relabelled(&before));
    let renamed = &second.pools[0].upstreams[0];
    assert_eq!(&*renamed.endpoint.name, "renamed");
    assert_eq!((renamed.in_flight(), upstream.in_flight()), (1, 1));
    drop(in_flight);
    assert_eq!(renamed.in_flight(), 0);
}

#[tokio::test]
async fn a_removed_endpoint_keeps_no_connection() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = listener.local_addr().expect("bound");
    let before = snapshot(1, &[1], false);
    let pool = Pool::clone(&before.pools[0]);
    let endpoint = Endpoint {
        address: ServerAddress::try_from(address).expect("an address"),
        ..Endpoint::clone(&pool.endpoints[0])
    };
    let pool = Pool {
        endpoints: vec![Arc::new(endpoint)].into(),
        ..pool
    };
    let before = Snapshot {
        pools: vec![Arc::new(pool)].into(),
        ..Snapshot::clone(&before)
    };
    let first = next(None, Arc::new(before));
    let upstream = &first.pools[0].upstreams[0];
    let limit = std::time::Duration::from_secs(10);
    let [one, other] = [upstream.connect(limit).await, upstream.connect(limit).await];
    upstream.checkin(one.expect("it listens"));
    let now = tokio::time::Instant::now();
    assert_eq!(upstream.sweep(now), 1);
    let _second = next(Some(&first), snapshot(1, &[2], false));
    assert_eq!(
        upstream.sweep(now),
        0,
        "a request may still have the first view"
    );
    upstream.checkin(other.expect("it listens"));
    assert_eq!(upstream.sweep(now), 0);
}

#[test]
fn a_model_that_one_endpoint_holds_has_no_peers_to_compare_with() {
    let first = snapshot(1, &[1, 2, 3], false);
    let held = |name: &str, holders| {
        Arc::new(hermes_core::snapshot::Model {
            name: name.into(),
            parent: None,
            max_model_len: None,
            holders,
        })
    };
    let ids = |ids: &[u64]| ids.iter().copied().map(EndpointId).collect();
    let models = [
        held("base", ModelHolders::All),
        held("few", ModelHolders::Some(ids(&[1, 2]))),
        held("most", ModelHolders::Except(ids(&[1]))),
        held("one", ModelHolders::Some(ids(&[3]))),
        held("rest", ModelHolders::Except(ids(&[1, 2]))),
    ];
    let pool = Pool {
        models: models.into_iter().collect(),
        ..Pool::clone(&first.pools[0])
    };
    let view = next(
        None,
        Arc::new(Snapshot {
            pools: vec![Arc::new(pool)].into(),
            ..Snapshot::clone(&first)
        }),
    );
    let alone = |name| view.pools[0].has_one_holder(name);
    for shared in [None, Some("base"), Some("few"), Some("most"), Some("other")] {
        assert!(!alone(shared), "{shared:?}");
    }
    assert!(alone(Some("one")) && alone(Some("rest")));
}

/// A pool's name, its models, and the names that it rewrites; `None` is any.
type PoolRoutes<'a> = (&'a str, &'a [&'a str], &'a [Option<&'a str>]);

fn routes(pools: &[PoolRoutes<'_>]) -> RoutingView {
    let pool = |&(name, models, rewritten): &PoolRoutes<'_>| {
        let model = |name: &&str| {
            Arc::new(hermes_core::snapshot::Model {
                name: (*name).into(),
                parent: None,
                max_model_len: None,
                holders: ModelHolders::All,
            })
        };
        let rewrite = |model: &Option<&str>| hermes_core::rewrites::ModelRewrite {
            model: model.map(Into::into),
            targets: [].into(),
        };
        Arc::new(Pool {
            spec: Arc::new(PoolSpec {
                rewrites: rewritten.iter().map(rewrite).collect(),
                ..PoolSpec::new(name, PoolPolicy::default())
            }),
            models: models.iter().map(model).collect(),
            endpoints: Collection::default(),
        })
    };
    next(
        None,
        Arc::new(Snapshot {
            pools: pools.iter().map(pool).collect(),
            ..Snapshot::default()
        }),
    )
}

#[test]
fn a_request_goes_to_the_first_pool_that_serves_its_model_or_rewrites_it() {
    let view = routes(&[
        ("a", &["llama"], &[Some("chat")]),
        ("b", &["chat", "qwen"], &[Some("code")]),
    ]);
    let pool = |model| view.route(model).ok().map(|pool| &**pool.name());
    assert_eq!(pool(Some("chat")), Some("a"));
    assert_eq!(pool(Some("code")), Some("b"));
    assert_eq!((pool(Some("other")), pool(None)), (None, None));
}

#[test]
fn the_only_pool_that_rewrites_any_model_serves_every_name_that_none_has() {
    let view = routes(&[("a", &["llama"], &[]), ("b", &["qwen"], &[None])]);
    let pool = |model| view.route(model).ok().map(|pool| &**pool.name());
    assert_eq!(pool(Some("llama")), Some("a"));
    assert_eq!((pool(Some("other")), pool(None)), (Some("b"), Some("b")));
    let two = routes(&[("a", &["llama"], &[None]), ("b", &["qwen"], &[None])]);
    assert!(two.route(Some("other")).is_err() && two.route(None).is_err());
}
