//! The score against numbers worked out by hand.

use super::*;

const ALL_ONE: ClassicWeights = ClassicWeights {
    miss: 1.0,
    usage: 1.0,
    waiting: 1.0,
    in_flight: 1.0,
    scale: CountScale::Max,
};

fn candidate(
    cached: u32,
    pending_tokens: u64,
    kv_usage: Option<f32>,
    waiting: Option<u32>,
) -> ScoredCandidate {
    let sample = Some(EngineSample {
        waiting,
        running: None,
        kv_usage,
    });
    ScoredCandidate::new(
        0,
        Load {
            pending_tokens,
            sample,
            ..Load::default()
        },
        cached,
    )
}

fn scores(
    weights: &ClassicWeights,
    prompt_tokens: u32,
    mut candidates: Vec<ScoredCandidate>,
) -> Vec<f32> {
    weigh(weights, prompt_tokens, &mut candidates);
    candidates.iter().map(|candidate| candidate.score).collect()
}

#[test]
fn counts_are_scaled_by_the_largest_among_the_candidates() {
    let candidates = vec![
        candidate(500, 4_000, Some(0.5), Some(8)),
        candidate(0, 1_000, Some(0.25), Some(2)),
    ];
    // 1 - 500/1000 + 0.5 + 8/8 + 4000/4000, and 1 - 0 + 0.25 + 2/8 + 1000/4000.
    assert_eq!(scores(&ALL_ONE, 1_000, candidates), [3.0, 1.75]);
}

#[test]
fn raw_counts_enter_as_they_are_and_tokens_in_thousands() {
    let raw = ClassicWeights {
        scale: CountScale::Raw,
        ..ALL_ONE
    };
    let candidates = vec![
        candidate(500, 4_000, Some(0.5), Some(8)),
        candidate(0, 1_000, Some(0.25), Some(2)),
    ];
    assert_eq!(
        scores(&raw, 1_000, candidates),
        [0.5 + 0.5 + 8.0 + 4.0, 1.0 + 0.25 + 2.0 + 1.0]
    );
}

#[test]
fn every_weight_weighs_its_own_term() {
    let weights = ClassicWeights {
        miss: 2.0,
        usage: 4.0,
        waiting: 8.0,
        in_flight: 16.0,
        scale: CountScale::Max,
    };
    let mut candidates = [
        candidate(250, 50, Some(0.5), Some(1)),
        candidate(0, 100, Some(0.0), Some(4)),
    ];
    weigh(&weights, 1_000, &mut candidates);
    assert_eq!(
        candidates[0].terms,
        ScoreTerms {
            miss: 1.5,
            usage: 2.0,
            waiting: 2.0,
            in_flight: 8.0
        }
    );
    assert_eq!(
        candidates[1].terms,
        ScoreTerms {
            miss: 2.0,
            usage: 0.0,
            waiting: 8.0,
            in_flight: 16.0
        }
    );
}

#[test]
fn silence_costs_what_the_others_cost_on_average() {
    let silent = ScoredCandidate::new(0, Load::default(), 0);
    let candidates = vec![
        candidate(0, 0, Some(0.2), Some(4)),
        silent,
        candidate(0, 0, Some(0.4), None),
    ];
    let scores = scores(&ALL_ONE, 1_000, candidates);
    for (score, expected) in scores
        .iter()
        .zip([1.0 + 0.2 + 1.0, 1.0 + 0.3 + 1.0, 1.0 + 0.4 + 1.0])
    {
        assert!((score - expected).abs() < 1e-6, "{scores:?}");
    }
}

#[test]
fn a_figure_that_no_candidate_has_does_not_count() {
    let silent = ScoredCandidate::new(0, Load::default(), 0);
    assert_eq!(scores(&ALL_ONE, 1_000, vec![silent, silent]), [1.0, 1.0]);
}

#[test]
fn figures_that_are_no_numbers_count_as_missing() {
    let candidates = vec![
        candidate(0, 0, Some(f32::NAN), None),
        candidate(0, 0, Some(0.5), None),
    ];
    assert_eq!(scores(&ALL_ONE, 1_000, candidates), [1.5, 1.5]);
    let infinite = vec![candidate(0, 0, Some(f32::INFINITY), None)];
    assert_eq!(
        scores(&ALL_ONE, 1_000, infinite),
        [2.0],
        "more than full is full"
    );
}

#[test]
fn a_score_that_is_no_number_never_wins() {
    let odd = ClassicWeights {
        usage: f32::INFINITY,
        ..ALL_ONE
    };
    let candidates = vec![candidate(0, 0, Some(0.0), None)];
    assert_eq!(scores(&odd, 1_000, candidates), [f32::MAX]);
}

#[test]
fn more_cached_tokens_than_the_prompt_has_is_a_full_hit() {
    assert_eq!(
        scores(&ALL_ONE, 1_000, vec![candidate(1_200, 0, None, None)]),
        [0.0]
    );
    assert_eq!(
        scores(&ALL_ONE, 0, vec![candidate(10, 0, None, None)]),
        [1.0],
        "a prompt of unknown length hits nowhere"
    );
}
