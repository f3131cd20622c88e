//! Examples and properties of the scheduler.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::model::chain::Chain;
use crate::model::text::Answer;

const LIMITS: Limits = Limits {
    blocks: 8,
    block_size: 4,
    step_budget: 16,
    max_running: 4,
    max_model_len: 32,
};

fn job(tokens: &[u32], output_tokens: u32) -> Job {
    let chain = Chain::new("m", None, LIMITS.block_size, tokens);
    let answer = Answer::new(chain.digest(), 0);
    Job {
        received: 0,
        chain,
        prompt_tokens: tokens.len(),
        output_tokens,
        stops: false,
        answer,
        adapter: None,
    }
}

fn run_to_idle(scheduler: &mut Scheduler) -> HashMap<SequenceId, Progress> {
    let mut last = HashMap::new();
    let mut steps = 0;
    while scheduler.plan(Duration::ZERO).is_some() {
        scheduler.commit(Duration::ZERO, |id, progress| {
            last.insert(id, progress);
        });
        steps += 1;
        assert!(steps < 10_000, "the scheduler makes progress");
    }
    last
}

#[test]
fn a_prompt_is_prefilled_in_pieces_of_the_budget_and_then_decodes() {
    let mut scheduler = Scheduler::new(LIMITS);
    let tokens: Vec<u32> = (0..20).collect();
    scheduler.submit(job(&tokens, 2), Duration::ZERO);
    assert_eq!(
        scheduler.plan(Duration::ZERO),
        Some(Step {
            prefill_tokens: 16,
            decodes: 0
        })
    );
    scheduler.commit(Duration::ZERO, |_, _| panic!("the prompt is not whole yet"));
    assert_eq!(
        scheduler.plan(Duration::ZERO),
        Some(Step {
            prefill_tokens: 4,
            decodes: 0
        })
    );
    scheduler.commit(Duration::ZERO, |_, progress| {
        assert_eq!(progress.generated, 1);
    });
    assert_eq!(
        scheduler.plan(Duration::ZERO),
        Some(Step {
            prefill_tokens: 0,
            decodes: 1
        })
    );
    scheduler.commit(Duration::ZERO, |_, progress| assert!(progress.done));
    assert_eq!(scheduler.plan(Duration::ZERO), None);
    assert_eq!(scheduler.cache().used(), 0);
}

#[test]
fn a_prefix_hit_shortens_prefill_but_never_covers_the_last_token() {
    let mut scheduler = Scheduler::new(LIMITS);
    let tokens: Vec<u32> = (0..8).collect();
    scheduler.submit(job(&tokens, 1), Duration::ZERO);
    run_to_idle(&mut scheduler);
    scheduler.submit(job(&tokens, 1), Duration::ZERO);
    assert_eq!(
        scheduler.plan(Duration::ZERO),
        Some(Step {
            prefill_tokens: 4,
            decodes: 0
        })
    );
    assert_eq!(
        (
            scheduler.meters().prefix_queries,
            scheduler.meters().prefix_hits
        ),
        (16, 4)
    );
}

#[test]
fn the_answer_of_one_turn_is_a_hit_in_the_next() {
    let mut scheduler = Scheduler::new(LIMITS);
    let mut history: Vec<u32> = (0..8).collect();
    let first = job(&history, 5);
    history.extend((0..5).map(|position| first.answer.token(position)));
    scheduler.submit(first, Duration::ZERO);
    run_to_idle(&mut scheduler);
    history.push(99);
    let id = scheduler.submit(job(&history, 1), Duration::ZERO);
    assert_eq!(
        run_to_idle(&mut scheduler)[&id].cached,
        12,
        "two prompt blocks and one generated block"
    );
}

#[test]
fn a_request_waits_for_blocks_and_the_queue_keeps_its_order() {
    let mut scheduler = Scheduler::new(LIMITS);
    for family in 0..3 {
        let tokens: Vec<u32> = (0..14).map(|token| token + family * 100).collect();
        scheduler.submit(job(&tokens, 1), Duration::ZERO);
    }
    scheduler.plan(Duration::ZERO);
    assert_eq!((scheduler.running(), scheduler.waiting()), (2, 1));
    assert_eq!(scheduler.cache().used(), 8);
    scheduler.abort(1);
    scheduler.commit(Duration::ZERO, |_, _| ());
    scheduler.plan(Duration::ZERO);
    assert_eq!(
        (scheduler.running(), scheduler.waiting()),
        (2, 0),
        "the client of the first left, so the third came in"
    );
}

#[test]
fn prompts_that_share_the_time_advance_side_by_side_and_a_short_one_is_done_first() {
    let mut scheduler = Scheduler::new(LIMITS).sharing_time(4);
    let long: Vec<u32> = (0..20).collect();
    let short: Vec<u32> = (100..106).collect();
    let ids = [&long, &short].map(|tokens| scheduler.submit(job(tokens, 1), Duration::ZERO));
    let mut done = Vec::new();
    let mut steps = Vec::new();
    while let Some(step) = scheduler.plan(Duration::ZERO) {
        steps.push(step.prefill_tokens);
        scheduler.commit(Duration::ZERO, |id, _| done.push(id));
    }
    assert_eq!(steps, [8, 6, 4, 4, 4]);
    assert_eq!(done, [ids[1], ids[0]]);
}

#[test]
fn what_is_left_to_prefill_is_exact_for_what_runs_and_expected_for_what_waits() {
    let mut scheduler = Scheduler::new(Limits {
        max_running: 1,
        ..LIMITS
    });
    let tokens: Vec<u32> = (0..20).collect();
    let ids = [
        scheduler.submit(job(&tokens, 2), Duration::ZERO),
        scheduler.submit(job(&tokens, 2), Duration::ZERO),
    ];
    let pending =
        |scheduler: &Scheduler| scheduler.pending_prefill(|id| if id == ids[1] { 4 } else { 20 });
    assert_eq!(pending(&scheduler), 24);
    scheduler.plan(Duration::ZERO);
    scheduler.commit(Duration::ZERO, |_, _| ());
    assert_eq!(pending(&scheduler), 4 + 4, "16 of 20 tokens are computed");
}

#[test]
fn a_decode_without_a_free_block_preempts_the_newest_and_both_finish() {
    let mut scheduler = Scheduler::new(Limits {
        blocks: 6,
        ..LIMITS
    });
    let ids = [0, 100].map(|family| {
        let tokens: Vec<u32> = (0..8).map(|token| token + family).collect();
        scheduler.submit(job(&tokens, 16), Duration::ZERO)
    });
    let last = run_to_idle(&mut scheduler);
    assert!(scheduler.meters().preemptions > 0);
    assert!(ids.iter().all(|id| last[id]
        == Progress {
            generated: 16,
            cached: 0,
            done: true
        }));
}

proptest! {
    #[test]
    fn every_request_finishes_within_capacity_and_hits_stay_below_the_prompt(
        jobs in proptest::collection::vec((0u32..3, 1usize..20, 1u32..12), 1..25),
        blocks in 8usize..20, step_budget in 1usize..24, max_running in 1usize..6,
    ) {
        let mut scheduler = Scheduler::new(Limits { blocks, step_budget, max_running, ..LIMITS });
        let mut wanted = HashMap::new();
        for (family, length, output) in jobs {
            let tokens: Vec<u32> = (0..length as u32).map(|token| family * 1000 + token).collect();
            wanted.insert(scheduler.submit(job(&tokens, output), Duration::ZERO), (length, output));
        }
        let mut finished = HashMap::new();
        while let Some(step) = scheduler.plan(Duration::ZERO) {
            prop_assert!(step.prefill_tokens + step.decodes <= step_budget);
            prop_assert!(scheduler.cache().used() <= blocks && scheduler.cache().named() <= blocks);
            prop_assert!(scheduler.running() <= max_running);
            scheduler.commit(Duration::ZERO, |id, progress| if progress.done { finished.insert(id, progress); });
        }
        prop_assert_eq!(finished.len(), wanted.len());
        for (id, progress) in finished {
            let (length, output) = wanted[&id];
            prop_assert_eq!(progress.generated, output);
            prop_assert!(progress.cached < length);
        }
        prop_assert_eq!(scheduler.cache().used(), 0);
        prop_assert_eq!(scheduler.waiting() + scheduler.running(), 0);
    }

    #[test]
    fn held_sequences_keep_their_memory_until_they_are_released_and_all_finish(
        jobs in proptest::collection::vec((0u32..3, 1usize..20, any::<bool>()), 1..25),
        blocks in 8usize..20,
    ) {
        let mut scheduler = Scheduler::new(Limits { blocks, ..LIMITS });
        let (mut is_held, mut held, mut finished) = (HashMap::new(), Vec::new(), 0);
        for (family, length, holds) in jobs {
            let tokens: Vec<u32> = (0..length as u32).map(|token| family * 1000 + token).collect();
            let id = scheduler.submit(job(&tokens, 1), Duration::ZERO);
            if holds {
                scheduler.hold(id);
            }
            is_held.insert(id, holds);
        }
        loop {
            while scheduler.plan(Duration::ZERO).is_some() {
                prop_assert!(scheduler.cache().used() <= blocks && scheduler.cache().named() <= blocks);
                scheduler.commit(Duration::ZERO, |id, progress| if progress.done {
                    finished += 1;
                    if is_held[&id] {
                        held.push(id);
                    }
                });
            }
            prop_assert_eq!(scheduler.running(), 0);
            prop_assert_eq!(scheduler.cache().used() > 0, !held.is_empty());
            match held.pop() {
                Some(id) => scheduler.abort(id),
                None => break,
            }
        }
        prop_assert_eq!(finished, is_held.len());
        prop_assert_eq!(scheduler.waiting(), 0);
    }
}
