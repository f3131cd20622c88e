//! What a proxy is sent of the loads of a pool.

use std::collections::BTreeMap;

use bytes::Bytes;
use hermes_proto::{
    Message,
    v1::{EndpointLoad, LoadUpdate},
};

use super::*;

/// A proxy that has this pool.
struct Subscriber<'a> {
    proxy: ProxyId,
    scheduler: &'a PoolScheduler,
    cursor: PoolLoadCursor,
}

impl<'a> Subscriber<'a> {
    fn of(proxy: ProxyId, scheduler: &'a PoolScheduler) -> Self {
        Self {
            proxy,
            scheduler,
            cursor: PoolLoadCursor::default(),
        }
    }

    /// The pieces of the next update.
    fn pieces(&mut self, now: Duration) -> Vec<Bytes> {
        let (pool, mut pieces) = (self.scheduler.pool(), Vec::new());
        self.scheduler
            .next_loads(self.proxy, &pool, &mut self.cursor, now, &mut pieces);
        pieces
    }

    /// The rows of the next update, by endpoint; of two the latter counts.
    fn rows(&mut self, now: Duration) -> BTreeMap<u64, EndpointLoad> {
        let update = LoadUpdate::decode(Bytes::from(self.pieces(now).concat())).expect("an update");
        let rows = update.loads.into_iter();
        rows.map(|row| (row.endpoint, row)).collect()
    }
}

/// In flight, and of that the receiver's own.
fn figures(rows: &BTreeMap<u64, EndpointLoad>, endpoint: EndpointId) -> Option<(u32, u32)> {
    let row = rows.get(&endpoint.0)?;
    Some((row.in_flight, row.own_in_flight))
}

#[test]
fn a_proxy_sees_the_whole_fleet_and_its_own_part_of_it() {
    let scheduler = scheduler(1);
    let endpoint = scheduler.first(key(ONE, 1), at(0));
    scheduler.first(key(TWO, 1), at(0));
    let mut proxy = Subscriber::of(ONE, &scheduler);
    let rows = proxy.rows(at(0));
    let row = rows[&endpoint.0];
    assert_eq!(
        (
            rows.len(),
            row.in_flight,
            row.own_in_flight,
            row.own_pending_tokens
        ),
        (1, 2, 1, 100)
    );
    assert!(proxy.rows(at(1)).is_empty(), "nothing new");
    let again = Subscriber::of(ONE, &scheduler).rows(at(1));
    assert_eq!(again.len(), 1, "one that begins is sent all");
}

#[test]
fn subscribers_share_one_encoding_of_the_rows_that_changed() {
    let scheduler = scheduler(3);
    let (mut one, mut two) = (
        Subscriber::of(ONE, &scheduler),
        Subscriber::of(TWO, &scheduler),
    );
    for subscriber in [&mut one, &mut two] {
        assert_eq!(subscriber.rows(at(0)).len(), 3);
    }
    let third = ProxyId(3);
    let endpoint = scheduler.first(key(third, 1), at(1));
    let (first, second) = (one.pieces(at(1)), two.pieces(at(1)));
    assert_eq!(first, second);
    assert_eq!(first[0].as_ptr(), second[0].as_ptr());
    let update = LoadUpdate::decode(first[0].clone()).expect("an update");
    let changed: Vec<u64> = update.loads.iter().map(|row| row.endpoint).collect();
    assert_eq!(changed, [endpoint.0]);
}

#[test]
fn what_a_proxy_ends_is_no_part_of_its_own_any_more() {
    let scheduler = scheduler(1);
    let (mut proxy, endpoint) = (
        Subscriber::of(ONE, &scheduler),
        scheduler.pool().endpoints[0].id,
    );
    scheduler.first(key(ONE, 1), at(0));
    assert_eq!(figures(&proxy.rows(at(0)), endpoint), Some((1, 1)));
    // The sum stays: another proxy begins as this one ends.
    scheduler.first(key(TWO, 1), at(1));
    scheduler.cancel(key(ONE, 1), at(1));
    assert_eq!(figures(&proxy.rows(at(1)), endpoint), Some((1, 0)));
    scheduler.cancel(key(TWO, 1), at(2));
    assert_eq!(figures(&proxy.rows(at(2)), endpoint), Some((0, 0)));
    assert!(proxy.rows(at(3)).is_empty());
}

#[test]
fn rows_of_a_pool_for_which_proxies_ask_are_made_once_a_second() {
    let ticks = |strategy| {
        let scheduler = scheduler_of(&pool_that_picks_by(strategy, 1));
        let mut proxy = Subscriber::of(ONE, &scheduler);
        let times = (0..40).map(|tenth| Duration::from_millis(tenth * 100));
        let updates = times.enumerate().filter(|(request, now)| {
            scheduler.started(
                key(TWO, *request as u64),
                scheduler.pool().endpoints[0].id,
                1,
                false,
                *now,
            );
            !proxy.pieces(*now).is_empty()
        });
        updates.count()
    };
    assert_eq!(ticks(Strategy::PowerOfTwo), 40);
    assert_eq!(ticks(Strategy::LeastRequest), 4);
}

#[test]
fn a_proxy_that_has_not_the_pool_of_the_scheduler_waits_for_it() {
    let scheduler = scheduler(2);
    let (before, settings) = (scheduler.pool(), SETTINGS);
    let mut proxy = Subscriber::of(ONE, &scheduler);
    assert_eq!(proxy.rows(at(0)).len(), 2);
    scheduler.apply(&pool(3), settings, at(0));
    let mut pieces = Vec::new();
    scheduler.next_loads(ONE, &before, &mut proxy.cursor, at(1), &mut pieces);
    assert!(pieces.is_empty(), "the third has no endpoint there yet");
    let rows = proxy.rows(at(1));
    let new = scheduler.pool();
    let new = new
        .endpoints
        .iter()
        .filter(|new| before.position(new.id).is_none());
    assert_eq!(
        rows.into_keys().collect::<Vec<_>>(),
        new.map(|new| new.id.0).collect::<Vec<_>>(),
        "those that stay did not change"
    );
}
