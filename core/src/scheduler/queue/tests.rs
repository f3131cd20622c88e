//! Order, eviction, and the sums that a queue keeps.

use proptest::prelude::*;

use super::*;
use crate::{
    ledger::{ProxyId, RequestId},
    pick::EligibleSets,
    query::Query,
    scheduler::{lookup::CacheLookup, shares::FairShares},
};

const SECOND: Duration = Duration::from_secs(1);

fn key(request: u64) -> RequestKey {
    RequestKey {
        proxy: ProxyId(1),
        request: RequestId(request),
    }
}

fn waiting(request: u64, since: u64, service: f64, query: Query) -> QueuedRequest {
    let mut waiting = QueuedRequest {
        key: key(request),
        query,
        model: None,
        eligible: None,
        others: SmallVec::new(),
        since: Duration::from_secs(since),
        until: Duration::MAX,
        lookup: CacheLookup::default(),
        service,
        weight: 0.0,
    };
    waiting.set_service(service, &FairShares::default());
    waiting
}

fn order(queue: &RequestQueue, now: u64) -> Vec<u64> {
    queue.sets[&None]
        .order(usize::MAX, Duration::from_secs(now))
        .into_iter()
        .map(|(_, key)| key.request.0)
        .collect()
}

#[test]
fn short_work_goes_first_and_long_work_does_not_starve() {
    let mut queue = RequestQueue::new(1);
    queue.push(waiting(1, 0, 10.0, Query::default()), 0);
    queue.push(waiting(2, 9, 0.5, Query::default()), 0);
    assert_eq!(order(&queue, 10), [2, 1]);
    queue.push(waiting(3, 300, 0.5, Query::default()), 0);
    assert_eq!(
        order(&queue, 300),
        [2, 1, 3],
        "five minutes in the queue outweigh a short service"
    );
}

#[test]
fn priority_and_fair_shares_weigh() {
    let mut queue = RequestQueue::new(1);
    queue.push(waiting(1, 0, 1.0, Query::default()), 0);
    queue.push(
        waiting(
            2,
            0,
            1.0,
            Query {
                priority: 1,
                ..Query::default()
            },
        ),
        0,
    );
    assert_eq!(order(&queue, 5), [2, 1]);
    let mut shares = FairShares::default();
    shares.spend(Some(7), 100_000, SECOND);
    shares.spend(Some(8), 1_000, SECOND);
    for (request, tenant) in [(1, 8), (2, 7)] {
        let mut waiting = queue.remove(key(request)).expect("it waits");
        waiting.query.tenant = Some(tenant);
        waiting.set_service(1.0, &shares);
        queue.push(*waiting, 0);
    }
    assert_eq!(
        order(&queue, 5),
        [1, 2],
        "one step of priority does not outweigh a hundredfold share"
    );
}

#[test]
fn the_newest_request_of_the_lowest_priority_below_0_is_shed_first() {
    let of = |priority| Query {
        priority,
        ..Query::default()
    };
    let mut queue = RequestQueue::new(1);
    for (request, priority) in [(1, 0), (2, -1), (3, -5), (4, -5), (5, 2)] {
        queue.push(waiting(request, request, 1.0, of(priority)), 0);
    }
    assert_eq!(queue.shed_candidate(0), Some(key(4)), "the newest");
    assert_eq!(queue.shed_candidate(-4), Some(key(4)));
    assert_eq!(queue.shed_candidate(-5), None, "none is below it");
    queue.remove(key(4));
    queue.remove(key(3));
    assert_eq!(queue.shed_candidate(1), Some(key(2)));
    queue.remove(key(2));
    assert_eq!(queue.shed_candidate(8), None, "0 and more are not shed");
}

#[test]
fn the_newest_request_of_the_largest_tenant_is_evicted_for_smaller_ones() {
    let of = |tenant| Query {
        tenant: Some(tenant),
        ..Query::default()
    };
    let mut queue = RequestQueue::new(1);
    assert_eq!(queue.eviction_candidate(Some(1)), None);
    for request in 1..=4 {
        queue.push(waiting(request, request, 1.0, of(1)), 0);
    }
    queue.push(waiting(5, 5, 1.0, of(2)), 0);
    assert_eq!(queue.eviction_candidate(Some(1)), None, "not to itself");
    assert_eq!(
        (
            queue.eviction_candidate(Some(2)),
            queue.eviction_candidate(None)
        ),
        (Some(key(4)), Some(key(4)))
    );
    queue.remove(key(4));
    queue.push(waiting(6, 6, 1.0, of(2)), 0);
    assert_eq!(
        queue.eviction_candidate(Some(2)),
        None,
        "three and two: eviction would only swap them"
    );
    assert_eq!(queue.eviction_candidate(Some(3)), Some(key(3)));
}

proptest! {
    #[test]
    fn count_and_bytes_follow_every_push_and_removal(
        steps in proptest::collection::vec((0u64..20, 0u64..1_000, 0u64..3, any::<bool>()), 0..100),
    ) {
        let (mut queue, mut model) = (RequestQueue::new(1), HashMap::new());
        for (request, bytes, tenant, leaves) in steps {
            if leaves {
                prop_assert_eq!(queue.remove(key(request)).is_some(), model.remove(&request).is_some());
            } else {
                let query = Query { prompt_bytes: bytes, tenant: Some(tenant), ..Query::default() };
                queue.push(waiting(request, 0, 1.0, query), 0);
                model.insert(request, (bytes, tenant));
            }
            prop_assert_eq!(queue.len(), model.len());
            prop_assert_eq!(queue.bytes(), model.values().map(|(bytes, _)| bytes).sum::<u64>());
            let counted = |tenant| model.values().filter(|(_, of)| *of == tenant).count() as u32;
            prop_assert!((0..3).all(|tenant| queue.tenants.get(&tenant).copied().unwrap_or(0) == counted(tenant)));
            prop_assert!(model.keys().all(|request| queue.get_mut(key(*request)).is_some()));
        }
        let order = queue.sets.get(&None).map(|set| set.order(5, Duration::ZERO));
        prop_assert_eq!(order.unwrap_or_default().len(), model.len().min(5));
    }

    #[test]
    fn late_requests_and_queued_seconds_are_those_of_what_is_queued(
        steps in proptest::collection::vec((0u64..20, 0u64..50, 1u32..9, any::<bool>()), 0..100),
    ) {
        let (mut queue, mut model) = (RequestQueue::new(1), BTreeMap::new());
        for (request, until, service, leaves) in steps {
            let service = f64::from(service);
            if leaves {
                queue.remove(key(request));
                model.remove(&request);
            } else {
                let until = Duration::from_secs(until);
                queue.push(QueuedRequest { until, ..waiting(request, 0, service, Query::default()) }, 0);
                model.insert(request, (until, service));
            }
            let seconds: f64 = model.values().map(|(_, service)| service).sum();
            prop_assert!((queue.service() - seconds).abs() < 1e-9);
            for now in [0, 10, 49].map(Duration::from_secs) {
                let mut late: Vec<u64> = queue.late(now).into_iter().map(|key| key.request.0).collect();
                late.sort_unstable();
                let expected = model.iter().filter(|(_, (until, _))| *until <= now);
                prop_assert_eq!(late, expected.map(|(request, _)| *request).collect::<Vec<_>>());
            }
        }
    }

    /// Against the definitions, request by request.
    #[test]
    fn queued_work_and_waiting_are_the_sums_over_what_is_queued(
        steps in proptest::collection::vec((0u64..12, 0usize..3, 0u32..4, 1u32..9, 0u32..6), 1..100),
    ) {
        let others = [None, Some(vec![0, 1]), Some(vec![1, 2, 3])];
        let (sets, ids) = EligibleSets::new(0..4, others.into_iter());
        let mut queue = RequestQueue::new(4);
        // By request: the index of its set, its service, where it counts, and what it waits for.
        let mut model: BTreeMap<u64, (usize, f64, Option<u32>, u32)> = BTreeMap::new();
        for (request, set, wanted, service, kind) in steps {
            let service = f64::from(service);
            match kind {
                0 => {
                    prop_assert_eq!(queue.remove(key(request)).is_some(), model.remove(&request).is_some());
                }
                1 => {
                    let order = queue.examine(ids[set], 3, Duration::ZERO);
                    model.values_mut().filter(|(of, ..)| *of == set).for_each(|(_, _, at, _)| *at = None);
                    for (_, key) in order {
                        let (waiting, waited_for) = queue.check_out(key).expect("it is queued");
                        let (of, seconds, at, waits_for) = model.get_mut(&key.request.0).expect("it is queued");
                        prop_assert_eq!((*of, Some(*waits_for)), (set, waited_for));
                        (*seconds, *at, *waits_for) = (waiting.service, Some(wanted), wanted);
                        queue.check_in(waiting, wanted);
                    }
                }
                _ => {
                    let mut waiting = waiting(request, 0, service, Query::default());
                    waiting.eligible = Some(Arc::clone(sets.get(ids[set])));
                    queue.push(waiting, wanted);
                    model.insert(request, (set, service, Some(wanted), wanted));
                }
            }
            for position in 0..4u32 {
                let there = model.values().filter(|(_, _, at, _)| *at == Some(position));
                prop_assert_eq!(queue.is_wanted(position as usize), there.clone().next().is_some());
                let seconds: f64 = there.map(|(_, service, ..)| service).sum();
                prop_assert!((queue.work().at(position as usize).seconds - seconds).abs() < 1e-9);
                let waiting = model.values().filter(|(.., waits_for)| *waits_for == position);
                prop_assert_eq!(queue.work().at(position as usize).waiting as usize, waiting.count());
            }
        }
    }

    #[test]
    fn sets_take_turns_when_there_are_more_than_one_plan_examines(count in 1usize..200) {
        let others = (0..count).map(|set| Some(vec![set]));
        let (sets, ids) = EligibleSets::new(0..count + 1, others);
        let mut queue = RequestQueue::new(count + 1);
        for (request, id) in ids.iter().enumerate() {
            let mut waiting = waiting(request as u64, 0, 1.0, Query::default());
            waiting.eligible = Some(Arc::clone(sets.get(*id)));
            queue.push(waiting, request as u32);
        }
        let plans = count.div_ceil(MAX_SETS);
        let seen = (0..plans).flat_map(|_| {
            let turns = queue.turns(|_| true);
            assert!(turns.len() <= MAX_SETS);
            turns.into_iter().map(|set| set.id()).collect::<Vec<_>>()
        });
        let seen: std::collections::BTreeSet<EligibleSetId> = seen.collect();
        prop_assert_eq!(seen.len(), count);
        // Those without room are passed over.
        let ready = ids[count / 2];
        let passes = count.div_ceil(MAX_LOOKED_AT);
        let found = (0..passes).any(|_| queue.turns(|set| set.id() == ready).len() == 1);
        prop_assert!(found);
    }
}
