//! Reports of requests and their legs, in their order and after losses.

use super::*;

const ENDPOINT: EndpointId = EndpointId(7);

/// The only leg of a request.
fn only(request: u64) -> ReportedLeg {
    leg(request, 0)
}

fn leg(request: u64, number: u32) -> ReportedLeg {
    let leg = LegId::new(number).expect("a leg of a request");
    ReportedLeg { request, leg }
}

fn ended(outcome: ReportedOutcome) -> LegEnd {
    LegEnd {
        endpoint: Some(ENDPOINT),
        outcome,
        answer: None,
        usage: None,
        duration: Duration::ZERO,
        decoding: None,
        stored_response: None,
    }
}

#[test]
fn an_open_request_is_listed_from_its_start_to_its_end() {
    let (reporter, mut reports) = Reporter::new();
    reporter.started(only(1), ENDPOINT, 100, false);
    reporter.started(only(2), ENDPOINT, 50, false);
    reporter.first_byte(only(1), Duration::from_millis(3));
    reporter.finished(only(2), ended(ReportedOutcome::Ok));
    let expected = v1::OpenRequest {
        request: 1,
        leg: 0,
        endpoint: 7,
        uncached_tokens: 100,
        answered: true,
    };
    assert_eq!(reporter.open_requests().requests, [expected]);
    let Some(Event::Finished(finished)) = std::iter::from_fn(|| reports.try_recv().ok())
        .last()
        .and_then(|r| r.event)
    else {
        panic!("the last report says that request 2 is over");
    };
    assert_eq!(finished.endpoint, Some(7));
}

#[test]
fn a_request_that_begins_and_ends_in_one_batch_is_one_report() {
    let (reporter, mut reports) = Reporter::new();
    reporter.started(only(1), ENDPOINT, 10, false);
    reporter.started(only(2), ENDPOINT, 10, false);
    let failed = FailedAttempt::of(ReportedOutcome::Unreachable);
    reporter.attempt_failed(only(1), ENDPOINT, failed);
    reporter.first_byte(only(1), Duration::from_micros(300));
    reporter.first_byte(only(2), Duration::from_micros(400));
    reporter.finished(only(1), ended(ReportedOutcome::Ok));
    let mut batch: Vec<_> = std::iter::from_fn(|| reports.try_recv().ok()).collect();
    fold(&mut batch);
    assert_eq!(
        kinds(&batch),
        [
            (2, 0, "started"),
            (1, 0, "attempt failed"),
            (2, 0, "first byte"),
            (1, 0, "finished")
        ]
    );
    let Some(Event::Finished(finished)) = batch[3].event else {
        panic!("the last report is an end");
    };
    assert_eq!(finished.ttft_us, Some(300));
}

#[test]
fn each_leg_is_listed_until_it_ends_or_its_request_does() {
    let (reporter, _reports) = Reporter::new();
    let open = || {
        let listed = reporter.open_requests().requests;
        let mut open: Vec<_> = listed
            .iter()
            .map(|open| (open.leg, open.endpoint))
            .collect();
        open.sort_unstable();
        open
    };
    reporter.started(leg(1, 1), ENDPOINT, 900, false);
    reporter.started(leg(1, 0), EndpointId(8), 0, false);
    reporter.started(leg(1, 2), ENDPOINT, 1, false);
    assert_eq!(open(), [(0, 8), (1, 7), (2, 7)]);
    reporter.started(leg(1, 1), EndpointId(9), 900, false);
    reporter.finished(leg(1, 2), ended(ReportedOutcome::Ok));
    assert_eq!(open(), [(0, 8), (1, 9)], "a retry is the same leg");
    reporter.finished(leg(1, 0), ended(ReportedOutcome::Ok));
    assert_eq!(open(), []);
}

#[test]
fn a_leg_that_starts_again_after_its_end_keeps_its_start() {
    let (reporter, mut reports) = Reporter::new();
    reporter.started(leg(1, 1), ENDPOINT, 10, false);
    reporter.first_byte(leg(1, 1), Duration::from_micros(300));
    reporter.finished(leg(1, 1), ended(ReportedOutcome::Ok));
    reporter.started(leg(1, 0), ENDPOINT, 10, false);
    reporter.started(leg(1, 1), ENDPOINT, 10, false);
    let mut batch: Vec<_> = std::iter::from_fn(|| reports.try_recv().ok()).collect();
    fold(&mut batch);
    assert_eq!(
        kinds(&batch),
        [(1, 1, "finished"), (1, 0, "started"), (1, 1, "started")]
    );
}

/// Request, leg and kind of each report.
fn kinds(batch: &[v1::Report]) -> Vec<(u64, u32, &'static str)> {
    let kind = |report: &v1::Report| match &report.event {
        Some(Event::Started(_)) => "started",
        Some(Event::FirstByte(_)) => "first byte",
        Some(Event::AttemptFailed(_)) => "attempt failed",
        Some(Event::Finished(_)) => "finished",
        None => "nothing",
    };
    let all = batch.iter();
    all.map(|report| (report.request, report.leg, kind(report)))
        .collect()
}

#[test]
fn a_full_queue_drops_reports_and_counts_them() {
    let (reporter, _reports) = Reporter::new();
    for request in 0..QUEUE as u64 + 5 {
        reporter.first_byte(only(request), Duration::ZERO);
    }
    assert_eq!(reporter.dropped(), 5);
}
