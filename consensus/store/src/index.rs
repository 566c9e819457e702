//! Where each record is. The index lives in memory; on disk it exists once a segment, as the
//! table that seals it, so that opening reads tables and scans only the segment that was being
//! written. About 150 bytes of memory a record; pruning bounds their number.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use falconet_types::batch::BatchHeader;
use falconet_types::block::SignedHeader;
use falconet_types::wire::{Reader, Wire, WireError, put_count32};
use falconet_types::{BlockId, Digest, Epoch, Height, Round, Seq, ValidatorIndex};

use crate::record::{Committed, Kind, Record};
use crate::segment::Segment;

/// What a record is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    Safety,
    Header {
        id: BlockId,
        height: Height,
    },
    Qc {
        epoch: Epoch,
        round: Round,
    },
    Tc {
        epoch: Epoch,
        round: Round,
    },
    Batch {
        hash: Digest,
        epoch: Epoch,
        lane: ValidatorIndex,
        seq: Seq,
    },
    Committed {
        height: Height,
        block_id: BlockId,
    },
}

impl Key {
    pub(crate) fn of(record: &Record) -> Self {
        match record {
            Record::Safety(_) => Self::Safety,
            Record::Header(header) => Self::Header {
                id: header.id(),
                height: header.height,
            },
            Record::Qc(qc) => Self::Qc {
                epoch: qc.epoch,
                round: qc.round,
            },
            Record::Tc(tc) => Self::Tc {
                epoch: tc.epoch,
                round: tc.round,
            },
            Record::Batch(batch) => Self::of_batch(batch.header(), batch.hash()),
            Record::Committed(c) => Self::Committed {
                height: c.height,
                block_id: c.block_id,
            },
        }
    }

    /// The key of a record read back. `None` for the log's own kinds.
    pub(crate) fn read(kind: Kind, payload: &[u8]) -> Result<Option<Self>, WireError> {
        let mut r = Reader::new(payload);
        Ok(Some(match kind {
            Kind::Safety => Self::Safety,
            Kind::Header => {
                let header = SignedHeader::from_bytes(payload)?;
                Self::Header {
                    id: header.id(),
                    height: header.height,
                }
            }
            Kind::Qc => Self::Qc {
                epoch: Epoch::decode(&mut r)?,
                round: Round::decode(&mut r)?,
            },
            Kind::Tc => Self::Tc {
                epoch: Epoch::decode(&mut r)?,
                round: Round::decode(&mut r)?,
            },
            Kind::Batch => {
                let header = BatchHeader::decode(&mut r)?;
                Self::of_batch(&header, header.hash())
            }
            Kind::Committed => {
                let committed = Committed::from_bytes(payload)?;
                Self::Committed {
                    height: committed.height,
                    block_id: committed.block_id,
                }
            }
            Kind::Sync | Kind::Index => return Ok(None),
        }))
    }

    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Safety => Kind::Safety,
            Self::Header { .. } => Kind::Header,
            Self::Qc { .. } => Kind::Qc,
            Self::Tc { .. } => Kind::Tc,
            Self::Batch { .. } => Kind::Batch,
            Self::Committed { .. } => Kind::Committed,
        }
    }

    fn of_batch(header: &BatchHeader, hash: Digest) -> Self {
        Self::Batch {
            hash,
            epoch: header.epoch,
            lane: header.lane,
            seq: header.seq,
        }
    }
}

/// A record of one segment: its key, the offset of its frame, the length of its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    pub key: Key,
    pub at: u32,
    pub len: u32,
}

impl Wire for Entry {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.key.kind() as u8);
        out.extend_from_slice(&self.at.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
        match self.key {
            Key::Safety => {}
            Key::Header { id, height }
            | Key::Committed {
                block_id: id,
                height,
            } => {
                out.extend_from_slice(id.as_ref());
                height.encode(out);
            }
            Key::Qc { epoch, round } | Key::Tc { epoch, round } => {
                epoch.encode(out);
                round.encode(out);
            }
            Key::Batch {
                hash,
                epoch,
                lane,
                seq,
            } => {
                out.extend_from_slice(hash.as_ref());
                epoch.encode(out);
                lane.encode(out);
                seq.encode(out);
            }
        }
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let kind = Kind::try_from(r.u8()?).map_err(|()| WireError::Value("record kind"))?;
        let at = r.u32()?;
        let len = r.u32()?;
        let key = match kind {
            Kind::Safety => Key::Safety,
            Kind::Header => Key::Header {
                id: r.digest()?,
                height: Height::decode(r)?,
            },
            Kind::Qc => Key::Qc {
                epoch: Epoch::decode(r)?,
                round: Round::decode(r)?,
            },
            Kind::Tc => Key::Tc {
                epoch: Epoch::decode(r)?,
                round: Round::decode(r)?,
            },
            Kind::Batch => Key::Batch {
                hash: r.digest()?,
                epoch: Epoch::decode(r)?,
                lane: ValidatorIndex::decode(r)?,
                seq: Seq::decode(r)?,
            },
            Kind::Committed => Key::Committed {
                block_id: r.digest()?,
                height: Height::decode(r)?,
            },
            Kind::Sync | Kind::Index => return Err(WireError::Value("record kind")),
        };
        Ok(Self { key, at, len })
    }
}

/// The table that seals a segment. Of the safety records only the newest matters.
pub(crate) fn encode_table(entries: &[Entry]) -> Vec<u8> {
    let newest = entries.iter().rposition(|e| e.key == Key::Safety);
    let kept = |(i, e): &(usize, &Entry)| e.key != Key::Safety || Some(*i) == newest;
    let mut out = Vec::with_capacity(4 + entries.len() * 64);
    put_count32(&mut out, entries.iter().enumerate().filter(kept).count());
    for (_, entry) in entries.iter().enumerate().filter(kept) {
        entry.encode(&mut out);
    }
    out
}

/// Reads a table back.
pub(crate) fn decode_table(bytes: &[u8]) -> Result<Vec<Entry>, WireError> {
    let mut r = Reader::new(bytes);
    let n = r.count32("entries", bytes.len())?;
    let mut entries = Vec::with_capacity(n.min(bytes.len() / 9));
    for _ in 0..n {
        entries.push(Entry::decode(&mut r)?);
    }
    r.finish()?;
    Ok(entries)
}

/// Where a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Location {
    pub segment: u64,
    pub at: u32,
    pub len: u32,
}

/// Everything that is in the log and not pruned.
#[derive(Debug, Default)]
pub(crate) struct Index {
    pub segments: BTreeMap<u64, Arc<Segment>>,
    pub safety: Option<Location>,
    pub batches: HashMap<Digest, Location>,
    /// The newest batch at each position of a lane.
    pub lanes: BTreeMap<(Epoch, ValidatorIndex, Seq), Digest>,
    pub headers: HashMap<BlockId, (Height, Location)>,
    pub qcs: BTreeMap<(Epoch, Round), Location>,
    pub tcs: BTreeMap<(Epoch, Round), Location>,
    pub committed: BTreeMap<Height, (BlockId, Location)>,
}

impl Index {
    pub(crate) fn insert(&mut self, segment: u64, entry: &Entry) {
        let location = Location {
            segment,
            at: entry.at,
            len: entry.len,
        };
        match entry.key {
            Key::Safety => self.safety = Some(location),
            Key::Header { id, height } => {
                self.headers.insert(id, (height, location));
            }
            Key::Qc { epoch, round } => {
                self.qcs.insert((epoch, round), location);
            }
            Key::Tc { epoch, round } => {
                self.tcs.insert((epoch, round), location);
            }
            Key::Batch {
                hash,
                epoch,
                lane,
                seq,
            } => {
                self.batches.insert(hash, location);
                self.lanes.insert((epoch, lane, seq), hash);
            }
            Key::Committed { height, block_id } => {
                self.committed.insert(height, (block_id, location));
            }
        }
    }

    /// Forgets an entry of a dropped segment, unless a newer segment holds the same record.
    pub(crate) fn remove(&mut self, segment: u64, entry: &Entry) {
        let gone = Location {
            segment,
            at: entry.at,
            len: entry.len,
        };
        match entry.key {
            Key::Safety => {
                assert_ne!(self.safety, Some(gone), "dropping the newest safety record");
            }
            Key::Header { id, .. } => {
                if self.headers.get(&id).is_some_and(|(_, at)| *at == gone) {
                    self.headers.remove(&id);
                }
            }
            Key::Qc { epoch, round } => remove_at(&mut self.qcs, (epoch, round), gone),
            Key::Tc { epoch, round } => remove_at(&mut self.tcs, (epoch, round), gone),
            Key::Batch {
                hash,
                epoch,
                lane,
                seq,
            } => {
                if self.batches.get(&hash) == Some(&gone) {
                    self.batches.remove(&hash);
                    if self.lanes.get(&(epoch, lane, seq)) == Some(&hash) {
                        self.lanes.remove(&(epoch, lane, seq));
                    }
                }
            }
            Key::Committed { height, .. } => {
                if self
                    .committed
                    .get(&height)
                    .is_some_and(|(_, at)| *at == gone)
                {
                    self.committed.remove(&height);
                }
            }
        }
    }

    pub(crate) fn segment(&self, location: Location) -> Arc<Segment> {
        let segment = self.segments.get(&location.segment);
        Arc::clone(segment.expect("the index points only into segments that exist"))
    }
}

fn remove_at<K: Ord>(map: &mut BTreeMap<K, Location>, key: K, gone: Location) {
    if map.get(&key) == Some(&gone) {
        map.remove(&key);
    }
}
