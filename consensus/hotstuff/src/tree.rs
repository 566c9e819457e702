//! The tree of certified blocks above the last committed one.
//!
//! Invariants: every block in the tree has its parent in the tree (the root is the last committed
//! block); every block in the tree is certified, either by a QC that this node held or as an
//! ancestor of one (each honest voter of a child verified the QC of its parent). So a path to the
//! root always exists and is walked by parent id, never by round arithmetic.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use falconet_types::block::{Cut, Executed, SignedHeader};
use falconet_types::epoch::EpochStart;
use falconet_types::{BlockId, Height, Round};

use crate::limits::RECENT_HEADERS_MAX;

/// What a child needs to know of its parent.
#[derive(Debug, Clone)]
pub(crate) struct Parent {
    pub id: BlockId,
    pub round: Round,
    pub height: Height,
    pub time_ms: u64,
    pub cut: Cut,
    /// `None` for genesis, whose commitment only the application knows.
    pub executed: Option<Executed>,
    /// As its header has it.
    pub ended_by: BlockId,
}

impl Parent {
    /// What an epoch starts from.
    pub(crate) fn start(start: &EpochStart, lanes: usize) -> Self {
        Self {
            id: start.id,
            round: Round::ZERO,
            height: start.height,
            time_ms: start.time_ms,
            cut: Cut::empty(lanes),
            executed: start.executed,
            ended_by: BlockId::ZERO,
        }
    }

    pub(crate) fn of(header: &SignedHeader) -> Self {
        Self {
            id: header.id(),
            round: header.round,
            height: header.height,
            time_ms: header.time_ms,
            cut: header.cut.clone(),
            executed: Some(header.executed),
            ended_by: header.ended_by,
        }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    root: Parent,
    /// What the chain up to the root commits by itself, see [`Tree::settled`].
    settled: Height,
    blocks: BTreeMap<BlockId, Arc<SignedHeader>>,
    /// The newest committed headers, oldest first.
    recent: VecDeque<Arc<SignedHeader>>,
}

impl Tree {
    pub(crate) fn new(root: Parent, header: Option<Arc<SignedHeader>>) -> Self {
        // The headers below the root are not at hand. What it names was settled by its ancestors.
        // What an epoch starts from is final, and so is all below it.
        let settled = header.as_ref().map_or(root.height, |header| {
            settled_by(header, header.executed.height)
        });
        Self {
            root,
            settled,
            blocks: BTreeMap::new(),
            recent: header.into_iter().collect(),
        }
    }

    /// The last committed block.
    pub(crate) fn root(&self) -> &Parent {
        &self.root
    }

    /// The last committed block's header; `None` at the start of an epoch.
    pub(crate) fn root_header(&self) -> Option<&Arc<SignedHeader>> {
        self.recent.back()
    }

    /// True for the root and everything above it.
    pub(crate) fn contains(&self, id: &BlockId) -> bool {
        self.root.id == *id || self.blocks.contains_key(id)
    }

    /// A block above the root.
    pub(crate) fn get(&self, id: &BlockId) -> Option<&Arc<SignedHeader>> {
        self.blocks.get(id)
    }

    /// The root or a block above it, as the parent of something.
    pub(crate) fn parent(&self, id: &BlockId) -> Option<Parent> {
        if self.root.id == *id {
            return Some(self.root.clone());
        }
        self.blocks.get(id).map(|header| Parent::of(header))
    }

    /// A block above the root, or a recently committed one.
    pub(crate) fn header(&self, id: &BlockId) -> Option<&Arc<SignedHeader>> {
        self.blocks
            .get(id)
            .or_else(|| self.recent.iter().rev().find(|header| header.id() == *id))
    }

    /// Adds a certified block whose parent is in the tree. False when its claims about the parent
    /// are wrong, which no honest voter would have certified.
    pub(crate) fn insert(&mut self, header: Arc<SignedHeader>) -> bool {
        let (round, height) = if header.parent_id == self.root.id {
            (self.root.round, self.root.height)
        } else {
            let parent = self
                .blocks
                .get(&header.parent_id)
                .expect("a block is added after its parent");
            (parent.round, parent.height)
        };
        if header.parent_round != round || header.height != height.next() {
            return false;
        }
        self.blocks.insert(header.id(), header);
        true
    }

    /// True when a block between `id` (inclusive) and the root adds payload, so that children are
    /// needed to commit it.
    pub(crate) fn has_payload_above_root(&self, id: &BlockId) -> bool {
        let mut id = *id;
        while let Some(header) = self.blocks.get(&id) {
            let parent = self.blocks.get(&header.parent_id);
            let parent_cut = parent.map_or(&self.root.cut, |parent| &parent.cut);
            if header.cut != *parent_cut {
                return true;
            }
            id = header.parent_id;
        }
        false
    }

    /// The highest height that the certified chain ending in `id` commits by itself (rule C2).
    /// Everybody who holds the QC of `id` has committed it; what this node committed because of
    /// another, abandoned block may be higher.
    pub(crate) fn settled(&self, id: &BlockId) -> Height {
        let mut at = *id;
        while let Some(header) = self.blocks.get(&at) {
            if header.parent_round.next() == header.round {
                return header.height.prev();
            }
            at = header.parent_id;
        }
        self.settled
    }

    /// The blocks between the root and `id`, which is above it, in height order, `id` included.
    pub(crate) fn path(&self, id: &BlockId) -> Vec<Arc<SignedHeader>> {
        let mut path = Vec::new();
        let mut at = *id;
        while at != self.root.id {
            let header = self.blocks.get(&at).expect("a path leads to the root");
            at = header.parent_id;
            path.push(header.clone());
        }
        path.reverse();
        path
    }

    /// Makes `id`, a block above the root, the new root. Returns the committed blocks in height
    /// order, each with its parent's cut; forgets everything that does not extend the new root.
    pub(crate) fn commit(&mut self, id: &BlockId) -> Vec<(Arc<SignedHeader>, Cut)> {
        let path = self.path(id);
        let mut committed = Vec::with_capacity(path.len());
        for header in path {
            assert_eq!(
                header.height,
                self.root.height.next(),
                "commits go up by one"
            );
            let parent = std::mem::replace(&mut self.root, Parent::of(&header));
            self.settled = settled_by(&header, self.settled);
            self.recent.push_back(header.clone());
            committed.push((header, parent.cut));
        }
        while self.recent.len() > RECENT_HEADERS_MAX {
            self.recent.pop_front();
        }
        self.keep_descendants();
        committed
    }

    /// Blocks above the root.
    #[cfg(feature = "misbehave")]
    pub(crate) fn ids(&self) -> impl Iterator<Item = BlockId> + '_ {
        self.blocks.keys().copied()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    fn keep_descendants(&mut self) {
        let mut above: Vec<Arc<SignedHeader>> = std::mem::take(&mut self.blocks)
            .into_values()
            .filter(|header| header.height > self.root.height)
            .collect();
        above.sort_by_key(|header| header.height);
        for header in above {
            if self.contains(&header.parent_id) {
                self.blocks.insert(header.id(), header);
            }
        }
    }
}

/// What a certified chain commits by itself when `header` is its end, given what it commits
/// without it.
fn settled_by(header: &SignedHeader, below: Height) -> Height {
    if header.parent_round.next() == header.round {
        header.height.prev()
    } else {
        below
    }
}
