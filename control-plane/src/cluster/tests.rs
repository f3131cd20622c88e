//! Scenarios of [`Cluster`].

use hermes_core::{
    policy::EndpointTrust,
    snapshot::{ModelHolders, PendingDiscovery, Role},
};

use super::*;

mod pairing;

fn config(text: &str) -> Update {
    Update::Config(Arc::new(
        Config::parse(text).expect("a configuration of this test"),
    ))
}

const NOW: Duration = Duration::ZERO;
const STATIC: &str =
    "pools: [{name: chat, endpoints: ['http://10.0.0.1:8000', 'http://10.0.0.2:8000']}]";
const WATCHED: &str = "pools: [{name: chat, kubernetes: {services: {app: vllm}, port: 8000}}]";

fn pod(uid: &str) -> DiscoveredEndpoint {
    DiscoveredEndpoint {
        address: "http://10.0.0.7:8000".parse().expect("an address"),
        uid: uid.into(),
        name: "ai/pod".into(),
        role: None,
        group: None,
        pairing: hermes_core::snapshot::PairingFacts::default(),
        kv_events: None,
    }
}

fn cluster(text: &str) -> Cluster {
    let mut cluster = Cluster::new(Epoch(1));
    cluster.fold(config(text), NOW);
    cluster
}

#[test]
fn nothing_is_published_before_a_configuration() {
    assert_eq!(Cluster::new(Epoch(1)).publish(), None);
}

#[test]
fn static_endpoints_are_there_at_once() {
    let mut cluster = cluster(STATIC);
    let snapshot = cluster.publish().expect("the first snapshot");
    assert_eq!((snapshot.epoch, snapshot.version), (Epoch(1), Version(1)));
    assert_eq!(snapshot.pools[0].endpoints.len(), 2);
    assert!(
        snapshot.pools[0]
            .endpoints
            .is_sorted_by_key(|endpoint| endpoint.id)
    );
    assert_eq!(cluster.unlisted().count(), 0);
    assert_eq!(cluster.targets().len(), 2);
}

#[test]
fn what_no_proxy_can_see_publishes_nothing() {
    let mut cluster = cluster(STATIC);
    cluster.publish().expect("the first snapshot");
    cluster.fold(config(STATIC), NOW);
    assert_eq!(cluster.publish(), None, "the same configuration again");
    let slower = STATIC.replace(
        "name: chat",
        "name: chat, metrics: {interval: 5s, timeout: 1s}",
    );
    let changed = cluster.fold(config(&slower), NOW);
    assert!(changed.targets);
    assert_eq!(cluster.publish(), None, "proxies do not scrape");
    assert_eq!(cluster.targets()[0].interval.as_secs(), 5);
}

#[test]
fn a_pool_that_did_not_change_is_shared_with_the_snapshot_before() {
    let two = |port: u16| {
        format!(
            "pools: [{{name: a, endpoints: ['http://h:1']}}, {{name: b, endpoints: ['http://h:{port}']}}]"
        )
    };
    let mut cluster = cluster(&two(2));
    let before = cluster.publish().expect("the first snapshot");
    cluster.fold(config(&two(3)), NOW);
    let after = cluster.publish().expect("b changed");
    assert!(Arc::ptr_eq(&before.pools[0], &after.pools[0]));
    assert_ne!(before.pools[1], after.pools[1]);
}

#[test]
fn a_restarted_pod_is_another_endpoint() {
    let mut cluster = cluster(WATCHED);
    assert_eq!(cluster.unlisted().count(), 1);
    let source = cluster.sources()[0].source;
    cluster.fold(
        Update::Discovered {
            source,
            found: vec![pod("1")].into(),
        },
        NOW,
    );
    let before = cluster.publish().expect("the pod came");
    assert_eq!(cluster.unlisted().count(), 0);
    assert!(
        !cluster
            .fold(
                Update::Discovered {
                    source,
                    found: vec![pod("1")].into()
                },
                NOW
            )
            .visible,
        "the same again"
    );
    cluster.fold(
        Update::Discovered {
            source,
            found: vec![pod("2")].into(),
        },
        NOW,
    );
    let after = cluster.publish().expect("it restarted");
    assert_ne!(
        before.pools[0].endpoints[0].id,
        after.pools[0].endpoints[0].id
    );
}

#[test]
fn the_last_update_of_a_removed_source_is_ignored() {
    let mut cluster = cluster(WATCHED);
    let removed = cluster.sources()[0].source;
    cluster.fold(config(&WATCHED.replace("vllm", "other")), NOW);
    cluster.publish();
    assert_ne!(cluster.sources()[0].source, removed);
    assert_eq!(
        cluster.fold(
            Update::Discovered {
                source: removed,
                found: vec![pod("1")].into()
            },
            NOW
        ),
        ChangeSet::NOTHING
    );
    assert_eq!(cluster.publish(), None);
}

#[test]
fn a_pool_is_pending_while_what_was_found_is_in_doubt() {
    let mut cluster = cluster(WATCHED);
    let source = cluster.sources()[0].source;
    let mut pending = |is_doubtful| {
        let found = DiscoveredSet {
            endpoints: vec![pod("1")],
            is_doubtful,
        };
        cluster.fold(Update::Discovered { source, found }, NOW);
        assert_eq!(cluster.unlisted().count(), 0, "it has listed");
        let snapshot = cluster.publish().expect("a change");
        snapshot.pools[0].spec.pending.endpoints
    };
    assert!(pending(true));
    assert!(!pending(false));
}

#[test]
fn a_source_that_stays_keeps_its_endpoints_through_a_reload() {
    let mut cluster = cluster(WATCHED);
    let source = cluster.sources()[0].source;
    cluster.fold(
        Update::Discovered {
            source,
            found: vec![pod("1")].into(),
        },
        NOW,
    );
    cluster.fold(
        config(&WATCHED.replace("name: chat", "name: chat, strategy: random")),
        NOW,
    );
    let snapshot = cluster.publish().expect("the strategy changed");
    assert_eq!(cluster.sources()[0].source, source);
    assert_eq!(snapshot.pools[0].endpoints.len(), 1);
}

#[test]
fn a_pool_whose_source_changes_keeps_its_endpoints_until_the_new_source_has_listed() {
    let mut cluster = cluster(WATCHED);
    let source = cluster.sources()[0].source;
    cluster.fold(
        Update::Discovered {
            source,
            found: vec![pod("1")].into(),
        },
        NOW,
    );
    cluster.publish();
    let pods = WATCHED.replace("services", "pods");
    cluster.fold(config(&pods), NOW);
    cluster.fold(
        config(&pods.replace("name: chat", "name: chat, strategy: random")),
        NOW,
    );
    assert_eq!(
        cluster.publish().expect("the strategy changed").pools[0]
            .endpoints
            .len(),
        1,
        "no source has listed yet"
    );
    assert_eq!(
        cluster.sources()[0].in_use,
        [pod("1")],
        "the new source continues with it"
    );

    let source = cluster.sources()[0].source;
    assert!(
        !cluster
            .fold(
                Update::Discovered {
                    source,
                    found: vec![pod("1")].into()
                },
                NOW
            )
            .visible,
        "it is the same pod"
    );
    cluster.fold(config(WATCHED), NOW);
    let source = cluster.sources()[0].source;
    cluster.fold(
        Update::Discovered {
            source,
            found: vec![].into(),
        },
        NOW,
    );
    assert!(
        cluster.publish().expect("it is not there").pools[0]
            .endpoints
            .is_empty()
    );
}

#[test]
fn one_server_that_two_sources_found_is_one_endpoint() {
    let both = WATCHED.replace(
        "name: chat",
        "name: chat, endpoints: ['http://10.0.0.7:8000']",
    );
    let mut cluster = cluster(&both);
    let source = cluster.sources()[0].source;
    cluster.fold(
        Update::Discovered {
            source,
            found: vec![pod("1")].into(),
        },
        NOW,
    );
    assert_eq!(
        cluster.publish().expect("a snapshot").pools[0]
            .endpoints
            .len(),
        1
    );
}

#[test]
fn models_are_learned_and_an_adapter_is_known_by_its_holders() {
    let mut cluster = cluster(STATIC);
    let first = cluster.publish().expect("a snapshot");
    let card = |name: &str, parent: Option<&str>| ModelCard {
        name: name.into(),
        parent: parent.map(Into::into),
        max_model_len: None,
    };
    let (one, two) = (
        first.pools[0].endpoints[0].id,
        first.pools[0].endpoints[1].id,
    );
    let lists = [
        (one, vec![card("base", None), card("lora", Some("base"))]),
        (two, vec![card("base", None)]),
    ];
    for (endpoint, models) in lists {
        assert!(
            cluster
                .fold(
                    Update::Models {
                        endpoint,
                        models: models.clone()
                    },
                    NOW
                )
                .visible
        );
        assert_eq!(
            cluster.fold(Update::Models { endpoint, models }, NOW),
            ChangeSet::NOTHING,
            "the same again"
        );
    }
    let pool = Arc::clone(&cluster.publish().expect("the models").pools[0]);
    assert_eq!(
        pool.model("base").expect("the base model").holders,
        ModelHolders::All
    );
    assert_eq!(
        pool.model("lora").expect("the adapter").holders,
        ModelHolders::Some([one].into())
    );
}

#[test]
fn a_removed_pool_is_gone_with_its_endpoints() {
    let mut cluster = cluster(STATIC);
    let endpoint = cluster.publish().expect("a snapshot").pools[0].endpoints[0].id;
    cluster.fold(
        config("pools: [{name: other, endpoints: ['http://h:1']}]"),
        NOW,
    );
    let snapshot = cluster.publish().expect("another pool");
    assert!(snapshot.pool("chat").is_none());
    assert_eq!(
        cluster.fold(
            Update::Models {
                endpoint,
                models: Vec::new()
            },
            NOW
        ),
        ChangeSet::NOTHING
    );
}

#[test]
fn a_pool_is_pending_until_every_source_has_listed_and_every_endpoint_was_asked_for_models() {
    let mut cluster = cluster(WATCHED);
    let pending = |cluster: &mut Cluster| {
        let snapshot = cluster.publish().expect("it changed");
        let PendingDiscovery { endpoints, models } = snapshot.pools[0].spec.pending;
        (endpoints, models)
    };
    assert_eq!(pending(&mut cluster), (true, true));
    let source = cluster.sources()[0].source;
    let other = DiscoveredEndpoint {
        address: "http://10.0.0.8:8000".parse().expect("an address"),
        ..pod("2")
    };
    let found = vec![pod("1"), other].into();
    cluster.fold(Update::Discovered { source, found }, NOW);
    assert_eq!(pending(&mut cluster), (false, true));
    let ids: Vec<EndpointId> = cluster.targets().iter().map(|target| target.id).collect();
    let models = vec![ModelCard {
        name: "base".into(),
        parent: None,
        max_model_len: None,
    }];
    cluster.fold(
        Update::Models {
            endpoint: ids[0],
            models,
        },
        NOW,
    );
    assert_eq!(
        pending(&mut cluster),
        (false, true),
        "one was not asked yet"
    );
    for _ in 0..3 {
        cluster.fold(Update::Probed { endpoint: ids[1] }, NOW);
    }
    assert_eq!(pending(&mut cluster), (false, false));
}

#[test]
fn a_rotation_of_authorities_concerns_endpoints_with_tls_only() {
    // The configuration with the content of its file, which is read elsewhere.
    let rotated = |authorities: &str| {
        let text = "pools: [{name: chat, endpoints: ['http://10.0.0.1:8000', \
             'https://10.0.0.2:8000'], tls: {caFile: ca.crt}, kvEvents: {}}]";
        let mut config = Config::parse(text).expect("a configuration of this test");
        config.pools[0].policy.trust = EndpointTrust::Authorities(authorities.into());
        Update::Config(Arc::new(config))
    };
    let trusts = |cluster: &Cluster| {
        let followed = cluster.publishers().flat_map(|(_, publishers)| publishers);
        let followed = followed.map(|publisher| (publisher.address, publisher.trust));
        let probed = cluster.targets().into_iter();
        let probed = probed.map(|target| (target.address, target.trust));
        followed.chain(probed).collect::<Vec<_>>()
    };
    let mut cluster = Cluster::new(Epoch(1));
    for authorities in ["old", "new"] {
        cluster.fold(rotated(authorities), NOW);
        let trusts = trusts(&cluster);
        assert_eq!(trusts.len(), 4, "two endpoints are followed and probed");
        for (address, trust) in trusts {
            let expected = if address.is_secured() {
                EndpointTrust::Authorities(authorities.into())
            } else {
                EndpointTrust::System
            };
            assert_eq!(trust, expected, "{address}");
        }
    }
}

#[test]
fn models_of_an_endpoint_that_left_are_kept_for_a_minute() {
    let mut cluster = cluster(WATCHED);
    let source = cluster.sources()[0].source;
    let found = |endpoints: Vec<_>| Update::Discovered {
        source,
        found: endpoints.into(),
    };
    cluster.fold(found(vec![pod("1")]), NOW);
    let endpoint = cluster.targets()[0].id;
    let models = vec![ModelCard {
        name: "base".into(),
        parent: None,
        max_model_len: None,
    }];
    cluster.fold(Update::Models { endpoint, models }, NOW);
    let mut returns_after = |left: u64, seconds: u64| {
        let left = Duration::from_secs(left);
        cluster.fold(found(Vec::new()), left);
        cluster.fold(found(vec![pod("1")]), left + Duration::from_secs(seconds));
        cluster.publish();
        cluster.newest().pools[0].models.len()
    };
    assert_eq!(returns_after(0, 59), 1);
    assert_eq!(returns_after(100, 60), 0);
}
