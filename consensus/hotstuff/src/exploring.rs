//! For explorers of states: a core that can be copied, and what it knows in a form that can be
//! compared. Only with the feature `misbehave`; no product enables it.

use std::sync::Arc;

use falconet_types::block::HeaderKind;
use falconet_types::signing::Signer;
use falconet_types::validators::ValidatorSet;
use falconet_types::{BlockId, Round, ValidatorIndex};

use crate::api::Config;
use crate::core::HotStuff;
use crate::safety::SafetyRecord;

/// What a core knows, without its timers and counters: two cores with equal snapshots answer equal
/// inputs alike, as far as no timer is involved.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Current round.
    pub round: Round,
    /// It signs.
    pub signs: bool,
    /// Its safety record.
    pub record: SafetyRecord,
    /// The highest TC: its round and the highest QC's that it names.
    pub high_tc: Option<(Round, Round)>,
    /// QCs held.
    pub qcs: Vec<(Round, BlockId)>,
    /// Votes held.
    pub votes: Vec<(Round, ValidatorIndex, BlockId)>,
    /// Commit votes held.
    pub commit_votes: Vec<(Round, ValidatorIndex, BlockId)>,
    /// Timeouts held: author, round, QC named.
    pub timeouts: Vec<(ValidatorIndex, Round, Round)>,
    /// Proposals held.
    pub headers: Vec<(Round, HeaderKind, BlockId)>,
    /// The last committed block.
    pub root: BlockId,
    /// Certified blocks above it.
    pub blocks: Vec<BlockId>,
    /// The certified block that is being fetched.
    pub fetching: Option<BlockId>,
    /// The last own proposal that was sent.
    pub announced: (Round, HeaderKind),
}

impl HotStuff {
    /// A copy that goes on by itself, with its own signer and perhaps other leaders in rounds to
    /// come.
    #[must_use]
    pub fn fork(&self, signer: Box<dyn Signer>, set: Arc<ValidatorSet>) -> Self {
        Self {
            config: Config {
                set,
                ..self.config.clone()
            },
            times: self.times,
            rules: self.rules.with_signer(signer),
            not_signing: self.not_signing.clone(),
            silent_for_good: self.silent_for_good,
            ended: self.ended.clone(),
            forfeited: self.forfeited,
            punished: self.punished.clone(),
            came_by: self.came_by.clone(),
            tree: self.tree.clone(),
            reputation: self.reputation.clone(),
            certificates: self.certificates.clone(),
            votes: self.votes.clone(),
            commit_votes: self.commit_votes.clone(),
            timeouts: self.timeouts.clone(),
            slots: self.slots.clone(),
            shelf: self.shelf.clone(),
            pulls: self.pulls.clone(),
            walk: self.walk.clone(),
            overlooked: self.overlooked.clone(),
            commit_may_advance: self.commit_may_advance,
            dead_target: self.dead_target,
            end_shown: self.end_shown.clone(),
            peers: self.peers.clone(),
            pace: self.pace,
            patience: self.patience.clone(),
            started: self.started,
            announced: self.announced,
            clock_wait_us: self.clock_wait_us,
            propose_due_us: self.propose_due_us,
            proposed_this_input: self.proposed_this_input,
            counters: self.counters,
        }
    }

    /// From now on every leader is waited for as long as genesis says, whatever its rounds took (rules
    /// P7 and P8), and no timer is there only to tell it something (P6): for explorers that decide
    /// by themselves when timers fire.
    pub fn wait_as_genesis_says(&mut self) {
        self.patience.learn_nothing();
    }

    /// What the core knows.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let slots = self.slots.iter();
        Snapshot {
            round: self.pace.round,
            signs: self.signs(),
            record: self.rules.record().clone(),
            high_tc: self
                .certificates
                .high_tc()
                .map(|tc| (tc.round, tc.max_hqc_round())),
            qcs: self
                .certificates
                .qcs_from_high()
                .map(|qc| (qc.round, qc.block_id))
                .collect(),
            votes: self
                .votes
                .all()
                .map(|vote| (vote.round, vote.voter, vote.block_id))
                .collect(),
            commit_votes: self
                .commit_votes
                .all()
                .map(|vote| (vote.round, vote.voter, vote.block_id))
                .collect(),
            timeouts: self
                .config
                .set
                .iter()
                .filter_map(|validator| self.timeouts.of(validator.index))
                .map(|timeout| (timeout.author, timeout.round, timeout.hqc_round))
                .collect(),
            headers: slots
                .map(|((round, kind), slot)| (*round, *kind, slot.header.id()))
                .collect(),
            root: self.tree.root().id,
            blocks: self.tree.ids().collect(),
            fetching: self.walk.as_ref().map(|walk| walk.target.block_id),
            announced: self.announced,
        }
    }
}
