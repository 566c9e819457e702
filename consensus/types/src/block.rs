//! Block headers. A block's payload is its *cut*: for each lane, how far the block reaches.

use falconet_crypto::falcon::Signature;
use falconet_crypto::hash::{self, Digest};

use crate::ids::{BlockId, ChainId, Epoch, Height, Round, Seq, ValidatorIndex};
use crate::signing::{self, Claim, Invalid, Signed, Signer, Statement};
use crate::validators::{VALIDATORS_MAX, ValidatorSet};
use crate::wire::{Reader, Wire, WireError, put_count16, put_signature};

const VERSION: u8 = 1;
/// Domain of a block id and tag of the author's signature.
const TAG_HEADER: &str = "falconet/header";

/// The last batch of a lane that a block, a watermark or a node knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct LaneTip {
    /// Sequence number of the batch; 0 when the lane is empty.
    pub seq: Seq,
    /// Hash of the batch; zero when the lane is empty.
    pub hash: Digest,
}

impl Wire for LaneTip {
    fn encode(&self, out: &mut Vec<u8>) {
        self.seq.encode(out);
        out.extend_from_slice(self.hash.as_ref());
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let tip = Self {
            seq: Seq::decode(r)?,
            hash: r.digest()?,
        };
        if (tip.seq == Seq::ZERO) != (tip.hash == Digest::ZERO) {
            return Err(WireError::Value("lane tip"));
        }
        Ok(tip)
    }
}

/// For each lane of the epoch, how far a block reaches. Entry i belongs to validator i.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cut(pub Vec<LaneTip>);

impl Cut {
    /// The cut of genesis: nothing in any lane.
    #[must_use]
    pub fn empty(lanes: usize) -> Self {
        Self(vec![LaneTip::default(); lanes])
    }

    /// True when no lane of `self` is behind `parent` and a lane that did not advance names the
    /// same batch.
    #[must_use]
    pub fn extends(&self, parent: &Cut) -> bool {
        self.0.len() == parent.0.len()
            && self
                .0
                .iter()
                .zip(&parent.0)
                .all(|(new, old)| new.seq > old.seq || (new.seq == old.seq && new.hash == old.hash))
    }

    /// The lanes in which `self` goes beyond `parent`, with their old and new tips.
    pub fn advances<'a>(
        &'a self,
        parent: &'a Cut,
    ) -> impl Iterator<Item = (ValidatorIndex, LaneTip, LaneTip)> + 'a {
        (0u16..)
            .zip(self.0.iter().zip(&parent.0))
            .filter_map(|(lane, (new, old))| {
                (new.seq > old.seq).then_some((ValidatorIndex(lane), *old, *new))
            })
    }
}

impl Wire for Cut {
    fn encode(&self, out: &mut Vec<u8>) {
        put_count16(out, self.0.len());
        for tip in &self.0 {
            tip.encode(out);
        }
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let n = r.count16("lanes", VALIDATORS_MAX)?;
        let mut tips = Vec::with_capacity(n);
        for _ in 0..n {
            tips.push(LaneTip::decode(r)?);
        }
        Ok(Self(tips))
    }
}

/// How the header's round relates to its parent's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum HeaderKind {
    /// `parent_round + 1 == round`: justified by the parent's QC alone.
    Normal = 0,
    /// Justified by a TC of the round before.
    Recovery = 1,
}

/// The result of execution that a header commits to: an ancestor's height and the state
/// commitment after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Executed {
    /// Height of the executed ancestor; 0 is genesis.
    pub height: Height,
    /// State commitment after that block, see [`crate::receipt::commitment`].
    pub root: Digest,
}

impl Wire for Executed {
    fn encode(&self, out: &mut Vec<u8>) {
        self.height.encode(out);
        out.extend_from_slice(self.root.as_ref());
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            height: Height::decode(r)?,
            root: r.digest()?,
        })
    }
}

/// What a leader proposes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Epoch of the validator set.
    pub epoch: Epoch,
    /// Round in which it was proposed, at least 1.
    pub round: Round,
    /// Normal or recovery.
    pub kind: HeaderKind,
    /// The block that this one extends.
    pub parent_id: BlockId,
    /// Round of the parent.
    pub parent_round: Round,
    /// Parent's height + 1.
    pub height: Height,
    /// How far the block reaches in each lane.
    pub cut: Cut,
    /// The leader's clock, milliseconds since 1970, above the parent's.
    pub time_ms: u64,
    /// An executed ancestor and its state commitment.
    pub executed: Executed,
    /// Above the block that ends an epoch (rule N9): that block. Else zero.
    pub ended_by: BlockId,
    /// The leader.
    pub author: ValidatorIndex,
}

impl Header {
    /// The block's id: the hash of the header's bytes.
    #[must_use]
    pub fn id(&self) -> BlockId {
        id_of(&self.to_bytes())
    }
}

impl Wire for Header {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.push(self.kind as u8);
        self.author.encode(out);
        self.epoch.encode(out);
        self.round.encode(out);
        self.parent_round.encode(out);
        self.height.encode(out);
        out.extend_from_slice(&self.time_ms.to_le_bytes());
        out.extend_from_slice(self.parent_id.as_ref());
        self.executed.encode(out);
        out.extend_from_slice(self.ended_by.as_ref());
        self.cut.encode(out);
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let version = r.u8()?;
        if version != VERSION {
            return Err(WireError::Version {
                what: "header",
                found: version,
            });
        }
        let kind = match r.u8()? {
            0 => HeaderKind::Normal,
            1 => HeaderKind::Recovery,
            _ => return Err(WireError::Value("kind")),
        };
        let author = ValidatorIndex::decode(r)?;
        let epoch = Epoch::decode(r)?;
        let round = Round::decode(r)?;
        let parent_round = Round::decode(r)?;
        let height = Height::decode(r)?;
        let time_ms = r.u64()?;
        let parent_id = r.digest()?;
        let executed = Executed::decode(r)?;
        let ended_by = r.digest()?;
        let cut = Cut::decode(r)?;
        Ok(Self {
            epoch,
            round,
            kind,
            parent_id,
            parent_round,
            height,
            cut,
            time_ms,
            executed,
            ended_by,
            author,
        })
    }
}

/// A header with its author's signature and its id, computed once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedHeader {
    header: Header,
    signature: Signature,
    id: BlockId,
}

impl SignedHeader {
    /// Signs a header.
    #[must_use]
    pub fn sign(header: Header, chain: ChainId, signer: &dyn Signer) -> Self {
        let bytes = header.to_bytes();
        let signature = signer.sign(&signing::message(
            TAG_HEADER,
            chain,
            signer.key_id(),
            &bytes,
        ));
        Self {
            id: id_of(&bytes),
            header,
            signature,
        }
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The block's id: the hash of the header's bytes. The chain is bound through `parent_id`,
    /// which leads back to [`genesis_id`], and through the signature.
    #[must_use]
    pub fn id(&self) -> BlockId {
        self.id
    }

    /// The author's signature.
    #[must_use]
    pub fn signature(&self) -> &Signature {
        &self.signature
    }
}

impl std::ops::Deref for SignedHeader {
    type Target = Header;
    fn deref(&self) -> &Header {
        &self.header
    }
}

impl Wire for SignedHeader {
    fn encode(&self, out: &mut Vec<u8>) {
        self.header.encode(out);
        put_signature(out, &self.signature);
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let header = Header::decode(r)?;
        let signature = r.signature()?;
        // One encoding for one value: encoding again yields the bytes that were read.
        let id = id_of(&header.to_bytes());
        Ok(Self {
            header,
            signature,
            id,
        })
    }
}

impl Signed for SignedHeader {
    fn claims<'a>(
        &'a self,
        chain: ChainId,
        set: &ValidatorSet,
        out: &mut Vec<Claim<'a>>,
    ) -> Result<(), Invalid> {
        let claim = self.author_claim(chain, set)?;
        if self.round == Round::ZERO || self.parent_round >= self.round {
            return Err(Invalid::Malformed("the round is not above the parent's"));
        }
        if self.kind == HeaderKind::Normal && self.parent_round.next() != self.round {
            return Err(Invalid::Malformed("a normal header skips a round"));
        }
        if self.height == Height::ZERO || self.executed.height >= self.height {
            return Err(Invalid::Malformed(
                "the executed height is not below the height",
            ));
        }
        if self.cut.0.len() != set.len() {
            return Err(Invalid::Malformed("the cut does not have one entry a lane"));
        }
        out.push(claim);
        Ok(())
    }
}

impl SignedHeader {
    /// The bare claim that the author signed this header, whether or not it may be proposed: what
    /// evidence needs.
    pub(crate) fn author_claim(
        &self,
        chain: ChainId,
        set: &ValidatorSet,
    ) -> Result<Claim<'_>, Invalid> {
        let header = Statement {
            epoch: self.epoch,
            signer: self.author,
            tag: TAG_HEADER,
            content: &self.header.to_bytes(),
            signature: &self.signature,
        };
        header.claim(chain, set)
    }
}

fn id_of(header_bytes: &[u8]) -> BlockId {
    hash::hash("falconet/block-id", &[header_bytes])
}

/// Id of the block at height 0 of a chain.
#[must_use]
pub fn genesis_id(chain: ChainId) -> BlockId {
    hash::hash("falconet/genesis-block", &[chain.as_ref()])
}

/// Id of the block that an epoch above 0 starts from: it stands for `last`, the last block of the
/// epoch before, and for the set (`set_digest`) that rules from here on.
#[must_use]
pub fn epoch_genesis_id(
    chain: ChainId,
    epoch: Epoch,
    last: BlockId,
    set_digest: Digest,
) -> BlockId {
    hash::hash(
        "falconet/epoch-block",
        &[
            chain.as_ref(),
            &epoch.0.to_le_bytes(),
            last.as_ref(),
            set_digest.as_ref(),
        ],
    )
}
