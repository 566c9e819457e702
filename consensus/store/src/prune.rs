//! Dropping segments that nobody needs any more.

use std::sync::Arc;

use falconet_types::Height;
use falconet_types::block::SignedHeader;

use crate::disk::make_names_durable;
use crate::error::StoreError;
use crate::index::{Entry, Key, Location, decode_table};
use crate::log::LogWriter;
use crate::record::Kind;
use crate::segment::{SPARES_MAX, spare_name};

/// Most bytes of batches that one call carries forward out of old segments; a segment that holds
/// more live bytes stays.
pub const CARRY_BYTES_MAX: u64 = 32 << 20;

/// What pruning did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Segments that were deleted.
    pub segments: u64,
    /// Bytes of batches that had to be written again because no block contains them yet.
    pub carried_bytes: u64,
}

impl LogWriter {
    /// Deletes the oldest segments as far as they hold nothing that is needed above `height`.
    ///
    /// Afterwards the header and commit mark of `height` and everything of greater heights are
    /// still there, as are batches that no block contains yet: where one of those stands in an
    /// old segment it is appended again. The call never goes beyond the height at which the
    /// state is durable, because a restart replays from there. Transactions and block rows are
    /// pruned by [`StateDb::prune`](crate::StateDb::prune).
    pub fn prune(&mut self, height: Height) -> Result<Pruned, StoreError> {
        self.guarded(|log| log.prune_to(height))
    }

    fn prune_to(&mut self, height: Height) -> Result<Pruned, StoreError> {
        let height = height.min(self.shared.state_durable());
        let Some(horizon) = self.horizon(height)? else {
            return Ok(Pruned::default());
        };
        let mut pruned = Pruned::default();
        let mut gone = Vec::new();
        let candidates: Vec<_> = {
            let index = self.shared.index.read();
            index.segments.values().map(Arc::clone).collect()
        };
        for segment in candidates {
            if segment.number == self.active.segment.number {
                break;
            }
            let (_, table) = segment
                .sealed_index()?
                .ok_or_else(|| segment.corrupt(0, "the seal of an old segment is damaged"))?;
            let entries = decode_table(&table)
                .map_err(|e| segment.corrupt(0, format!("the segment's table: {e}")))?;
            // The newest safety record is in the active segment, unless it was damaged: then what
            // is left of it stays, so that every later start finds it and does not sign.
            let safety = self.shared.index.read().safety;
            let holds_safety = safety.is_some_and(|at| at.segment == segment.number);
            if holds_safety || entries.iter().any(|entry| horizon.needs(entry)) {
                break;
            }
            let live: Vec<Entry> = entries
                .iter()
                .filter(|entry| horizon.is_pending(entry) && self.stands_in(segment.number, entry))
                .copied()
                .collect();
            let bytes: u64 = live.iter().map(|entry| u64::from(entry.len)).sum();
            if pruned.carried_bytes + bytes > CARRY_BYTES_MAX {
                break;
            }
            for entry in live {
                let payload =
                    segment.read_frame(u64::from(entry.at), entry.key.kind(), entry.len)?;
                self.write(entry.key, &payload)?;
            }
            pruned.carried_bytes += bytes;
            gone.push((segment, entries));
        }
        if gone.is_empty() {
            return Ok(pruned);
        }
        // What was carried, and the safety record at the head of the active segment, must be
        // durable before their older copies go.
        self.active.dirty = true;
        self.sync_turn()?;
        let mut spares = Vec::new();
        for (segment, entries) in gone {
            let mut index = self.shared.index.write();
            for entry in &entries {
                index.remove(segment.number, entry);
            }
            index.segments.remove(&segment.number);
            drop(index);
            let path = segment.path.clone();
            pruned.segments += 1;
            // Who still reads the segment goes on with a file that has no name any more.
            let unused = Arc::into_inner(segment);
            let room = self.spares.len() + spares.len() < SPARES_MAX;
            match unused.filter(|_| room) {
                Some(segment) => {
                    let spare = self.shared.log_dir.join(spare_name(segment.number));
                    std::fs::rename(&segment.path, &spare)
                        .map_err(|e| StoreError::io("rename", &segment.path, e))?;
                    spares.push(spare);
                }
                None => {
                    std::fs::remove_file(&path).map_err(|e| StoreError::io("delete", &path, e))?;
                }
            }
        }
        make_names_durable(&self.shared.log_dir)?;
        // Not before their old names are gone for good: a crash must not bring back an old segment
        // with the records of a new one in it.
        self.spares.append(&mut spares);
        tracing::info!(
            segments = pruned.segments,
            carried_bytes = pruned.carried_bytes,
            height = height.0,
            "pruned the log"
        );
        Ok(pruned)
    }

    fn horizon(&self, height: Height) -> Result<Option<Horizon>, StoreError> {
        let location = {
            let index = self.shared.index.read();
            let Some((id, _)) = index.committed.get(&height) else {
                return Ok(None);
            };
            let Some((_, location)) = index.headers.get(id) else {
                return Ok(None);
            };
            *location
        };
        let header: SignedHeader = self.shared.value(Kind::Header, location)?;
        Ok(Some(Horizon { header }))
    }

    /// True when the index leads to this very copy of a batch.
    fn stands_in(&self, segment: u64, entry: &Entry) -> bool {
        let here = Location {
            segment,
            at: entry.at,
            len: entry.len,
        };
        matches!(entry.key, Key::Batch { hash, .. }
            if self.shared.index.read().batches.get(&hash) == Some(&here))
    }
}

/// The committed block up to which nothing is needed.
struct Horizon {
    header: SignedHeader,
}

impl Horizon {
    /// Records that keep their segment.
    fn needs(&self, entry: &Entry) -> bool {
        let round = (self.header.epoch, self.header.round);
        match entry.key {
            Key::Safety | Key::Batch { .. } => false,
            Key::Header { height, .. } | Key::Committed { height, .. } => {
                height >= self.header.height
            }
            Key::Qc { epoch, round: r } | Key::Tc { epoch, round: r } => (epoch, r) >= round,
        }
    }

    /// Batches above the block's cut: in later blocks, or in none yet.
    fn is_pending(&self, entry: &Entry) -> bool {
        let Key::Batch {
            epoch, lane, seq, ..
        } = entry.key
        else {
            return false;
        };
        match epoch.cmp(&self.header.epoch) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Greater => true,
            std::cmp::Ordering::Equal => self
                .header
                .cut
                .0
                .get(lane.at())
                .is_none_or(|tip| seq > tip.seq),
        }
    }
}
