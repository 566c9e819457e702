//! Committed blocks on their way to execution (rules D5 and D6 of `docs/protocol.md`).
//!
//! ```text
//!   Committed ──▶ queue ──planned──▶ complete? ──Deliver──▶ delivered ──Executed──▶ gone
//!                   │ within the window                        │
//!                   └────────── only headers beyond ───────────┘ counts as window
//! ```
//!
//! A block's payload in a lane is *defined* as the chain of batches under the new tip's hash, from
//! its sequence number down to the one after the parent's tip. Nothing else about the lane
//! matters, so all nodes agree on it whatever the lane's owner did. The chain is therefore walked
//! from the newest batch backwards: each batch's `prev_hash` is the next one's identity, and a
//! fetched batch is accepted when its hash is the one expected and at no other time.

use std::collections::VecDeque;
use std::sync::Arc;

use falconet_types::batch::Batch;
use falconet_types::block::{Cut, LaneTip, SignedHeader};
use falconet_types::{Height, Seq, ValidatorIndex};

use crate::lane::{Lane, payload_bytes};
use crate::limits::{COMMITTED_QUEUE_MAX, PAYLOAD_WINDOW_BLOCKS};

/// What one block takes from one lane.
pub(crate) struct Segment {
    pub(crate) lane: ValidatorIndex,
    pub(crate) old: LaneTip,
    pub(crate) new: LaneTip,
    /// The next batch to find; at `old.seq` the segment is complete.
    pub(crate) head: LaneTip,
    /// What was found, newest first.
    batches: Vec<Batch>,
    bytes: u64,
}

impl Segment {
    fn new((lane, old, new): (ValidatorIndex, LaneTip, LaneTip)) -> Self {
        Self {
            lane,
            old,
            new,
            head: new,
            batches: Vec::new(),
            bytes: 0,
        }
    }

    /// Batches still to be found.
    pub(crate) fn missing(&self) -> u64 {
        self.head.seq.0 - self.old.seq.0
    }

    /// True while nothing of it was found.
    pub(crate) fn is_untouched(&self) -> bool {
        self.head == self.new
    }

    /// Takes the batch that the walk has reached.
    fn take(&mut self, batch: Batch) {
        assert!(
            batch.tip() == self.head && self.missing() > 0,
            "not the batch expected"
        );
        let header = batch.header();
        self.head = LaneTip {
            seq: header.seq.prev(),
            hash: header.prev_hash,
        };
        self.bytes += payload_bytes(&batch);
        self.batches.push(batch);
    }

    /// Takes what the lane holds already; batches that become durable by this go to `persist`.
    fn walk(&mut self, lane: &mut Lane, persist: &mut Vec<Batch>) {
        while self.missing() > 0 {
            let Some((batch, durable)) = lane.find(self.head) else {
                return;
            };
            if !durable {
                lane.take_early(batch.header().seq);
                persist.push(batch.clone());
            }
            self.take(batch);
        }
    }
}

struct Block {
    header: Arc<SignedHeader>,
    advances: Vec<(ValidatorIndex, LaneTip, LaneTip)>,
    /// Empty until the block is inside the window.
    segments: Vec<Segment>,
    planned: bool,
}

impl Block {
    fn missing(&self) -> u64 {
        self.segments.iter().map(Segment::missing).sum()
    }

    fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }
}

struct Delivered {
    header: Arc<SignedHeader>,
    bytes: u64,
}

/// A block with all of its payload.
pub(crate) struct Complete {
    pub(crate) header: Arc<SignedHeader>,
    /// For each advanced lane: where the block begins, and its batches in ascending order.
    pub(crate) lanes: Vec<(ValidatorIndex, LaneTip, Vec<Batch>)>,
}

pub(crate) struct Delivery {
    executed: Height,
    /// Cut of the last block that was handed in.
    cut: Cut,
    queue: VecDeque<Block>,
    delivered: VecDeque<Delivered>,
    /// Batches missing in planned blocks.
    missing: u64,
    /// Payload bytes held by planned blocks.
    held_bytes: u64,
    /// Payload bytes delivered and not executed.
    delivered_bytes: u64,
}

impl Delivery {
    pub(crate) fn new(executed: Height, cut: Cut) -> Self {
        Self {
            executed,
            cut,
            queue: VecDeque::new(),
            delivered: VecDeque::new(),
            missing: 0,
            held_bytes: 0,
            delivered_bytes: 0,
        }
    }

    pub(crate) fn executed(&self) -> Height {
        self.executed
    }

    pub(crate) fn delivered(&self) -> Height {
        self.delivered
            .back()
            .map_or(self.executed, |block| block.header.height)
    }

    pub(crate) fn committed(&self) -> Height {
        self.queue
            .back()
            .map_or(self.delivered(), |block| block.header.height)
    }

    /// Batches missing in planned blocks.
    pub(crate) fn missing(&self) -> u64 {
        self.missing
    }

    /// Committed payload that is in memory and waits for execution.
    pub(crate) fn waiting_bytes(&self) -> u64 {
        self.held_bytes + self.delivered_bytes
    }

    /// Committed blocks that may still be handed in.
    pub(crate) fn room(&self) -> usize {
        COMMITTED_QUEUE_MAX - self.queue.len()
    }

    /// Queues a committed block and returns what it advances.
    pub(crate) fn commit(
        &mut self,
        header: Arc<SignedHeader>,
        parent_cut: &Cut,
    ) -> Vec<(ValidatorIndex, LaneTip, LaneTip)> {
        assert!(
            self.room() > 0,
            "more committed blocks than committed_room() allows"
        );
        assert_eq!(
            header.height,
            self.committed().next(),
            "commits come in height order"
        );
        assert_eq!(
            *parent_cut, self.cut,
            "the parent's cut is that of the commit before"
        );
        assert!(
            header.cut.extends(parent_cut),
            "a committed cut went backwards"
        );
        let advances: Vec<_> = header.cut.advances(parent_cut).collect();
        self.cut = header.cut.clone();
        self.queue.push_back(Block {
            header,
            advances: advances.clone(),
            segments: Vec::new(),
            planned: false,
        });
        advances
    }

    /// True while execution is so far behind that no more payload should be taken into memory
    /// than the blocks next in turn need.
    pub(crate) fn is_congested(&self, waiting_bytes_max: u64) -> bool {
        self.waiting_bytes() >= waiting_bytes_max
            || self.queue.back().is_some_and(|block| !block.planned)
    }

    /// Brings blocks into the window, taking what the lanes hold.
    pub(crate) fn plan(&mut self, lanes: &mut [Lane], persist: &mut Vec<Batch>) {
        let height_max = Height(self.executed.0.saturating_add(PAYLOAD_WINDOW_BLOCKS));
        let first = self.queue.partition_point(|block| block.planned);
        for index in first..self.queue.len() {
            let block = &mut self.queue[index];
            if block.header.height > height_max {
                return;
            }
            block.planned = true;
            block.segments = block.advances.drain(..).map(Segment::new).collect();
            for segment in &mut block.segments {
                segment.walk(&mut lanes[segment.lane.at()], persist);
            }
            self.missing += block.missing();
            self.held_bytes += block.bytes();
        }
    }

    /// A batch arrived. Returns true when a committed block was waiting for exactly this one; it
    /// is then among `persist`, with those early batches that the walk reached through it.
    pub(crate) fn accept(
        &mut self,
        lanes: &mut [Lane],
        batch: &Batch,
        persist: &mut Vec<Batch>,
    ) -> bool {
        let lane = batch.header().lane;
        let Some(segment) = self.segment_at(lane, |segment| segment.head == batch.tip()) else {
            return false;
        };
        let (missing, bytes) = (segment.missing(), segment.bytes);
        segment.take(batch.clone());
        persist.push(batch.clone());
        segment.walk(&mut lanes[lane.at()], persist);
        let (found, grown) = (missing - segment.missing(), segment.bytes - bytes);
        self.missing -= found;
        self.held_bytes += grown;
        true
    }

    /// The chain of `lane` changed: segments may go on without a request.
    pub(crate) fn walk_lane(
        &mut self,
        lanes: &mut [Lane],
        lane: ValidatorIndex,
        persist: &mut Vec<Batch>,
    ) {
        if self.missing == 0 {
            return;
        }
        for block in self.queue.iter_mut().take_while(|block| block.planned) {
            for segment in block
                .segments
                .iter_mut()
                .filter(|segment| segment.lane == lane)
            {
                let (missing, bytes) = (segment.missing(), segment.bytes);
                segment.walk(&mut lanes[lane.at()], persist);
                self.missing -= missing - segment.missing();
                self.held_bytes += segment.bytes - bytes;
            }
        }
    }

    /// True when a committed block waits for a batch of this sequence number, whatever its hash.
    pub(crate) fn expects(&mut self, lane: ValidatorIndex, seq: Seq) -> bool {
        self.segment_at(lane, |segment| {
            segment.head.seq == seq && segment.missing() > 0
        })
        .is_some()
    }

    /// The incomplete segments that may be fetched, in height order: those of all planned blocks
    /// while less than `window_bytes` wait for delivery or execution. When more do, only the
    /// block next in turn, and only once execution has nothing else to work on.
    pub(crate) fn incomplete(&self, window_bytes: u64) -> impl Iterator<Item = &Segment> {
        let blocks = match self.waiting_bytes() >= window_bytes {
            false => self.queue.len(),
            true => usize::from(self.delivered.is_empty()),
        };
        let planned = self
            .queue
            .iter()
            .take(blocks)
            .take_while(|block| block.planned);
        planned
            .flat_map(|block| &block.segments)
            .filter(|segment| segment.missing() > 0)
    }

    /// The next block in height order, once it is complete.
    pub(crate) fn next_complete(&mut self) -> Option<Complete> {
        let front = self.queue.front()?;
        if !front.planned || front.missing() > 0 {
            return None;
        }
        let block = self.queue.pop_front().expect("it is the front");
        let bytes = block.bytes();
        self.held_bytes -= bytes;
        self.delivered_bytes += bytes;
        self.delivered.push_back(Delivered {
            header: block.header.clone(),
            bytes,
        });
        let lanes = block
            .segments
            .into_iter()
            .map(|mut segment| {
                segment.batches.reverse();
                (segment.lane, segment.old, segment.batches)
            })
            .collect();
        Some(Complete {
            header: block.header,
            lanes,
        })
    }

    /// Execution reached `height`; the block there, or nothing when that is not news.
    pub(crate) fn execute(&mut self, height: Height) -> Option<Arc<SignedHeader>> {
        assert!(
            height <= self.delivered(),
            "executed {height}, which was not delivered"
        );
        let mut last = None;
        while let Some(block) = self.delivered.front() {
            if block.header.height > height {
                break;
            }
            self.delivered_bytes -= block.bytes;
            last = self.delivered.pop_front().map(|block| block.header);
        }
        self.executed = last.as_ref().map_or(self.executed, |header| header.height);
        last
    }

    /// The first incomplete segment of `lane` that fits, in height order.
    fn segment_at(
        &mut self,
        lane: ValidatorIndex,
        fits: impl Fn(&Segment) -> bool,
    ) -> Option<&mut Segment> {
        if self.missing == 0 {
            return None;
        }
        self.queue
            .iter_mut()
            .take_while(|block| block.planned)
            .flat_map(|block| block.segments.iter_mut())
            .find(|segment| segment.lane == lane && segment.missing() > 0 && fits(segment))
    }
}
