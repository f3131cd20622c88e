//! The invariants of the block index, one by one.

use super::*;

/// One endpoint whose only rank holds `blocks` blocks of two tokens of prompt 0.
fn one(blocks: usize) -> (BlockIndex, RankBlocks, StoredBlocks) {
    let mut index = BlockIndex::default();
    let mut rank = index.open(EndpointId(1));
    let stored = stored(&mut Names::default(), 0, KEYS[0], &prompt(0), 2, 0..blocks);
    let mut changes = Vec::new();
    rank.store(&stored, &mut changes).expect("few blocks");
    index.apply(&rank, &changes);
    (index, rank, stored)
}

fn gpu(index: &BlockIndex) -> Option<u32> {
    index
        .hits(&prompt(0), &CacheIdentity::default())
        .first()
        .map(|hit| hit.cached.gpu)
}

#[test]
fn unsynced_ranks_report_nothing_partial_ones_their_hits_and_synced_ones_misses_too() {
    let (mut index, rank, _) = one(3);
    assert_eq!(gpu(&index), None);
    index.set_sync_state(&rank, SyncState::Partial);
    assert_eq!(gpu(&index), Some(6));
    assert!(
        index.hits(&prompt(0), &CacheIdentity::default())[0].at_least,
        "there may be more"
    );
    let other = index.hits(&[1, 2, 3, 4, 5], &CacheIdentity::default());
    assert!(other.is_empty(), "whether it holds this is not known");
    index.set_sync_state(&rank, SyncState::Synced);
    let other = index.hits(&[1, 2, 3, 4, 5], &CacheIdentity::default());
    assert_eq!(other.len(), 1, "it is known to hold nothing of this");
    assert_eq!(other[0].cached, CachedTokens::default());
}

#[test]
fn one_unsynced_rank_leaves_misses_of_its_endpoint_unknown() {
    let (mut index, rank, _) = one(3);
    index.set_sync_state(&rank, SyncState::Synced);
    let unsynced = index.open(EndpointId(1));
    assert_eq!(gpu(&index), Some(6));
    assert!(
        index
            .hits(&[1, 2, 3, 4, 5], &CacheIdentity::default())
            .is_empty()
    );
    index.set_sync_state(&unsynced, SyncState::Synced);
    assert_eq!(
        index
            .hits(&[1, 2, 3, 4, 5], &CacheIdentity::default())
            .len(),
        1
    );
}

#[test]
fn a_prompt_that_is_cached_to_its_end_costs_its_last_block() {
    let (mut index, rank, _) = one(8);
    index.set_sync_state(&rank, SyncState::Synced);
    assert_eq!(gpu(&index), Some(14), "of 16 tokens in 8 blocks");
    let longer = [prompt(0), vec![9]].concat();
    assert_eq!(
        index.hits(&longer, &CacheIdentity::default())[0].cached.gpu,
        16
    );
    assert_eq!(index.hits(&[], &CacheIdentity::default())[0].cached.gpu, 0);
}

#[test]
fn the_block_stays_until_its_last_copy_is_gone() {
    let (mut index, mut rank, stored) = one(2);
    index.set_sync_state(&rank, SyncState::Synced);
    let mut changes = Vec::new();
    rank.store(&stored, &mut changes).expect("few blocks");
    assert!(
        changes.is_empty(),
        "a second copy changes nothing for the index"
    );
    let removed = RemovedBlocks {
        names: stored.names.clone(),
        ..RemovedBlocks::default()
    };
    rank.remove(&removed, &mut changes);
    index.apply(&rank, &changes);
    assert_eq!(gpu(&index), Some(4));
    rank.remove(&removed, &mut changes);
    index.apply(&rank, &changes);
    assert_eq!(
        (gpu(&index), rank.blocks(), index.blocks()),
        (Some(0), 0, 0)
    );
}

#[test]
fn what_follows_an_unknown_parent_is_counted_and_ignored() {
    let (_, mut rank, stored) = one(2);
    let mut changes = Vec::new();
    let orphan = StoredBlocks {
        parent: Some(999),
        ..stored
    };
    assert_eq!(
        rank.store(&orphan, &mut changes),
        Ok(BlockCounts {
            orphaned: 2,
            ..BlockCounts::default()
        })
    );
    let removed = RemovedBlocks {
        names: vec![999],
        ..RemovedBlocks::default()
    };
    assert_eq!(
        rank.remove(&removed, &mut changes),
        BlockCounts {
            unknown: 1,
            ..BlockCounts::default()
        }
    );
    assert!(changes.is_empty());
}

#[test]
fn only_one_group_that_looks_at_everything_counts() {
    let (_, _, stored) = one(2);
    let mut rank = RankBlocks::new(RankSlot(0));
    let mut changes = Vec::new();
    let mut taken = |group, attention| {
        let stored = StoredBlocks {
            group,
            attention,
            ..stored.clone()
        };
        rank.store(&stored, &mut changes)
            .expect("few blocks")
            .applied
    };
    assert_eq!(taken(Some(0), Attention::Partial), 0, "a sliding window");
    assert_eq!(taken(Some(1), Attention::Full), 2);
    assert_eq!(
        taken(Some(2), Attention::Full),
        0,
        "the same blocks once more"
    );
    assert_eq!(taken(Some(1), Attention::Unspecified), 2);
    let removed = |group| RemovedBlocks {
        names: stored.names.clone(),
        group,
        ..RemovedBlocks::default()
    };
    assert_eq!(rank.remove(&removed(Some(0)), &mut changes).skipped, 2);
    assert_eq!(rank.remove(&removed(Some(1)), &mut changes).applied, 2);
}

#[test]
fn a_rank_with_too_many_blocks_is_refused() {
    let (_, _, stored) = one(4);
    let mut rank = RankBlocks::new(RankSlot(0)).limited(3);
    assert_eq!(rank.store(&stored, &mut Vec::new()), Err(TooManyBlocks));
}

#[test]
fn more_block_sizes_than_a_rank_may_have_are_skipped() {
    let mut rank = RankBlocks::new(RankSlot(0));
    let sizes = (1..=MAX_SIZES as u32 + 1).map(|size| {
        let stored = StoredBlocks {
            names: vec![size.into()],
            contents: vec![1],
            ..StoredBlocks::default()
        };
        rank.store(&stored.rooted(size, Adapter::None), &mut Vec::new())
            .expect("few blocks")
            .skipped
    });
    assert_eq!(sizes.sum::<u64>(), 1);
}

#[test]
fn a_rank_that_was_closed_means_nothing_any_more() {
    let (mut index, mut rank, stored) = one(2);
    index.set_sync_state(&rank, SyncState::Synced);
    index.close(&mut rank);
    let mut changes = Vec::new();
    rank.store(&stored, &mut changes).expect("few blocks");
    index.apply(&rank, &changes);
    index.set_sync_state(&rank, SyncState::Synced);
    assert!(!index.sweep(100));
    assert_eq!((gpu(&index), index.blocks()), (None, 0));
}

#[test]
fn clearing_is_immediate_and_its_cost_is_paid_in_slices() {
    let (mut index, mut rank, _) = one(8);
    index.clear(&mut rank, SyncState::Synced);
    assert_eq!((gpu(&index), index.blocks()), (Some(0), 8));
    assert!(index.sweep(5) && index.sweep(3));
    assert!(!index.sweep(5));
    assert_eq!(index.blocks(), 0);
}
