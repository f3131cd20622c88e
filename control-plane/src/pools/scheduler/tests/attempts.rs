//! Attempts that served nothing, and what they say of their endpoints.

use super::*;

#[test]
fn a_failed_attempt_counts_once_also_when_it_is_the_last_of_its_request() {
    let scheduler = scheduler(2);
    let bad = scheduler.pool().endpoints[0].id;
    for request in (0..2).map(|request| key(ONE, request)) {
        scheduler.started(request, bad, 100, false, at(0));
        scheduler.attempt_failed(failed_attempt(bad, Report::Failed), at(0));
        let end = FinishReport {
            endpoint: Some(bad),
            outcome: Report::Failed,
            answer: AnswerClass::EngineError,
            is_blamed: true,
            ..FinishReport::RELEASE
        };
        scheduler.finished(request, end, at(0));
    }
    assert_eq!(scheduler.load(bad).health, Health::Up, "two of three");
}

#[test]
fn an_endpoint_that_refuses_what_its_peer_serves_is_ejected_and_its_errors_are_no_samples_of_speed()
{
    let scheduler = scheduler(2);
    let ids = [0, 1].map(|at| scheduler.pool().endpoints[at].id);
    let refused = AttemptReport {
        answer: AnswerClass::ClientError,
        ..failed_attempt(ids[0], Report::Ok)
    };
    for request in 0..10 {
        let [one, other] = [2 * request, 2 * request + 1].map(|number| key(ONE, number));
        scheduler.started(one, ids[0], 100, false, at(0));
        scheduler.attempt_failed(refused, at(0));
        let end = FinishReport {
            endpoint: Some(ids[0]),
            outcome: Report::Ok,
            answer: AnswerClass::ClientError,
            is_blamed: true,
            ..FinishReport::RELEASE
        };
        scheduler.finished(one, end, at(0));
        scheduler.started(other, ids[1], 100, false, at(0));
        scheduler.first_byte(other, Duration::from_millis(50), at(0));
        scheduler.ends(other, ids[1], Report::Ok, at(0));
    }
    let health = ids.map(|id| scheduler.load(id).health);
    assert_eq!(health, [Health::Down, Health::Up]);
}

#[test]
fn a_pool_that_is_overloaded_as_a_whole_keeps_half_of_its_endpoints() {
    for retry_after in [None, Some(Duration::from_secs(20))] {
        let scheduler = scheduler(4);
        let ids: Vec<_> = scheduler
            .pool()
            .endpoints
            .iter()
            .map(|found| found.id)
            .collect();
        for (request, id) in (0..).zip(&ids) {
            scheduler.started(key(ONE, request), *id, 100, false, at(0));
            scheduler.first_byte(key(ONE, request), TTFT, at(0));
            scheduler.ends(key(ONE, request), *id, Report::Ok, at(0));
        }
        let overloaded = |id| AttemptReport {
            answer: AnswerClass::Overloaded,
            retry_after,
            ..failed_attempt(id, Report::Overloaded)
        };
        for id in ids.iter().cycle().take(5 * ids.len()) {
            scheduler.attempt_failed(overloaded(*id), at(0));
        }
        let healths = ids.iter().map(|id| scheduler.load(*id).health);
        let cooling = healths.filter(|health| *health == Health::Warming(0.0));
        assert_eq!(cooling.count(), 2, "{retry_after:?}");
    }
}

#[test]
fn errors_of_an_engine_that_did_not_fail_are_compared_with_its_peers_answers() {
    let cases = [
        (Report::Ok, SecondOpinion::None, Health::Down),
        (Report::Cancelled, SecondOpinion::Confirmed, Health::Up),
    ];
    for (outcome, opinion, expected) in cases {
        let scheduler = scheduler(2);
        let [bad, good] = [0, 1].map(|at| scheduler.pool().endpoints[at].id);
        for request in (0..10).map(|request| key(ONE, request)) {
            scheduler.started(request, good, 100, false, at(0));
            scheduler.ends(request, good, Report::Ok, at(0));
            let not_implemented = AttemptReport {
                answer: AnswerClass::EngineError,
                opinion,
                ..failed_attempt(bad, outcome)
            };
            scheduler.attempt_failed(not_implemented, at(0));
        }
        assert_eq!(scheduler.load(bad).health, expected, "{opinion:?}");
    }
}
