//! Receive buffers: a fixed budget, used in windows, recycled when their last slice is dropped.
//!
//! A slab is larger than the largest reception (64 KB, what GRO can join), and a reception
//! consumes only the bytes that came, so that a small datagram does not take a large buffer out
//! of service. In steady state nothing is allocated. When every slab of the budget is pinned by
//! slices in use, the caller copies datagrams out one by one, so that what a peer can pin is
//! bounded by the budget and the QUIC windows.

use std::{collections::VecDeque, sync::Arc};

use bytes::{Bytes, BytesMut};

use crate::{Stats, io::huge_pages, stats::Count};

/// Room that one reception needs, bytes: the largest UDP payload that GRO delivers, and the
/// header that io_uring puts before it.
pub(crate) const WINDOW_BYTES: usize = 65_536 + 256;

/// Size of a slab, bytes.
pub(crate) const SLAB_BYTES: usize = 4 * WINDOW_BYTES;

/// Retired slabs looked at for a free one before a new one is allocated.
const SCAN_MAX: usize = 8;

/// Slabs allocated at a time, so that they are neighbours and huge pages can lie under them.
const GROUP_SLABS: usize = 16;

/// Slabs of one network thread.
pub(crate) struct Pool {
    slabs_max: usize,
    allocated: usize,
    /// Allocated and not used yet.
    fresh: Vec<BytesMut>,
    huge_page_bytes: Option<usize>,
    /// Slabs without a window left; slices of them may be in use.
    retired: VecDeque<BytesMut>,
    stats: Arc<Stats>,
}

impl Pool {
    /// A pool of at most `bytes_max` bytes, at least one slab.
    pub(crate) fn new(bytes_max: usize, stats: Arc<Stats>) -> Self {
        Pool {
            slabs_max: (bytes_max / SLAB_BYTES).max(1),
            allocated: 0,
            fresh: Vec::new(),
            huge_page_bytes: huge_pages::page_bytes(),
            retired: VecDeque::new(),
            stats,
        }
    }

    /// A slab with all its windows free, `None` when the budget is pinned.
    pub(crate) fn take(&mut self) -> Option<BytesMut> {
        for _ in 0..self.retired.len().min(SCAN_MAX) {
            let mut slab = self.retired.pop_front().expect("counted above");
            if slab.try_reclaim(SLAB_BYTES) {
                self.stats.pool_buffers_recycled.inc();
                return Some(slab);
            }
            self.retired.push_back(slab);
        }
        if self.fresh.is_empty() {
            self.allocate();
        }
        let slab = self.fresh.pop()?;
        self.stats.pool_buffers_allocated.inc();
        Some(slab)
    }

    /// Allocates the next group of slabs that the budget permits.
    fn allocate(&mut self) {
        let group = GROUP_SLABS.min(self.slabs_max - self.allocated);
        self.allocated += group;
        self.fresh
            .extend((0..group).map(|_| BytesMut::with_capacity(SLAB_BYTES)));
        if let Some(page_bytes) = self.huge_page_bytes {
            let advised = huge_pages::advise(&mut self.fresh, page_bytes);
            self.stats.pool_bytes_huge.add(advised as u64);
        }
    }

    /// Takes a slab out of service until its slices are dropped.
    pub(crate) fn retire(&mut self, slab: BytesMut) {
        self.retired.push_back(slab);
    }

    /// Begins a slab anew if nothing in it is in use, rather than go on with its next window: memory
    /// that was just used is in the processor's cache.
    pub(crate) fn rewind(&mut self, slab: &mut BytesMut) {
        let is_begun = slab.capacity() < SLAB_BYTES;
        if is_begun && slab.try_reclaim(SLAB_BYTES) {
            self.stats.pool_buffers_recycled.inc();
        }
    }

    /// Replaces a slab that has no window left; keeps it when it has.
    pub(crate) fn refill(&mut self, slab: &mut Option<BytesMut>) {
        if let Some(present) = slab {
            self.rewind(present);
        }
        match slab {
            Some(present) if has_window(present) => {}
            _ => {
                if let Some(used) = slab.take() {
                    self.retire(used);
                }
                *slab = self.take();
            }
        }
    }
}

/// Whether one more reception fits.
pub(crate) fn has_window(slab: &BytesMut) -> bool {
    slab.capacity() - slab.len() >= WINDOW_BYTES
}

/// Size of a block of [`SmallCopies`], bytes: what one kept small message can keep at most.
const COPY_BLOCK_BYTES: usize = 16 << 10;

/// Longest copy that shares a block, bytes.
const COPY_BYTES_MAX: usize = COPY_BLOCK_BYTES / 4;

/// Full blocks remembered to be used again; older ones are freed with their last slice.
const COPY_BLOCKS_MAX: usize = 64;

/// Memory for small payloads that are copied out of their receive buffers. Blocks are used again
/// once everything in them is dropped, so a consumer that keeps up costs no allocation.
#[derive(Debug, Default)]
pub struct SmallCopies {
    block: BytesMut,
    full: VecDeque<BytesMut>,
}

impl SmallCopies {
    /// The same bytes in memory that they share with other small copies only.
    pub fn copy(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.len() > COPY_BYTES_MAX {
            return Bytes::copy_from_slice(bytes);
        }
        if self.block.capacity() < bytes.len() {
            self.next_block();
        }
        self.block.extend_from_slice(bytes);
        self.block.split().freeze()
    }

    /// Takes a block that nobody uses any more, or a new one.
    fn next_block(&mut self) {
        if self.block.try_reclaim(COPY_BLOCK_BYTES) {
            return;
        }
        let used = std::mem::take(&mut self.block);
        self.full.push_back(used);
        for _ in 0..self.full.len().min(SCAN_MAX) {
            let mut block = self.full.pop_front().expect("counted above");
            if block.try_reclaim(COPY_BLOCK_BYTES) {
                self.block = block;
                return;
            }
            self.full.push_back(block);
        }
        if self.full.len() > COPY_BLOCKS_MAX {
            self.full.pop_front();
        }
        self.block = BytesMut::with_capacity(COPY_BLOCK_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(slabs: usize) -> Pool {
        Pool::new(slabs * SLAB_BYTES, Arc::new(Stats::default()))
    }

    /// What a reception of `len` bytes does.
    fn receive(slab: &mut BytesMut, len: usize) -> BytesMut {
        slab.resize(len, 7);
        slab.split()
    }

    #[test]
    fn steady_state_allocates_nothing() {
        let mut pool = pool(4);
        let mut slab = None;
        let mut in_use = VecDeque::new();
        for i in 0..10_000 {
            pool.refill(&mut slab);
            let slab = slab.as_mut().expect("recycling keeps up");
            in_use.push_back(receive(slab, 1 + i * 37 % 65_536).freeze());
            if in_use.len() > 2 {
                in_use.pop_front();
            }
        }
        let stats = pool.stats.snapshot();
        assert!(stats.pool_buffers_allocated <= 4);
        assert!(stats.pool_buffers_recycled > 1000);
    }

    /// Why slabs are allocations of their own and not blocks of one large, aligned one: blocks have
    /// one count of references, and `BytesMut` gives memory back only when that is one.
    #[test]
    fn blocks_of_one_allocation_come_back_only_together() {
        let mut first = BytesMut::with_capacity(2 * SLAB_BYTES);
        let mut second = first.split_off(SLAB_BYTES);
        let kept = receive(&mut second, 4096).freeze();
        for block in [&mut first, &mut second] {
            let _ = receive(block, 60_000);
            assert!(!block.try_reclaim(SLAB_BYTES), "a sibling is in use");
        }
        drop((second, kept));
        assert!(first.try_reclaim(SLAB_BYTES));
    }

    #[test]
    fn small_copies_use_their_blocks_again() {
        let mut copies = SmallCopies::default();
        let mut blocks = std::collections::BTreeSet::new();
        let mut kept = VecDeque::new();
        for i in 0..10_000usize {
            let bytes = vec![i as u8; 1 + i % 200];
            let copy = copies.copy(&bytes);
            assert_eq!(copy, bytes);
            kept.push_back(copy);
            if kept.len() > 500 {
                kept.pop_front();
            }
            blocks.insert(copies.block.as_ptr() as usize / COPY_BLOCK_BYTES);
        }
        // 500 copies of 100 bytes fill four blocks; an address range may straddle two.
        assert!(blocks.len() <= 2 * 8, "{} blocks", blocks.len());
        assert_eq!(copies.copy(&[]), Bytes::new());
        assert_eq!(
            copies.copy(&[7; COPY_BYTES_MAX + 1]).len(),
            COPY_BYTES_MAX + 1
        );
    }

    #[test]
    fn kept_copies_bound_what_is_remembered() {
        let mut copies = SmallCopies::default();
        let kept: Vec<Bytes> = (0..1000).map(|_| copies.copy(&[1; 4000])).collect();
        assert!(copies.full.len() <= COPY_BLOCKS_MAX);
        assert!(kept.iter().all(|copy| copy[..] == [1; 4000]));
    }

    #[test]
    fn small_receptions_share_a_slab() {
        let mut pool = pool(2);
        let mut slab = None;
        let mut kept = Vec::new();
        for _ in 0..100 {
            pool.refill(&mut slab);
            kept.push(receive(slab.as_mut().expect("room"), 1200).freeze());
        }
        assert_eq!(pool.stats.snapshot().pool_buffers_allocated, 1);
    }

    #[test]
    fn a_pinned_budget_is_noticed_and_ends() {
        let mut pool = pool(1);
        let mut slab = pool.take();
        let pinned = receive(slab.as_mut().expect("first"), 60_000).freeze();
        pool.retired.extend(slab.take());
        assert!(pool.take().is_none());
        drop(pinned);
        let again = pool.take().expect("recycled");
        assert!(again.capacity() >= SLAB_BYTES);
    }
}
