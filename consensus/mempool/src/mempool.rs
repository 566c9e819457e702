//! The core itself: inputs in, effects out.

use bytes::Bytes;
use falconet_types::batch::{Batch, Watermark};
use falconet_types::block::{Cut, LaneTip, SignedHeader};
use falconet_types::ids::FOLLOWERS_MAX;
use falconet_types::message::{Admission, PeerMessage};
use falconet_types::signing::Signer;
use falconet_types::time::Now;
use falconet_types::validators::VALIDATORS_MAX;
use falconet_types::{Height, Seq, TxId, ValidatorIndex};
use std::collections::VecDeque;
use std::sync::Arc;

use crate::announce::Announced;
use crate::api::{
    Config, Counters, Effect, Evicted, Input, Intake, LaneStatus, Offered, OwnLaneState, Payload,
    RecoverError, Recovered, Status,
};
use crate::delivery::Delivery;
use crate::fetch::Fetch;
use crate::lane::{Lane, Offer, payload_bytes};
use crate::limits::{PRUNE_CHECKPOINTS, RETRY_AFTER_MS, SEALS_PER_TURN_MAX};
use crate::own::OwnLane;
use crate::pacing::{Crowd, Meter};
use crate::serve::Allowance;
use crate::watermarks::{Observed, Watermarks};

/// The data-availability mempool of one validator. See the crate's text for the order of calls.
pub struct Mempool {
    pub(crate) config: Config,
    signer: Box<dyn Signer>,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) marks: Watermarks,
    pub(crate) own: OwnLane,
    pub(crate) delivery: Delivery,
    pub(crate) fetch: Fetch,
    pub(crate) allowances: Vec<Allowance>,
    pub(crate) counters: Counters,
    /// Highest sequence number that any peer named in each lane.
    pub(crate) claimed: Vec<Seq>,
    /// Peers whose watermark was heard since the start.
    pub(crate) heard: Vec<bool>,
    pub(crate) announced: Announced,
    /// Cuts at which the kept history can end, oldest first.
    checkpoints: VecDeque<(Height, Cut)>,
    /// Lanes whose quorum must be computed again.
    pub(crate) stale_quorum: Vec<bool>,
    pub(crate) changed: bool,
    /// How fast all lanes together grow.
    pub(crate) growth: Meter,
    /// Bytes by which they grew in this call.
    grown_bytes: u64,
    /// What was accepted before, and has no lane to go into.
    pub(crate) orphans: Vec<Bytes>,
}

impl Mempool {
    /// Starts from what the disk has; see [`Recovered`].
    pub fn new(
        config: Config,
        signer: Box<dyn Signer>,
        recovered: Recovered,
    ) -> Result<Self, RecoverError> {
        let n = config.set.len();
        if config.set.get(config.me).is_none() && config.me != ValidatorIndex::NOBODY {
            return Err(RecoverError::NotInSet(config.me, n));
        }
        if recovered.cut.0.len() != n {
            return Err(RecoverError::Lanes {
                found: recovered.cut.0.len(),
                expected: n,
            });
        }
        let mut batches: Vec<Vec<Batch>> = vec![Vec::new(); n];
        for batch in recovered.batches {
            let header = batch.header();
            if header.epoch != config.set.epoch() || header.lane.at() >= n {
                return Err(RecoverError::Batch(header.lane, header.seq));
            }
            batches[header.lane.at()].push(batch);
        }
        let backlog = config.params.lane_backlog_bytes_max;
        let lanes: Vec<Lane> = (config.set.iter().zip(&recovered.cut.0).zip(batches))
            .map(|((owner, base), batches)| Lane::recover(owner.index, *base, backlog, batches))
            .collect();
        let state = match lanes.get(config.me.at()) {
            None => OwnLaneState::Absent,
            Some(lane) if lane.durable_seq() > lane.tip().seq => OwnLaneState::Behind {
                target: lane.durable_seq(),
            },
            Some(_) => OwnLaneState::Waiting,
        };
        let mut mempool = Self {
            marks: Watermarks::new(n),
            own: OwnLane::new(&config.params, state),
            delivery: Delivery::new(recovered.executed, recovered.cut),
            fetch: Fetch::new(n),
            // Members by index, then followers by slot.
            allowances: vec![Allowance::default(); VALIDATORS_MAX + FOLLOWERS_MAX],
            counters: Counters::default(),
            claimed: vec![Seq::ZERO; n],
            heard: vec![false; n],
            announced: Announced::new(lanes.iter().map(Lane::tip).collect()),
            checkpoints: VecDeque::new(),
            stale_quorum: vec![true; n],
            changed: true,
            growth: Meter::default(),
            grown_bytes: 0,
            config,
            signer,
            lanes,
            orphans: Vec::new(),
        };
        mempool.carry_over(recovered.unsettled.into());
        Ok(mempool)
    }

    /// Takes a client's transaction, whose signature was verified, into the own lane. It is
    /// sealed by a later [`Self::handle`].
    pub fn admit(&mut self, now: Now, id: TxId, bytes: Bytes) -> Admission {
        let offered = Offered {
            id,
            bytes,
            sender: None,
            priority: 0,
            ticket: 0,
        };
        self.admit_offered(now, offered, &mut Vec::new())
    }

    /// As [`Self::admit`], with all that decides who comes first when not everybody can: when the
    /// queue is full, waiting transactions of a lower priority are evicted, and told by `evicted`.
    pub fn admit_offered(
        &mut self,
        now: Now,
        offered: Offered,
        evicted: &mut Vec<Evicted>,
    ) -> Admission {
        match self.lanes.get(self.config.me.at()) {
            Some(lane) => (self.own).admit(now, lane, offered, evicted, &mut self.counters),
            None => {
                self.counters.busy += 1;
                Admission::Busy {
                    retry_after_ms: u32::try_from(*RETRY_AFTER_MS.end()).expect("seconds"),
                }
            }
        }
    }

    /// What may be admitted now, as far as can be said without looking at a transaction: for a
    /// door that lets nothing pass, and spends nothing on it, for which there is no room.
    #[must_use]
    pub fn intake(&self, now: Now) -> Intake {
        match self.lanes.get(self.config.me.at()) {
            Some(lane) => self.own.intake(now, lane),
            None => Intake {
                room_bytes: 0,
                outbid: None,
                retry_after_ms: u32::try_from(*RETRY_AFTER_MS.end()).expect("seconds"),
            },
        }
    }

    /// Says how busy the machine is: the busy part of its time of late, per mille. While there is
    /// time to spare, batches and blocks are smaller and sooner.
    pub fn machine_busy(&mut self, per_mille: u64) {
        self.own.busy = per_mille.min(1_000);
    }

    /// Says of a lane whether batches from its owner have arrived and wait to be verified. These
    /// are not asked for elsewhere as long.
    pub fn arriving(&mut self, lane: ValidatorIndex, arriving: bool) {
        self.fetch.arriving(lane.at(), arriving);
    }

    /// Handles one input and appends what is to be done.
    pub fn handle(&mut self, now: Now, input: Input, out: &mut Vec<Effect>) {
        self.take_in(now, input, out);
        self.settle(now, out);
    }

    /// Takes in one of several inputs that came together. What follows from all of them (what is
    /// delivered, sealed, told and asked for, and what a quorum holds) is for the next
    /// [`Self::handle`], which has to come in the same turn: that costs as much after one batch or
    /// watermark as after many.
    pub fn take_in(&mut self, now: Now, input: Input, out: &mut Vec<Effect>) {
        let n = self.lanes.len();
        match input {
            Input::Batch { from, batch }
                if from.at() < n || self.fetch.is_asked(from, batch.header().lane) =>
            {
                self.receive(now, from, batch.into_inner(), out);
            }
            Input::Watermark { from, watermark } if from.at() < n && from != self.config.me => {
                self.observe(from, &watermark, out);
            }
            Input::GetBatches { from, request } if from.at() < self.allowances.len() => {
                self.serve(now, from, request, out);
            }
            Input::PeerUp(peer) if peer.at() < n && peer != self.config.me => {
                self.fetch.peer_up(peer);
                if self.own.state != OwnLaneState::Absent {
                    let message = PeerMessage::Watermark(self.full_watermark());
                    out.push(Effect::Send { to: peer, message });
                }
            }
            // One outside the set has no word here, but may be asked for what is committed.
            Input::PeerUp(peer) if peer.follower_slot().is_some() => self.fetch.peer_up(peer),
            Input::PeerDown(peer) if peer.at() < n || peer.follower_slot().is_some() => {
                self.fetch.peer_down(peer);
            }
            Input::Committed { header, parent_cut } => self.commit(now, header, &parent_cut),
            Input::Executed { height } => self.execute(now, height, out),
            // A peer that is not in the set has nothing to say here.
            Input::Batch { .. }
            | Input::Watermark { .. }
            | Input::GetBatches { .. }
            | Input::PeerUp(_)
            | Input::PeerDown(_)
            | Input::Tick => {}
        }
    }

    /// Does what follows from what was taken in.
    fn settle(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.deliver(now, out);
        self.review_own_lane();
        self.seal(now, out);
        let grown = std::mem::take(&mut self.grown_bytes);
        self.growth.add(now, grown);
        self.announce(now, out);
        self.schedule(now, out);
        self.count_quorums();
        if std::mem::take(&mut self.changed) {
            out.push(Effect::PayloadChanged);
        }
    }

    /// When `handle(Input::Tick)` has something to do next, in [`Now::mono_us`].
    #[must_use]
    pub fn next_deadline_us(&self) -> Option<u64> {
        let seal_us = self.seal_due_us();
        [seal_us, self.announce_due_us(), self.fetch.deadline_us()]
            .into_iter()
            .flatten()
            .min()
    }

    /// How many more [`Input::Committed`] may be handed in now. Above
    /// [`crate::limits::COMMITTED_QUEUE_MAX`] waiting blocks the mempool panics.
    #[must_use]
    pub fn committed_room(&self) -> usize {
        self.delivery.room()
    }

    /// What happened since the start.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// A snapshot.
    #[must_use]
    pub fn status(&self) -> Status {
        let lanes = self.lanes.iter().map(|lane| LaneStatus {
            tip: lane.tip(),
            quorum: lane.quorum,
            committed: lane.committed().seq,
            backlog_bytes: lane.ahead_bytes(),
            forked: lane.forked,
        });
        Status {
            own_lane: self.own.state,
            pending_txs: self.own.pending_txs(),
            pending_bytes: self.own.pending_bytes(),
            window_bytes: self.own.window_bytes(),
            commit_latency_ms: self.own.latency_us / 1_000,
            execution_latency_ms: self.own.execution_latency_us() / 1_000,
            committed: self.delivery.committed(),
            delivered: self.delivery.delivered(),
            executed: self.delivery.executed(),
            fetch_debt_batches: self.delivery.missing(),
            execution_debt_bytes: self.delivery.waiting_bytes(),
            requests: self.fetch.requests(),
            lanes: lanes.collect(),
            counters: self.counters,
        }
    }

    /// A batch of some lane, from whomever: the signature says whose it is.
    fn receive(&mut self, now: Now, from: ValidatorIndex, batch: Batch, out: &mut Vec<Effect>) {
        let (index, seq) = (batch.header().lane, batch.header().seq);
        if batch.header().epoch != self.config.set.epoch() || index.at() >= self.lanes.len() {
            self.counters.stale += 1;
            return;
        }
        let asked = self
            .fetch
            .answered(now, from, index, seq, batch.bytes().len() as u64);
        let mut persist = Vec::new();
        if self.delivery.accept(&mut self.lanes, &batch, &mut persist) {
            self.counters.fetched += 1;
            self.fetch.progressed(now, index, asked);
            out.extend(persist.into_iter().map(Effect::Persist));
            self.changed = true;
            return;
        }
        if asked && self.delivery.expects(index, seq) {
            self.counters.wrong_branch += 1;
            self.fetch.wrong_branch(now, from, index);
        }
        let own = index == self.config.me;
        if own && seq > self.lanes[index.at()].tip().seq {
            self.fall_behind(seq);
        }
        if !own && self.delivery.is_congested(self.execution_debt_bytes_max()) {
            self.counters.over_quota += 1;
            return;
        }
        self.offer(now, index, batch, asked, out);
    }

    /// Offers a batch to its lane, and the early ones that follow it.
    fn offer(
        &mut self,
        now: Now,
        index: ValidatorIndex,
        batch: Batch,
        asked: bool,
        out: &mut Vec<Effect>,
    ) {
        let mut next = Some(batch);
        while let Some(batch) = next.take() {
            let known_fork = self.lanes[index.at()].forked;
            match self.lanes[index.at()].offer(batch.clone()) {
                Offer::Accepted => {
                    self.counters.accepted += 1;
                    self.announced.bytes += payload_bytes(&batch);
                    self.fetch.progressed(now, index, asked);
                    self.extended(index, &batch);
                    out.push(Effect::Persist(batch));
                    self.walk_lane(index, out);
                    next = self.lanes[index.at()].next_early();
                }
                Offer::Early => {}
                Offer::Stale => self.counters.stale += 1,
                Offer::OverQuota => self.counters.over_quota += 1,
                Offer::Fork(evidence) => {
                    self.counters.forks += 1;
                    if index == self.config.me {
                        self.own.state = OwnLaneState::Forked;
                    }
                    // One proof for a lane is enough; more would let its owner flood the log.
                    if !known_fork {
                        out.push(Effect::Evidence(evidence));
                    }
                    // An early batch that does not extend the tip makes room for one that does.
                    next = self.lanes[index.at()].next_early();
                }
            }
        }
    }

    /// The chain of a lane grew by `batch`, which is durable at the end of this turn.
    fn extended(&mut self, index: ValidatorIndex, batch: &Batch) {
        let tip = batch.tip();
        self.grown_bytes += payload_bytes(batch);
        self.marks.grown(index, tip);
        // A batch leaves its owner after it is durable there: the owner's signature is as good as
        // its watermark.
        if index != self.config.me {
            self.claim(index, index, tip);
        }
        self.stale_quorum[index.at()] = true;
        self.changed = true;
    }

    fn walk_lane(&mut self, index: ValidatorIndex, out: &mut Vec<Effect>) {
        let mut persist = Vec::new();
        self.delivery
            .walk_lane(&mut self.lanes, index, &mut persist);
        out.extend(persist.into_iter().map(Effect::Persist));
    }

    fn observe(&mut self, from: ValidatorIndex, watermark: &Watermark, out: &mut Vec<Effect>) {
        if watermark.epoch != self.config.set.epoch() {
            self.counters.watermarks_refused += 1;
            return;
        }
        // A peer that came into the epoch later than this node did not take what it was told
        // before (N8).
        let first = !std::mem::replace(&mut self.heard[from.at()], true);
        if first && self.own.state != OwnLaneState::Absent {
            let message = PeerMessage::Watermark(self.full_watermark());
            out.push(Effect::Send { to: from, message });
        }
        for (index, tip) in &watermark.tips {
            if index.at() >= self.lanes.len() {
                self.counters.watermarks_refused += 1;
            } else {
                self.claim(from, *index, *tip);
            }
        }
    }

    /// `peer` holds `tip`.
    fn claim(&mut self, peer: ValidatorIndex, index: ValidatorIndex, tip: LaneTip) {
        match self
            .marks
            .observe(peer, index, tip, &self.lanes[index.at()])
        {
            Observed::Same => {}
            Observed::Regressed => self.counters.watermarks_refused += 1,
            observed => {
                let claimed = &mut self.claimed[index.at()];
                *claimed = tip.seq.max(*claimed);
                self.stale_quorum[index.at()] |= observed == Observed::Confirmed;
                self.changed = true;
            }
        }
    }

    fn commit(&mut self, now: Now, header: Arc<SignedHeader>, parent_cut: &Cut) {
        for (index, _, new) in self.delivery.commit(header, parent_cut) {
            self.lanes[index.at()].commit(new);
            self.stale_quorum[index.at()] = true;
            if index == self.config.me {
                self.own.committed(now, new.seq);
                let lane = &self.lanes[index.at()];
                if lane.tip().seq < new.seq {
                    self.fall_behind(new.seq);
                } else if !lane.holds(new) {
                    self.own.state = OwnLaneState::Forked;
                }
            }
        }
        self.changed = true;
    }

    /// Plans blocks that came into the window and delivers those that are complete.
    fn deliver(&mut self, now: Now, out: &mut Vec<Effect>) {
        let mut persist = Vec::new();
        self.delivery.plan(&mut self.lanes, &mut persist);
        out.extend(persist.into_iter().map(Effect::Persist));
        while let Some(block) = self.delivery.next_complete() {
            let mut batches = Vec::new();
            for (index, old, lane_batches) in block.lanes {
                let first = lane_batches.first().expect("an advanced lane has batches");
                self.counters.broken_links += u64::from(first.header().prev_hash != old.hash);
                if self.lanes[index.at()].adopt(old, &lane_batches) {
                    self.marks.rerouted(index, &self.lanes[index.at()]);
                    self.stale_quorum[index.at()] = true;
                    self.walk_lane(index, out);
                    if let Some(early) = self.lanes[index.at()].next_early() {
                        self.offer(now, index, early, false, out);
                    }
                }
                batches.extend(lane_batches);
            }
            self.counters.delivered += 1;
            self.changed = true;
            out.push(Effect::Deliver(Payload {
                header: block.header,
                batches,
            }));
        }
    }

    /// Lets go of what is executed, in memory at once and in the store after the kept history.
    fn execute(&mut self, now: Now, height: Height, out: &mut Vec<Effect>) {
        let Some(header) = self.delivery.execute(height) else {
            return;
        };
        for (lane, tip) in self.lanes.iter_mut().zip(&header.cut.0) {
            lane.drop_executed(*tip);
        }
        let me = self.config.me.at();
        if let Some(lane) = self.lanes.get(me) {
            self.own
                .executed(now, lane.base().seq, lane.unexecuted_bytes());
        }
        self.changed = true;
        let config = &self.config;
        let history = config.params.history_heights_of(config.set.cycle_rounds());
        let stride = history / PRUNE_CHECKPOINTS;
        let height = header.height;
        if self
            .checkpoints
            .back()
            .is_none_or(|(last, _)| last.0 + stride <= height.0)
        {
            self.checkpoints.push_back((height, header.cut.clone()));
        }
        let mut prune = None;
        while let Some((oldest, _)) = self.checkpoints.front() {
            if oldest.0.saturating_add(history) > height.0 {
                break;
            }
            prune = self.checkpoints.pop_front();
        }
        if let Some((height, cut)) = prune {
            out.push(Effect::Prune { height, cut });
        }
    }

    /// Somebody has batches of this node's lane, up to `seq`, that it does not have itself.
    fn fall_behind(&mut self, seq: Seq) {
        self.own.state = match self.own.state {
            state @ (OwnLaneState::Forked | OwnLaneState::Absent) => state,
            OwnLaneState::Behind { target } => OwnLaneState::Behind {
                target: target.max(seq),
            },
            OwnLaneState::Waiting | OwnLaneState::Open => OwnLaneState::Behind { target: seq },
        };
        let claimed = &mut self.claimed[self.config.me.at()];
        *claimed = seq.max(*claimed);
    }

    /// Opens the own lane when nothing speaks against it (any more).
    fn review_own_lane(&mut self) {
        let (me, set) = (self.config.me, &self.config.set);
        let Some(lane) = self.lanes.get(me.at()) else {
            return;
        };
        let tip = lane.tip().seq;
        // One peer may lie; among peers of weight F1 one does not.
        if self.claimed[me.at()] > tip {
            let claimed = self.marks.claimed(me, me, set, set.weak_weight());
            if claimed > tip {
                self.fall_behind(claimed);
            }
        }
        match self.own.state {
            OwnLaneState::Waiting if self.has_heard_a_quorum() => {
                self.own.state = OwnLaneState::Open;
            }
            OwnLaneState::Behind { target } if tip >= target => {
                self.own.state = OwnLaneState::Waiting;
                self.review_own_lane();
            }
            _ => {}
        }
    }

    /// True once watermarks of a quorum, this node included, were heard since the start.
    fn has_heard_a_quorum(&self) -> bool {
        let (me, set) = (self.config.me, &self.config.set);
        let heard = set
            .iter()
            .map(|v| v.index)
            .filter(|i| *i == me || self.heard[i.at()]);
        set.weight_of(heard) >= set.quorum_weight()
    }

    fn seal_due_us(&self) -> Option<u64> {
        if self.delivery.is_congested(self.execution_debt_bytes_max()) {
            return None;
        }
        self.own.seal_due_us(self.lanes.get(self.config.me.at())?)
    }

    fn seal(&mut self, now: Now, out: &mut Vec<Effect>) {
        let me = self.config.me;
        let mut txs = Vec::new();
        for _ in 0..SEALS_PER_TURN_MAX {
            if self.seal_due_us().is_none_or(|due_us| due_us > now.mono_us) {
                return;
            }
            let tickets = self.own.take_batch(&mut txs);
            if !tickets.is_empty() {
                out.push(Effect::Sealed { tickets });
            }
            let (epoch, tip) = (self.config.set.epoch(), self.lanes[me.at()].tip());
            let signer = &*self.signer;
            let batch = Batch::seal(epoch, me, tip, &txs, self.config.chain_id, signer);
            txs.clear();
            self.lanes[me.at()].push(batch.clone());
            let (seq, bytes) = (batch.header().seq, payload_bytes(&batch));
            self.own
                .sealed(now, seq, bytes, Crowd::of(self.lanes.len()));
            self.counters.sealed += 1;
            self.extended(me, &batch);
            let message = PeerMessage::Batch(batch.bytes().clone());
            out.push(Effect::Persist(batch));
            out.push(Effect::Broadcast(message));
        }
    }

    fn count_quorums(&mut self) {
        let (set, me) = (&self.config.set, self.config.me);
        let need = set.quorum_weight();
        let indices = set.iter().map(|validator| validator.index);
        for ((lane, stale), index) in self
            .lanes
            .iter_mut()
            .zip(&mut self.stale_quorum)
            .zip(indices)
        {
            if std::mem::take(stale) {
                lane.quorum = self.marks.quorum(index, lane, me, set, need);
            }
        }
    }
}
