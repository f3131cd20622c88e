//! Any sequence of ticks, against rows that are compared one by one.

use std::collections::BTreeMap;

use hermes_core::snapshot::{EndpointId, PoolSpec, Role};
use proptest::prelude::*;

use super::*;

/// A pool of these endpoints.
fn pool(ids: &[u64]) -> Arc<Pool> {
    let endpoint = |&id: &u64| {
        Arc::new(Endpoint {
            id: EndpointId(id),
            address: format!("http://server-{id}").parse().expect("a name"),
            name: format!("server-{id}").into(),
            role: Role::Aggregate,
            group: None,
            pairing: hermes_core::snapshot::PairingFacts::default(),
        })
    };
    Arc::new(Pool {
        spec: Arc::new(PoolSpec::new(
            "chat",
            hermes_core::policy::PoolPolicy::default(),
        )),
        models: hermes_core::collection::Collection::default(),
        endpoints: ids.iter().map(endpoint).collect(),
    })
}

fn load(in_flight: u32) -> Load {
    Load {
        in_flight,
        ..Load::default()
    }
}

proptest! {
    /// A subscriber that asks now and then has the same rows as the pool, if it skips those of
    /// endpoints that it does not have.
    #[test]
    fn rows_since_any_tick_bring_a_subscriber_to_the_newest(
        steps in proptest::collection::vec(
            (proptest::collection::btree_map(0u64..6, 0u32..3, 1..6), any::<bool>()),
            1..40,
        ),
    ) {
        let (mut shared, mut received) = (SharedLoadRows::default(), BTreeMap::new());
        let (mut tick, mut known) = (LoadTick::default(), pool(&[]));
        for (second, (loads, asks)) in steps.into_iter().enumerate() {
            let ids: Vec<u64> = loads.keys().copied().collect();
            if known.endpoints.iter().map(|endpoint| endpoint.id.0).ne(ids.iter().copied()) {
                known = pool(&ids);
            }
            shared.refresh(&known, Duration::from_secs(second as u64), |copied| {
                copied.extend(loads.values().map(|&in_flight| load(in_flight)));
                Arc::clone(&known)
            });
            prop_assert!(shared.is_of(&known));
            received.retain(|endpoint, _| loads.contains_key(endpoint));
            if !asks {
                continue;
            }
            let update = v1::LoadUpdate::decode(shared.since(tick)).expect("an update");
            tick = shared.tick();
            received.extend(update.loads.iter().map(|row| (row.endpoint, row.in_flight)));
            prop_assert_eq!(&received, &loads);
            prop_assert!(shared.since(tick).is_empty());
        }
    }
}
