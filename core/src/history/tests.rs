use proptest::{collection::vec, prelude::*};

use super::*;

const NOW: Duration = Duration::from_secs(100);

/// A conversation's chain: the same beginning is the same hashes.
fn chain(steps: &[u64]) -> Arc<[u64]> {
    let next = |hash: &mut u64, step: &u64| {
        *hash = hash
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .wrapping_add(step + 1);
        Some(*hash)
    };
    steps.iter().scan(0, next).collect()
}

/// The first `turns` blocks of the conversation that begins with `name`.
fn conversation(name: u64, turns: usize) -> Arc<[u64]> {
    chain(&iter::repeat_n(name, turns).collect::<Vec<_>>())
}

/// A prompt of whole blocks, of 100 tokens each.
fn query(blocks: &Arc<[u64]>) -> Query {
    Query {
        prompt_bytes: blocks.len() as u64 * 256,
        prompt_tokens: blocks.len() as u32 * 100,
        blocks: Arc::clone(blocks),
        ..Query::default()
    }
}

fn memory(decisions: usize, hashes: usize) -> RoutingHistory {
    RoutingHistory::new(
        256,
        HistoryLimits {
            prompts: decisions,
            hashes,
        },
    )
}

fn known(memory: &RoutingHistory, blocks: &Arc<[u64]>) -> Vec<(u64, u32)> {
    let mut known: Vec<_> = memory
        .hits(&query(blocks))
        .iter()
        .map(|hit| (hit.endpoint.0, hit.cached.gpu))
        .collect();
    known.sort_unstable();
    known
}

#[test]
fn the_next_turn_finds_the_last_one_to_the_block() {
    let mut memory = memory(10, 1_000);
    memory.record(EndpointId(1), &conversation(7, 61), 6_100, NOW);
    memory.record(EndpointId(2), &conversation(8, 61), 6_100, NOW);
    assert_eq!(known(&memory, &conversation(7, 70)), [(1, 6_100)]);
    assert_eq!(known(&memory, &conversation(9, 70)), []);
}

#[test]
fn each_endpoint_is_known_for_the_longest_that_it_got() {
    let mut memory = memory(10, 1_000);
    memory.record(EndpointId(1), &conversation(7, 3), 300, NOW);
    memory.record(EndpointId(2), &conversation(7, 20), 2_000, NOW);
    memory.record(EndpointId(1), &conversation(7, 2), 200, NOW);
    assert_eq!(known(&memory, &conversation(7, 40)), [(1, 300), (2, 2_000)]);
}

#[test]
fn a_tail_that_fills_no_block_counts_for_the_proportion() {
    let mut memory = memory(10, 1_000);
    memory.record(EndpointId(1), &conversation(7, 1), 100, NOW);
    let asked = Query {
        prompt_bytes: 512 + 128,
        prompt_tokens: 250,
        ..query(&conversation(7, 2))
    };
    assert_eq!(memory.hits(&asked)[0].cached, CachedTokens::on_gpu(100));
}

#[test]
fn later_turns_take_the_place_of_earlier_ones() {
    let mut memory = memory(100, 10_000);
    for turn in 1..=50 {
        memory.record(EndpointId(1), &conversation(7, turn * 2), 9, NOW);
    }
    assert_eq!(memory.hashes, 100);
    let replayed: Vec<RoutedPrompt> = memory.newest_first(NOW + Duration::from_secs(2)).collect();
    let [only] = &replayed[..] else {
        panic!("the last turn says it all")
    };
    assert_eq!((only.blocks.len(), only.age), (100, Duration::from_secs(2)));
}

#[test]
fn the_newest_come_first_and_the_oldest_are_dropped_over_the_limits() {
    let mut memory = memory(3, 1_000);
    for name in 1..=5 {
        memory.record(EndpointId(name), &conversation(name, 9), 9, NOW);
    }
    assert_eq!(
        memory
            .newest_first(NOW)
            .map(|decision| decision.endpoint.0)
            .collect::<Vec<_>>(),
        [5, 4, 3]
    );
    assert_eq!(known(&memory, &conversation(1, 9)), []);
    assert_eq!(memory.marks.len(), 3 * marks(9).count());
}

#[test]
fn of_a_beginning_that_everybody_got_the_most_recent_holders_are_known() {
    let mut memory = memory(1_000, 100_000);
    for endpoint in 0..100 {
        let system_prompt_and_more = chain(&[&[1; 10], &[endpoint + 2; 3][..]].concat());
        memory.record(EndpointId(endpoint), &system_prompt_and_more, 9, NOW);
    }
    let known = known(&memory, &conversation(1, 12));
    assert_eq!(
        known,
        (68..100)
            .map(|endpoint| (endpoint, 1_000))
            .collect::<Vec<_>>()
    );
}

#[test]
fn prompts_without_a_whole_block_are_not_remembered() {
    let mut memory = memory(10, 10);
    memory.record(EndpointId(1), &Arc::default(), 9, NOW);
    memory.record(EndpointId(1), &conversation(1, 11), 9, NOW);
    assert!(memory.decisions.is_empty() && memory.marks.is_empty());
}

/// What an endless memory that compares everything would know.
fn longest(sent: &[(u64, Arc<[u64]>)], endpoint: u64, blocks: &[u64]) -> usize {
    let same = |chain: &Arc<[u64]>| {
        iter::zip(chain.iter(), blocks)
            .take_while(|(a, b)| a == b)
            .count()
    };
    sent.iter()
        .filter(|(to, _)| *to == endpoint)
        .map(|(_, chain)| same(chain))
        .max()
        .unwrap_or(0)
}

proptest! {
    #[test]
    fn a_hit_is_what_is_shared_or_a_little_less(
        sent in vec((0..4_u64, vec(0..2_u64, 1..30)), 1..40),
        asked in vec(0..2_u64, 1..40),
    ) {
        let sent: Vec<_> = sent.into_iter().map(|(endpoint, steps)| (endpoint, chain(&steps))).collect();
        let mut memory = memory(1_000, 100_000);
        for (endpoint, blocks) in &sent {
            memory.record(EndpointId(*endpoint), blocks, 9, NOW);
        }
        let asked = chain(&asked);
        let known = known(&memory, &asked);
        for endpoint in 0..4 {
            let hit = known.iter().find(|(holder, _)| *holder == endpoint).map_or(0, |(_, tokens)| *tokens as usize / 100);
            let longest = longest(&sent, endpoint, &asked);
            prop_assert!(hit <= longest && longest - hit < STRIDE, "{hit} of {longest}");
        }
    }

    #[test]
    fn nothing_outgrows_its_limit_and_nothing_is_left_of_what_is_forgotten(
        sent in vec((0..4_u64, vec(0..2_u64, 1..40)), 1..60),
        decisions in 1..10_usize,
        hashes in 1..100_usize,
    ) {
        let mut memory = memory(decisions, hashes);
        for (endpoint, steps) in &sent {
            memory.record(EndpointId(*endpoint), &chain(steps), 9, NOW);
            prop_assert!(memory.decisions.len() <= decisions && memory.hashes <= hashes);
            prop_assert_eq!(memory.hashes, memory.decisions.iter().map(|kept| kept.blocks.len()).sum::<usize>());
            let oldest = memory.oldest;
            let left = memory.marks.values().flatten().find(|passed| passed.decision < oldest);
            prop_assert!(left.is_none() && memory.marks.values().all(|passed| !passed.is_empty()));
        }
    }
}
