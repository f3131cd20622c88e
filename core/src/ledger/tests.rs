//! Scenarios and properties of [`Ledger`].

use proptest::prelude::*;

use super::*;

mod model;

const A: EndpointId = EndpointId(1);
const B: EndpointId = EndpointId(2);

fn key(proxy: u64, request: u64) -> RequestKey {
    RequestKey {
        proxy: ProxyId(proxy),
        request: RequestId(request),
    }
}

fn leg(proxy: u64, request: u64, number: u32) -> LegKey {
    key(proxy, request).leg(LegId::new(number).expect("a leg of a request"))
}

fn listed(
    request: u64,
    leg: LegId,
    endpoint: EndpointId,
    tokens: u32,
    phase: LegPhase,
) -> ListedLeg {
    ListedLeg {
        request: RequestId(request),
        leg,
        endpoint,
        tokens,
        phase,
    }
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Requests of which all, or none when there are no tokens, wait for their first byte.
fn in_flight(requests: u32, tokens: u64) -> InFlightTotals {
    InFlightTotals {
        requests,
        tokens,
        unanswered: if tokens > 0 { requests } else { 0 },
        prompts: if tokens > 0 { requests } else { 0 },
    }
}

#[test]
fn a_request_is_counted_from_its_booking_to_its_end() {
    let mut ledger = Ledger::default();
    let request = key(1, 1);

    assert!(ledger.book(request, A, 900, secs(0)));
    assert_eq!(ledger.in_flight(A), in_flight(1, 900));

    // The proxy says that it sent it: nothing to count twice.
    assert!(ledger.started(request, A, 900, secs(1)));
    assert_eq!(ledger.in_flight(A), in_flight(1, 900));

    // Its first byte ends its prefill, once.
    let sent = ledger.first_byte(request).expect("it was sent");
    assert_eq!((sent.phase, sent.since), (LegPhase::Sent, secs(1)));
    assert_eq!(ledger.first_byte(request), None);
    assert_eq!(ledger.in_flight(A), in_flight(1, 0));

    // So does its end.
    let ended = ledger.finish(request).and_then(|entry| entry.main());
    assert_eq!(ended.map(|open| open.endpoint), Some(A));
    assert_eq!(ledger.finish(request), None);
    assert_eq!(ledger.in_flight(A), InFlightTotals::default());
    assert!(ledger.is_empty());
}

#[test]
fn a_retry_moves_the_request_to_its_new_endpoint() {
    let mut ledger = Ledger::default();
    ledger.book(key(1, 1), A, 500, secs(0));
    ledger.started(key(1, 1), B, 700, secs(1));
    assert_eq!(ledger.in_flight(A), InFlightTotals::default());
    assert_eq!(ledger.in_flight(B), in_flight(1, 700));
}

#[test]
fn a_repeated_report_does_not_bring_pending_tokens_back() {
    let mut ledger = Ledger::default();
    ledger.started(key(1, 1), A, 500, secs(0));
    ledger.first_byte(key(1, 1));
    ledger.started(key(1, 1), A, 500, secs(1));
    assert_eq!(ledger.in_flight(A), in_flight(1, 0));
}

#[test]
fn only_an_unconfirmed_booking_can_be_taken_back() {
    let mut ledger = Ledger::default();
    ledger.book(key(1, 1), A, 500, secs(0));
    ledger.book(key(1, 2), A, 500, secs(0));
    ledger.started(key(1, 2), A, 500, secs(0));
    assert!(ledger.cancel(key(1, 1)).is_some());
    assert!(ledger.cancel(key(1, 1)).is_none());
    assert!(ledger.cancel(key(1, 2)).is_none());
    assert_eq!(ledger.in_flight(A), in_flight(1, 500));
}

#[test]
fn bookings_and_requests_end_at_their_deadlines() {
    let mut ledger = Ledger::default();
    ledger.book(key(1, 1), A, 1, secs(0));
    ledger.book(key(1, 2), A, 1, secs(0));
    ledger.started(key(1, 2), A, 1, secs(1));
    assert_eq!(ledger.expire(Duration::from_millis(4_999)), 0);
    assert_eq!(ledger.expire(secs(5)), 1, "the unconfirmed booking");
    assert_eq!(ledger.expire(secs(7_200)), 0);
    assert_eq!(
        ledger.expire(secs(7_201)),
        1,
        "the request whose end was not reported"
    );
    assert_eq!(ledger.in_flight(A), InFlightTotals::default());
}

#[test]
fn a_request_whose_start_was_not_reported_lives_on_after_its_first_byte() {
    let mut ledger = Ledger::default();
    ledger.book(key(1, 1), A, 100, secs(0));
    assert!(ledger.first_byte(key(1, 1)).is_some());
    assert_eq!(ledger.expire(secs(6)), 0);
    assert_eq!(ledger.in_flight(A), in_flight(1, 0));
    assert_eq!(ledger.expire(secs(7_200)), 1);
}

#[test]
fn a_full_ledger_says_so_and_still_follows_what_it_knows() {
    let mut ledger = Ledger::new(LedgerLimits {
        max_entries: 2,
        ..LedgerLimits::default()
    });
    assert!(ledger.book(key(1, 1), A, 1, secs(0)) && ledger.book(key(1, 2), A, 1, secs(0)));
    assert!(!ledger.book(key(1, 3), A, 1, secs(0)));
    assert!(!ledger.started(key(1, 3), A, 1, secs(0)));
    assert!(
        ledger.started(key(1, 2), B, 1, secs(0)),
        "a known request can always move"
    );
    ledger.finish(key(1, 1));
    assert!(ledger.book(key(1, 3), A, 1, secs(0)));
}

#[test]
fn a_proxy_that_is_gone_leaves_nothing_behind() {
    let mut ledger = Ledger::default();
    (0..10).for_each(|request| _ = ledger.started(key(1, request), A, 10, secs(0)));
    ledger.started(key(2, 0), A, 10, secs(0));
    assert_eq!(ledger.forget_proxy(ProxyId(1)), 10);
    assert_eq!((ledger.in_flight(A), ledger.len()), (in_flight(1, 10), 1));
}

#[test]
fn a_proxy_finds_its_own_share_of_the_open_requests() {
    let mut ledger = Ledger::default();
    ledger.started(key(1, 1), A, 10, secs(0));
    ledger.book(key(1, 2), A, 20, secs(0));
    ledger.started(key(2, 1), A, 40, secs(0));
    ledger.first_byte(key(1, 1));
    let own = InFlightTotals {
        requests: 2,
        tokens: 20,
        unanswered: 1,
        prompts: 1,
    };
    assert_eq!(ledger.open_by_endpoint(ProxyId(1)), [(A, own)].into());
    assert!(ledger.open_by_endpoint(ProxyId(3)).is_empty());
}

#[test]
fn a_proxy_that_lost_reports_corrects_what_is_open() {
    let mut ledger = Ledger::default();
    // One request ended unnoticed, one began to answer, one was just booked, one is unknown here.
    ledger.started(key(1, 1), A, 10, secs(1));
    ledger.started(key(1, 2), A, 10, secs(1));
    ledger.book(key(1, 3), B, 10, secs(9));
    let truth = [
        listed(2, LegId::MAIN, A, 10, LegPhase::Answering),
        listed(4, LegId::MAIN, B, 30, LegPhase::Sent),
    ];
    ledger.replace_proxy(ProxyId(1), truth, secs(10));

    assert_eq!(ledger.get(key(1, 1)), None);
    assert_eq!(ledger.in_flight(A), in_flight(1, 0));
    assert_eq!(ledger.get(key(1, 2)).map(|open| open.since), Some(secs(1)));
    assert_eq!(ledger.in_flight(B), in_flight(2, 40));
    assert_eq!(
        ledger.expire(secs(14)),
        1,
        "the booking is still unconfirmed"
    );
    assert_eq!(ledger.in_flight(B), in_flight(1, 30));
}

#[test]
fn a_leg_that_ends_releases_exactly_its_own_counts() {
    let mut ledger = Ledger::default();
    let (decode, prefill) = (leg(1, 1, 0), leg(1, 1, 1));
    ledger.started(prefill, A, 900, secs(0));
    ledger.started(decode, B, 0, secs(0));
    ledger.first_byte(prefill);
    assert_eq!(
        ledger.finish_leg(prefill).map(|open| open.endpoint),
        Some(A)
    );
    assert_eq!(ledger.finish_leg(prefill), None, "once");
    assert_eq!(ledger.in_flight(A), InFlightTotals::default());
    assert_eq!((ledger.in_flight(B).requests, ledger.len()), (1, 1));
}

#[test]
fn the_end_of_a_request_releases_all_its_legs_once() {
    let mut ledger = Ledger::default();
    ledger.started(leg(1, 1, 0), B, 5, secs(0));
    ledger.started(leg(1, 1, 1), A, 900, secs(0));
    ledger.started(leg(1, 2, 1), A, 7, secs(0));
    let ended = ledger.finish(key(1, 1)).expect("it was open");
    assert_eq!(
        (ended.count(), ended.main().map(|open| open.tokens)),
        (2, Some(5))
    );
    assert_eq!(ledger.finish(key(1, 1)), None);
    assert_eq!(
        ledger.finish_leg(leg(1, 1, 1)),
        None,
        "it ended with its request"
    );
    assert_eq!(
        ledger.in_flight(A),
        in_flight(1, 7),
        "another request's leg stays"
    );
    assert_eq!(ledger.in_flight(B), InFlightTotals::default());
}

#[test]
fn a_cancel_leaves_the_legs_that_were_sent() {
    let mut ledger = Ledger::default();
    ledger.book(leg(1, 1, 0), B, 5, secs(0));
    ledger.started(leg(1, 1, 1), A, 900, secs(0));
    let taken_back = ledger.cancel(key(1, 1)).expect("one leg is booked");
    assert_eq!(taken_back.main().map(|open| open.endpoint), Some(B));
    assert!(ledger.has_request(key(1, 1)));
    assert_eq!((ledger.len(), ledger.in_flight(A)), (1, in_flight(1, 900)));
}

#[test]
fn a_list_of_open_legs_replaces_each_leg_by_itself() {
    let mut ledger = Ledger::default();
    ledger.started(leg(1, 1, 0), B, 5, secs(1));
    ledger.started(leg(1, 1, 1), A, 900, secs(1));
    ledger.book(leg(1, 1, 2), A, 1, secs(9));
    let decode = listed(1, LegId::MAIN, B, 5, LegPhase::Answering);
    ledger.replace_proxy(ProxyId(1), [decode], secs(10));
    assert_eq!(
        ledger.get(leg(1, 1, 0)).map(|open| open.since),
        Some(secs(1))
    );
    assert_eq!(ledger.get(leg(1, 1, 1)), None, "the proxy did not list it");
    assert!(
        ledger.get(leg(1, 1, 2)).is_some(),
        "a booking may not be acted on yet"
    );
}

#[test]
fn a_request_may_finish_after_its_endpoint_is_gone() {
    let mut ledger = Ledger::default();
    ledger.started(key(1, 1), A, 10, secs(0));
    ledger.started(key(1, 2), B, 10, secs(0));
    ledger.retain_endpoints(|endpoint| endpoint == B);
    assert_eq!(
        (ledger.in_flight(A), ledger.len()),
        (InFlightTotals::default(), 1)
    );
    assert_eq!(ledger.first_byte(key(1, 1)), None);
    assert_eq!(ledger.finish(key(1, 1)), None);
    assert!(ledger.finish(key(1, 2)).is_some());
}

#[test]
fn a_late_question_leaves_a_request_that_was_sent_in_the_books() {
    for answers in [false, true] {
        let mut ledger = Ledger::default();
        ledger.started(key(1, 1), A, 300, secs(0));
        if answers {
            ledger.first_byte(key(1, 1));
        }
        let before = ledger.in_flight(A);
        assert!(!ledger.book(key(1, 1), B, 300, secs(1)));
        assert_eq!(ledger.cancel(key(1, 1)), None, "nothing is unconfirmed");
        ledger.expire(secs(20));
        assert_eq!(ledger.in_flight(A), before);
        assert_eq!(ledger.in_flight(B), InFlightTotals::default());
        assert!(ledger.finish(key(1, 1)).is_some());
    }
}

#[test]
fn deadlines_of_ended_requests_do_not_pile_up() {
    let mut ledger = Ledger::default();
    for request in 0..50_000 {
        ledger.book(key(1, request), A, 1, secs(0));
        ledger.started(key(1, request), A, 1, secs(0));
        ledger.finish(key(1, request));
    }
    assert!(
        ledger.unconfirmed.len() < 2_000,
        "{}",
        ledger.unconfirmed.len()
    );
    assert!(ledger.confirmed.len() < 2_000, "{}", ledger.confirmed.len());
}

proptest! {
    #[test]
    fn it_agrees_with_a_naive_model(steps in proptest::collection::vec(model::step(), 1..300)) {
        let bounds = LedgerLimits { max_entries: 12, booking_ttl: secs(5), request_ttl: secs(40) };
        let mut ledger = Ledger::new(bounds);
        let mut model = model::Model::new(bounds);
        let mut now = Duration::ZERO;
        for step in steps {
            now += Duration::from_millis(step.pause);
            let (real, expected) = (step.act.on(&mut ledger, now), model.act(&step.act, now));
            prop_assert_eq!(real, expected, "{:?}", step.act);
            prop_assert_eq!(ledger.len(), model.len());
            for endpoint in (0..4).map(EndpointId) {
                prop_assert_eq!(ledger.in_flight(endpoint), model.in_flight(endpoint));
            }
        }
        // Whatever is left ends exactly once.
        for key in model.requests() {
            prop_assert!(ledger.finish(key).is_some() && ledger.finish(key).is_none());
        }
        prop_assert!(holds_nothing(&ledger));
    }

    #[test]
    fn reports_of_any_legs_in_any_order_end_with_zero_counts(
        reports in proptest::collection::vec(report(), 0..200),
        late in proptest::collection::vec(report(), 0..50),
    ) {
        let mut ledger = Ledger::default();
        for (at, report) in reports.iter().enumerate() {
            report.apply(&mut ledger, secs(at as u64));
        }
        for request in 0..REQUESTS {
            ledger.finish(key(1, request));
        }
        prop_assert!(holds_nothing(&ledger), "the ends of the requests release what is left");

        // A report that comes after the end, or again, brings nothing back; a start does, as it may
        // be the first that is known of its request, and ends at its deadline.
        for report in late.iter().filter(|report| !report.is_start()) {
            report.apply(&mut ledger, secs(200));
        }
        prop_assert!(holds_nothing(&ledger));
        for report in &late {
            report.apply(&mut ledger, secs(200));
        }
        ledger.expire(secs(200 + 2 * 60 * 60));
        prop_assert!(holds_nothing(&ledger));
    }
}

/// Requests of the one proxy that reports.
const REQUESTS: u64 = 4;

/// What a proxy reports of a leg, or books.
#[derive(Clone, Debug)]
enum LegReport {
    Booked(LegKey, EndpointId, u32),
    Started(LegKey, EndpointId, u32),
    FirstByte(LegKey),
    LegFinished(LegKey),
    Finished(RequestKey),
    Cancelled(RequestKey),
}

impl LegReport {
    fn is_start(&self) -> bool {
        matches!(self, Self::Booked(..) | Self::Started(..))
    }

    fn apply(&self, ledger: &mut Ledger, now: Duration) {
        match *self {
            Self::Booked(leg, endpoint, tokens) => _ = ledger.book(leg, endpoint, tokens, now),
            Self::Started(leg, endpoint, tokens) => _ = ledger.started(leg, endpoint, tokens, now),
            Self::FirstByte(leg) => _ = ledger.first_byte(leg),
            Self::LegFinished(leg) => _ = ledger.finish_leg(leg),
            Self::Finished(request) => _ = ledger.finish(request),
            Self::Cancelled(request) => _ = ledger.cancel(request),
        }
    }
}

fn report() -> impl Strategy<Value = LegReport> {
    let request = || (0..REQUESTS).prop_map(|request| key(1, request));
    let any_leg =
        || (0..REQUESTS, 0..LegId::COUNT).prop_map(|(request, number)| leg(1, request, number));
    let endpoint = || (0..3u64).prop_map(EndpointId);
    prop_oneof![
        (any_leg(), endpoint(), 0..100u32)
            .prop_map(|(leg, at, tokens)| LegReport::Booked(leg, at, tokens)),
        (any_leg(), endpoint(), 0..100u32)
            .prop_map(|(leg, at, tokens)| LegReport::Started(leg, at, tokens)),
        any_leg().prop_map(LegReport::FirstByte),
        any_leg().prop_map(LegReport::LegFinished),
        request().prop_map(LegReport::Finished),
        request().prop_map(LegReport::Cancelled),
    ]
}

/// Whether nothing is open, and nothing counted.
fn holds_nothing(ledger: &Ledger) -> bool {
    ledger.open.is_empty() && ledger.endpoints.is_empty() && ledger.booked == 0
}
