//! Probes, and what they say of endpoints.

use super::*;

#[test]
fn two_refused_probes_take_an_endpoint_out_and_an_answer_brings_it_back_slowly() {
    let brain = brain(2);
    let endpoint = brain.pool().endpoints[0].id;
    brain.scrape(endpoint, Err(ProbeFailure::Refused), at(0));
    assert_eq!(brain.load(endpoint).health, Health::Up);
    brain.scrape(endpoint, Err(ProbeFailure::Refused), at(1));
    assert_eq!(brain.load(endpoint).health, Health::Down);
    brain.scrape(endpoint, Ok(Scraped::default()), at(2));
    assert!(matches!(brain.load(endpoint).health, Health::Warming(_)));
    brain.tick(at(30));
    assert_eq!(brain.load(endpoint).health, Health::Up);
}

#[test]
fn a_health_page_that_says_no_counts_only_while_no_request_succeeds() {
    let brain = brain(1);
    let endpoint = brain.pool().endpoints[0].id;
    let loading = |now| {
        let probed = ProbeResult {
            endpoint,
            at: Instant::now(),
            outcome: Err(ProbeFailure::Status(503)),
            is_loading: true,
            models: None,
        };
        brain.observe(&probed, now);
        brain.load(endpoint).health
    };
    let serve = |request, now| {
        brain.started(key(ONE, request), endpoint, 100, false, now);
        brain.first_byte(key(ONE, request), TTFT, now);
    };
    assert_eq!(loading(at(0)), Health::Down);
    serve(1, at(1));
    assert_eq!(brain.load(endpoint).health, Health::Up, "it serves");
    assert_eq!(loading(at(2)), Health::Up);
    assert_eq!(loading(at(20)), Health::Down, "it served long ago");
}
