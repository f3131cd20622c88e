//! What engines state of their part in pairs, in snapshots.

use hermes_core::snapshot::{Endpoint, EngineRank};

use super::*;
use crate::engines::PairingQuestion;

const SGLANG: &str = "pools: [{name: chat, endpoints: ['http://10.0.0.1:8000', 'http://10.0.0.2:8000'], disaggregation: {dialect: sglang}}]";

const MOONCAKE: &str = "pools: [{name: chat, disaggregation: {dialect: vllm-mooncake, \
     prefill: ['http://10.0.0.1:8000'], decode: ['http://10.0.0.2:8000']}}]";

fn role(role: Role) -> PairingStatement {
    PairingStatement {
        role: Some(role),
        ..PairingStatement::default()
    }
}

fn state(cluster: &mut Cluster, endpoint: EndpointId, stated: PairingStatement) -> ChangeSet {
    cluster.fold(Update::Stated { endpoint, stated }, NOW)
}

/// The published endpoints.
fn published(cluster: &mut Cluster) -> Vec<Endpoint> {
    cluster.publish();
    let pool = &cluster.newest().pools[0];
    pool.endpoints
        .iter()
        .map(|endpoint| (**endpoint).clone())
        .collect()
}

#[test]
fn an_endpoint_without_a_named_role_is_published_with_the_one_that_its_engine_states() {
    let mut cluster = cluster(SGLANG);
    assert_eq!(published(&mut cluster), [], "no role is known");
    let pending = cluster.newest().pools[0].spec.pending;
    assert!(pending.endpoints, "proxies keep what they have");
    let targets = cluster.targets();
    let [one, two] = &targets[..] else {
        panic!("both are asked");
    };
    assert_eq!(one.pairing, Some(PairingQuestion::Sglang));
    let port = std::num::NonZeroU16::new(8_997);
    let prefill = PairingStatement {
        bootstrap_port: port,
        ..role(Role::Prefill)
    };
    assert!(state(&mut cluster, one.id, prefill.clone()).visible);
    state(&mut cluster, two.id, role(Role::Decode));
    let mut found: Vec<_> = published(&mut cluster);
    found.sort_by_key(|endpoint| endpoint.id != one.id);
    assert_eq!(
        (found[0].role, found[0].pairing.bootstrap_port),
        (Role::Prefill, port)
    );
    assert_eq!(found[1].role, Role::Decode);
    assert!(!cluster.newest().pools[0].spec.pending.endpoints);
    assert_eq!(
        state(&mut cluster, one.id, prefill),
        ChangeSet::NOTHING,
        "the same again"
    );
}

#[test]
fn an_engine_that_states_no_role_or_cannot_be_asked_serves_whole_requests() {
    let mut cluster = cluster(SGLANG);
    let (one, two) = (cluster.targets()[0].id, cluster.targets()[1].id);
    state(&mut cluster, one, PairingStatement::default());
    let found = published(&mut cluster);
    assert_eq!((found.len(), found[0].role), (1, Role::Aggregate));
    for _ in 0..3 {
        assert_eq!(published(&mut cluster).len(), 1);
        cluster.fold(Update::Probed { endpoint: two }, NOW);
    }
    assert_eq!(published(&mut cluster).len(), 2);
    state(&mut cluster, two, role(Role::Decode));
    let roles: Vec<_> = published(&mut cluster)
        .iter()
        .map(|found| found.role)
        .collect();
    assert!(roles.contains(&Role::Decode), "it could be asked later");
}

#[test]
fn a_named_role_and_port_take_precedence_over_what_the_engine_states() {
    let text = WATCHED.replace("}]", ", disaggregation: {dialect: sglang}}]");
    let mut cluster = cluster(&text);
    let source = cluster.sources()[0].source;
    let mut named = pod("1");
    named.role = Some(Role::Decode);
    named.pairing.bootstrap_port = std::num::NonZeroU16::new(7);
    let found = vec![named].into();
    cluster.fold(Update::Discovered { source, found }, NOW);
    let target = cluster.targets().remove(0);
    assert_eq!(target.pairing, None, "nothing is to be asked");
    let other = PairingStatement {
        bootstrap_port: std::num::NonZeroU16::new(8),
        ..role(Role::Prefill)
    };
    state(&mut cluster, target.id, other);
    let found = published(&mut cluster);
    let port = found[0].pairing.bootstrap_port.map(std::num::NonZero::get);
    assert_eq!((found[0].role, port), (Role::Decode, Some(7)));
}

#[test]
fn the_names_of_ranks_come_and_go_with_their_engine() {
    let mut cluster = cluster(MOONCAKE);
    let asked = cluster.targets().into_iter();
    let asked: Vec<_> = asked.filter(|target| target.pairing.is_some()).collect();
    let [prefill] = &asked[..] else {
        panic!("only prefill endpoints have a bootstrap server");
    };
    let ranks = |cluster: &mut Cluster| {
        let found = published(cluster);
        let prefill = found.into_iter().find(|found| found.role == Role::Prefill);
        prefill.expect("it is published").pairing.ranks
    };
    assert_eq!(ranks(&mut cluster), None);
    let named = |engine_id: &str| PairingStatement {
        ranks: Some(
            [EngineRank {
                rank: 0,
                engine_id: engine_id.into(),
            }]
            .into(),
        ),
        ..PairingStatement::default()
    };
    for stated in [named("first"), PairingStatement::default(), named("second")] {
        assert!(state(&mut cluster, prefill.id, stated.clone()).visible);
        assert_eq!(ranks(&mut cluster), stated.ranks);
    }
    cluster.fold(config(MOONCAKE), NOW);
    assert!(
        ranks(&mut cluster).is_some(),
        "the same configuration again"
    );
}
