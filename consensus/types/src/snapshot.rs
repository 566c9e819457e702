//! Snapshots of the state between nodes: which ones a node has, what proves one, and its parts.
//!
//! ```text
//!  set of the epoch ── QC ──▶ header c ──▶ … ──▶ header x ──▶ … ──▶ anchor (height h)
//!                                                   │ names (h, commitment)
//!                      commitment = H(h, accounts root, validators root, results)
//!                                        │
//!                      accounts root = H(tree root, burned) ◀── chunks, each with its proof
//! ```

use bytes::Bytes;
use falconet_crypto::hash::Digest;

use crate::block::{Header, SignedHeader};
use crate::certificate::Qc;
use crate::ids::{ChainId, Height};
use crate::proof::{CommittedChain, ProofError};
use crate::receipt;
use crate::signing::{Claim, Invalid, Signed};
use crate::validators::ValidatorSet;
use crate::wire::{Reader, Wire, WireError, put_count16, put_count32};

const VERSION: u8 = 1;
/// Most snapshots that a node offers.
pub const OFFERS_MAX: usize = 4;
/// Most headers in a manifest; a snapshot whose state was named later than that is not offered.
pub const MANIFEST_HEADERS_MAX: usize = 256;
/// Rows that a server puts into one chunk before it stops at the end of a bucket, bytes.
pub const CHUNK_BYTES_TARGET: usize = 192 << 10;
/// Longest rows of a chunk, bytes: what a single bucket may come to.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Longest registry of validators in a manifest, bytes; a state with a longer one has no snapshot.
pub const REGISTRY_BYTES_MAX: usize = 1 << 20;
/// Most nodes on either side of a chunk's proof.
pub const CHUNK_SIBLINGS_MAX: usize = 16;

/// Asks which snapshots there are, and for the manifest of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetSnapshot {
    /// Height of the snapshot whose manifest is wanted; 0 for none.
    pub height: Height,
}

impl Wire for GetSnapshot {
    fn encode(&self, out: &mut Vec<u8>) {
        self.height.encode(out);
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            height: Height::decode(r)?,
        })
    }
}

/// What a node has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotOffer {
    /// The lowest height whose block and batches the node still has.
    pub horizon: Height,
    /// Heights of its snapshots, newest first, at most [`OFFERS_MAX`].
    pub heights: Vec<Height>,
    /// The manifest that was asked for, if the node has that snapshot.
    pub manifest: Option<Manifest>,
}

impl Wire for SnapshotOffer {
    fn encode(&self, out: &mut Vec<u8>) {
        self.horizon.encode(out);
        put_count16(out, self.heights.len());
        self.heights.iter().for_each(|height| height.encode(out));
        match &self.manifest {
            None => out.push(0),
            Some(manifest) => {
                out.push(1);
                manifest.encode(out);
            }
        }
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let horizon = Height::decode(r)?;
        let n = r.count16("snapshots", OFFERS_MAX)?;
        let mut heights = Vec::with_capacity(n);
        for _ in 0..n {
            heights.push(Height::decode(r)?);
        }
        if !heights.is_sorted_by(|a, b| a > b) || heights.contains(&Height::ZERO) {
            return Err(WireError::Value("snapshots"));
        }
        let manifest = match r.u8()? {
            0 => None,
            1 => Some(Manifest::decode(r)?),
            _ => return Err(WireError::Value("option")),
        };
        Ok(Self {
            horizon,
            heights,
            manifest,
        })
    }
}

impl Signed for SnapshotOffer {
    fn claims<'a>(
        &'a self,
        chain: ChainId,
        set: &ValidatorSet,
        out: &mut Vec<Claim<'a>>,
    ) -> Result<(), Invalid> {
        match &self.manifest {
            Some(manifest) => manifest.claims(chain, set, out),
            None => Ok(()),
        }
    }
}

/// What a snapshot is and why it is the chain's state. Its height is that of the first header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Root of the tree over the buckets of accounts; zero for an application without accounts.
    pub tree_root: Digest,
    /// What the application folds with `tree_root` into its accounts root.
    pub burned: u64,
    /// Rows of the registry of validators, which the application folds into the validators root;
    /// empty for an application without one.
    pub registry: Bytes,
    /// Validators root of the state.
    pub validators: Digest,
    /// Results digest of the state.
    pub results: Digest,
    /// Length of all rows, bytes. Not proven: it only helps to cut the work into pieces.
    pub rows_bytes: u64,
    /// From the block after which the state was taken, each the parent of the next, through a
    /// committed one that names the state, to a child of a committed one.
    pub headers: Vec<SignedHeader>,
    /// Certificate of the last header.
    pub qc: Qc,
}

impl Manifest {
    /// Height of the state.
    #[must_use]
    pub fn height(&self) -> Height {
        self.anchor().height
    }

    /// The block after which the state was taken.
    #[must_use]
    pub fn anchor(&self) -> &SignedHeader {
        self.headers
            .first()
            .expect("decoding refuses an empty list")
    }

    /// The state commitment, given what `tree_root` and `burned` are folded into.
    #[must_use]
    pub fn commitment(&self, accounts_root: Digest) -> Digest {
        receipt::commitment(self.height(), accounts_root, self.validators, self.results)
    }

    /// Checks, without signatures, that a committed header names `commitment` for this height.
    pub fn check(&self, commitment: Digest) -> Result<(), ProofError> {
        let chain = CommittedChain {
            headers: self.headers.iter().map(|h| h.header().clone()).collect(),
            qc: self.qc.clone(),
        };
        let committed = chain.check_links()?;
        let height = self.height();
        let names = |header: &Header| {
            (header.executed.height, header.executed.root) == (height, commitment)
        };
        if committed.iter().any(names) {
            Ok(())
        } else {
            Err(ProofError::NotInState(height))
        }
    }
}

impl Wire for Manifest {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.extend_from_slice(self.tree_root.as_ref());
        out.extend_from_slice(&self.burned.to_le_bytes());
        for root in [self.validators, self.results] {
            out.extend_from_slice(root.as_ref());
        }
        out.extend_from_slice(&self.rows_bytes.to_le_bytes());
        put_count32(out, self.registry.len());
        out.extend_from_slice(&self.registry);
        put_count16(out, self.headers.len());
        self.headers.iter().for_each(|header| header.encode(out));
        self.qc.encode(out);
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let version = r.u8()?;
        if version != VERSION {
            return Err(WireError::Version {
                what: "manifest",
                found: version,
            });
        }
        let tree_root = r.digest()?;
        let burned = r.u64()?;
        let (validators, results) = (r.digest()?, r.digest()?);
        let rows_bytes = r.u64()?;
        let len = r.count32("registry", REGISTRY_BYTES_MAX)?;
        let registry = Bytes::copy_from_slice(r.bytes(len)?);
        let n = r.count16("headers", MANIFEST_HEADERS_MAX)?;
        if n == 0 {
            return Err(WireError::Value("headers"));
        }
        let mut headers = Vec::new();
        for _ in 0..n {
            headers.push(SignedHeader::decode(r)?);
        }
        Ok(Self {
            tree_root,
            burned,
            registry,
            validators,
            results,
            rows_bytes,
            headers,
            qc: Qc::decode(r)?,
        })
    }
}

impl Signed for Manifest {
    fn claims<'a>(
        &'a self,
        chain: ChainId,
        set: &ValidatorSet,
        out: &mut Vec<Claim<'a>>,
    ) -> Result<(), Invalid> {
        // The certificate pins the headers, yet not their signatures, which are served to others.
        for header in &self.headers {
            header.claims(chain, set, out)?;
        }
        self.qc.claims(chain, set, out)
    }
}

/// Asks for accounts of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetChunk {
    /// Height of the snapshot.
    pub height: Height,
    /// First bucket that is wanted.
    pub first: u16,
    /// Last bucket that is wanted; the answer may end before it.
    pub last: u16,
}

impl Wire for GetChunk {
    fn encode(&self, out: &mut Vec<u8>) {
        self.height.encode(out);
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&self.last.to_le_bytes());
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let value = Self {
            height: Height::decode(r)?,
            first: r.u16()?,
            last: r.u16()?,
        };
        if value.last < value.first {
            return Err(WireError::Value("range"));
        }
        Ok(value)
    }
}

/// All accounts of some neighbouring buckets, with their proof. Whoever gets one judges it by the
/// manifest's tree root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Height of the snapshot.
    pub height: Height,
    /// First bucket.
    pub first: u16,
    /// Last bucket.
    pub last: u16,
    /// Nodes of the tree left of the range, lowest first.
    pub left: Vec<Digest>,
    /// Nodes right of the range, lowest first.
    pub right: Vec<Digest>,
    /// Rows by ascending id: id, two bytes of length, the stored form.
    pub rows: Bytes,
}

impl Chunk {
    /// Reads a chunk whose rows share the frame's memory.
    pub fn parse(payload: &Bytes) -> Result<Self, WireError> {
        let mut r = Reader::new(payload);
        let GetChunk {
            height,
            first,
            last,
        } = GetChunk::decode(&mut r)?;
        let siblings = |r: &mut Reader<'_>| {
            let n = r.count16("siblings", CHUNK_SIBLINGS_MAX)?;
            (0..n).map(|_| r.digest()).collect::<Result<Vec<_>, _>>()
        };
        let (left, right) = (siblings(&mut r)?, siblings(&mut r)?);
        let len = r.count32("rows", CHUNK_BYTES_MAX)?;
        let start = payload.len() - r.remaining();
        r.bytes(len)?;
        r.finish()?;
        Ok(Self {
            height,
            first,
            last,
            left,
            right,
            rows: payload.slice(start..),
        })
    }

    /// The frame's payload.
    #[must_use]
    pub fn to_payload(&self) -> Bytes {
        let siblings = self.left.len() + self.right.len();
        let mut out = Vec::with_capacity(20 + 32 * siblings + self.rows.len());
        GetChunk {
            height: self.height,
            first: self.first,
            last: self.last,
        }
        .encode(&mut out);
        for side in [&self.left, &self.right] {
            put_count16(&mut out, side.len());
            side.iter()
                .for_each(|node| out.extend_from_slice(node.as_ref()));
        }
        put_count32(&mut out, self.rows.len());
        out.extend_from_slice(&self.rows);
        out.into()
    }
}
