//! Four validators with real keys and unequal weights, for forgeries and proofs.

use std::sync::OnceLock;

use falconet_crypto::falcon::{KeyPair, Scheme};
use falconet_types::block::{Cut, Executed, Header, HeaderKind};
use falconet_types::certificate::{Qc, Tc, TcEntry, Timeout, Vote};
use falconet_types::commit_vote::CommitVote;
use falconet_types::genesis::{ApplicationKind, Genesis, GenesisValidator, Params, StakeParams};
use falconet_types::validators::ValidatorSet;
use falconet_types::{BlockId, ChainId, Digest, Epoch, Height, Round, ValidatorIndex};

/// Weights of the validators: the total is 10, a quorum 7; three validators are a quorum only
/// with the heavy one.
pub const WEIGHTS: [u64; 4] = [4, 2, 2, 2];

pub fn key(number: u8) -> KeyPair {
    static KEYS: [OnceLock<KeyPair>; 8] = [const { OnceLock::new() }; 8];
    let make = || KeyPair::from_seed(Scheme::Falcon512, &[number; 32]);
    KEYS[usize::from(number)].get_or_init(make).clone()
}

pub fn genesis(application: ApplicationKind) -> Genesis {
    let validators = (0u8..).zip(WEIGHTS).map(|(n, weight)| GenesisValidator {
        name: format!("v{n}"),
        key: key(n).public().clone(),
        weight,
        owner: None,
        address: None,
    });
    let genesis = Genesis {
        name: "proofs".into(),
        time_ms: 1_000,
        application,
        params: Params::default(),
        validators: validators.collect(),
        stake: StakeParams::default(),
        accounts: Vec::new(),
    };
    genesis.check().expect("valid");
    genesis
}

pub struct Chain {
    pub id: ChainId,
    pub set: ValidatorSet,
}

impl Chain {
    pub fn new() -> Self {
        let genesis = genesis(ApplicationKind::Ledger);
        Self {
            id: genesis.chain_id(),
            set: genesis.validator_set().unwrap(),
        }
    }

    pub fn vote(&self, voter: u8, round: u64, parent_round: u64, block_id: BlockId) -> Vote {
        let (round, parent_round) = (Round(round), Round(parent_round));
        let index = ValidatorIndex(voter.into());
        Vote::sign(
            Epoch::ZERO,
            round,
            block_id,
            parent_round,
            index,
            self.id,
            &key(voter),
        )
    }

    pub fn commit_vote(&self, voter: u8, round: u64, block_id: BlockId) -> CommitVote {
        let index = ValidatorIndex(voter.into());
        let (epoch, round) = (Epoch::ZERO, Round(round));
        CommitVote::sign(epoch, round, block_id, index, self.id, &key(voter))
    }

    pub fn qc(&self, voters: &[u8], round: u64, parent_round: u64, block_id: BlockId) -> Qc {
        let votes = voters.iter().map(|&voter| {
            let vote = self.vote(voter, round, parent_round, block_id);
            (vote.voter, vote.signature)
        });
        Qc {
            epoch: Epoch::ZERO,
            round: Round(round),
            block_id,
            parent_round: Round(parent_round),
            votes: votes.collect(),
        }
    }

    pub fn timeout(&self, author: u8, round: u64, hqc: &Qc) -> Timeout {
        let index = ValidatorIndex(author.into());
        let (round, id) = (Round(round), hqc.block_id);
        Timeout::sign(
            Epoch::ZERO,
            round,
            hqc.round,
            id,
            index,
            self.id,
            &key(author),
        )
    }

    pub fn tc(&self, round: u64, authors: &[(u8, &Qc)], max_qc: &Qc) -> Tc {
        let entries = authors.iter().map(|(author, hqc)| {
            let timeout = self.timeout(*author, round, hqc);
            TcEntry {
                author: timeout.author,
                hqc_round: timeout.hqc_round,
                hqc_id: timeout.hqc_id,
                signature: timeout.signature,
            }
        });
        let entries = entries.collect();
        Tc {
            epoch: Epoch::ZERO,
            round: Round(round),
            entries,
            max_qc: max_qc.clone(),
        }
    }

    /// A header above `parent`, by the leader of `round`.
    pub fn header(&self, parent: &Header, round: u64, cut: Cut, executed: Executed) -> Header {
        let normal = parent.round.0 + 1 == round;
        Header {
            epoch: Epoch::ZERO,
            round: Round(round),
            kind: if normal {
                HeaderKind::Normal
            } else {
                HeaderKind::Recovery
            },
            parent_id: parent.id(),
            parent_round: parent.round,
            height: parent.height.next(),
            cut,
            time_ms: parent.time_ms + 10,
            executed,
            ended_by: Digest::ZERO,
            author: self.set.leader(Round(round)),
        }
    }

    /// A header at height 1.
    pub fn first(&self) -> Header {
        Header {
            epoch: Epoch::ZERO,
            round: Round(1),
            kind: HeaderKind::Normal,
            parent_id: falconet_types::block::genesis_id(self.id),
            parent_round: Round::ZERO,
            height: Height(1),
            cut: Cut::empty(4),
            time_ms: 1_010,
            executed: Executed {
                height: Height::ZERO,
                root: Digest([9; 32]),
            },
            ended_by: Digest::ZERO,
            author: self.set.leader(Round(1)),
        }
    }
}
