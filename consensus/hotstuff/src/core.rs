//! The core: its state, the order in which things happen, its timers.
//!
//! Inputs only change what the node knows; [`HotStuff::drive`] then does whatever the rules allow
//! in that state, until nothing more is possible. So no rule depends on the order in which
//! messages arrive, and a condition that becomes true late is noticed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use falconet_types::block::{HeaderKind, SignedHeader};
use falconet_types::certificate::{Qc, Tc, Timeout, Vote};
use falconet_types::epoch::EpochProof;
use falconet_types::message::{CertRef, PeerMessage};
use falconet_types::time::Now;
use falconet_types::{BlockId, Epoch, Round, ValidatorIndex};

use crate::api::{
    Alarm, Config, Counters, Effect, Evidence, Input, Payload, Progress, Record, Status,
};
use crate::certificates::{self, Certificates};
use crate::commit_votes::CommitVotes;
use crate::limits::{ROUNDS_AHEAD_MAX, ROUNDS_BEHIND_MAX, STEPS_PER_INPUT_MAX, Times};
use crate::misbehaviour::Misbehaviour;
use crate::patience::Patience;
use crate::proposals::Overlooked;
use crate::pulls::Pulls;
use crate::reputation::Reputation;
use crate::rules::SafetyRules;
use crate::serving::Peer;
use crate::sync::Walk;
use crate::tally::{self, Timeouts, Votes};
use crate::tree::Tree;

/// A header of a round in the window, the first that was seen of its round and kind.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub header: Arc<SignedHeader>,
    /// Already in the log.
    pub logged: bool,
    pub conflict_reported: bool,
    pub mismatch_reported: bool,
}

/// The round and its timers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub round: Round,
    /// Who leads it, as it looked when it was entered.
    pub leader: ValidatorIndex,
    pub entered: Now,
    /// When its leader must have a reason to propose, as far as this node can tell.
    pub expected_us: u64,
    /// When that may be looked at again.
    pub look_us: u64,
    /// It must be looked at again then.
    pub look_again: bool,
    /// From then on its leader is waited for so long; 0 when it is not waited for at all.
    pub timer_us: u64,
    /// When the round is given up whatever its leader has a reason for.
    pub limit_us: u64,
    /// How long its leader had been waited for when this node gave the round up.
    pub waited_us: Option<u64>,
    /// When the leader is told how this node came here; it may not have the certificate.
    pub tell_leader_us: Option<u64>,
    pub resend_us: u64,
    /// Consecutive rounds entered through a TC since the last commit.
    pub failed_rounds: u32,
    /// The last round that failed, its leader, and when that had a reason to propose.
    pub lost: Option<(Round, ValidatorIndex, u64)>,
}

impl Pace {
    /// In a round whose timers are armed later.
    pub(crate) fn new(round: Round) -> Self {
        Self {
            round,
            leader: ValidatorIndex::NOBODY,
            entered: Now::default(),
            expected_us: 0,
            look_us: 0,
            look_again: false,
            timer_us: 0,
            limit_us: 0,
            waited_us: None,
            tell_leader_us: None,
            resend_us: 0,
            failed_rounds: 0,
            lost: None,
        }
    }

    /// When the round is given up.
    pub(crate) fn deadline_us(&self) -> u64 {
        let patient_us = self.expected_us.saturating_add(self.timer_us);
        patient_us.min(self.limit_us)
    }
}

/// One validator's HotStuff core. See the crate's documentation for how to call it.
#[derive(Debug)]
pub struct HotStuff {
    pub(crate) config: Config,
    pub(crate) times: Times,
    pub(crate) rules: SafetyRules,
    /// Why this node does not sign.
    pub(crate) not_signing: Option<String>,
    /// The reason outlives the epoch.
    pub(crate) silent_for_good: bool,
    /// The epoch's last block, once it is committed: this core has nothing more to say in the epoch.
    pub(crate) ended: Option<Arc<SignedHeader>>,
    /// The last epoch in which this node must not sign (rule Z8).
    pub(crate) forfeited: Option<Epoch>,
    /// Who was punished for misbehaviour in this epoch (rule P7).
    pub(crate) punished: BTreeSet<ValidatorIndex>,
    /// The proof that led into the current epoch.
    pub(crate) came_by: Option<Arc<EpochProof>>,
    pub(crate) tree: Tree,
    pub(crate) reputation: Reputation,
    pub(crate) certificates: Certificates,
    pub(crate) votes: Votes,
    pub(crate) commit_votes: CommitVotes,
    pub(crate) timeouts: Timeouts,
    pub(crate) slots: BTreeMap<(Round, HeaderKind), Slot>,
    /// Headers above the committed block that the log gave back, until they are committed.
    pub(crate) shelf: BTreeMap<BlockId, Arc<SignedHeader>>,
    pub(crate) pulls: Pulls,
    pub(crate) walk: Option<Walk>,
    /// A QC or a block was added since the commit rule was last tried.
    pub(crate) commit_may_advance: bool,
    /// A certified block whose chain contradicts ours; never walked again.
    pub(crate) dead_target: Option<BlockId>,
    /// A peer's proof that the current epoch is over: the certificate of a block that commits the
    /// last one.
    pub(crate) end_shown: Option<Arc<Qc>>,
    /// A proposal of the current round that did not reach this node.
    pub(crate) overlooked: Option<Overlooked>,
    pub(crate) peers: Vec<Peer>,
    pub(crate) pace: Pace,
    pub(crate) patience: Patience,
    pub(crate) started: bool,
    /// Own proposal that was sent since the start of the process.
    pub(crate) announced: (Round, HeaderKind),
    /// When a header that is ahead of this node's clock may be looked at again.
    pub(crate) clock_wait_us: Option<u64>,
    /// When this node, as leader, proposes.
    pub(crate) propose_due_us: Option<u64>,
    pub(crate) proposed_this_input: bool,
    pub(crate) counters: Counters,
}

impl HotStuff {
    /// Takes one input and appends what the shell has to do. Call with [`Input::Tick`] when
    /// [`HotStuff::next_deadline_us`] is reached.
    pub fn handle(&mut self, now: Now, input: Input, payload: &dyn Payload, out: &mut Vec<Effect>) {
        if !self.started {
            self.start(now, out);
        }
        self.proposed_this_input = false;
        if self.rules.misbehaving.by(Misbehaviour::LateRecord) {
            self.write_safety(out);
        }
        self.take(now, input, out);
        self.drive(now, payload, out);
        self.persist_safety(out);
    }

    /// Monotonic time of the next [`Input::Tick`] that would do something.
    #[must_use]
    pub fn next_deadline_us(&self) -> Option<u64> {
        let timer = self
            .may_give_up()
            .then_some(self.pace.deadline_us().min(self.pace.resend_us));
        [
            timer.or(Some(self.pace.resend_us)),
            self.pace.look_again.then_some(self.pace.look_us),
            self.pace.tell_leader_us,
            self.clock_wait_us,
            self.propose_due_us,
            self.pulls.next_due_us(),
            self.walk.as_ref().map(|walk| walk.due_us),
            self.overlooked.as_ref().map(|overlooked| overlooked.due_us),
            self.past_due_us(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The core's condition.
    #[must_use]
    pub fn status(&self) -> Status {
        let record = self.rules.record();
        let root = self.tree.root();
        Status {
            epoch: self.epoch(),
            epoch_end: self.config.start.end(&self.config.params),
            epoch_over: self.ended.is_some(),
            member: self.config.set.get(self.config.me).is_some(),
            round: self.pace.round,
            leader: self.leader_of(self.pace.round),
            high_qc_round: self.certificates.high_qc().round,
            high_tc_round: self.certificates.high_tc_round(),
            locked_round: record.locked.round,
            last_voted_round: record.last_voted_round,
            highest_timeout_round: record.highest_timeout_round,
            committed_height: root.height,
            committed_id: root.id,
            committed_round: root.round,
            syncing: self.walk.is_some(),
            not_signing: self.not_signing.clone(),
            round_base_us: self.patience.base_us(),
            counters: self.counters,
        }
    }

    /// Where the core stands, cheap enough to ask after every input.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let high_qc = self.certificates.high_qc();
        Progress {
            round: self.pace.round,
            rounds_by_tc: self.counters.rounds_by_tc,
            qcs_formed: self.counters.qcs_formed,
            high_qc_round: high_qc.round,
            high_qc_block: high_qc.block_id,
        }
    }

    /// The epoch that this core is in.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.config.set.epoch()
    }

    pub(crate) fn signs(&self) -> bool {
        self.not_signing.is_none() && self.ended.is_none()
    }

    /// First round that is kept; older ones are over.
    pub(crate) fn window_start(&self) -> Round {
        Round(self.pace.round.0.saturating_sub(ROUNDS_BEHIND_MAX))
    }

    pub(crate) fn window_end(&self) -> Round {
        Round(self.pace.round.0.saturating_add(ROUNDS_AHEAD_MAX))
    }

    /// Logs something, after the safety record as it stands: a log that ends anywhere, even
    /// inside a turn, looks as if the node had stopped between two steps. (A certificate that
    /// this node helped to make must not be found beside a record that knows nothing of it.)
    pub(crate) fn persist(&mut self, record: Record, out: &mut Vec<Effect>) {
        self.persist_safety(out);
        out.push(Effect::Persist(record));
    }

    pub(crate) fn persist_safety(&mut self, out: &mut Vec<Effect>) {
        if !self.rules.misbehaving.by(Misbehaviour::LateRecord) {
            self.write_safety(out);
        }
    }

    fn write_safety(&mut self, out: &mut Vec<Effect>) {
        if self.rules.take_dirty() {
            let record = Box::new(self.rules.to_write());
            out.push(Effect::Persist(Record::Safety(record)));
        }
    }

    pub(crate) fn report(&mut self, evidence: Evidence, out: &mut Vec<Effect>) {
        self.counters.evidence += 1;
        out.push(Effect::Evidence(Box::new(evidence)));
    }

    /// Rule S5: something was signed with this node's key that this node does not remember.
    pub(crate) fn stop_foreign(&mut self, round: Round, out: &mut Vec<Effect>) {
        if self.not_signing.is_some() || self.rules.misbehaving.by(Misbehaviour::Twin) {
            return;
        }
        self.silent_for_good = true;
        self.not_signing = Some(format!(
            "this key signed in round {round} what this node does not remember: another process \
             runs with the same key, or the data directory is an old copy"
        ));
        out.push(Effect::Alarm(Alarm::ForeignSignature { round }));
    }

    fn start(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.started = true;
        self.arm(now);
        self.remember_last_words(now, out);
        if let Some(last) = self.ended.clone() {
            out.push(Effect::EpochEnded { last });
        }
    }

    fn take(&mut self, now: Now, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Header { from, header } => {
                self.on_header(now, from, Arc::new(header.into_inner()), out);
            }
            Input::Vote { from, vote } => self.on_vote(now, from, vote.into_inner(), out),
            Input::CommitVote { from, vote } => {
                self.on_commit_vote(now, from, vote.into_inner(), out);
            }
            Input::Timeout { from, timeout } => {
                self.on_timeout(now, from, timeout.into_inner(), out);
            }
            Input::Qc { from, qc } => {
                self.on_other_epoch(now, from, qc.epoch, out);
                self.note_answer(from, |cert| match cert {
                    CertRef::Qc { block_id, .. } => *block_id == qc.block_id,
                    CertRef::Tc { round, .. } => *round < qc.round,
                });
                self.on_qc(now, Arc::new(qc.into_inner()), out);
            }
            Input::Tc { from, tc } => {
                self.on_other_epoch(now, from, tc.epoch, out);
                self.note_answer(from, |cert| match cert {
                    CertRef::Qc { .. } => false,
                    CertRef::Tc { round, .. } => *round <= tc.round,
                });
                self.on_tc(now, Arc::new(tc.into_inner()), out);
            }
            Input::CertRefs { from, refs } => self.on_cert_refs(now, from, &refs, out),
            Input::GetCert { from, cert } => self.on_get_cert(now, from, cert, out),
            Input::GetBlocks { from, request } => self.on_get_blocks(now, from, request, out),
            Input::Blocks { from, headers } => self.on_blocks(now, from, headers, out),
            Input::GetEpochProof { from, epoch } => {
                self.on_get_epoch_proof(now, from, epoch, out);
            }
            Input::EpochProof { from: _, proof } => {
                self.on_epoch_proof(now, proof.into_inner(), out);
            }
            Input::OtherEpoch { from, epoch } => self.on_other_epoch(now, from, epoch, out),
            Input::PeerUp(peer) => self.on_peer_up(peer, out),
            Input::PeerDown(peer) => {
                if let Some(peer) = self.peers.get_mut(peer.at()) {
                    peer.up = false;
                }
            }
            Input::PayloadChanged | Input::Tick => {}
        }
    }

    /// Does what the rules allow now, until nothing more is possible.
    fn drive(&mut self, now: Now, payload: &dyn Payload, out: &mut Vec<Effect>) {
        let mut steps = 0;
        loop {
            self.clock_wait_us = None;
            self.propose_due_us = None;
            self.expect_proposal(now, payload);
            let progress = self.try_connect(now, out)
                || self.try_commit(out)
                || self.try_commit_vote(out)
                || self.try_tc(now, out)
                || self.try_propose(now, payload, out)
                || self.try_vote(now, payload, out)
                || self.try_propose_ahead(now, payload, out)
                || self.try_give_up(now, out);
            if !progress {
                break;
            }
            steps += 1;
            assert!(
                steps < STEPS_PER_INPUT_MAX,
                "one input caused {steps} steps"
            );
        }
        // Only now: what the window leaves behind may just have been connected to the tree.
        let start = (self.window_start(), HeaderKind::Normal);
        if self
            .slots
            .first_key_value()
            .is_some_and(|(key, _)| *key < start)
        {
            self.slots = self.slots.split_off(&start);
        }
        self.ask(now, out);
        self.ask_for_past(now, out);
        self.tell_leader(now, out);
        if now.mono_us >= self.pace.resend_us {
            self.resend(now, out);
        }
    }

    // What peers say.

    pub(crate) fn on_header(
        &mut self,
        now: Now,
        from: ValidatorIndex,
        header: Arc<SignedHeader>,
        out: &mut Vec<Effect>,
    ) {
        if header.epoch != self.epoch() {
            return self.on_other_epoch(now, from, header.epoch, out);
        }
        self.hear(now, header.author, header.round);
        if header.author == self.config.me {
            let known = self.rules.record().proposal(header.kind);
            let known_round = known.map_or(Round::ZERO, |known| known.round);
            let same = known.is_some_and(|known| known.id() == header.id());
            if header.round > known_round || (header.round == known_round && !same) {
                self.stop_foreign(header.round, out);
            }
        }
        if header.round < self.window_start() {
            self.answer_laggard(now, from, out);
            return;
        }
        self.pull_what_justifies(now, from, &header);
        if header.round > self.window_end() {
            self.counters.dropped_by_limit += 1;
            return;
        }
        if !self.may_lead(&header) {
            self.counters.headers_refused += 1;
            return;
        }
        let key = (header.round, header.kind);
        // Who leads may look different once more of the chain is known.
        if let Some(slot) = self.slots.get(&key)
            && slot.header.author != header.author
            && !self.may_lead(&slot.header)
        {
            self.slots.remove(&key);
        }
        match self.slots.get_mut(&key) {
            Some(slot) if slot.header.author != header.author => {}
            None => {
                self.slots.insert(
                    (header.round, header.kind),
                    Slot {
                        header,
                        logged: false,
                        conflict_reported: false,
                        mismatch_reported: false,
                    },
                );
            }
            Some(slot) if slot.header.id() == header.id() || slot.conflict_reported => {}
            Some(slot) => {
                slot.conflict_reported = true;
                let first = slot.header.clone();
                self.report(Evidence::Headers(first, header), out);
            }
        }
    }

    fn on_vote(&mut self, now: Now, from: ValidatorIndex, vote: Vote, out: &mut Vec<Effect>) {
        if vote.epoch != self.epoch() {
            return self.on_other_epoch(now, from, vote.epoch, out);
        }
        self.hear(now, vote.voter, vote.round);
        if vote.voter == self.config.me {
            self.check_own_vote(vote.round, &vote.block_id, out);
        }
        if vote.round < self.window_start() {
            self.answer_laggard(now, from, out);
            return;
        }
        if vote.round > self.window_end() {
            self.counters.dropped_by_limit += 1;
            return;
        }
        self.count_vote(now, vote, out);
    }

    pub(crate) fn count_vote(&mut self, now: Now, vote: Vote, out: &mut Vec<Effect>) {
        match self.votes.add(vote.clone()) {
            tally::Added::Known => {
                let again = self.rules.misbehaving.by(Misbehaviour::DuplicateSigner);
                if !again {
                    return;
                }
            }
            tally::Added::Conflict(first) => {
                self.report(Evidence::Votes(first, vote), out);
                return;
            }
            tally::Added::New => {}
        }
        if let Some(timeout) = self.timeouts.of(vote.voter).cloned() {
            self.look_for_violation(&timeout, out);
        }
        if vote.round == self.pace.round {
            self.look_for_proposal(now, &vote.block_id);
        }
        let held = self.certificates.qc(vote.round, &vote.block_id).is_some();
        if !held && let Some(qc) = self.votes.qc(&vote, &self.config.set) {
            self.counters.qcs_formed += 1;
            self.on_qc(now, Arc::new(qc), out);
        }
    }

    fn on_timeout(
        &mut self,
        now: Now,
        from: ValidatorIndex,
        timeout: Timeout,
        out: &mut Vec<Effect>,
    ) {
        if timeout.epoch != self.epoch() {
            return self.on_other_epoch(now, from, timeout.epoch, out);
        }
        self.hear(now, timeout.author, timeout.round);
        if timeout.author == self.config.me
            && timeout.round > self.rules.record().highest_timeout_round
        {
            self.stop_foreign(timeout.round, out);
        }
        // Whatever becomes of it: the vote that it contradicts may have ended its round just now,
        // and a timeout of a far round, or a truthful one, must not hide it.
        self.look_for_violation(&timeout, out);
        if timeout.round < self.pace.round {
            self.answer_laggard(now, from, out);
            return;
        }
        let held = self
            .certificates
            .qc(timeout.hqc_round, &timeout.hqc_id)
            .is_some();
        if !held {
            let cert = CertRef::Qc {
                epoch: timeout.epoch,
                round: timeout.hqc_round,
                block_id: timeout.hqc_id,
            };
            self.want(now.mono_us, cert, from, false);
        }
        self.count_timeout(timeout, out);
    }

    pub(crate) fn count_timeout(&mut self, timeout: Timeout, out: &mut Vec<Effect>) {
        match self.timeouts.add(timeout.clone()) {
            tally::Added::Known => {}
            tally::Added::Conflict(first) => {
                self.report(Evidence::Timeouts(first, timeout), out);
            }
            tally::Added::New => {}
        }
    }

    /// Rules E3 and E6, for each timeout that arrives and for each vote; once a round and author.
    pub(crate) fn look_for_violation(&mut self, timeout: &Timeout, out: &mut Vec<Effect>) {
        let vote = tally::lock_violation(&self.votes, timeout);
        let vote = vote.map(|vote| Evidence::LockViolation(vote, timeout.clone()));
        let evidence = vote.or_else(|| {
            let vote = self.commit_votes.violated_by(timeout)?;
            Some(Evidence::CommitViolation(vote, timeout.clone()))
        });
        if let Some(evidence) = evidence
            && self.timeouts.is_first_violation(timeout)
        {
            self.report(evidence, out);
        }
    }

    /// Takes a verified or self-made QC.
    pub(crate) fn on_qc(&mut self, now: Now, qc: Arc<Qc>, out: &mut Vec<Effect>) {
        if qc.epoch != self.epoch() {
            return;
        }
        if qc.votes.iter().any(|(voter, _)| *voter == self.config.me) {
            self.check_own_vote(qc.round, &qc.block_id, out);
        }
        if qc.round < self.tree.root().round {
            return;
        }
        match self.certificates.add_qc(qc.clone()) {
            certificates::Added::Known => {}
            certificates::Added::Conflict(held) => {
                out.push(Effect::Alarm(Alarm::ConflictingCertificates {
                    held,
                    other: qc,
                }));
            }
            certificates::Added::New => {
                self.commit_may_advance = true;
                self.redeem(now, qc.round);
                self.enter(now, false, out);
            }
        }
    }

    /// Takes a verified or self-made TC.
    pub(crate) fn on_tc(&mut self, now: Now, tc: Arc<Tc>, out: &mut Vec<Effect>) {
        if tc.epoch != self.epoch() {
            return;
        }
        let own = tc
            .entries
            .iter()
            .any(|entry| entry.author == self.config.me);
        if own && tc.round > self.rules.record().highest_timeout_round {
            self.stop_foreign(tc.round, out);
        }
        self.on_qc(now, Arc::new(tc.max_qc.clone()), out);
        if self.certificates.add_tc(&tc) && tc.round.next() > self.pace.round {
            self.persist(Record::Tc(tc), out);
            self.enter(now, true, out);
        }
    }

    fn check_own_vote(&mut self, round: Round, block_id: &BlockId, out: &mut Vec<Effect>) {
        let record = self.rules.record();
        let other = record
            .last_vote
            .as_ref()
            .is_some_and(|last| last.round == round && last.block_id != *block_id);
        if round > record.last_voted_round || other {
            self.stop_foreign(round, out);
        }
    }

    /// Rule P1: the round follows from the certificates, and moves by nothing else.
    fn enter(&mut self, now: Now, by_tc: bool, out: &mut Vec<Effect>) {
        let round = self.certificates.round();
        if round <= self.pace.round {
            return;
        }
        self.learn(now, by_tc);
        if by_tc {
            self.counters.rounds_by_tc += 1;
            self.pace.failed_rounds = self.pace.failed_rounds.saturating_add(1);
        }
        self.pace.round = round;
        self.arm(now);
        let voted: BTreeSet<BlockId> = self
            .votes
            .in_round(round)
            .map(|vote| vote.block_id)
            .collect();
        for id in voted {
            self.look_for_proposal(now, &id);
        }
        self.votes.prune_below(self.window_start());
        self.commit_votes.prune_below(self.window_start());
        self.timeouts.prune_below(round);
        let leader = self.pace.leader;
        if by_tc && leader != self.config.me {
            self.pace.tell_leader_us = None;
            let refs = self.certificates.best_refs();
            let message = PeerMessage::CertRefs(refs);
            out.push(Effect::Send {
                to: leader,
                message,
            });
        }
    }
}
