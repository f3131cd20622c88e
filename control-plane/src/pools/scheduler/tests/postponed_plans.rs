//! Plans that several events share, and the ticker that makes them.

use hermes_core::{policy::KvAware, snapshot::Snapshot};
use tokio::time::{Instant as Time, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::pools::{PoolDirectory, PoolResources, queue_ticker};

type End = oneshot::Receiver<Result<Assignment, ScoreRejection>>;

fn late_binding(endpoints: usize) -> Arc<Pool> {
    pool_that_picks_by(Strategy::KvAware(KvAware::default()), endpoints)
}

impl PoolScheduler {
    /// Where a request of this many seconds of prefill is bound, or its end when it is queued.
    fn prefill(&self, request: u64, seconds: u32, now: Duration) -> Result<EndpointId, End> {
        let query = Query {
            prompt_tokens: 8_000 * seconds,
            ..Query::default()
        };
        match self.choose(arrival(key(ONE, request), &query), now) {
            ScoreDecision::Bound(binding) => Ok(binding.choice.ranked[0].endpoint),
            ScoreDecision::Waits(ticket) => Err(ticket.end),
            ScoreDecision::Refused(refusal) => panic!("{refusal:?}"),
        }
    }

    /// Two requests run for five seconds, one at each endpoint, and the third and the
    /// fourth are queued.
    fn with_two_queued(&self, now: Duration) -> [End; 2] {
        for request in 1..=2 {
            let endpoint = self.prefill(request, 5, now).expect("room");
            self.started(key(ONE, request), endpoint, 40_000, false, now);
        }
        [3, 4].map(|request| self.prefill(request, 1, now).expect_err("no room"))
    }
}

#[test]
fn the_first_event_binds_at_once_and_the_next_within_a_millisecond() {
    let scheduler = scheduler_of(&late_binding(2));
    let mut ends = scheduler.with_two_queued(at(0));
    let mut bound = || {
        ends.iter_mut()
            .map(|end| usize::from(end.try_recv().is_ok()))
            .sum::<usize>()
    };
    scheduler.first_byte(key(ONE, 1), Duration::from_secs(4), at(4));
    assert_eq!(bound(), 1);
    scheduler.first_byte(key(ONE, 2), Duration::from_secs(4), at(4));
    assert_eq!(bound(), 0, "its plan is postponed");
    let due = at(4) + Duration::from_millis(1);
    assert_eq!(scheduler.serve_queue(at(4)), Some(due));
    assert_eq!(bound(), 0);
    assert_eq!(scheduler.serve_queue(due), None, "no request is left");
    assert_eq!(bound(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_ticker_makes_a_postponed_plan_when_it_is_due() {
    let metrics = ControlPlaneMetrics::register(&mut Registry::default());
    let pools = Arc::new(PoolDirectory::new(7, metrics));
    let snapshot = Snapshot {
        pools: [late_binding(2)].into_iter().collect(),
        ..Snapshot::default()
    };
    pools.apply(&snapshot, |_| PoolResources::default());
    let ticked = Arc::clone(&pools);
    let ticker = tokio::spawn(async move { queue_ticker::run(&ticked).await });
    let _ticker = AbortOnDropHandle::new(ticker);
    let scheduler = pools.pool("chat").expect("it is applied").scheduler;

    let [third, fourth] = scheduler.with_two_queued(pools.now());
    tokio::time::advance(Duration::from_secs(4)).await;
    let event = Time::now();
    for request in [1, 2] {
        scheduler.first_byte(key(ONE, request), Duration::from_secs(4), pools.now());
    }
    for end in [third, fourth] {
        let end = timeout(Duration::from_millis(100), end).await;
        assert!(matches!(end, Ok(Ok(Ok(_)))), "{end:?}");
    }
    assert!(
        event.elapsed() <= Duration::from_millis(2),
        "and the timer's tick"
    );
    assert_eq!(pools.serve_queues(), None);
}
