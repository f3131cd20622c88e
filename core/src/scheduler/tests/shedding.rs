//! Requests that a full queue gives up for more important ones.

use super::*;

#[test]
fn a_full_queue_sheds_a_request_below_priority_0_and_never_another_for_one() {
    let queue = crate::policy::QueueLimits {
        max_requests: 1,
        ..crate::policy::QueueLimits::default()
    };
    let rules = KvAware {
        queue,
        ..KvAware::default()
    };
    let mut scheduler = Scheduler::new(&pool(rules, 1), SeededRng::new(1));
    let of = |number, priority, tenant| Query {
        priority,
        tenant: Some(tenant),
        ..prompt(number, 40_000)
    };
    bound(schedule(&mut scheduler, 1, &prompt(1, 800_000), ms(0)));
    waits(&schedule(&mut scheduler, 2, &of(2, -1, 7), ms(0)));
    let refused = |outcome| matches!(outcome, ScheduleOutcome::QueueFull { .. });
    assert!(refused(schedule(&mut scheduler, 3, &of(3, -1, 7), ms(1))));
    let outcome = schedule(&mut scheduler, 4, &of(4, 0, 7), ms(2));
    let ScheduleOutcome::Queued { evicted, .. } = outcome else {
        panic!("it takes the place of the other: {outcome:?}")
    };
    assert_eq!(evicted.map(|evicted| evicted.key), Some(key(2)));
    // Another tenant's share is no reason either.
    assert!(refused(schedule(&mut scheduler, 5, &of(5, -1, 8), ms(3))));
    assert_eq!(scheduler.queued_requests(), 1);
}
