//! All blocks that could ever be proposed, within bounds: a tree.

/// Bounds of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rounds of the first epoch.
    pub rounds: u8,
    /// Sibling blocks of one round and parent; at least two on genesis in round 1.
    pub siblings: u8,
    /// Rounds of the second epoch; 0 when there is one epoch only. The first epoch ends with its
    /// block of height 1.
    pub rounds_after: u8,
}

/// Rounds of both epochs together.
pub const SLOTS_MAX: usize = 6;
/// Bits of a set of blocks.
pub const BLOCKS_MAX: usize = 64;
/// Height of the block that ends the first epoch when there is a second.
pub const END_HEIGHT: u8 = 1;

/// A block, or the genesis block of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Epoch, 0 or 1.
    pub epoch: u8,
    /// Round in the epoch; 0 for its genesis.
    pub round: u8,
    /// The parent; for the genesis of the second epoch the block that ended the first.
    pub parent: usize,
    /// Height in the epoch.
    pub height: u8,
    /// Which of two siblings.
    pub sibling: u8,
}

/// The tree. Block 0 is genesis.
#[derive(Debug, Clone)]
pub struct Blocks {
    /// Its blocks, parents before children.
    pub all: Vec<Block>,
    /// Its bounds.
    pub shape: Shape,
}

impl Blocks {
    /// All blocks of a shape.
    ///
    /// # Panics
    /// If there are more than [`BLOCKS_MAX`] or more rounds than [`SLOTS_MAX`].
    #[must_use]
    pub fn new(shape: Shape) -> Self {
        assert!(
            usize::from(shape.rounds + shape.rounds_after) <= SLOTS_MAX,
            "too many rounds"
        );
        let genesis = Block {
            epoch: 0,
            round: 0,
            parent: 0,
            height: 0,
            sibling: 0,
        };
        let mut blocks = Self {
            all: vec![genesis],
            shape,
        };
        blocks.grow(0, shape.rounds);
        if shape.rounds_after > 0 {
            let ends: Vec<usize> = (1..blocks.all.len())
                .filter(|&b| {
                    blocks.all[b].height == END_HEIGHT && blocks.all[b].round < shape.rounds
                })
                .collect();
            for end in ends {
                blocks.all.push(Block {
                    epoch: 1,
                    round: 0,
                    parent: end,
                    height: 0,
                    sibling: 0,
                });
                blocks.grow(blocks.all.len() - 1, shape.rounds_after);
            }
        }
        assert!(blocks.all.len() <= BLOCKS_MAX, "too many blocks");
        blocks
    }

    /// Adds everything above `genesis`.
    fn grow(&mut self, genesis: usize, rounds: u8) {
        let epoch = self.all[genesis].epoch;
        for round in 1..=rounds {
            for parent in genesis..self.all.len() {
                if self.all[parent].round >= round {
                    continue;
                }
                let siblings = if round == 1 {
                    self.shape.siblings.max(2)
                } else {
                    self.shape.siblings
                };
                for sibling in 0..siblings {
                    self.all.push(Block {
                        epoch,
                        round,
                        parent,
                        height: self.all[parent].height + 1,
                        sibling,
                    });
                }
            }
        }
    }

    /// Whether a block is the genesis of an epoch.
    #[must_use]
    pub fn is_genesis(&self, block: usize) -> bool {
        self.all[block].round == 0
    }

    /// Whether `ancestor` is `block` or below it, epochs before included.
    #[must_use]
    pub fn extends(&self, mut block: usize, ancestor: usize) -> bool {
        loop {
            if block == ancestor {
                return true;
            }
            if block == 0 {
                return false;
            }
            block = self.all[block].parent;
        }
    }

    /// Round of the parent.
    #[must_use]
    pub fn parent_round(&self, block: usize) -> u8 {
        let Block { parent, round, .. } = self.all[block];
        if round == 0 {
            0
        } else {
            self.all[parent].round
        }
    }

    /// Where a round of an epoch stands among all rounds.
    #[must_use]
    pub fn slot(&self, epoch: u8, round: u8) -> usize {
        usize::from(epoch * self.shape.rounds + round) - 1
    }

    /// Blocks of an epoch that were proposed in it (its genesis is not one).
    pub fn of_epoch(&self, epoch: u8) -> impl Iterator<Item = usize> + '_ {
        (0..self.all.len()).filter(move |&b| self.all[b].epoch == epoch && self.all[b].round > 0)
    }
}
