//! The core's surface: what goes in, what comes out, what it asks of the layers beside it.

use std::sync::Arc;

use falconet_types::block::{Cut, Executed, SignedHeader};
use falconet_types::certificate::{Qc, Tc, Timeout, Vote};
use falconet_types::commit_vote::CommitVote;
use falconet_types::epoch::{EpochProof, EpochStart};
use falconet_types::genesis::Params;
use falconet_types::message::{CertRef, GetBlocks, PeerMessage};
use falconet_types::signing::Verified;
use falconet_types::validators::ValidatorSet;
use falconet_types::{BlockId, ChainId, Digest, Epoch, Height, Round, ValidatorIndex};

use crate::safety::SafetyRecord;

/// What a core needs to know. Chain and parameters are for good, the rest is for one epoch.
#[derive(Debug, Clone)]
pub struct Config {
    /// The chain.
    pub chain_id: ChainId,
    /// This validator's place in `set`; [`ValidatorIndex::NOBODY`] when its key is not in there:
    /// then the core follows, that is, it commits and serves and signs nothing.
    pub me: ValidatorIndex,
    /// The validators of the epoch.
    pub set: Arc<ValidatorSet>,
    /// What the epoch starts from.
    pub start: EpochStart,
    /// Parameters from genesis.
    pub params: Params,
}

/// An epoch that follows the one that ended ([`Effect::EpochEnded`]).
#[derive(Debug, Clone)]
pub struct NextEpoch {
    /// Its validators.
    pub set: Arc<ValidatorSet>,
    /// This node's place among them; [`ValidatorIndex::NOBODY`] if it has none.
    pub me: ValidatorIndex,
    /// What it starts from.
    pub start: EpochStart,
    /// Shows others that the epoch before is over.
    pub proof: Arc<EpochProof>,
}

/// What the core asks of the data layer and of execution, synchronously and without side effects.
pub trait Payload {
    /// The cut that a leader proposes on top of `parent`; `parent` itself when there is nothing
    /// to add.
    fn propose(&self, parent: &Cut) -> Cut;
    /// Whether [`Payload::propose`] would advance a lane.
    fn has_work(&self, parent: &Cut) -> bool;
    /// How long a leader waits between blocks with new payload, microseconds; `least_us` is what
    /// genesis allows. More than that where a block would not be worth its signatures yet.
    fn interval_us(&self, _parent: &Cut, least_us: u64) -> u64 {
        least_us
    }
    /// The availability rule for what `cut` adds to `parent` (vote rule 5).
    fn available(&self, parent: &Cut, cut: &Cut) -> bool;
    /// The highest executed block and the state commitment after it.
    fn executed(&self) -> Executed;
    /// The state commitment after the block at `height`; `None` when it was not executed yet or
    /// is too old to be remembered. Height 0 (genesis) is always answered.
    fn commitment_at(&self, height: Height) -> Option<Digest>;
}

/// What happens to the core.
#[derive(Debug, Clone)]
pub enum Input {
    /// A proposal.
    Header {
        /// The peer that sent it.
        from: ValidatorIndex,
        /// The proposal.
        header: Verified<SignedHeader>,
    },
    /// A vote.
    Vote {
        /// The peer that sent it.
        from: ValidatorIndex,
        /// The vote.
        vote: Verified<Vote>,
    },
    /// A vote to commit.
    CommitVote {
        /// The peer that sent it.
        from: ValidatorIndex,
        /// The vote.
        vote: Verified<CommitVote>,
    },
    /// A timeout.
    Timeout {
        /// The peer that sent it.
        from: ValidatorIndex,
        /// The timeout.
        timeout: Verified<Timeout>,
    },
    /// A QC, asked for or volunteered.
    Qc {
        /// The peer that sent it.
        from: ValidatorIndex,
        /// The certificate.
        qc: Verified<Qc>,
    },
    /// A TC, asked for or volunteered.
    Tc {
        /// The peer that sent it.
        from: ValidatorIndex,
        /// The certificate.
        tc: Verified<Tc>,
    },
    /// Certificates that a peer holds.
    CertRefs {
        /// The peer that sent it.
        from: ValidatorIndex,
        /// Their names.
        refs: Vec<CertRef>,
    },
    /// A peer asks for a certificate.
    GetCert {
        /// The peer that asks.
        from: ValidatorIndex,
        /// Its name.
        cert: CertRef,
    },
    /// A peer asks for headers.
    GetBlocks {
        /// The peer that asks.
        from: ValidatorIndex,
        /// What it wants.
        request: GetBlocks,
    },
    /// Headers, newest first, each the parent of the one before.
    Blocks {
        /// The peer that sent them.
        from: ValidatorIndex,
        /// The headers.
        headers: Vec<Verified<SignedHeader>>,
    },
    /// A peer asks for the proof that an epoch is over.
    GetEpochProof {
        /// The peer that asks.
        from: ValidatorIndex,
        /// The epoch.
        epoch: Epoch,
    },
    /// An epoch is over; the certificate was checked with the validators of that epoch. Without
    /// effect unless it is the one that this node is in.
    EpochProof {
        /// The peer that sent it.
        from: ValidatorIndex,
        /// The proof.
        proof: Verified<EpochProof>,
    },
    /// A peer sent something of another epoch, which was not checked.
    OtherEpoch {
        /// The peer that sent it.
        from: ValidatorIndex,
        /// The epoch of what it sent.
        epoch: Epoch,
    },
    /// A peer is connected (again): it may have missed everything sent before.
    PeerUp(ValidatorIndex),
    /// A peer is gone.
    PeerDown(ValidatorIndex),
    /// An answer of [`Payload`] may have changed.
    PayloadChanged,
    /// Time passed; due whenever [`crate::HotStuff::next_deadline_us`] says so.
    Tick,
}

impl Input {
    /// What a peer's message, whose signatures were checked, is to the core. What is for another
    /// part of the node comes back. Parts of a verified message are verified.
    pub fn from_message(
        from: ValidatorIndex,
        message: Verified<PeerMessage>,
    ) -> Result<Self, Box<PeerMessage>> {
        Ok(match message.into_inner() {
            PeerMessage::Header(header) => Self::Header {
                from,
                header: Verified::trusted(header),
            },
            PeerMessage::Vote(vote) => Self::Vote {
                from,
                vote: Verified::trusted(vote),
            },
            PeerMessage::CommitVote(vote) => Self::CommitVote {
                from,
                vote: Verified::trusted(vote),
            },
            PeerMessage::Timeout(timeout) => Self::Timeout {
                from,
                timeout: Verified::trusted(timeout),
            },
            PeerMessage::Qc(qc) => Self::Qc {
                from,
                qc: Verified::trusted(qc),
            },
            PeerMessage::Tc(tc) => Self::Tc {
                from,
                tc: Verified::trusted(tc),
            },
            PeerMessage::CertRefs(refs) => Self::CertRefs { from, refs },
            PeerMessage::GetCert(cert) => Self::GetCert { from, cert },
            PeerMessage::GetBlocks(request) => Self::GetBlocks { from, request },
            PeerMessage::Blocks(headers) => Self::Blocks {
                from,
                headers: headers.into_iter().map(Verified::trusted).collect(),
            },
            PeerMessage::GetEpochProof(epoch) => Self::GetEpochProof { from, epoch },
            PeerMessage::EpochProof(proof) => Self::EpochProof {
                from,
                proof: Verified::trusted(*proof),
            },
            other => return Err(Box::new(other)),
        })
    }
}

/// What the shell has to do. In order; nothing that leaves the node (`Broadcast`, `Send`,
/// `ServeBlocks`, `Commit`) may leave before all records of this and of earlier turns are durable.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Append a record to the log.
    Persist(Record),
    /// Send to all other validators that are connected.
    Broadcast(PeerMessage),
    /// Send to one validator, if it is connected.
    Send {
        /// The receiver.
        to: ValidatorIndex,
        /// The message.
        message: PeerMessage,
    },
    /// Answer a peer's request for headers from the store; the core holds them no longer. Without
    /// effect when the store does not know the block.
    ServeBlocks {
        /// The peer that asked.
        to: ValidatorIndex,
        /// What it wants.
        request: GetBlocks,
    },
    /// A block is committed. In height order, each height exactly once over restarts, as far as
    /// the committed records were durable.
    Commit(Committed),
    /// Send a peer the proof that an epoch is over, from the store. Without effect when the store
    /// does not have it (yet).
    ServeEpochProof {
        /// The peer.
        to: ValidatorIndex,
        /// The epoch.
        epoch: Epoch,
    },
    /// The epoch's last block is committed; it was the last [`Effect::Commit`]. The core says
    /// nothing in this epoch any more and waits for [`crate::HotStuff::start_epoch`], which is due
    /// when the block is executed. After a restart in between it is said again.
    EpochEnded {
        /// The block.
        last: Arc<SignedHeader>,
    },
    /// A validator signed what it must not sign. Reported, not yet punished.
    Evidence(Box<Evidence>),
    /// Something that an operator must look at.
    Alarm(Alarm),
}

/// A block that is final.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The block.
    pub header: Arc<SignedHeader>,
    /// Its parent's cut: the block's payload lies between the two.
    pub parent_cut: Cut,
    /// Why it is final.
    pub proof: CommitProof,
}

/// Proof that a block is final (rule C2). `qc` certifies `child`.
///
/// For most blocks `child` is the block's own child, of the round after the block's: a proof that
/// needs nothing else. A block whose child skipped rounds, or whose child's own QC this node did
/// not see, is final because of blocks above it: then `child` is a later block, and the headers
/// between the two, which are in the log, belong to the proof. Somewhere among them, at or above
/// the block, stand two headers of consecutive rounds.
///
/// A block that commit votes made final (rule C5) comes before what proves it: `child` is then the
/// certified block itself, or one above it. The proof of a later block completes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitProof {
    /// The next block.
    pub child: Arc<SignedHeader>,
    /// Its certificate.
    pub qc: Arc<Qc>,
}

/// What must survive a crash. The log returns the latest safety record, all headers at and above
/// the last committed block, the QCs of their commit proofs and the latest TCs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Replaces the safety record before it.
    Safety(Box<SafetyRecord>),
    /// A header that this node voted for, proposed, or knows to be certified.
    Header(Arc<SignedHeader>),
    /// A TC that brought this node into a round.
    Tc(Arc<Tc>),
    /// A block is final.
    Committed {
        /// Its height.
        height: Height,
        /// The block.
        block_id: BlockId,
        /// Why it is final.
        proof: CommitProof,
    },
}

/// What the log gave back after a restart.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// The latest safety record; `None` only in a fresh data directory.
    pub safety: Option<SafetyRecord>,
    /// The highest committed block; `None` stands for genesis.
    pub committed: Option<(Height, BlockId)>,
    /// Headers from the committed block (inclusive) upward, in any order, and, if genesis sets
    /// `leader_reputation`, its ancestors in the epoch as far as [`crate::past_rounds`] says;
    /// others are ignored.
    pub headers: Vec<SignedHeader>,
    /// QCs, in any order: at least that of the last commit proof.
    pub qcs: Vec<Qc>,
    /// TCs, in any order: at least the latest.
    pub tcs: Vec<Tc>,
    /// Why the safety record cannot be used although it exists (checksum, unknown version); the
    /// node then runs without signing.
    pub safety_damage: Option<String>,
    /// The data directory began with a snapshot: nobody knows what this key signed in epochs up to
    /// this one, in which it therefore signs nothing (rule Z8). The mark that says so stands in the
    /// place of the safety record until an epoch begins after it.
    pub forfeited: Option<Epoch>,
}

/// Why a core cannot start from what was recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The index is beyond the set and not [`ValidatorIndex::NOBODY`].
    #[error(
        "validator {0} is not in the validator set of the epoch; check the key and the genesis"
    )]
    NotAMember(ValidatorIndex),
    /// The log ends below the start of the epoch.
    #[error(
        "the log ends at height {committed}, below height {start}, from which the epoch starts"
    )]
    BelowEpoch {
        /// Height of the last committed block.
        committed: Height,
        /// Height that the epoch starts from.
        start: Height,
    },
    /// The signer's key is not the one that the set has for this validator.
    #[error(
        "the key {found} is not that of validator {me}, which is {expected}; check the key file"
    )]
    OtherKey {
        /// This validator.
        me: ValidatorIndex,
        /// Id of the key that the set names.
        expected: Digest,
        /// Id of the signer's key.
        found: Digest,
    },
    /// The committed block's header is missing from the log.
    #[error(
        "the log names block {id} at height {height} as committed but does not hold its header; \
         restore the data directory from a copy or start with an empty one and a new key"
    )]
    CommittedHeaderMissing {
        /// The height.
        height: Height,
        /// The block.
        id: BlockId,
    },
}

/// Two statements that no correct validator signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    /// Two headers of one author, epoch, round and kind.
    Headers(Arc<SignedHeader>, Arc<SignedHeader>),
    /// Two votes of one voter, epoch and round.
    Votes(Vote, Vote),
    /// A vote for a child of a certified block, and a timeout of the same or a later round that
    /// names a lower QC than the voter must have held.
    LockViolation(Vote, Timeout),
    /// Two commit votes of one voter, epoch and round.
    CommitVotes(CommitVote, CommitVote),
    /// A vote to commit a block, and a timeout of its round or a later one that names a lower QC.
    CommitViolation(CommitVote, Timeout),
    /// Two timeouts of one author, epoch and round. A warning: correct nodes resend bytes, but a
    /// second one harms nobody.
    Timeouts(Timeout, Timeout),
}

impl Evidence {
    /// Who signed both.
    #[must_use]
    pub fn accused(&self) -> ValidatorIndex {
        match self {
            Self::Headers(header, _) => header.author,
            Self::Votes(vote, _) | Self::LockViolation(vote, _) => vote.voter,
            Self::CommitVotes(vote, _) | Self::CommitViolation(vote, _) => vote.voter,
            Self::Timeouts(timeout, _) => timeout.author,
        }
    }
}

/// What must not happen while fewer than a third of the weight is faulty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alarm {
    /// Two blocks are certified in one round: more than a third of the weight is faulty.
    ConflictingCertificates {
        /// The QC that this node had.
        held: Arc<Qc>,
        /// The other.
        other: Arc<Qc>,
    },
    /// A certified chain does not contain this node's committed block.
    ConflictingChain {
        /// The committed block.
        committed: BlockId,
        /// The certified block that does not extend it.
        certified: BlockId,
    },
    /// A header names another state than this node computed for the same height. This node
    /// refuses to vote for it.
    StateMismatch {
        /// The header.
        header: Arc<SignedHeader>,
        /// What this node computed.
        computed: Digest,
    },
    /// This node's key signed something that this node does not remember: a second process runs
    /// with the key, or the data directory is an old copy. The node stops signing.
    ForeignSignature {
        /// The round that was signed.
        round: Round,
    },
}

/// The core's condition, for status pages and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Epoch.
    pub epoch: Epoch,
    /// Height of the block that ends the epoch; `None` when it goes on for ever.
    pub epoch_end: Option<Height>,
    /// The epoch's last block is committed; the next epoch starts when it is executed.
    pub epoch_over: bool,
    /// Whether this node is a member of the epoch's set.
    pub member: bool,
    /// Current round.
    pub round: Round,
    /// Leader of the current round.
    pub leader: ValidatorIndex,
    /// Round of the highest QC held.
    pub high_qc_round: Round,
    /// Round of the highest TC held; 0 when there is none.
    pub high_tc_round: Round,
    /// Round of the lock.
    pub locked_round: Round,
    /// Highest round voted in.
    pub last_voted_round: Round,
    /// Highest round given up.
    pub highest_timeout_round: Round,
    /// Height of the last committed block.
    pub committed_height: Height,
    /// The last committed block.
    pub committed_id: BlockId,
    /// Its round.
    pub committed_round: Round,
    /// True while a certified block's ancestors are being fetched.
    pub syncing: bool,
    /// `None` while the node signs; otherwise why it does not.
    pub not_signing: Option<String>,
    /// The base of the round timer, which follows what rounds take, microseconds (rule P7).
    pub round_base_us: u64,
    /// Since the start of the process.
    pub counters: Counters,
}

/// Where the core stands: what changes with an input, for tracing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Current round.
    pub round: Round,
    /// Rounds entered through a TC.
    pub rounds_by_tc: u64,
    /// QCs made from votes received.
    pub qcs_formed: u64,
    /// Round of the highest QC held.
    pub high_qc_round: Round,
    /// Block of that QC.
    pub high_qc_block: BlockId,
}

/// Counts since the start of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Blocks committed.
    pub blocks_committed: u64,
    /// Headers proposed.
    pub headers_proposed: u64,
    /// Votes signed.
    pub votes_signed: u64,
    /// Commit votes signed.
    pub commit_votes_signed: u64,
    /// Blocks committed by commit votes, before a child's QC could (of those above).
    pub commits_by_votes: u64,
    /// Timeouts signed.
    pub timeouts_signed: u64,
    /// QCs made from votes received.
    pub qcs_formed: u64,
    /// TCs made from timeouts received.
    pub tcs_formed: u64,
    /// Rounds entered through a TC.
    pub rounds_by_tc: u64,
    /// Rounds given up at once because turns of their leaders failed of late (rule P8).
    pub rounds_passed_over: u64,
    /// Certificates asked of peers.
    pub certificates_pulled: u64,
    /// Requests for proposals that did not reach this node (rule Y6).
    pub proposals_pulled: u64,
    /// Requests for headers sent.
    pub block_requests: u64,
    /// Messages dropped because a limit on a peer's share was reached.
    pub dropped_by_limit: u64,
    /// Headers whose author does not lead their round.
    pub headers_refused: u64,
    /// Pieces of evidence reported.
    pub evidence: u64,
    /// Epochs started.
    pub epochs_started: u64,
}
