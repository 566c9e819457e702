//! One lane as this node holds it (rules D1 and D2 of `docs/protocol.md`).
//!
//! ```text
//!        base            committed          tip
//!  ───────┃━━━━━━━━━━━━━━━━━━┿━━━━━━━━━━━━━━━┫  · ·  ▢ ▢      chain, then early batches
//!  executed, in the store    │               ▢ ▢ ▢            aside: another durable branch
//! ```
//!
//! The *chain* is contiguous and durable; its tip is what the watermark says. *Early* batches are
//! signed but do not extend the tip yet: not durable, not acknowledged, evictable. Batches *aside*
//! are durable but off the chain: an acknowledged branch that a commit has superseded, or what a
//! restart found behind a gap. An acknowledgement is a promise to serve, so they stay until
//! execution has passed their sequence number, when no block can name them any more.

use std::collections::{BTreeMap, VecDeque};

use falconet_types::batch::Batch;
use falconet_types::block::LaneTip;
use falconet_types::{Digest, Seq, ValidatorIndex};

use crate::api::Evidence;
use crate::limits::{EARLY_BATCHES_MAX, EARLY_BYTES_MAX, LANE_BATCHES_AHEAD_MAX};

/// Payload bytes of a batch: the unit of every budget of the mempool.
pub(crate) fn payload_bytes(batch: &Batch) -> u64 {
    u64::from(batch.header().payload_len)
}

/// What became of a batch that was offered to a lane.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// It is the new tip; it must be persisted.
    Accepted,
    /// Kept until the batches before it arrive, or until a committed block asks for it.
    Early,
    /// Held already, or below what is of interest.
    Stale,
    /// The lane runs too far ahead, or too many batches arrived early.
    OverQuota,
    /// It contradicts a batch that is held; the first one wins.
    Fork(Box<Evidence>),
}

/// What is held of a range of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Range {
    /// All of it, this many payload bytes.
    Held(u64),
    /// The upper end is held and the chain below it does not lead to the lower end.
    Conflict,
    /// Not (all) held.
    Missing,
}

struct Entry {
    batch: Batch,
    /// Payload bytes of the lane up to and including this batch, counted from an arbitrary zero.
    end_bytes: u64,
}

pub(crate) struct Lane {
    index: ValidatorIndex,
    base: LaneTip,
    base_end_bytes: u64,
    chain: VecDeque<Entry>,
    committed: LaneTip,
    early: BTreeMap<Seq, Batch>,
    early_bytes: u64,
    aside: BTreeMap<(Seq, Digest), Batch>,
    aside_bytes: u64,
    /// The most payload that may be ahead of the last committed batch.
    ahead_bytes_max: u64,
    pub(crate) forked: bool,
    /// Highest sequence number on the chain that a quorum holds.
    pub(crate) quorum: Seq,
}

impl Lane {
    /// An executed lane up to `base`, with the durable batches above it in the order in which
    /// they were persisted. Where a lane forks, the batch that was persisted first is on the
    /// chain, as it was acknowledged first; a commit of another branch will correct that.
    pub(crate) fn recover(
        index: ValidatorIndex,
        base: LaneTip,
        backlog_bytes_max: u64,
        batches: Vec<Batch>,
    ) -> Self {
        let mut lane = Self {
            index,
            base,
            base_end_bytes: 0,
            chain: VecDeque::new(),
            committed: base,
            early: BTreeMap::new(),
            early_bytes: 0,
            aside: BTreeMap::new(),
            aside_bytes: 0,
            // A quarter above the owner's own bound, see `LANE_BATCHES_AHEAD_MAX`.
            ahead_bytes_max: backlog_bytes_max.saturating_add(backlog_bytes_max / 4),
            forked: false,
            quorum: base.seq,
        };
        let mut by_seq: BTreeMap<Seq, Vec<Batch>> = BTreeMap::new();
        for batch in batches
            .into_iter()
            .filter(|batch| batch.header().seq > base.seq)
        {
            let same_seq = by_seq.entry(batch.header().seq).or_default();
            if same_seq.iter().all(|other| other.hash() != batch.hash()) {
                same_seq.push(batch);
            }
        }
        for batch in by_seq.into_values().flatten() {
            let tip = lane.tip();
            if batch.header().seq == tip.seq.next() && batch.header().prev_hash == tip.hash {
                lane.push(batch);
            } else {
                lane.put_aside(batch);
            }
        }
        lane
    }

    pub(crate) fn tip(&self) -> LaneTip {
        self.chain
            .back()
            .map_or(self.base, |entry| entry.batch.tip())
    }

    pub(crate) fn base(&self) -> LaneTip {
        self.base
    }

    pub(crate) fn committed(&self) -> LaneTip {
        self.committed
    }

    /// Hash of the batch at `seq` on the chain, the base included.
    pub(crate) fn hash_at(&self, seq: Seq) -> Option<Digest> {
        if seq == self.base.seq {
            return Some(self.base.hash);
        }
        self.batch_at(seq).map(Batch::hash)
    }

    /// True when `tip` is on the chain.
    pub(crate) fn holds(&self, tip: LaneTip) -> bool {
        self.hash_at(tip.seq) == Some(tip.hash)
    }

    /// The batch at `seq` on the chain, while it is in memory.
    pub(crate) fn batch_at(&self, seq: Seq) -> Option<&Batch> {
        let offset = seq.0.checked_sub(self.base.seq.0)?.checked_sub(1)?;
        self.chain
            .get(usize::try_from(offset).ok()?)
            .map(|entry| &entry.batch)
    }

    /// The batches above the executed one, oldest first.
    pub(crate) fn above_base(&self) -> impl Iterator<Item = &Batch> {
        self.chain.iter().map(|entry| &entry.batch)
    }

    /// Durable batches off the chain at `seq`.
    pub(crate) fn aside_at(&self, seq: Seq) -> impl Iterator<Item = &Batch> {
        let span = (seq, Digest([0; 32]))..=(seq, Digest([0xff; 32]));
        self.aside.range(span).map(|(_, batch)| batch)
    }

    /// Highest sequence number of a durable batch, on the chain or off it.
    pub(crate) fn durable_seq(&self) -> Seq {
        let aside = self
            .aside
            .last_key_value()
            .map_or(Seq::ZERO, |((seq, _), _)| *seq);
        aside.max(self.tip().seq)
    }

    /// Lowest sequence number of an early batch.
    pub(crate) fn early_first(&self) -> Option<Seq> {
        self.early.first_key_value().map(|(seq, _)| *seq)
    }

    /// Payload held above the last committed batch, on every branch: what the owner makes this
    /// node keep.
    pub(crate) fn ahead_bytes(&self) -> u64 {
        let chain = self.tip_end_bytes() - self.end_at(self.committed.seq);
        chain + self.aside_bytes
    }

    /// Payload on the chain above the last executed batch.
    pub(crate) fn unexecuted_bytes(&self) -> u64 {
        self.tip_end_bytes() - self.base_end_bytes
    }

    /// Payload on the chain above `low`, up to `high`.
    pub(crate) fn bytes_between(&self, low: Seq, high: Seq) -> u64 {
        self.end_at(high).saturating_sub(self.end_at(low))
    }

    /// The same as a number of batches.
    pub(crate) fn ahead_batches(&self) -> u64 {
        self.tip().seq.0.saturating_sub(self.committed.seq.0) + self.aside.len() as u64
    }

    /// True while the lane may grow by `bytes` more (backpressure of the data layer).
    pub(crate) fn within_quota(&self, bytes: u64) -> bool {
        self.ahead_batches() < LANE_BATCHES_AHEAD_MAX
            && self.ahead_bytes() + bytes <= self.ahead_bytes_max
    }

    /// What is held durably of (`old`, `new`].
    pub(crate) fn range(&self, old: LaneTip, new: LaneTip) -> Range {
        assert!(old.seq < new.seq, "a range goes upwards");
        if old.seq < self.base.seq {
            return Range::Missing;
        }
        if self.holds(new) {
            return match self.holds(old) {
                true => Range::Held(self.end_at(new.seq) - self.end_at(old.seq)),
                false => Range::Conflict,
            };
        }
        // Another branch may be aside.
        let (mut at, mut bytes) = (new, 0);
        while at.seq > old.seq {
            let Some((batch, true)) = self.find(at) else {
                return Range::Missing;
            };
            bytes += payload_bytes(&batch);
            at = LaneTip {
                seq: at.seq.prev(),
                hash: batch.header().prev_hash,
            };
        }
        if at == old {
            Range::Held(bytes)
        } else {
            Range::Conflict
        }
    }

    /// A batch at `tip`, wherever it is held, and whether it is durable.
    pub(crate) fn find(&self, tip: LaneTip) -> Option<(Batch, bool)> {
        if let Some(batch) = self
            .batch_at(tip.seq)
            .filter(|batch| batch.hash() == tip.hash)
        {
            return Some((batch.clone(), true));
        }
        if let Some(batch) = self.aside.get(&(tip.seq, tip.hash)) {
            return Some((batch.clone(), true));
        }
        self.early
            .get(&tip.seq)
            .filter(|batch| batch.hash() == tip.hash)
            .map(|batch| (batch.clone(), false))
    }

    /// A batch that arrived. The caller has checked epoch and lane.
    pub(crate) fn offer(&mut self, batch: Batch) -> Offer {
        let (seq, tip) = (batch.header().seq, self.tip());
        if seq <= tip.seq {
            return match self.batch_at(seq) {
                Some(held) if held.hash() != batch.hash() => self.fork(seq, &batch),
                // Below the base only the store could tell; it is settled anyway.
                _ => Offer::Stale,
            };
        }
        if let Some(early) = self.early.get(&seq) {
            if early.hash() == batch.hash() {
                return Offer::Stale;
            }
            let evidence = Evidence {
                first: early.into(),
                second: (&batch).into(),
            };
            return self.forked(evidence);
        }
        // Up to the committed sequence number the cut decides which branch is the lane.
        if seq != tip.seq.next() || seq <= self.committed.seq {
            return self.keep_early(batch);
        }
        if batch.header().prev_hash != tip.hash {
            return self.fork(tip.seq, &batch);
        }
        if !self.within_quota(payload_bytes(&batch)) {
            return Offer::OverQuota;
        }
        self.push(batch);
        Offer::Accepted
    }

    /// The early batch that extends the tip now, if there is one: to be offered again. Drops
    /// those that the chain has passed.
    pub(crate) fn next_early(&mut self) -> Option<Batch> {
        let tip = self.tip();
        while let Some(seq) = self.early_first().filter(|seq| *seq <= tip.seq.next()) {
            if seq == tip.seq.next() && seq <= self.committed.seq {
                return None;
            }
            let batch = self.take_early(seq).expect("it is the first");
            if seq == tip.seq.next() {
                return Some(batch);
            }
        }
        None
    }

    /// Removes an early batch.
    pub(crate) fn take_early(&mut self, seq: Seq) -> Option<Batch> {
        let batch = self.early.remove(&seq)?;
        self.early_bytes -= payload_bytes(&batch);
        Some(batch)
    }

    /// Appends a batch that extends the tip.
    pub(crate) fn push(&mut self, batch: Batch) {
        let tip = self.tip();
        assert!(
            batch.header().seq == tip.seq.next() && batch.header().prev_hash == tip.hash,
            "lane {}: batch {} does not extend {}",
            self.index,
            batch.header().seq,
            tip.seq
        );
        self.append(batch);
    }

    /// A block that names `tip` was committed.
    pub(crate) fn commit(&mut self, tip: LaneTip) {
        assert!(
            tip.seq > self.committed.seq,
            "lane {}: a cut went backwards",
            self.index
        );
        self.committed = tip;
    }

    /// Makes the batches of a committed block, which follow `old`, part of the chain. A branch
    /// that contradicts them goes aside. Returns true when the chain changed.
    pub(crate) fn adopt(&mut self, old: LaneTip, batches: &[Batch]) -> bool {
        let new = batches.last().expect("a block advances the lane").tip();
        assert!(
            self.holds(old),
            "lane {}: blocks are adopted in height order",
            self.index
        );
        if self.holds(new) && self.range(old, new) != Range::Conflict {
            return false;
        }
        while self.tip().seq > old.seq {
            let entry = self.chain.pop_back().expect("the tip is above the base");
            self.put_aside(entry.batch);
        }
        for batch in batches {
            if self
                .aside
                .remove(&(batch.header().seq, batch.hash()))
                .is_some()
            {
                self.aside_bytes -= payload_bytes(batch);
            }
            // Not `push`: the first of them may name another predecessor than `old`, see
            // `docs/mempool.md`, "A certified cut that does not link".
            assert!(
                batch.header().seq == self.tip().seq.next(),
                "a block's range has no gap"
            );
            self.append(batch.clone());
        }
        self.relink();
        true
    }

    /// Execution reached `tip`: what is at and below it leaves memory.
    pub(crate) fn drop_executed(&mut self, tip: LaneTip) {
        assert!(
            self.holds(tip),
            "lane {}: executed what was not delivered",
            self.index
        );
        while self.base.seq < tip.seq {
            let entry = self
                .chain
                .pop_front()
                .expect("the executed tip is on the chain");
            self.base = entry.batch.tip();
            self.base_end_bytes = entry.end_bytes;
        }
        while let Some(((seq, hash), _)) = self.aside.first_key_value() {
            if *seq > tip.seq {
                break;
            }
            let key = (*seq, *hash);
            let batch = self.aside.remove(&key).expect("it is the first");
            self.aside_bytes -= payload_bytes(&batch);
        }
    }

    /// Durable batches aside that extend the chain after it was re-routed come back to it.
    fn relink(&mut self) {
        loop {
            let tip = self.tip();
            let next = self
                .aside_at(tip.seq.next())
                .find(|batch| batch.header().prev_hash == tip.hash)
                .cloned();
            let Some(batch) = next else { return };
            self.aside.remove(&(batch.header().seq, batch.hash()));
            self.aside_bytes -= payload_bytes(&batch);
            self.append(batch);
        }
    }

    fn append(&mut self, batch: Batch) {
        let end_bytes = self.tip_end_bytes() + payload_bytes(&batch);
        self.chain.push_back(Entry { batch, end_bytes });
    }

    fn put_aside(&mut self, batch: Batch) {
        self.aside_bytes += payload_bytes(&batch);
        self.aside.insert((batch.header().seq, batch.hash()), batch);
    }

    fn keep_early(&mut self, batch: Batch) -> Offer {
        let bytes = payload_bytes(&batch);
        // The lowest sequence numbers are the useful ones: the highest makes room.
        while self.early.len() >= EARLY_BATCHES_MAX || self.early_bytes + bytes > EARLY_BYTES_MAX {
            let highest = *self
                .early
                .last_key_value()
                .expect("a batch fits an empty buffer")
                .0;
            if highest <= batch.header().seq {
                return Offer::OverQuota;
            }
            self.take_early(highest);
        }
        self.early_bytes += bytes;
        self.early.insert(batch.header().seq, batch);
        Offer::Early
    }

    /// `batch` contradicts the batch at `seq` on the chain.
    fn fork(&mut self, seq: Seq, batch: &Batch) -> Offer {
        match self.batch_at(seq) {
            Some(held) => {
                let evidence = Evidence {
                    first: held.into(),
                    second: batch.into(),
                };
                self.forked(evidence)
            }
            // The tip is the base, whose batch left memory: known to conflict, not provable here.
            None => Offer::Stale,
        }
    }

    fn forked(&mut self, evidence: Evidence) -> Offer {
        assert!(
            evidence.is_conflict(),
            "lane {}: evidence proves nothing",
            self.index
        );
        self.forked = true;
        Offer::Fork(Box::new(evidence))
    }

    fn tip_end_bytes(&self) -> u64 {
        let last = self.chain.back();
        last.map_or(self.base_end_bytes, |entry| entry.end_bytes)
    }

    /// Payload bytes up to `seq`, which is clamped to what the chain knows.
    fn end_at(&self, seq: Seq) -> u64 {
        let Some(offset) = seq
            .0
            .checked_sub(self.base.seq.0)
            .and_then(|d| d.checked_sub(1))
        else {
            return self.base_end_bytes;
        };
        let index = usize::try_from(offset).unwrap_or(usize::MAX);
        let entry = self.chain.get(index).or(self.chain.back());
        entry.map_or(self.base_end_bytes, |entry| entry.end_bytes)
    }
}
