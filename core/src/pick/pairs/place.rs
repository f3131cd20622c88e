//! How far the endpoints of a pool are from each other: where each runs, as numbers.
//!
//! A node is in one zone. What is not known is a place of its own: an endpoint of unknown node or
//! zone is near to none, so that where Kubernetes says nothing all are equally far.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use crate::snapshot::{EndpointLocation, Pool};

/// How far a KV cache has to go; the nearer is the less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Distance {
    /// Inside one node.
    SameNode,
    /// To another node of the zone.
    SameZone,
    /// To another zone, or to a place that is not known.
    #[default]
    Elsewhere,
}

/// Where an endpoint runs. Numbers are unique in a pool, and mean nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) zone: u32,
    pub(crate) node: u32,
}

/// What a zone is called; a node of unknown zone is one.
#[derive(PartialEq, Eq, Hash)]
enum PlaceName<'a> {
    Zone(&'a Arc<str>),
    Node(&'a Arc<str>),
}

/// Numbers for names, in the order in which they come.
struct NameNumbers<K>(HashMap<K, u32>, u32);

impl Distance {
    /// Every distance, the nearest first.
    pub(crate) const ALL: [Self; 3] = [Self::SameNode, Self::SameZone, Self::Elsewhere];

    /// By how many requests the batch of a decode endpoint at this distance may be larger than one
    /// elsewhere, where nothing else distinguishes them.
    pub(crate) const fn handicap(self) -> f32 {
        match self {
            Self::SameNode => 1.0,
            Self::SameZone => 0.5,
            Self::Elsewhere => 0.0,
        }
    }
}

impl Place {
    pub(crate) fn distance(self, other: Self) -> Distance {
        if self.node == other.node {
            Distance::SameNode
        } else if self.zone == other.zone {
            Distance::SameZone
        } else {
            Distance::Elsewhere
        }
    }

    /// Where each endpoint of a pool runs, by position.
    pub(super) fn of(pool: &Pool) -> Vec<Self> {
        let zones = zones(pool);
        let mut zone_numbers = NameNumbers::new();
        let mut node_numbers = NameNumbers::new();
        let mut places = Vec::with_capacity(pool.endpoints.len());
        for endpoint in &pool.endpoints {
            let EndpointLocation { node, zone } = &endpoint.pairing.location;
            let of_node = node.as_ref().and_then(|node| zones.get(node).copied());
            let named = of_node.or(zone.as_ref()).map(PlaceName::Zone);
            let zone = named.or(node.as_ref().map(PlaceName::Node));
            places.push(Self {
                zone: zone_numbers.number(zone),
                node: node_numbers.number(node.as_ref()),
            });
        }
        places
    }
}

/// The zones of nodes: Kubernetes may have copied that of a node to some of its pods only.
fn zones(pool: &Pool) -> HashMap<&Arc<str>, &Arc<str>> {
    let mut zones = HashMap::new();
    for endpoint in &pool.endpoints {
        let EndpointLocation { node, zone } = &endpoint.pairing.location;
        if let (Some(node), Some(zone)) = (node, zone) {
            zones.entry(node).or_insert(zone);
        }
    }
    zones
}

impl<K: Eq + Hash> NameNumbers<K> {
    fn new() -> Self {
        Self(HashMap::new(), 0)
    }

    /// Without a name, one that nothing else has.
    fn number(&mut self, name: Option<K>) -> u32 {
        let Self(known, next) = self;
        let mut new = || {
            *next += 1;
            *next - 1
        };
        match name {
            Some(name) => *known.entry(name).or_insert_with(new),
            None => new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::PairingFacts;

    /// The distances between each two of endpoints with these nodes and zones, in their order.
    fn distances(locations: &[(&str, &str)]) -> Vec<Distance> {
        let named = |name: &str| (!name.is_empty()).then(|| name.into());
        let pool = super::super::tests::placed(locations.iter().map(|(node, zone)| PairingFacts {
            location: EndpointLocation {
                node: named(node),
                zone: named(zone),
            },
            ..PairingFacts::default()
        }));
        let places = Place::of(&pool);
        let pairs = (0..places.len()).flat_map(|one| (0..one).map(move |other| (one, other)));
        pairs
            .map(|(one, other)| places[one].distance(places[other]))
            .collect()
    }

    #[test]
    fn a_node_is_nearer_than_its_zone_and_a_zone_than_the_rest() {
        use Distance::{Elsewhere, SameNode, SameZone};
        let three = [("m1", "a"), ("m1", "a"), ("m2", "a")];
        assert_eq!(distances(&three), [SameNode, SameZone, SameZone]);
        assert_eq!(distances(&[("m1", "a"), ("m2", "b")]), [Elsewhere]);
        assert_eq!(distances(&[("", "a"), ("m2", "a")]), [SameZone]);
        assert!(SameNode < SameZone && SameZone < Elsewhere);
    }

    #[test]
    fn what_is_not_known_is_near_to_nothing() {
        use Distance::{Elsewhere, SameNode, SameZone};
        let unknown = [("", ""), ("", ""), ("m1", "a")];
        assert_eq!(distances(&unknown), [Elsewhere; 3]);
        let without_zones = [("m1", ""), ("m1", ""), ("m2", "")];
        assert_eq!(distances(&without_zones), [SameNode, Elsewhere, Elsewhere]);
        let a_zone_called_like_a_node = [("m1", ""), ("m2", "m1")];
        assert_eq!(distances(&a_zone_called_like_a_node), [Elsewhere]);
        let one_pod_has_no_label_yet = [("m1", "a"), ("m1", ""), ("m2", "a")];
        assert_eq!(
            distances(&one_pod_has_no_label_yet),
            [SameNode, SameZone, SameZone]
        );
    }
}
