//! Fetching the ancestors of a certified block (rules Y2 to Y4).
//!
//! The walk goes back from the certified block, in batches, until it meets the tree. The child's
//! id pins each header, so nothing that a peer sends needs to be believed. A walk that is longer
//! than [`SYNC_RUN_MAX`] keeps only a checkpoint of what it passed and fetches it again on the
//! way up, once the part below is committed: memory is bounded whatever the distance.
//!
//! ```text
//!  root                                                            target (certified)
//!   ●──────────────●────────────────●────────────────●──────────────────●
//!     run (headers)   checkpoint       checkpoint        checkpoint
//!                     ◀── fetched again when the run below is committed
//! ```

use std::sync::Arc;

use falconet_types::block::SignedHeader;
use falconet_types::certificate::Qc;
use falconet_types::{BlockId, Height, Round, ValidatorIndex};

use crate::api::CommitProof;
use crate::limits::SYNC_RUN_MAX;

/// One walk.
#[derive(Debug, Clone)]
pub(crate) struct Walk {
    /// The certified block that started it.
    pub target: Arc<Qc>,
    /// The header that is wanted next.
    pub cursor: BlockId,
    /// What the header at `cursor` must claim, once a child of it is known.
    pub expected: Option<(Round, Height)>,
    /// Headers from newest to oldest, without a gap, ending right above `cursor`.
    pub run: Vec<Arc<SignedHeader>>,
    /// Newest headers of runs that were dropped, highest first.
    pub checkpoints: Vec<BlockId>,
    /// The target's header.
    newest: Option<Arc<SignedHeader>>,
    /// Set when a header was passed whose round follows its parent's: it is certified, as the
    /// target is, so everything below it is final.
    pub proof: Option<CommitProof>,
    /// Requests without a useful answer since the last one with.
    pub failures: u32,
    /// When to ask (again).
    pub due_us: u64,
    /// Who gave a full answer last.
    pub source: Option<ValidatorIndex>,
    /// Who was asked by the last request.
    pub asked: Vec<ValidatorIndex>,
    /// Who was asked since the last full answer; everybody once before anybody is again.
    pub tried: Vec<ValidatorIndex>,
}

/// What came of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It was the one that was wanted.
    Taken,
    /// It is not the one that is wanted.
    Other,
    /// It is the one, but child and parent contradict each other on round or height, although the
    /// child is certified.
    Broken,
}

impl Walk {
    pub(crate) fn new(target: Arc<Qc>, due_us: u64) -> Self {
        Self {
            cursor: target.block_id,
            expected: None,
            target,
            run: Vec::new(),
            checkpoints: Vec::new(),
            newest: None,
            proof: None,
            failures: 0,
            due_us,
            source: None,
            asked: Vec::new(),
            tried: Vec::new(),
        }
    }

    /// Takes the header at the cursor.
    pub(crate) fn step(&mut self, header: Arc<SignedHeader>) -> Step {
        if header.id() != self.cursor {
            return Step::Other;
        }
        let claims = (header.round, header.height);
        if self.expected.is_some_and(|expected| expected != claims) {
            return Step::Broken;
        }
        let newest = self.newest.get_or_insert_with(|| header.clone());
        if header.parent_round.next() == header.round && self.proof.is_none() {
            self.proof = Some(CommitProof {
                child: newest.clone(),
                qc: self.target.clone(),
            });
        }
        if self.run.len() >= SYNC_RUN_MAX && self.proof.is_some() {
            self.checkpoints.push(self.run[0].id());
            self.run.clear();
        }
        self.cursor = header.parent_id;
        self.expected = Some((header.parent_round, header.height.prev()));
        self.run.push(header);
        Step::Taken
    }

    /// Turns to the run above the one that was just committed.
    pub(crate) fn next_run(&mut self) -> bool {
        self.run.clear();
        self.expected = None;
        match self.checkpoints.pop() {
            Some(cursor) => {
                self.cursor = cursor;
                true
            }
            None => false,
        }
    }
}
