//! The core thread: HotStuff and mempool, two pure state machines in one loop.
//!
//! The loop takes what waits (at most [`TURN_INPUTS_MAX`] inputs), lets the two machines talk
//! until neither has more to say, and hands the collected effects to the log as one turn. It
//! never waits for a disk, a socket or a signature of somebody else.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, after, never, select_biased};
use falconet_dataplane::ConnId;
use falconet_epochs::{Place, Reporter};
use falconet_hotstuff::HotStuff;
use falconet_mempool::Mempool;
use falconet_probes as probes;
use falconet_types::block::{Cut, SignedHeader};
use falconet_types::message::{Admission, PeerMessage};
use falconet_types::signing::Verified;
use falconet_types::time::Now;
use falconet_types::{Digest, Height, ValidatorIndex, block};

use crate::busy::BusyMeter;
use crate::byzantine::Bent;
use crate::chain::Chain;
use crate::clients::ClientTable;
use crate::clock::Clock;
use crate::handover::Handover;
use crate::metrics::Metrics;
use crate::metrics::stages::{Clock as StageClock, Queue};
use crate::peers::score::Fault;
use crate::peers::standing::Standing;
use crate::pipeline::{Arrivals, Checked, CoreInput, Executed, ReplyTo, To, Turn};
use crate::room::{Reserved, Room};
use crate::shelf::Change;
use crate::status::{CoreStatus, StatusBoard};
use crate::trace;
use crate::verdicts::VerdictTable;

mod effects;
mod executions;
mod intake;

pub use executions::Executions;

/// Inputs that share one turn, and so one fsync.
const TURN_INPUTS_MAX: usize = 256;
/// A message about a round that is so many behind the present one is late.
const LATE_ROUNDS: u64 = 16;

/// Everything the core thread owns.
pub struct Core {
    /// Chain, genesis, validator set.
    pub chain: Arc<Chain>,
    /// The consensus core.
    pub hotstuff: HotStuff,
    /// The data layer's core.
    pub mempool: Mempool,
    /// State commitments of recently executed blocks.
    pub executions: Executions,
    /// Inputs.
    pub inputs: Receiver<CoreInput>,
    /// Execution's results.
    pub executed: Receiver<Executed>,
    /// The log.
    pub turns: Sender<Turn>,
    /// Who waits for which transaction.
    pub clients: Arc<ClientTable>,
    /// Room for transactions, as the verify stage sees it.
    pub room: Arc<Room>,
    /// What this turn's submissions were given of it.
    pub reserved: Vec<Reserved>,
    /// Batches on their way here.
    pub arrivals: Arc<Arrivals>,
    /// How busy the machine is.
    pub busy: BusyMeter,
    /// Verdicts for batches sealed here.
    pub verdicts: Arc<VerdictTable>,
    /// Where the condition is published.
    pub board: Arc<StatusBoard>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Who pays for what does not help.
    pub standing: Arc<Standing>,
    /// In test networks: what becomes of what is said.
    pub bent: Bent,
    /// Time.
    pub clock: Clock,
    /// Where this thread's time goes.
    pub stage: StageClock,
    /// What this validator itself has to tell the chain.
    pub reporter: Reporter,
    /// Submissions whose transactions are not all durable yet, by their numbers.
    pub waiting: BTreeMap<u64, Waiting>,
    /// Number of the next submission.
    pub submissions: u64,
    /// Committed blocks that the mempool has no room for yet; only while catching up from far
    /// behind.
    pub backlog: VecDeque<Arc<SignedHeader>>,
    /// The cut of the last block that the mempool was given.
    pub cut: Cut,
    /// What the static probes were told.
    pub watch: trace::Watch,
    /// On the way from one epoch to the next.
    pub handover: Handover,
}

/// A submission that waits until its transactions are in a durable batch.
pub struct Waiting {
    reply: ReplyTo,
    results: Vec<Admission>,
    unsealed: usize,
}

/// What HotStuff asks of the layers beside it.
struct Layers<'a> {
    mempool: &'a Mempool,
    executions: &'a Executions,
}

impl falconet_hotstuff::Payload for Layers<'_> {
    fn propose(&self, parent: &Cut) -> Cut {
        self.mempool.propose(parent)
    }
    fn has_work(&self, parent: &Cut) -> bool {
        self.mempool.has_work(parent)
    }
    fn interval_us(&self, parent: &Cut, least_us: u64) -> u64 {
        self.mempool.block_interval_us(parent, least_us)
    }
    fn available(&self, parent: &Cut, cut: &Cut) -> bool {
        self.mempool.available(parent, cut)
    }
    fn executed(&self) -> block::Executed {
        self.executions.last()
    }
    fn commitment_at(&self, height: Height) -> Option<Digest> {
        self.executions.at(height)
    }
}

/// The process stops.
struct Stopped;

/// Why the core woke up.
enum Wake {
    Input(CoreInput),
    Executed(Executed),
    Time,
}

impl Core {
    /// Runs until its inputs end or the log is gone.
    pub fn run(mut self) {
        let mut running = self.first_turn();
        while running.is_ok() {
            running = self.turn();
        }
    }

    /// What recovery left to do, and the first timers.
    fn first_turn(&mut self) -> Result<(), Stopped> {
        let mut turn = Turn::default();
        let now = self.clock.now();
        // What recovery found of epochs that are over: nobody has verified what others accepted.
        let again = self.mempool.status().pending_txs;
        self.handover.end.carry_over(again);
        self.reporter.adopt(self.mempool.take_orphans());
        self.feed_backlog(now, &mut turn);
        self.mempool(now, falconet_mempool::Input::Tick, &mut turn);
        self.hotstuff(now, falconet_hotstuff::Input::Tick, &mut turn);
        self.hand_over(now, &mut turn);
        self.bent.bend(now, &mut turn);
        self.release(turn)
    }

    fn turn(&mut self) -> Result<(), Stopped> {
        let mut turn = Turn::default();
        let mut inputs = 1;
        let wake = self.wait()?;
        let start = Instant::now();
        let now = self.clock.now();
        let admitted = self.mempool.counters().admitted;
        let busy = self.busy.look(now.mono_us);
        self.mempool.machine_busy(busy);
        for validator in self.chain.set().iter() {
            let arriving = self.arrivals.any(validator.index);
            self.mempool.arriving(validator.index, arriving);
        }
        let mut executed = false;
        match wake {
            Wake::Input(input) => self.input(now, input, &mut turn),
            Wake::Executed(result) => {
                self.executed(now, &result, &mut turn);
                executed = true;
            }
            Wake::Time => {}
        }
        while inputs < TURN_INPUTS_MAX {
            match self.inputs.try_recv() {
                Ok(input) => self.input(now, input, &mut turn),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(Stopped),
            }
            inputs += 1;
        }
        self.stage.depth(Queue::Core, self.inputs.len());
        while let Ok(result) = self.executed.try_recv() {
            self.executed(now, &result, &mut turn);
            executed = true;
        }
        if executed {
            self.feed_backlog(now, &mut turn);
            self.hotstuff(now, falconet_hotstuff::Input::PayloadChanged, &mut turn);
        }
        self.hand_over(now, &mut turn);
        self.tick(now, &mut turn);
        self.bent.bend(now, &mut turn);
        let admitted = self.mempool.counters().admitted - admitted;
        let intake = self.mempool.intake(now);
        self.room.publish(now.mono_us, intake, admitted);
        // Only now: what they held is in the lane and no longer in the room.
        self.reserved.clear();
        self.publish(inputs, start);
        probes::core_turn(
            inputs as u64,
            turn.records.len() as u64,
            turn.sends.len() as u64,
            start.elapsed().as_nanos() as u64,
        );
        if turn.is_empty() || self.board.failure().is_some() {
            return Ok(());
        }
        self.release(turn)
    }

    fn release(&self, turn: Turn) -> Result<(), Stopped> {
        self.stage
            .send(Queue::Turns, &self.turns, turn)
            .map_err(|_| Stopped)
    }

    /// Waits for an input, a result of execution, or the next deadline.
    fn wait(&self) -> Result<Wake, Stopped> {
        let deadlines = [
            self.hotstuff.next_deadline_us(),
            self.mempool.next_deadline_us(),
            self.reporter.next_deadline_us(),
            self.bent.deadline_us(),
        ];
        let now_us = self.clock.now().mono_us;
        let timer = match deadlines.into_iter().flatten().min() {
            Some(at) if at <= now_us => return Ok(Wake::Time),
            Some(at) => after(Duration::from_micros(at - now_us)),
            None => never(),
        };
        self.stage.waiting(|| {
            select_biased! {
                recv(self.inputs) -> input => input.map(Wake::Input).map_err(|_| Stopped),
                recv(self.executed) -> result => result.map(Wake::Executed).map_err(|_| Stopped),
                recv(timer) -> _ => Ok(Wake::Time),
            }
        })
    }

    fn input(&mut self, now: Now, input: CoreInput, turn: &mut Turn) {
        use falconet_hotstuff::Input as H;
        use falconet_mempool::Input as M;
        match input {
            CoreInput::Peer { conn, message } => {
                if let Some(from) = self.handover.from(conn) {
                    self.peer(now, (from, conn), message, turn);
                }
            }
            CoreInput::Batch {
                conn,
                batch,
                arrival,
            } => {
                drop(arrival);
                let Some(from) = self.handover.from(conn) else {
                    return;
                };
                let before = *self.mempool.counters();
                self.mempool_takes(now, M::Batch { from, batch }, turn);
                self.blame(from, &before);
            }
            CoreInput::Submission {
                reply,
                txs,
                reserved,
            } => {
                self.submission(now, reply, txs, turn);
                self.reserved.push(reserved);
            }
            CoreInput::Beat => {}
            CoreInput::Early { conn, message } => self.early(now, conn, message, turn),
            CoreInput::OtherEpoch { conn, epoch } => {
                if let Some(from) = self.handover.from(conn) {
                    self.hotstuff(now, H::OtherEpoch { from, epoch }, turn);
                }
            }
            CoreInput::PeerUp(conn) => {
                if let Some(index) = self.handover.up(conn) {
                    self.mempool(now, M::PeerUp(index), turn);
                    self.hotstuff(now, H::PeerUp(index), turn);
                }
            }
            CoreInput::PeerDown(conn) => {
                if let Some(index) = self.handover.down(conn) {
                    self.mempool(now, M::PeerDown(index), turn);
                    self.hotstuff(now, H::PeerDown(index), turn);
                }
            }
        }
    }

    pub(crate) fn peer(
        &mut self,
        now: Now,
        (from, conn): (ValidatorIndex, ConnId),
        message: Verified<PeerMessage>,
        turn: &mut Turn,
    ) {
        use falconet_hotstuff::Input as H;
        use falconet_mempool::Input as M;
        // What needs no signature comes here whatever its epoch.
        let current = self.hotstuff.epoch();
        match Place::of(message.epoch(), current) {
            Place::Here => {}
            Place::Next => return self.early(now, conn, message.into_inner(), turn),
            Place::Elsewhere(epoch) => {
                return self.hotstuff(now, H::OtherEpoch { from, epoch }, turn);
            }
        }
        self.watch.received(from, &message);
        if !self.bent.hears(now, from, &message) {
            return;
        }
        self.blame_late(from, &message);
        if self.is_out_of_turn(&message) {
            return self.standing.fault(from, Fault::Invalid, 1);
        }
        if let PeerMessage::EpochProof(proof) = &*message {
            self.handover.end.shown = Some(proof.clone());
        }
        let input = match H::from_message(from, message).map_err(|other| *other) {
            Ok(input) => return self.hotstuff(now, input, turn),
            Err(PeerMessage::Watermark(watermark)) => M::Watermark { from, watermark },
            Err(PeerMessage::GetBatches(request)) => M::GetBatches { from, request },
            Err(other) => unreachable!("a message of kind {} never reaches the core", other.kind()),
        };
        let before = *self.mempool.counters();
        self.mempool_takes(now, input, turn);
        self.blame(from, &before);
    }

    /// Lets a peer pay for what the data layer counted as useless or excessive just now.
    fn blame(&self, from: ValidatorIndex, before: &falconet_mempool::Counters) {
        let after = self.mempool.counters();
        let useless = (after.over_quota - before.over_quota)
            + (after.wrong_branch - before.wrong_branch)
            + (after.watermarks_refused - before.watermarks_refused);
        if useless > 0 {
            self.standing.fault(from, Fault::Useless, useless);
        }
        let excessive = after.serve_refused - before.serve_refused;
        if excessive > 0 {
            self.standing.fault(from, Fault::Excessive, excessive);
        }
    }

    /// Lets a peer pay for a vote, timeout or proposal of a round that is long over. Messages of
    /// rounds ahead cost nothing: it may be this node that is behind.
    fn blame_late(&self, from: ValidatorIndex, message: &PeerMessage) {
        let round = match message {
            PeerMessage::Header(header) => header.round,
            PeerMessage::Vote(vote) => vote.round,
            PeerMessage::CommitVote(vote) => vote.round,
            PeerMessage::Timeout(timeout) => timeout.round,
            _ => return,
        };
        if round.0.saturating_add(LATE_ROUNDS) < self.hotstuff.progress().round.0 {
            self.standing.fault(from, Fault::Late, 1);
        }
    }

    /// A proposal of somebody who does not lead its round. With reputation who leads depends on the
    /// chain, which the core knows and the sender may know better.
    fn is_out_of_turn(&self, message: &PeerMessage) -> bool {
        let by_reputation = self.chain.genesis.params.leader_reputation;
        matches!(message, PeerMessage::Header(header)
            if !by_reputation && self.chain.set().leader(header.round) != header.author)
    }

    fn executed(&mut self, now: Now, result: &Executed, turn: &mut Turn) {
        self.executions.add(result.height, result.commitment);
        // "Durably" for the mempool: the log holds the block and its batches, from which a
        // restart executes again.
        let height = result.height;
        self.mempool(now, falconet_mempool::Input::Executed { height }, turn);
        let epoch = self.hotstuff.epoch();
        self.hotstuff.punish(self.reporter.offenders(epoch));
        if let Some(ending) = &result.ending {
            self.handover.end.ending = Some(ending.clone());
        }
    }

    /// What follows from the turn's inputs, and what is due.
    fn tick(&mut self, now: Now, turn: &mut Turn) {
        self.mempool(now, falconet_mempool::Input::Tick, turn);
        if self
            .hotstuff
            .next_deadline_us()
            .is_some_and(|at| at <= now.mono_us)
        {
            self.hotstuff(now, falconet_hotstuff::Input::Tick, turn);
        }
        self.report(now, turn);
    }

    /// Sends what this validator itself has to say: through its own lane, or, when it has none,
    /// through everybody else's.
    fn report(&mut self, now: Now, turn: &mut Turn) {
        self.relay_orphans(now, turn);
        let due = self.reporter.due(now);
        let settled = self.reporter.take_settled().into_iter();
        let forget = settled.map(|(epoch, who)| Change::Drop(epoch, who));
        turn.evidence.extend(forget);
        for tx in due {
            let (id, bytes) = (tx.id(), tx.bytes().clone());
            if self.handover.me == ValidatorIndex::NOBODY {
                turn.sends.push((To::All, PeerMessage::Relay(bytes)));
            } else {
                let txs = vec![Checked::Good {
                    id,
                    bytes,
                    sender: None,
                    priority: u64::MAX,
                }];
                self.submission(now, ReplyTo::Nobody, txs, turn);
                self.mempool(now, falconet_mempool::Input::Tick, turn);
            }
        }
    }

    /// What this validator accepted and could not get into a block before it left the set.
    fn relay_orphans(&mut self, now: Now, turn: &mut Turn) {
        let validators = self.chain.set().len();
        let (to, orphans) = self.reporter.orphans_due(now, validators);
        for tx in orphans {
            turn.sends.push((To::One(to), PeerMessage::Relay(tx)));
        }
    }

    /// Hands committed blocks to the data layer as far as it has room.
    fn feed_backlog(&mut self, now: Now, turn: &mut Turn) {
        while self.mempool.committed_room() > 0
            && let Some(header) = self.backlog.pop_front()
        {
            let parent_cut = std::mem::replace(&mut self.cut, header.cut.clone());
            self.mempool(
                now,
                falconet_mempool::Input::Committed { header, parent_cut },
                turn,
            );
        }
    }

    fn publish(&self, inputs: usize, start: Instant) {
        self.board.turns.fetch_add(1, Ordering::Relaxed);
        let hotstuff = self.hotstuff.status();
        let metrics = &self.metrics;
        metrics.round.set(hotstuff.round.0 as i64);
        metrics
            .round_timer_base
            .set(hotstuff.round_base_us as f64 / 1e6);
        metrics
            .committed_height
            .set(hotstuff.committed_height.0 as i64);
        let may_sign = hotstuff.not_signing.is_none() && self.board.failure().is_none();
        metrics.signing.set(i64::from(may_sign));
        let counters = &hotstuff.counters;
        for (metric, count) in [
            (&metrics.rounds_timed_out, counters.rounds_by_tc),
            (&metrics.rounds_passed_over, counters.rounds_passed_over),
            (&metrics.blocks_committed, counters.blocks_committed),
            (
                &metrics.blocks_committed_by_votes,
                counters.commits_by_votes,
            ),
        ] {
            metric.inner().store(count, Ordering::Relaxed);
        }
        metrics.turn_inputs.observe(inputs as f64);
        metrics.turn_time.observe(start.elapsed().as_secs_f64());
        let mempool = self.mempool.status();
        metrics.transactions_pending.set(mempool.pending_txs as i64);
        *self.board.core.lock() = CoreStatus { hotstuff, mempool };
    }
}
