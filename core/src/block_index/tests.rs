//! The index against a reference model that stores whole prefixes.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;

mod cases;

type Key = (Option<&'static str>, Option<&'static str>);

/// Prompts of two tokens that begin alike now and then.
fn prompt(number: usize) -> Vec<u32> {
    (0..16)
        .map(|at| {
            if at < 4 + number % 3 * 4 {
                7
            } else {
                (number as u32 >> (at % 4)) & 1
            }
        })
        .collect()
}

fn identity((adapter, salt): Key) -> CacheIdentity {
    CacheIdentity {
        adapter: adapter.map(Into::into),
        salt: salt.map(Into::into),
    }
}

/// An engine's events about the blocks `from..to` of a prompt.
fn stored(
    names: &mut Names,
    seed: u32,
    key: Key,
    tokens: &[u32],
    size: usize,
    blocks: std::ops::Range<usize>,
) -> StoredBlocks {
    let (adapter, salt) = key;
    let contents = blocks.clone().map(|at| {
        let extras = salt
            .filter(|_| at == 0)
            .map(ExtraKeys::salt)
            .unwrap_or_default();
        extras.apply(content(&tokens[at * size..(at + 1) * size]))
    });
    let contents = contents.collect();
    let mut name = |end: usize| names.of(seed, key, &tokens[..end * size], size);
    let parent = (blocks.start > 0).then(|| name(blocks.start));
    let names = blocks.map(|at| name(at + 1)).collect();
    let adapter = adapter.map_or(Adapter::None, Adapter::Name);
    StoredBlocks {
        names,
        contents,
        parent,
        ..StoredBlocks::default()
    }
    .rooted(size as u32, adapter)
}

/// An engine's names: a number for each prefix, other ones in each engine.
#[derive(Default)]
struct Names(HashMap<(u32, Key, Vec<u32>, usize), u64>);

impl Names {
    fn of(&mut self, seed: u32, key: Key, prefix: &[u32], size: usize) -> u64 {
        let next = self.0.len() as u64;
        *self
            .0
            .entry((seed, key, prefix.to_vec(), size))
            .or_insert(next)
    }
}

/// What a name means: identity, tokens up to its end, block size.
type Prefix = (Key, Vec<u32>, usize);

/// The reference: copies by tier of every name of one rank, and its meaning.
#[derive(Default)]
struct Model(BTreeMap<u64, ([u32; 3], Prefix)>);

impl Model {
    fn store(
        &mut self,
        stored: &StoredBlocks,
        tier: usize,
        key: Key,
        tokens: &[u32],
        size: usize,
        from: usize,
    ) {
        if stored
            .parent
            .is_some_and(|parent| !self.0.contains_key(&parent))
        {
            return;
        }
        for (at, name) in stored.names.iter().enumerate() {
            let what = (key, tokens[..(from + at + 1) * size].to_vec(), size);
            self.0.entry(*name).or_insert(([0; 3], what)).0[tier] += 1;
        }
    }

    fn remove(&mut self, name: u64, tier: usize) {
        let Some((copies, _)) = self.0.get_mut(&name) else {
            return;
        };
        copies[tier] = copies[tier].saturating_sub(1);
        if *copies == [0; 3] {
            self.0.remove(&name);
        }
    }

    fn cached(&self, tokens: &[u32], key: Key, size: usize) -> CachedTokens {
        let held = |end: usize| {
            let found = self
                .0
                .values()
                .find(|(_, what)| *what == (key, tokens[..end * size].to_vec(), size));
            found.map_or([false; 3], |(copies, _)| copies.map(|copies| copies > 0))
        };
        let usable = (tokens.len() - 1) / size;
        let reach =
            |holds: fn([bool; 3]) -> bool| (1..=usable).take_while(|end| holds(held(*end))).count();
        let tokens = |blocks: usize| (blocks * size) as u32;
        CachedTokens {
            gpu: tokens(reach(|[gpu, _, _]| gpu)),
            host: tokens(reach(|[gpu, host, _]| gpu || host)),
            disk: tokens(reach(|[gpu, host, disk]| gpu || host || disk)),
        }
    }
}

const KEYS: [Key; 4] = [
    (None, None),
    (Some("a"), None),
    (None, Some("s")),
    (Some("a"), Some("s")),
];
const SIZES: [usize; 2] = [2, 4];
const TIERS: [Tier; 3] = [Tier::Gpu, Tier::Host, Tier::Disk];
/// Two ranks of one endpoint, and one of another.
const RANKS: [u64; 3] = [1, 1, 2];

#[derive(Clone, Debug)]
enum Step {
    Store {
        rank: usize,
        prompt: usize,
        key: usize,
        size: usize,
        from: usize,
        count: usize,
        tier: usize,
    },
    Move {
        rank: usize,
        prompt: usize,
        key: usize,
        size: usize,
        at: usize,
        tier: usize,
    },
    Remove {
        rank: usize,
        prompt: usize,
        key: usize,
        size: usize,
        at: usize,
        tier: usize,
    },
    Clear {
        rank: usize,
    },
    Close {
        rank: usize,
    },
    Sweep {
        blocks: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let block = || {
        (
            0..3usize,
            0..6usize,
            0..4usize,
            0..2usize,
            0..8usize,
            0..3usize,
        )
    };
    let step = prop_oneof![
        6 => (block(), 1..6usize).prop_map(|((rank, prompt, key, size, from, tier), count)| Step::Store {
            rank, prompt, key, size, from: if count > 3 { 0 } else { from }, count, tier: tier / 2,
        }),
        2 => block().prop_map(|(rank, prompt, key, size, at, tier)| Step::Move { rank, prompt, key, size, at, tier }),
        5 => block().prop_map(|(rank, prompt, key, size, at, tier)| Step::Remove {
            rank, prompt, key, size, at, tier: tier / 2,
        }),
        1 => (0..3usize).prop_map(|rank| Step::Clear { rank }),
        1 => (0..3usize).prop_map(|rank| Step::Close { rank }),
        1 => (0..20usize).prop_map(|blocks| Step::Sweep { blocks }),
    ];
    proptest::collection::vec(step, 0..80)
}

fn run(steps: Vec<Step>) -> (BlockIndex, Vec<RankBlocks>, Vec<Model>) {
    let mut names = Names::default();
    let mut index = BlockIndex::default();
    let mut ranks: Vec<RankBlocks> = RANKS
        .iter()
        .map(|endpoint| index.open(EndpointId(*endpoint)))
        .collect();
    ranks
        .iter()
        .for_each(|rank| index.set_sync_state(rank, SyncState::Synced));
    let mut models: Vec<Model> = RANKS.iter().map(|_| Model::default()).collect();
    let mut changes = Vec::new();
    for step in steps {
        match step {
            Step::Store {
                rank,
                prompt: number,
                key,
                size,
                from,
                count,
                tier,
            } => {
                let (tokens, size) = (prompt(number), SIZES[size]);
                let most = tokens.len() / size;
                let from = from.min(most - 1);
                let blocks = from..(from + count).min(most);
                let stored = stored(&mut names, rank as u32, KEYS[key], &tokens, size, blocks);
                let stored = StoredBlocks {
                    tier: TIERS[tier],
                    ..stored
                };
                ranks[rank]
                    .store(&stored, &mut changes)
                    .expect("few blocks");
                index.apply(&ranks[rank], &changes);
                models[rank].store(&stored, tier, KEYS[key], &tokens, size, from);
            }
            Step::Move {
                rank,
                prompt: number,
                key,
                size,
                at,
                tier,
            } => {
                let (tokens, size) = (prompt(number), SIZES[size]);
                let end = (at + 1).min(tokens.len() / size) * size;
                let name = names.of(rank as u32, KEYS[key], &tokens[..end], size);
                let stored = StoredBlocks {
                    names: vec![name],
                    tier: TIERS[tier],
                    ..StoredBlocks::default()
                };
                ranks[rank]
                    .store(&stored, &mut changes)
                    .expect("few blocks");
                index.apply(&ranks[rank], &changes);
                if let Some((copies, _)) = models[rank].0.get_mut(&name) {
                    copies[tier] += 1;
                }
            }
            Step::Remove {
                rank,
                prompt: number,
                key,
                size,
                at,
                tier,
            } => {
                let (tokens, size) = (prompt(number), SIZES[size]);
                let end = (at + 1).min(tokens.len() / size) * size;
                let name = names.of(rank as u32, KEYS[key], &tokens[..end], size);
                let removed = RemovedBlocks {
                    names: vec![name],
                    tier: TIERS[tier],
                    group: None,
                };
                ranks[rank].remove(&removed, &mut changes);
                index.apply(&ranks[rank], &changes);
                models[rank].remove(name, tier);
            }
            Step::Clear { rank } => {
                index.clear(&mut ranks[rank], SyncState::Synced);
                models[rank] = Model::default();
            }
            Step::Close { rank } => {
                index.close(&mut ranks[rank]);
                ranks[rank] = index.open(EndpointId(RANKS[rank]));
                index.set_sync_state(&ranks[rank], SyncState::Synced);
                models[rank] = Model::default();
            }
            Step::Sweep { blocks } => {
                index.sweep(blocks);
            }
        }
        changes.clear();
    }
    (index, ranks, models)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn hits_are_what_the_engines_hold_and_never_anothers(steps in steps()) {
        let (index, _ranks, models) = run(steps);
        for number in 0..6 {
            let tokens = prompt(number);
            for key in KEYS {
                let hits = index.hits(&tokens, &identity(key));
                let expected = |ranks: &[Model]| {
                    let each = ranks.iter().flat_map(|rank| SIZES.map(|size| rank.cached(&tokens, key, size)));
                    each.map(CachedTokens::saved_tokens).max().unwrap_or(0)
                };
                let worth: Vec<(u64, u32)> = hits.iter().map(|hit| (hit.endpoint.0, hit.cached.saved_tokens())).collect();
                prop_assert_eq!(worth, [(1, expected(&models[..2])), (2, expected(&models[2..]))]);
                let ordered = |hit: &CacheHit| hit.cached.gpu <= hit.cached.host && hit.cached.host <= hit.cached.disk;
                prop_assert!(hits.iter().all(ordered));
            }
        }
    }

    #[test]
    fn everything_is_given_back(steps in steps()) {
        let (mut index, mut ranks, _) = run(steps);
        ranks.iter_mut().for_each(|rank| index.close(rank));
        while index.sweep(7) {}
        prop_assert_eq!((index.blocks(), index.sets.bytes(), index.sizes.len()), (0, 0, 0));
        prop_assert_eq!(index.blocks.bytes(), BlockIndex::default().blocks.bytes());
        prop_assert!(index.hits(&prompt(0), &CacheIdentity::default()).is_empty());
    }
}
