//! Endpoints that leave and return, or that cannot be reached from here.

use super::*;

#[test]
fn a_readiness_flap_leaves_what_is_known_of_an_endpoint() {
    let scheduler = scheduler(2);
    let whole = scheduler.pool();
    let bad = whole.endpoints[0].id;
    for _ in 0..3 {
        scheduler.attempt_failed(failed_attempt(bad, Report::Failed), at(0));
    }
    let mut smaller = (*whole).clone();
    let stays = whole.endpoints.iter().filter(|endpoint| endpoint.id != bad);
    smaller.endpoints = stays.cloned().collect();
    scheduler.apply(&Arc::new(smaller), SETTINGS, at(0));
    scheduler.apply(&whole, SETTINGS, at(0));
    assert_eq!(scheduler.load(bad).health, Health::Down, "as before");
    scheduler.assert_loads_are_true(at(0));
}

#[test]
fn refused_probes_and_sockets_that_ran_out_do_not_take_out_an_endpoint_that_answers() {
    let scheduler = scheduler(1);
    let endpoint = scheduler.pool().endpoints[0].id;
    for second in 1..20 {
        let request = key(ONE, second);
        scheduler.first(request, at(second));
        scheduler.first_byte(request, TTFT, at(second));
        scheduler.scrape(endpoint, Err(ProbeFailure::Refused), at(second));
        assert_eq!(scheduler.load(endpoint).health, Health::Up);
    }
    for second in 100..120 {
        scheduler.scrape(endpoint, Err(ProbeFailure::NotConnected), at(second));
        assert_eq!(scheduler.load(endpoint).health, Health::Up);
    }
    scheduler.scrape(endpoint, Err(ProbeFailure::Refused), at(121));
    scheduler.scrape(endpoint, Err(ProbeFailure::Refused), at(122));
    assert_eq!(scheduler.load(endpoint).health, Health::Down);
}
