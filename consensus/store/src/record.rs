//! What a validator writes to the log.

use std::sync::Arc;

use bytes::Bytes;
use falconet_types::batch::Batch;
use falconet_types::block::SignedHeader;
use falconet_types::certificate::{Qc, Tc};
use falconet_types::wire::{Reader, Wire, WireError};
use falconet_types::{BlockId, Height};

/// Largest payload of a record, bytes. A batch (1 MiB and its header) and a TC of 256
/// FALCON-1024 signatures with its QC fit.
pub const RECORD_BYTES_MAX: usize = 4 << 20;

/// One thing that must be durable before what depends on it leaves the node.
#[derive(Debug, Clone)]
pub enum Record {
    /// The safety record of the HotStuff core, opaque to the store. The newest one counts.
    Safety(Bytes),
    /// A header that the node proposed or accepted.
    Header(Arc<SignedHeader>),
    /// A quorum certificate.
    Qc(Qc),
    /// A timeout certificate.
    Tc(Tc),
    /// A batch of any lane.
    Batch(Batch),
    /// A block is committed.
    Committed(Committed),
}

/// A commit mark, with what proves it to others: a child of the block in the round after the
/// block's (or, for an older ancestor, the child whose certificate committed the chain) and the
/// child's QC. The child's header is a [`Record::Header`] of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Height of the block.
    pub height: Height,
    /// The block.
    pub block_id: BlockId,
    /// The child that proves the commit.
    pub child_id: BlockId,
    /// The child's certificate.
    pub child_qc: Qc,
}

impl Wire for Committed {
    fn encode(&self, out: &mut Vec<u8>) {
        self.height.encode(out);
        out.extend_from_slice(self.block_id.as_ref());
        out.extend_from_slice(self.child_id.as_ref());
        self.child_qc.encode(out);
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            height: Height::decode(r)?,
            block_id: r.digest()?,
            child_id: r.digest()?,
            child_qc: Qc::decode(r)?,
        })
    }
}

/// The number that stands for a record's kind in its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Kind {
    Safety = 1,
    Header = 2,
    Qc = 3,
    Tc = 4,
    Batch = 5,
    Committed = 6,
    /// Everything before it is durable; see [`crate::segment`].
    Sync = 7,
    /// Table of a sealed segment's records.
    Index = 8,
}

impl TryFrom<u8> for Kind {
    type Error = ();
    fn try_from(byte: u8) -> Result<Self, ()> {
        const ALL: [Kind; 8] = [
            Kind::Safety,
            Kind::Header,
            Kind::Qc,
            Kind::Tc,
            Kind::Batch,
            Kind::Committed,
            Kind::Sync,
            Kind::Index,
        ];
        ALL.into_iter().find(|kind| *kind as u8 == byte).ok_or(())
    }
}

impl Record {
    /// The bytes that are stored. A batch and a safety record are not copied.
    pub(crate) fn payload(&self) -> Bytes {
        match self {
            Self::Safety(bytes) => bytes.clone(),
            Self::Header(header) => header.to_bytes().into(),
            Self::Qc(qc) => qc.to_bytes().into(),
            Self::Tc(tc) => tc.to_bytes().into(),
            Self::Batch(batch) => batch.bytes().clone(),
            Self::Committed(committed) => committed.to_bytes().into(),
        }
    }
}
