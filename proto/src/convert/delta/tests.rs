//! Scenarios and properties of the messages that carry snapshots.

use hermes_core::{
    collection::Collection,
    inference_pool::{AskedPicker, ModelPriority, Objective, PickerFailure, PickerReference},
    policy::PoolPolicy,
    rewrites::{ModelRewrite, RewriteTarget},
    snapshot::{
        Endpoint, EndpointLocation, EngineRank, ModelHolders, PairingFacts, PendingDiscovery, Pool,
        PoolSpec, Role,
    },
};
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::convert::route::tests::{any_listeners, any_routes};

fn endpoint(number: u64) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        id: EndpointId(number),
        address: format!("http://10.0.0.{number}:8000")
            .parse()
            .expect("an address"),
        name: format!("ai/pod-{number}").into(),
        role: if number.is_multiple_of(7) {
            Role::Both
        } else {
            Role::Decode
        },
        group: number.is_multiple_of(2).then(|| "g".into()),
        pairing: PairingFacts {
            ranks: (!number.is_multiple_of(3)).then(|| ranks(number as u32)),
            location: EndpointLocation {
                node: Some(format!("machine-{number}").into()),
                zone: number.is_multiple_of(5).then(|| "zone-a".into()),
            },
            ..PairingFacts::default()
        },
    })
}

fn ranks(count: u32) -> Arc<[EngineRank]> {
    let rank = |rank| EngineRank {
        rank,
        engine_id: format!("engine-{rank}").into(),
    };
    (0..count).map(rank).collect()
}

fn model((name, (kind, listed)): (String, (u8, Vec<u64>))) -> Arc<Model> {
    let listed = listed.into_iter().map(EndpointId).collect();
    Arc::new(Model {
        name: name.into(),
        parent: (kind == 0).then(|| "base".into()),
        max_model_len: Some(4_096),
        holders: match kind {
            0 => ModelHolders::All,
            1 => ModelHolders::Some(listed),
            _ => ModelHolders::Except(listed),
        },
    })
}

/// A pool with as many objects of each kind.
fn with_objects(name: String, count: u32) -> PoolSpec {
    let numbers = 0..count;
    let picker = |number: u32| PickerReference {
        namespace: "ai".into(),
        service: format!("picker-{number}").into(),
        port: 9_002,
    };
    let rewrite = |number: u32| ModelRewrite {
        model: (number + 1 < count).then(|| format!("model-{number}").into()),
        targets: (0..=number)
            .map(|weight| RewriteTarget {
                model: format!("target-{weight}").into(),
                weight,
            })
            .collect(),
    };
    let objective = |number: u32| Objective {
        name: format!("objective-{number}").into(),
        priority: 1 - number as i32,
    };
    let model_priority = |number: u32| ModelPriority {
        model: format!("model-{number}").into(),
        priority: 1 - number as i32,
    };
    let asked = |number: u32| AskedPicker {
        authority: format!("picker-{number}.ai.svc:9002").into(),
        tls: number > 1,
        on_failure: if number > 2 {
            PickerFailure::Open
        } else {
            PickerFailure::Close
        },
    };
    PoolSpec {
        asked_picker: (count > 0).then(|| asked(count)),
        http2: count > 1,
        pickers: numbers.clone().map(picker).collect(),
        rewrites: numbers.clone().map(rewrite).collect(),
        priorities: numbers.clone().map(model_priority).collect(),
        objectives: numbers.map(objective).collect(),
        ..PoolSpec::new(name, PoolPolicy::default())
    }
}

type PoolContent = (
    PendingDiscovery,
    u32,
    Collection<Model>,
    Collection<Endpoint>,
);

fn any_pool() -> impl Strategy<Value = PoolContent> {
    let listed = proptest::collection::btree_set(0..99u64, 0..8);
    let holders = (0..3u8, listed.prop_map(|ids| ids.into_iter().collect()));
    let models = proptest::collection::btree_map("[x-z]", holders, 0..3);
    let numbers = proptest::collection::btree_set(0..99u64, 0..6);
    let parts = (any::<[bool; 2]>(), 0..4u32, models, numbers);
    parts.prop_map(|([endpoints, models], objects, named, numbers)| {
        let pending = PendingDiscovery { endpoints, models };
        let named = named.into_iter().map(model).collect();
        let endpoints = numbers.into_iter().map(endpoint).collect();
        (pending, objects, named, endpoints)
    })
}

fn any_snapshot(version: u64) -> impl Strategy<Value = Snapshot> {
    let pools = proptest::collection::btree_map("[a-d]", any_pool(), 0..4);
    let ways = (any_routes(), any_listeners());
    (pools, ways, 1..9u32).prop_map(move |(pools, (routes, listeners), max_concurrent)| {
        let pools = pools
            .into_iter()
            .map(|(name, (pending, objects, models, endpoints))| {
                let spec = PoolSpec {
                    pending,
                    ..with_objects(name, objects)
                };
                Arc::new(Pool {
                    spec: Arc::new(spec),
                    models,
                    endpoints,
                })
            });
        Snapshot {
            epoch: Epoch(7),
            version: Version(version),
            pools: pools.collect(),
            routes,
            listeners,
            settings: Arc::new(ProxySettings {
                max_concurrent,
                ..ProxySettings::default()
            }),
        }
    })
}

fn is_in_order(snapshot: &Snapshot) -> bool {
    let in_order = |pool: &Arc<Pool>| {
        let models = pool.models.is_sorted_by(|a, b| a.name < b.name);
        models && pool.endpoints.is_sorted_by(|a, b| a.id < b.id)
    };
    let names = |a: &Arc<Pool>, b: &Arc<Pool>| a.spec.name < b.spec.name;
    snapshot.pools.is_sorted_by(names) && snapshot.pools.iter().all(in_order)
}

proptest! {
    #[test]
    fn a_whole_snapshot_is_the_same_behind_the_wire(snapshot in any_snapshot(1)) {
        let bytes = snapshot_to_wire(&snapshot, "replica-0").encode_to_vec();
        let wire = v1::Snapshot::decode(&*bytes).expect("it was encoded here");
        prop_assert_eq!(Snapshot::try_from(wire), Ok(snapshot));
    }

    #[test]
    fn a_delta_is_the_same_behind_the_wire(old in any_snapshot(1), new in any_snapshot(2)) {
        let delta = SnapshotDelta::between(&old, &new);
        let bytes = v1::Delta::from(&delta).encode_to_vec();
        let wire = v1::Delta::decode(&*bytes).expect("it was encoded here");
        let received = SnapshotDelta::try_from(wire).expect("it was converted here");
        prop_assert_eq!(received.apply(&old), Ok(new));
    }

    #[test]
    fn a_damaged_message_is_refused_or_makes_a_snapshot_in_order(
        old in any_snapshot(1),
        new in any_snapshot(2),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = v1::Delta::from(&SnapshotDelta::between(&old, &new)).encode_to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len() - cut.index(4).min(bytes.len()));
        let delta = v1::Delta::decode(&*bytes).ok().map(SnapshotDelta::try_from);
        if let Some(Ok(made)) = delta.and_then(Result::ok).map(|delta| delta.apply(&old)) {
            prop_assert!(is_in_order(&made));
        }
    }

    #[test]
    fn any_bytes_are_a_message_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let whole = v1::Snapshot::decode(&*bytes).ok().map(Snapshot::try_from);
        prop_assert!(whole.and_then(Result::ok).is_none_or(|snapshot| is_in_order(&snapshot)));
        _ = v1::Delta::decode(&*bytes).ok().map(SnapshotDelta::try_from);
    }
}

/// The message of a snapshot with one pool, changed by `damage`.
fn refused(damage: impl FnOnce(&mut v1::Content)) -> String {
    let pool = Arc::new(Pool {
        spec: Arc::new(with_objects("chat".into(), 3)),
        models: vec![model(("lora".into(), (1, vec![1, 2])))].into(),
        endpoints: [1, 2].into_iter().map(endpoint).collect(),
    });
    let snapshot = Snapshot {
        pools: vec![pool].into(),
        ..Snapshot::default()
    };
    let mut wire = snapshot_to_wire(&snapshot, "replica-0");
    damage(wire.content.as_mut().expect("it has content"));
    Snapshot::try_from(wire)
        .expect_err("it is damaged")
        .to_string()
}

fn first(content: &mut v1::Content) -> &mut v1::Pool {
    &mut content.pools.as_mut().expect("it has pools").set[0]
}

#[test]
fn a_message_that_cannot_be_used_is_refused_by_the_name_of_its_field() {
    let unsorted = "is out of order or there twice; the list must be sorted and its keys unique";
    let twice = refused(|content| {
        let pools = content.pools.as_mut().expect("it has pools");
        pools.set.push(pools.set[0].clone());
    });
    assert_eq!(twice, format!("content.pools.set[1]: {unsorted}"));
    let reversed = refused(|content| {
        first(content)
            .endpoints
            .as_mut()
            .expect("it has some")
            .set
            .reverse();
    });
    assert_eq!(
        reversed,
        format!("content.pools.set[0].endpoints.set[1]: {unsorted}")
    );
    let unset = refused(|content| content.settings = None);
    assert_eq!(unset, "content.settings: is missing");
    let unknown = refused(|content| {
        first(content).models.as_mut().expect("it has one").set[0].change = None;
    });
    assert_eq!(
        unknown,
        "content.pools.set[0].models.set[0].change: is missing, or of a kind that this release does not know"
    );
    let gone = refused(|content| {
        content
            .pools
            .as_mut()
            .expect("it has pools")
            .gone
            .push("other".into());
    });
    assert_eq!(
        gone,
        "content: changes or removes what is not there; a whole snapshot sets everything"
    );
}

#[test]
fn objects_of_a_pool_that_cannot_be_used_are_refused_by_the_name_of_their_field() {
    let refused_spec = |damage: fn(&mut v1::PoolSpec)| {
        let message = refused(|content| {
            damage(first(content).spec.as_mut().expect("a new pool has one"));
        });
        let inside = message.strip_prefix("content.pools.set[0].spec.");
        inside.expect("it is in the specification").to_owned()
    };
    assert_eq!(
        refused_spec(|spec| spec.pickers[1].port = 65_536),
        "pickers[1].port: must be a port, 1 to 65535"
    );
    assert_eq!(
        refused_spec(|spec| spec.asked_picker.as_mut().expect("one").authority = "picker".into()),
        "asked_picker.authority: must be a host and a port"
    );
    assert_eq!(
        refused_spec(|spec| spec.rewrites[0].targets.clear()),
        "rewrites[0].targets: is empty; a rewrite needs a target"
    );
    assert_eq!(
        refused_spec(|spec| spec.rewrites[1].targets[0].model.clear()),
        "rewrites[1].targets[0].model: is empty; a target needs a model"
    );
    assert_eq!(
        refused_spec(|spec| spec.priorities.reverse()),
        "priorities[1]: is out of order or there twice; the list must be sorted and its keys unique"
    );
    assert_eq!(
        refused_spec(|spec| spec.objectives.reverse()),
        "objectives[1]: is out of order or there twice; the list must be sorted and its keys unique"
    );
}

#[test]
fn a_kind_that_this_release_does_not_know_is_skipped() {
    let snapshot = Snapshot {
        epoch: Epoch(7),
        ..Snapshot::default()
    };
    let mut wire = snapshot_to_wire(&snapshot, "replica-0");
    // Field 15 of the content, a message with one string, as a later release may send it.
    let mut content = wire.content.take().expect("it has content").encode_to_vec();
    content.extend([15 << 3 | 2, 3, 1 << 3 | 2, 1, b'r']);
    let mut bytes = wire.encode_to_vec();
    bytes.extend([
        6 << 3 | 2,
        u8::try_from(content.len()).expect("it is short"),
    ]);
    bytes.extend(content);
    let wire = v1::Snapshot::decode(&*bytes).expect("unknown fields are skipped");
    assert_eq!(Snapshot::try_from(wire), Ok(snapshot));
}
