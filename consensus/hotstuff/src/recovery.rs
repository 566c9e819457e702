//! Starting from what the log gave back (rules S1 to S5).

use std::collections::BTreeMap;
use std::sync::Arc;

use falconet_types::block::{self, Cut, SignedHeader};
use falconet_types::certificate::Qc;
use falconet_types::ids::FOLLOWERS_MAX;
use falconet_types::signing::Signer;
use falconet_types::time::Now;
use falconet_types::validators::VALIDATORS_MAX;
use falconet_types::{Height, Round, ValidatorIndex};

use crate::api::{Config, Counters, Effect, RecoverError, Recovered};
use crate::certificates::Certificates;
use crate::core::{HotStuff, Pace, Slot};
use crate::limits::Times;
use crate::pulls::Pulls;
use crate::rules::SafetyRules;
use crate::safety::SafetyRecord;
use crate::serving::Peer;
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
        if me != ValidatorIndex::NOBODY {
            let member = config.set.get(me).ok_or(RecoverError::NotAMember(me))?;
            let expected = member.key.id();
            if expected != found {
                return Err(RecoverError::OtherKey {
                    me,
                    expected,
                    found,
                });
            }
        }
        let epoch = config.set.epoch();
        let fresh = SafetyRecord::fresh(config.chain_id, found, epoch);
        let not_signing = refusal(&recovered, &fresh, me);
        let first = not_signing.is_none() && recovered.safety.is_none();
        let record = match (&not_signing, &recovered.safety) {
            (None, Some(record)) => record.clone(),
            _ => fresh,
        };
        let headers: Vec<_> = recovered.headers.into_iter().map(Arc::new).collect();
        let tree = recover_tree(&config, recovered.committed, &headers)?;
        let shelf = headers
            .into_iter()
            .filter(|header| header.height > tree.root().height)
            .map(|header| (header.id(), header))
            .collect();

        let mut certificates = Certificates::new(Qc::genesis(config.chain_id, epoch));
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

        let times = Times::new(&config.params);
        Ok(Self {
            pace: Pace {
                round: certificates.round(),
                entered: Now::default(),
                deadline_us: 0,
                resend_us: 0,
                failed_rounds: 0,
            },
            // Members by index, then followers by slot.
            peers: vec![Peer::default(); VALIDATORS_MAX + FOLLOWERS_MAX],
            rules: SafetyRules::new(config.chain_id, me, signer, record, first),
            not_signing,
            tree,
            certificates,
            votes: Votes::default(),
            timeouts: Timeouts::default(),
            slots: BTreeMap::new(),
            shelf,
            pulls: Pulls::default(),
            walk: None,
            commit_may_advance: true,
            dead_target: None,
            started: false,
            announced: Round::ZERO,
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
    }
}

/// Why a node must not sign, if so (rules S3 to S5).
fn refusal(recovered: &Recovered, fresh: &SafetyRecord, me: ValidatorIndex) -> Option<String> {
    if me == ValidatorIndex::NOBODY {
        return Some(format!(
            "a follower: the key is not in the validator set of epoch {}",
            fresh.epoch
        ));
    }
    if let Some(damage) = &recovered.safety_damage {
        return Some(format!(
            "the safety record cannot be used: {damage}; this key must not sign in epoch {} again",
            fresh.epoch
        ));
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

/// The root from the committed header. Headers above it are certified only as far as a QC says
/// so; those are connected by the ordinary walk, which finds them on the shelf or asks peers.
fn recover_tree(
    config: &Config,
    committed: Option<(Height, falconet_types::BlockId)>,
    headers: &[Arc<SignedHeader>],
) -> Result<Tree, RecoverError> {
    match committed {
        None | Some((Height::ZERO, _)) => {
            let genesis = Parent {
                id: block::genesis_id(config.chain_id),
                round: Round::ZERO,
                height: Height::ZERO,
                time_ms: config.genesis_time_ms,
                cut: Cut::empty(config.set.len()),
                executed: None,
            };
            Ok(Tree::new(genesis, None))
        }
        Some((height, id)) => {
            let header = headers
                .iter()
                .find(|header| header.id() == id && header.height == height)
                .ok_or(RecoverError::CommittedHeaderMissing { height, id })?;
            Ok(Tree::new(Parent::of(header), Some(header.clone())))
        }
    }
}
