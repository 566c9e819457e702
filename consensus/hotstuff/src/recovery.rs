//! Starting from what the log gave back (rules S1 to S5).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use falconet_types::block::SignedHeader;
use falconet_types::certificate::Qc;
use falconet_types::signing::Signer;
use falconet_types::time::Now;
use falconet_types::{Height, Round, ValidatorIndex};

use crate::api::{Config, Counters, Effect, RecoverError, Recovered};
use crate::certificates::Certificates;
use crate::commit_votes::CommitVotes;
use crate::core::{HotStuff, Pace, Slot};
use crate::epochs::{forfeits, no_peers, not_a_member};
use crate::leading::NOTHING_ANNOUNCED;
use crate::limits::Times;
use crate::patience::Patience;
use crate::pulls::Pulls;
use crate::reputation::{Reputation, window_rounds};
use crate::rules::SafetyRules;
use crate::safety::SafetyRecord;
use crate::tally::{Timeouts, Votes};
use crate::tree::{Parent, Tree};

impl HotStuff {
    /// A core that goes on where the log ends. A node whose safety record is missing, damaged or
    /// not its own starts too, but signs nothing ([`crate::Status::not_signing`]).
    pub fn new(
        config: Config,
        signer: Box<dyn Signer>,
        recovered: Recovered,
    ) -> Result<Self, RecoverError> {
        let me = config.me;
        let found = signer.key_id();
        match config.set.get(me).map(|member| member.key.id()) {
            Some(expected) if expected != found => {
                return Err(RecoverError::OtherKey {
                    me,
                    expected,
                    found,
                });
            }
            None if me != ValidatorIndex::NOBODY => return Err(RecoverError::NotAMember(me)),
            _ => {}
        }
        let epoch = config.set.epoch();
        let genesis = Qc::genesis(epoch, config.set.genesis());
        let fresh = SafetyRecord::fresh(config.chain_id, found, genesis.clone());
        let recovered = of_epoch(&config, recovered);
        let refused = refusal(&recovered, &fresh, &config);
        let record = match (&refused, &recovered.safety) {
            (None, Some(record)) if record.epoch == epoch => record.clone(),
            _ => fresh,
        };
        // A record of an earlier epoch is replaced at once, like a missing one (N6).
        let first = refused.is_none()
            && (recovered.safety.as_ref()).is_none_or(|record| record.epoch < epoch);
        let not_signing = not_a_member(&config.set, me).or(refused);
        let headers: Vec<_> = recovered.headers.into_iter().map(Arc::new).collect();
        let tree = recover_tree(&config, recovered.committed, &headers)?;
        let reputation = Reputation::recovered(
            tree.root_header(),
            &headers,
            config.start.id,
            window_rounds(&config.set),
        );
        let shelf = headers
            .into_iter()
            .filter(|header| header.height > tree.root().height)
            .map(|header| (header.id(), header))
            .collect();

        let mut certificates = Certificates::new(genesis.clone());
        let tcs: Vec<_> = recovered.tcs.into_iter().map(Arc::new).collect();
        let qcs = recovered.qcs.into_iter();
        let in_tcs = tcs.iter().map(|tc| tc.max_qc.clone());
        for qc in qcs.chain(in_tcs).chain([record.locked.clone()]) {
            certificates.add_qc(Arc::new(qc));
        }
        for tc in &tcs {
            certificates.add_tc(tc);
        }
        certificates.prune_below(tree.root().round);
        let params = &config.params;
        let ended = tree.root_header().cloned();
        let ended = ended.filter(|header| config.start.is_over(params, header));

        let times = Times::new(&config.params);
        Ok(Self {
            pace: Pace::new(certificates.round()),
            patience: Patience::new(&config.set, times.floor_us(), times.round_us),
            peers: no_peers(),
            rules: SafetyRules::new(config.chain_id, me, signer, record, genesis, first),
            not_signing,
            silent_for_good: false,
            ended,
            forfeited: recovered.forfeited,
            punished: BTreeSet::new(),
            came_by: None,
            tree,
            reputation,
            certificates,
            votes: Votes::default(),
            commit_votes: CommitVotes::default(),
            timeouts: Timeouts::default(),
            slots: BTreeMap::new(),
            shelf,
            pulls: Pulls::default(),
            walk: None,
            overlooked: None,
            commit_may_advance: true,
            dead_target: None,
            end_shown: None,
            started: false,
            announced: NOTHING_ANNOUNCED,
            clock_wait_us: None,
            propose_due_us: None,
            proposed_this_input: false,
            counters: Counters::default(),
            times,
            config,
        })
    }

    /// Own last messages count again, and own proposals are at hand.
    pub(crate) fn remember_last_words(&mut self, now: Now, out: &mut Vec<Effect>) {
        if !self.signs() {
            return;
        }
        let record = self.rules.record().clone();
        let start = self.window_start();
        for header in record.last_normal.into_iter().chain(record.last_recovery) {
            if header.round >= start {
                self.slots.insert(
                    (header.round, header.kind),
                    Slot {
                        header: Arc::new(header),
                        logged: false,
                        conflict_reported: false,
                        mismatch_reported: false,
                    },
                );
            }
        }
        if let Some(timeout) = record.last_timeout.filter(|t| t.round >= self.pace.round) {
            self.count_timeout(timeout, out);
        }
        if let Some(vote) = record.last_vote.filter(|vote| vote.round >= start) {
            self.count_vote(now, vote, out);
        }
        let vote = record.last_commit_vote;
        if let Some(vote) = vote.filter(|vote| vote.round >= start) {
            self.count_commit_vote(vote, out);
        }
    }
}

/// What of the log belongs to the epoch: certificates and headers of the one before may be left.
fn of_epoch(config: &Config, mut recovered: Recovered) -> Recovered {
    let epoch = config.set.epoch();
    recovered.qcs.retain(|qc| qc.epoch == epoch);
    recovered.tcs.retain(|tc| tc.epoch == epoch);
    recovered.headers.retain(|header| header.epoch == epoch);
    recovered
}

/// Why a node must not sign, if so (rules S3 to S5).
fn refusal(recovered: &Recovered, fresh: &SafetyRecord, config: &Config) -> Option<String> {
    let me = config.me;
    if let Some(damage) = &recovered.safety_damage {
        return Some(format!(
            "the safety record cannot be used: {damage}; this key must not sign in epoch {} again",
            fresh.epoch
        ));
    }
    if let Some(through) = recovered.forfeited {
        return forfeits(recovered.forfeited, fresh.epoch).or_else(|| {
            // As with an older record: the next epoch's stands before anything of it.
            (!is_untouched(recovered, config))
                .then(|| format!("the mark of epoch {through} is not followed by a safety record"))
        });
    }
    let Some(record) = &recovered.safety else {
        let used = recovered.committed.is_some()
            || !recovered.headers.is_empty()
            || !recovered.qcs.is_empty()
            || !recovered.tcs.is_empty();
        return used.then(|| {
            format!(
                "the safety record is missing although the data directory was used; this key must \
                 not sign in epoch {} again",
                fresh.epoch
            )
        });
    };
    if record.chain_id != fresh.chain_id {
        return Some(format!(
            "the safety record belongs to chain {}, not {}",
            record.chain_id, fresh.chain_id
        ));
    }
    if record.key_id != fresh.key_id {
        return Some(format!(
            "the safety record belongs to key {}, not {}",
            record.key_id, fresh.key_id
        ));
    }
    // The turn that starts an epoch begins with its record. So an older record is right as long
    // as the log holds nothing of the epoch (N6).
    if record.epoch < fresh.epoch && is_untouched(recovered, config) {
        return None;
    }
    if record.epoch != fresh.epoch {
        return Some(format!(
            "the safety record belongs to epoch {}, not {}",
            record.epoch, fresh.epoch
        ));
    }
    let voted = recovered
        .qcs
        .iter()
        .filter(|qc| qc.votes.iter().any(|(voter, _)| *voter == me))
        .map(|qc| qc.round);
    let gave_up = recovered
        .tcs
        .iter()
        .filter(|tc| tc.entries.iter().any(|entry| entry.author == me))
        .map(|tc| tc.round);
    let newest = voted.chain(gave_up).max().unwrap_or(Round::ZERO);
    (newest > record.last_voted_round).then(|| {
        format!(
            "the safety record ends at round {}, yet this key signed in round {newest}: the record \
             is an old copy",
            record.last_voted_round
        )
    })
}

/// True if the log holds nothing of the epoch.
fn is_untouched(recovered: &Recovered, config: &Config) -> bool {
    let committed = recovered.committed;
    committed.map_or(Height::ZERO, |(height, _)| height) == config.start.height
        && recovered
            .headers
            .iter()
            .all(|header| header.epoch < config.start.epoch)
}

/// The root from the committed header. Headers above it are certified only as far as a QC says
/// so; those are connected by the ordinary walk, which finds them on the shelf or asks peers.
fn recover_tree(
    config: &Config,
    committed: Option<(Height, falconet_types::BlockId)>,
    headers: &[Arc<SignedHeader>],
) -> Result<Tree, RecoverError> {
    match committed {
        None if config.start.height == Height::ZERO => Ok(Tree::new(
            Parent::start(&config.start, config.set.len()),
            None,
        )),
        Some((height, _)) if height == config.start.height => Ok(Tree::new(
            Parent::start(&config.start, config.set.len()),
            None,
        )),
        None => Err(RecoverError::BelowEpoch {
            committed: Height::ZERO,
            start: config.start.height,
        }),
        Some((committed, _)) if committed < config.start.height => Err(RecoverError::BelowEpoch {
            committed,
            start: config.start.height,
        }),
        Some((height, id)) => {
            let header = headers
                .iter()
                .find(|header| header.id() == id && header.height == height)
                .ok_or(RecoverError::CommittedHeaderMissing { height, id })?;
            Ok(Tree::new(Parent::of(header), Some(header.clone())))
        }
    }
}
