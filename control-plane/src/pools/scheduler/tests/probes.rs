//! Probes, and what they say of endpoints.

use hermes_core::policy::KvAware;

use super::*;
use crate::engines::CacheInfo;

#[test]
fn two_refused_probes_take_an_endpoint_out_and_an_answer_brings_it_back_slowly() {
    let scheduler = scheduler(2);
    let endpoint = scheduler.pool().endpoints[0].id;
    scheduler.scrape(endpoint, Err(ProbeFailure::Refused), at(0));
    assert_eq!(scheduler.load(endpoint).health, Health::Up);
    scheduler.scrape(endpoint, Err(ProbeFailure::Refused), at(1));
    assert_eq!(scheduler.load(endpoint).health, Health::Down);
    scheduler.scrape(endpoint, Ok(Scraped::default()), at(2));
    assert!(matches!(
        scheduler.load(endpoint).health,
        Health::Warming(_)
    ));
    scheduler.tick(at(30));
    assert_eq!(scheduler.load(endpoint).health, Health::Up);
}

#[test]
fn a_health_page_that_says_no_counts_only_while_no_request_succeeds() {
    let scheduler = scheduler(1);
    let endpoint = scheduler.pool().endpoints[0].id;
    let loading = |now| {
        let probed = ProbeResult {
            endpoint,
            pool: "chat".into(),
            at: Instant::now(),
            outcome: Err(ProbeFailure::Status(503)),
            is_loading: true,
            models: None,
            pairing: None,
        };
        scheduler.observe(&probed, now);
        scheduler.load(endpoint).health
    };
    let serve = |request, now| {
        scheduler.started(key(ONE, request), endpoint, 100, false, now);
        scheduler.first_byte(key(ONE, request), TTFT, now);
    };
    assert_eq!(loading(at(0)), Health::Down);
    serve(1, at(1));
    assert_eq!(scheduler.load(endpoint).health, Health::Up, "it serves");
    assert_eq!(loading(at(2)), Health::Up);
    assert_eq!(loading(at(20)), Health::Down, "it served long ago");
}

#[test]
fn a_probe_that_fails_leaves_what_was_sent_since_the_last_figures_counted() {
    let scheduler = scheduler_of(&pool_that_picks_by(
        Strategy::KvAware(KvAware::default()),
        1,
    ));
    let endpoint = scheduler.pool().endpoints[0].id;
    let empty = Scraped {
        sample: EngineSample {
            kv_usage: Some(0.0),
            ..EngineSample::default()
        },
        cache: CacheInfo {
            block_size: Some(10),
            num_blocks: Some(1_000),
        },
        ..Scraped::default()
    };
    scheduler.scrape(endpoint, Ok(empty), at(0));
    let query = Query {
        prompt_tokens: 6_000,
        ..Query::default()
    };
    let is_bound = |request, now| {
        let decision = scheduler.choose(arrival(key(ONE, request), &query), now);
        matches!(decision, ScoreDecision::Bound(_))
    };
    assert!(is_bound(1, at(0)));
    scheduler.started(key(ONE, 1), endpoint, 6_000, false, at(0));
    scheduler.first_byte(key(ONE, 1), at(1), at(1));
    scheduler.scrape(endpoint, Err(ProbeFailure::Timeout), at(1));
    assert!(!is_bound(2, at(1)), "6000 of 10000 tokens are taken");
}
