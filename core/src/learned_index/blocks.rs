//! The blocks of an index: records in pages, found by their hashes.
//!
//! Pages instead of one vector: growing copies nothing, and a page whose blocks are all gone gives
//! its memory back. New blocks go to the first page with room, so that the last pages run empty.

use std::collections::BTreeSet;

use hashbrown::HashTable;

use super::{
    EndpointSlot,
    holders::{BlockHolders, HolderLists, HolderSlice},
};

/// Blocks of one page.
const PAGE: usize = 1_024;

/// No block.
const NOWHERE: u32 = u32::MAX;

/// Where a block's record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockId(u32);

#[derive(Debug, Default)]
pub(super) struct BlockTable {
    table: HashTable<u32>,
    pages: Vec<Option<BlockPage>>,
    /// Pages that exist.
    used_pages: usize,
    /// Pages with room.
    open: BTreeSet<u32>,
    lists: HolderLists,
}

/// One block: the end of a prefix.
#[derive(Clone, Copy, Debug)]
struct BlockRecord {
    /// Of everything up to its end. Of a free record: unused.
    hash: u64,
    /// The block before it. Of a free record: the next free one of the page.
    parent: u32,
    holders: BlockHolders,
}

#[derive(Debug)]
struct BlockPage {
    blocks: Box<[BlockRecord; PAGE]>,
    used: usize,
    /// Records beyond this were never used.
    fresh: usize,
    free: u32,
}

// === BlockTable ===

impl BlockTable {
    /// How many blocks of a chain are known, from its start, and the last of them.
    pub(super) fn bisect(&self, chain: &[u64]) -> (usize, Option<BlockId>) {
        let (mut known, mut last) = (0, None);
        let mut beyond = chain.len() + 1;
        while known + 1 < beyond {
            let middle = known + (beyond - known) / 2;
            match self.find(chain[middle - 1]) {
                Some(id) => (known, last) = (middle, Some(id)),
                None => beyond = middle,
            }
        }
        (known, last)
    }

    /// How many blocks of a chain there are, from its start, up to the last of which something
    /// holds.
    pub(super) fn depth_where(&self, chain: &[u64], holds: impl Fn(BlockId) -> bool) -> u32 {
        let (mut depth, mut at) = self.bisect(chain);
        // See `LearnedIndex::lookup`.
        while let Some(id) = at.filter(|_| depth > 0) {
            if holds(id) {
                break;
            }
            at = self.parent(id);
            depth -= 1;
        }
        depth as u32
    }

    /// Adds a block after another, without holders yet.
    pub(super) fn insert(&mut self, hash: u64, parent: Option<BlockId>) -> BlockId {
        let parent = parent.map_or(NOWHERE, |parent| parent.0);
        let page = self
            .open
            .first()
            .copied()
            .unwrap_or_else(|| self.open_page());
        let (at, full) = self.page_mut(page).take(BlockRecord {
            hash,
            parent,
            holders: BlockHolders::EMPTY,
        });
        if full {
            self.open.remove(&page);
        }
        let id = page * PAGE as u32 + at;
        let Self { table, pages, .. } = self;
        table.insert_unique(hash, id, |&id| block(pages, id).hash);
        BlockId(id)
    }

    /// Touches a block and all before it; how many the endpoint did not hold.
    pub(super) fn touch_upwards(
        &mut self,
        from: Option<BlockId>,
        slot: EndpointSlot,
        touch: u32,
    ) -> usize {
        let (mut at, mut added) = (from, 0);
        while let Some(id) = at {
            added += self.touch_one(at, slot, touch);
            at = self.parent(id);
        }
        added
    }

    /// Touches one block; 1 if the endpoint did not hold it.
    pub(super) fn touch_one(
        &mut self,
        at: Option<BlockId>,
        slot: EndpointSlot,
        touch: u32,
    ) -> usize {
        let Some(BlockId(id)) = at else { return 0 };
        let Self { pages, lists, .. } = self;
        let Some(page) = &mut pages[id as usize / PAGE] else {
            return 0;
        };
        usize::from(
            page.blocks[id as usize % PAGE]
                .holders
                .touch(slot, touch, lists),
        )
    }

    /// The endpoint holds this block no more; without holders it is gone.
    pub(super) fn release(&mut self, id: BlockId, slot: EndpointSlot) {
        let (page, at) = (id.0 as usize / PAGE, id.0 as usize % PAGE);
        let Self {
            table,
            pages,
            used_pages,
            open,
            lists,
        } = self;
        let Some(home) = &mut pages[page] else { return };
        let BlockRecord {
            hash,
            ref mut holders,
            ..
        } = home.blocks[at];
        if !holders.release(slot, lists) {
            return;
        }
        if let Ok(found) = table.find_entry(hash, |&known| known == id.0) {
            found.remove();
        }
        home.give_back(at);
        if home.used == 0 {
            pages[page] = None;
            *used_pages -= 1;
            open.remove(&(page as u32));
            self.shrink();
        } else {
            open.insert(page as u32);
        }
    }

    pub(super) fn holders(&self, id: BlockId) -> HolderSlice<'_> {
        block(&self.pages, id.0).holders.view(&self.lists)
    }

    pub(super) fn touch_of(&self, id: BlockId, slot: EndpointSlot) -> Option<u32> {
        block(&self.pages, id.0).holders.touch_of(slot, &self.lists)
    }

    pub(super) fn parent(&self, id: BlockId) -> Option<BlockId> {
        let parent = block(&self.pages, id.0).parent;
        (parent != NOWHERE).then_some(BlockId(parent))
    }

    /// Whether this record is in use, and was not given to another block since.
    pub(super) fn holds(&self, id: BlockId, slot: EndpointSlot, touch: u32) -> bool {
        let page = self
            .pages
            .get(id.0 as usize / PAGE)
            .and_then(Option::as_ref);
        page.is_some_and(|page| {
            page.blocks[id.0 as usize % PAGE]
                .holders
                .touch_of(slot, &self.lists)
                == Some(touch)
        })
    }

    pub(super) fn bytes(&self) -> usize {
        let pages = self.used_pages * PAGE * size_of::<BlockRecord>();
        pages
            + self.pages.capacity() * size_of::<Option<BlockPage>>()
            + self.table.allocation_size()
            + self.lists.bytes()
    }

    fn find(&self, hash: u64) -> Option<BlockId> {
        self.table
            .find(hash, |&id| block(&self.pages, id).hash == hash)
            .copied()
            .map(BlockId)
    }

    fn open_page(&mut self) -> u32 {
        let vacant = self.pages.iter().position(Option::is_none);
        let page = vacant.unwrap_or(self.pages.len());
        if vacant.is_none() {
            self.pages.push(None);
        }
        self.pages[page] = Some(BlockPage::new());
        self.used_pages += 1;
        self.open.insert(page as u32);
        page as u32
    }

    /// The page that has this number, which exists.
    fn page_mut(&mut self, page: u32) -> &mut BlockPage {
        self.pages[page as usize].get_or_insert_with(BlockPage::new)
    }

    /// Gives the table's memory back once it is far too large; called when a page is gone, so it
    /// costs little per block.
    fn shrink(&mut self) {
        let Self { table, pages, .. } = self;
        if table.capacity() > 4 * (table.len() + PAGE) {
            table.shrink_to(2 * table.len(), |&id| block(pages, id).hash);
            while pages.last().is_some_and(Option::is_none) {
                pages.pop();
            }
            pages.shrink_to_fit();
        }
    }
}

/// The record of a block that exists. Valid for ids of live blocks; ids of removed ones are looked
/// up by [`BlockTable::holds`] only.
fn block(pages: &[Option<BlockPage>], id: u32) -> &BlockRecord {
    static MISSING: BlockRecord = BlockRecord {
        hash: 0,
        parent: NOWHERE,
        holders: BlockHolders::EMPTY,
    };
    pages
        .get(id as usize / PAGE)
        .and_then(Option::as_ref)
        .map_or(&MISSING, |page| &page.blocks[id as usize % PAGE])
}

// === BlockPage ===

impl BlockPage {
    fn new() -> Self {
        let empty = BlockRecord {
            hash: 0,
            parent: NOWHERE,
            holders: BlockHolders::EMPTY,
        };
        Self {
            blocks: Box::new([empty; PAGE]),
            used: 0,
            fresh: 0,
            free: NOWHERE,
        }
    }

    /// Puts a block somewhere; where, and whether the page is full now.
    fn take(&mut self, block: BlockRecord) -> (u32, bool) {
        let at = if self.free == NOWHERE {
            self.fresh += 1;
            self.fresh - 1
        } else {
            let at = self.free as usize;
            self.free = self.blocks[at].parent;
            at
        };
        self.blocks[at] = block;
        self.used += 1;
        (at as u32, self.used == PAGE)
    }

    fn give_back(&mut self, at: usize) {
        self.blocks[at] = BlockRecord {
            hash: 0,
            parent: self.free,
            holders: BlockHolders::EMPTY,
        };
        self.free = at as u32;
        self.used -= 1;
    }
}
