//! An explanation reports the choice that is made.

use super::*;
use crate::explanation::{CandidateExplanation, ExclusionReason, ScoreTerms};

#[test]
fn it_names_the_choice_its_numbers_and_who_was_left_out() {
    let hits = [hit(0, 800)];
    let mut query = Query {
        prompt_tokens: 1_000,
        ..Query::default()
    };
    query.exclude.push(EndpointId(3));
    let pool = with_role(
        pool(Strategy::HermesClassic(ClassicWeights::default()), 5),
        4,
        Role::Decode,
    );
    let picker = Picker::build(Arc::new(pool));
    let sample = Some(EngineSample {
        waiting: Some(2),
        running: Some(8),
        kv_usage: Some(0.5),
    });
    let load = |position| match position {
        2 => sick(Health::Down),
        _ => Load {
            in_flight: 3,
            pending_tokens: 100,
            sample,
            health: Health::Up,
        },
    };
    let ask = PickRequest {
        hits: &hits,
        ..PickRequest::new(&query)
    };
    let explanation = picker.explain(&ask, load, &mut SeededRng::new(1));

    let Explanation {
        strategy,
        reason,
        ranked,
        panic_mode,
        candidates,
        ..
    } = &explanation;
    assert_eq!((*strategy, *panic_mode), ("hermes-classic", false));
    assert_eq!(*ranked, [EndpointId(0), EndpointId(1)]);
    assert_eq!(
        reason,
        "server-0 has the lowest score, 2.700, of 2 compared, with 800 of 1000 prompt tokens cached"
    );
    let excluded: Vec<_> = candidates
        .iter()
        .map(|candidate| candidate.excluded)
        .collect();
    assert_eq!(
        excluded,
        [
            None,
            None,
            Some(ExclusionReason::Down),
            Some(ExclusionReason::Tried),
            Some(ExclusionReason::Role)
        ]
    );
    let CandidateExplanation {
        cached_tokens,
        waiting,
        rank,
        score,
        terms,
        ..
    } = &candidates[0];
    assert_eq!((*cached_tokens, *waiting, *rank), (800, Some(2), Some(0)));
    let ScoreTerms {
        miss,
        usage,
        waiting,
        in_flight,
    } = terms.expect("hermes-classic has terms");
    assert_eq!(*score, Some(miss + usage + waiting + in_flight));

    let json = serde_json::to_value(&explanation).expect("it is plain data");
    assert_eq!(json["candidates"][2]["excluded"], "down");
    assert_eq!(json["candidates"][0]["terms"]["usage"], 0.5);
}

#[test]
fn it_says_why_there_is_no_endpoint() {
    let query = Query {
        exclude: [EndpointId(0)].into_iter().collect(),
        ..Query::default()
    };
    let explanation = picker(Strategy::Random, 1).explain(
        &PickRequest::new(&query),
        |_| Load::default(),
        &mut SeededRng::new(1),
    );
    assert_eq!(
        explanation.reason,
        "every endpoint that has the model was tried"
    );
    assert!(explanation.ranked.is_empty());
    assert_eq!(
        explanation.candidates[0].excluded,
        Some(ExclusionReason::Tried)
    );
}

#[test]
fn it_admits_despair() {
    let query = Query::default();
    let explanation = picker(Strategy::RoundRobin, 2).explain(
        &PickRequest::new(&query),
        |_| sick(Health::Down),
        &mut SeededRng::new(1),
    );
    assert!(explanation.panic_mode);
    assert_eq!(
        explanation.reason,
        "server-0 is next in turn; only endpoints that are down were left"
    );
}

#[test]
fn a_large_pool_shows_who_was_not_looked_at() {
    let query = Query::default();
    let explanation = picker(Strategy::LeastRequest, 200).explain(
        &PickRequest::new(&query),
        |_| busy(1),
        &mut SeededRng::new(1),
    );
    let skipped = explanation
        .candidates
        .iter()
        .filter(|candidate| candidate.excluded == Some(ExclusionReason::NotSampled));
    assert_eq!(skipped.count(), 200 - MAX_WEIGHED);
}

proptest! {
    #[test]
    fn it_reports_the_same_choice_that_is_made(strategy in 0..6usize, n in 1..150usize, seed: u64, session: Option<u64>) {
        let picker = picker(every_strategy()[strategy].clone(), n);
        let query = Query { session, prompt_tokens: 100, ..Query::default() };
        let ask = PickRequest { round_robin_counter: seed, ..PickRequest::new(&query) };
        let load = |position: usize| busy((position as u32).wrapping_mul(seed as u32) % 7);
        let choice = picker.pick(&ask, load, &mut SeededRng::new(seed)).expect("all are up");
        let explanation = picker.explain(&ask, load, &mut SeededRng::new(seed));
        let picked: Vec<_> = choice.ranked.iter().map(|ranked| ranked.endpoint).collect();
        prop_assert_eq!(picked, explanation.ranked);
    }
}
