use super::*;

/// A time since discovery began at which nothing is doubted any more.
const LATER: Duration = DOUBT;

fn endpoint(name: &str, role: impl Into<Option<Role>>) -> DiscoveredEndpoint {
    DiscoveredEndpoint {
        address: format!("http://{name}:8000").parse().unwrap(),
        uid: format!("uid-{name}"),
        name: format!("ai/{name}"),
        role: role.into(),
        group: None,
        pairing: hermes_core::snapshot::PairingFacts::default(),
        kv_events: None,
    }
}

/// Endpoints of one role by their names.
fn named(names: &str) -> Vec<DiscoveredEndpoint> {
    names
        .chars()
        .map(|name| endpoint(&name.to_string(), Role::Aggregate))
        .collect()
}

fn found(ready: &str, unready: &str) -> FoundEndpoints {
    FoundEndpoints {
        endpoints: named(ready),
        unready: named(unready),
        left_out: 0,
    }
}

/// The names of those that are used, and how many of them are doubted.
fn used(usable: &UsableEndpoints) -> (String, usize) {
    let names = usable
        .set
        .endpoints
        .iter()
        .map(|endpoint| endpoint.name.trim_start_matches("ai/"));
    (names.collect(), usable.doubted)
}

#[test]
fn an_endpoint_that_is_not_ready_gets_nothing_while_half_of_its_peers_are() {
    let mut readiness = PeerReadiness::default();
    readiness.apply(found("abcd", ""), LATER);
    assert_eq!(
        used(&readiness.apply(found("abc", "d"), LATER)),
        ("abc".to_owned(), 0)
    );
    assert_eq!(
        used(&readiness.apply(found("ab", "cd"), LATER)),
        ("ab".to_owned(), 0)
    );
}

#[test]
fn when_most_are_called_not_ready_all_that_once_were_stay() {
    let mut readiness = PeerReadiness::default();
    readiness.apply(found("abcd", ""), LATER);
    readiness.apply(found("abc", "d"), LATER);
    assert_eq!(
        used(&readiness.apply(found("a", "bcd"), LATER)),
        ("abcd".to_owned(), 3)
    );
    assert_eq!(
        used(&readiness.apply(found("", "abcd"), LATER)),
        ("abcd".to_owned(), 4)
    );
    assert_eq!(
        used(&readiness.apply(found("abc", "d"), LATER)),
        ("abc".to_owned(), 0),
        "Kubernetes reports them ready again"
    );
}

#[test]
fn who_never_was_ready_is_not_used_however_few_there_are() {
    let mut readiness = PeerReadiness::default();
    assert_eq!(
        used(&readiness.apply(found("", "ab"), LATER)),
        (String::new(), 0)
    );
    assert_eq!(
        used(&readiness.apply(found("a", "bcd"), LATER)),
        ("a".to_owned(), 0)
    );
}

#[test]
fn endpoints_of_a_replaced_source_stay_when_the_first_list_reports_them_not_ready() {
    let mut readiness = PeerReadiness::with_ready(&named("abc"));
    assert_eq!(
        used(&readiness.apply(found("", "abd"), LATER)),
        ("ab".to_owned(), 2),
        "c does not exist, and d was never ready"
    );
}

#[test]
fn who_leaves_is_gone_whatever_it_was() {
    let mut readiness = PeerReadiness::default();
    readiness.apply(found("abc", ""), LATER);
    assert_eq!(
        used(&readiness.apply(found("", "ab"), LATER)),
        ("ab".to_owned(), 2)
    );
    assert_eq!(
        used(&readiness.apply(found("", ""), LATER)),
        (String::new(), 0)
    );
    assert_eq!(
        used(&readiness.apply(found("", "ab"), LATER)),
        (String::new(), 0),
        "they come back as strangers"
    );
}

#[test]
fn a_pod_that_is_replaced_at_its_address_has_to_become_ready_itself() {
    let mut readiness = PeerReadiness::default();
    readiness.apply(found("a", ""), LATER);
    let mut other = found("", "a");
    other.unready[0].uid = "uid-of-another".to_owned();
    assert_eq!(used(&readiness.apply(other, LATER)), (String::new(), 0));
}

#[test]
fn peers_are_counted_by_role_and_group() {
    let mut readiness = PeerReadiness::default();
    let decode = vec![endpoint("x", Role::Decode), endpoint("y", Role::Decode)];
    let prefill = vec![endpoint("p", Role::Prefill)];
    let all = [decode.clone(), prefill.clone()].concat();
    let ready = FoundEndpoints {
        endpoints: all,
        ..FoundEndpoints::default()
    };
    readiness.apply(ready, LATER);
    let found = FoundEndpoints {
        endpoints: decode,
        unready: prefill,
        left_out: 0,
    };
    let usable = readiness.apply(found, LATER);
    assert_eq!(
        (usable.set.endpoints.len(), usable.doubted),
        (3, 1),
        "the one prefill endpoint has no other in its place"
    );
}

#[test]
fn a_discovery_that_just_began_is_in_doubt_while_it_finds_fewer_than_half_ready() {
    let is_doubtful = |ready, unready, age| {
        let mut readiness = PeerReadiness::default();
        readiness.apply(found(ready, unready), age).set.is_doubtful
    };
    let just = DOUBT - Duration::from_secs(1);
    assert!(is_doubtful("", "a", just));
    assert!(is_doubtful("a", "bc", just));
    assert!(!is_doubtful("a", "b", just));
    assert!(
        !is_doubtful("", "", just),
        "a fleet that does not exist yet"
    );
    assert!(!is_doubtful("", "a", DOUBT));
}
