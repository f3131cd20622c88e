//! Which port of the proxies each port of each Gateway gets. Pure.
//!
//! What Services have is kept. Another one begins at a port that its name hashes to, and takes the
//! first free one from there, so that replicas which have seen the same Gateways assign the same
//! ports before any of them has written a Service.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use xxhash_rust::xxh3::xxh3_64;

use super::{GatewayName, WantedGateway};

/// A port of a Gateway.
pub type GatewayPort = (GatewayName, u16);

/// The proxies' port for each port of a Gateway.
pub type AssignedPorts = BTreeMap<GatewayPort, u16>;

/// Assigns a port of `range` to each port of `wanted`. `existing` is what Services have: it is kept,
/// unless it is outside of the range, or an older Gateway has the same one. A port of a Gateway that
/// is not wanted is not free while a Service has it. One that the result lacks gets none: all are in
/// use.
#[must_use]
pub fn assign(
    wanted: &BTreeMap<GatewayName, WantedGateway>,
    existing: &AssignedPorts,
    range: &RangeInclusive<u16>,
) -> AssignedPorts {
    let mut by_age: Vec<_> = wanted.iter().collect();
    by_age.sort_by_key(|(name, gateway)| (gateway.created, *name));
    let pairs = by_age
        .into_iter()
        .flat_map(|(name, gateway)| gateway.ports.iter().map(|port| (name.clone(), *port)));

    let (mut assigned, mut taken) = (AssignedPorts::new(), BTreeSet::new());
    let mut others = Vec::new();
    for pair in pairs {
        match existing.get(&pair) {
            Some(port) if range.contains(port) && taken.insert(*port) => {
                assigned.insert(pair, *port);
            }
            _ => others.push(pair),
        }
    }
    taken.extend(existing.values().filter(|port| range.contains(port)));
    for pair in others {
        if let Some(port) = first_free(&pair, range, &taken) {
            taken.insert(port);
            assigned.insert(pair, port);
        }
    }
    assigned
}

/// The first port from the one that the pair hashes to, around the end of the range.
fn first_free(
    (gateway, port): &GatewayPort,
    range: &RangeInclusive<u16>,
    taken: &BTreeSet<u16>,
) -> Option<u16> {
    let ports = range.clone().count();
    let hash = xxh3_64(format!("{gateway}:{port}").as_bytes());
    let start = usize::try_from(hash % u64::try_from(ports).ok()?.max(1)).ok()?;
    let from_start = range.clone().skip(start).chain(range.clone().take(start));
    from_start.into_iter().find(|port| !taken.contains(port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RANGE: RangeInclusive<u16> = 20_000..=20_015;

    fn name(name: &str) -> GatewayName {
        GatewayName {
            namespace: "ai".into(),
            name: name.into(),
        }
    }

    /// Gateways by name, age and ports.
    fn gateways(all: &[(&str, u64, &[u16])]) -> BTreeMap<GatewayName, WantedGateway> {
        let gateway = |(name, created, ports): &(&str, u64, &[u16])| {
            let wanted = WantedGateway {
                created: *created,
                ports: ports.iter().copied().collect(),
                ..WantedGateway::default()
            };
            (self::name(name), wanted)
        };
        all.iter().map(gateway).collect()
    }

    #[test]
    fn of_two_services_with_one_port_the_older_gateway_keeps_it() {
        let wanted = gateways(&[("a", 9, &[80]), ("b", 5, &[80])]);
        let both = [((name("a"), 80), 20_003), ((name("b"), 80), 20_003)];
        let assigned = assign(&wanted, &both.into(), &RANGE);
        assert_eq!(assigned[&(name("b"), 80)], 20_003);
        assert_ne!(assigned[&(name("a"), 80)], 20_003);
    }

    #[test]
    fn a_port_outside_of_the_range_is_replaced() {
        let wanted = gateways(&[("a", 1, &[80])]);
        let assigned = assign(&wanted, &[((name("a"), 80), 8_000)].into(), &RANGE);
        assert!(RANGE.contains(&assigned[&(name("a"), 80)]));
    }

    #[test]
    fn ports_do_not_change_between_releases() {
        let wanted = gateways(&[("a", 1, &[80, 443]), ("b", 2, &[80])]);
        let assigned = assign(&wanted, &AssignedPorts::new(), &(20_000..=20_999));
        let ports: Vec<u16> = assigned.into_values().collect();
        assert_eq!(ports, [20_355, 20_160, 20_973]);
    }

    /// Up to twelve Gateways with up to four ports, of any age, and what Services have of them.
    fn any_gateways() -> impl Strategy<Value = BTreeMap<GatewayName, WantedGateway>> {
        let ports = proptest::collection::btree_set(80_u16..84, 0..4);
        let gateway = (0_u64..4, ports).prop_map(|(created, ports)| WantedGateway {
            created,
            ports,
            ..WantedGateway::default()
        });
        let named = ("[a-f]", gateway).prop_map(|(text, gateway)| (name(&text), gateway));
        proptest::collection::btree_map(
            named.clone().prop_map(|(name, _)| name),
            named.prop_map(|(_, gateway)| gateway),
            0..7,
        )
    }

    fn any_existing() -> impl Strategy<Value = AssignedPorts> {
        let pair = ("[a-h]", 80_u16..86).prop_map(|(text, port)| (name(&text), port));
        proptest::collection::btree_map(pair, 19_995_u16..20_020, 0..12)
    }

    proptest! {
        #[test]
        fn no_two_share_a_port_and_none_is_outside_of_the_range(
            wanted in any_gateways(),
            existing in any_existing(),
        ) {
            let assigned = assign(&wanted, &existing, &RANGE);
            let distinct: BTreeSet<u16> = assigned.values().copied().collect();
            prop_assert_eq!(distinct.len(), assigned.len());
            prop_assert!(distinct.iter().all(|port| RANGE.contains(port)));
            for (gateway, port) in assigned.keys() {
                prop_assert!(wanted[gateway].ports.contains(port));
            }
        }

        #[test]
        fn none_is_left_without_a_port_while_one_is_free(
            wanted in any_gateways(),
            existing in any_existing(),
        ) {
            let assigned = assign(&wanted, &existing, &RANGE);
            let count: usize = wanted.values().map(|gateway| gateway.ports.len()).sum();
            let mut taken: BTreeSet<u16> = assigned.values().copied().collect();
            taken.extend(existing.values().filter(|port| RANGE.contains(port)));
            prop_assert!(assigned.len() == count || taken.len() == RANGE.count());
        }

        #[test]
        fn a_gateway_that_comes_or_goes_moves_no_port_of_another(
            before in any_gateways(),
            after in any_gateways(),
        ) {
            let existing = assign(&before, &AssignedPorts::new(), &RANGE);
            let assigned = assign(&after, &existing, &RANGE);
            for (pair, port) in &existing {
                if after.get(&pair.0).is_some_and(|gateway| gateway.ports.contains(&pair.1)) {
                    prop_assert_eq!(assigned.get(pair), Some(port));
                }
            }
            let again = assign(&after, &assigned, &RANGE);
            let is_kept = |pair: &GatewayPort| again.get(pair) == assigned.get(pair);
            prop_assert!(assigned.keys().all(is_kept));
        }
    }
}
