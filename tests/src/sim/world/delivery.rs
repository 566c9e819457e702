//! Messages on their way: from a turn, through the disk, an actor, a filter and the network, into
//! a node.

use std::sync::Arc;

use falconet_epochs::Place;
use falconet_epochs::handover::epoch_of;
use falconet_hotstuff::Alarm;
use falconet_types::batch::Batch;
use falconet_types::message::PeerMessage;
use falconet_types::{Epoch, ValidatorIndex};

use super::super::actor::{Actor, Sending, Stage, What};
use super::super::checkers::{Check, Violation, conservation, extends_genesis, snapshots};
use super::super::network::Fate;
use super::super::node::{Chain, Executed, Turn, judge};
use super::super::scenario::CrashPoint;
use super::super::workload::{Submission, Workload};
use super::report::brief;
use super::{Event, Pass, Passing, Sent, World};

/// One message of a correct node in so many is encoded, parsed and compared, and its structure
/// checked as a receiver's verify stage would.
const WIRE_CHECK: u64 = 16;
/// A client waits this long before it tries the next validator, microseconds.
const CLIENT_RETRY_US: u64 = 100_000;
/// Clients of a run give up this long after calm began, microseconds.
const CLIENTS_PATIENCE_US: u64 = 1_000_000;

impl World {
    pub(super) fn deliver(
        &mut self,
        from: usize,
        to: usize,
        generation: u64,
        message: Box<PeerMessage>,
    ) -> Check {
        let same = self.network.generation(from, to) == generation;
        if !same || !self.network.connected(from, to) || !self.up(to) {
            return Ok(());
        }
        if self.postpone(to) {
            let at = self.stalled_until_us[to];
            self.schedule(
                at,
                Event::Deliver {
                    from,
                    to,
                    generation,
                    message,
                },
            );
            return Ok(());
        }
        self.note(|| format!("{to} <- {from}: {}", brief(&message)));
        self.work(to);
        let sender = self.scenario.validator_of(from);
        let mut message = *message;
        if self.actors[to].is_some() {
            let passed = self.act(to, |actor, stage| actor.on_message(stage, sender, message))?;
            match passed {
                Some(passed) => message = passed,
                None => return self.after_turns(to),
            }
            if self.nodes[to].live.is_none() {
                return Ok(());
            }
        }
        if !self.scenario.correct(from)
            && let Err(why) = self.verify(to, &message)
        {
            self.note(|| format!("{to} refuses it: {why}"));
            self.refused[sender] += 1;
            return Ok(());
        }
        let now = self.now(to);
        self.nodes[to].peer(now, sender, message);
        self.after_turns(to)
    }

    /// The verify stage of a node: bytes, structure, signatures. What is of another epoch than the
    /// node's own is not judged here.
    fn verify(&self, node: usize, message: &PeerMessage) -> Result<(), String> {
        let parsed = PeerMessage::parse(message.kind(), &message.payload());
        if parsed.as_ref() != Ok(message) {
            return Err(format!("not as it was sent: {parsed:?}"));
        }
        if let PeerMessage::Batch(bytes) = message {
            Batch::parse(bytes.clone()).map_err(|why| why.to_string())?;
        }
        let epoch = self.nodes[node].epoch().unwrap_or(Epoch::ZERO);
        // Whoever is shown the proof of an epoch that it is in judges it itself.
        // So does whoever is shown the manifest of a snapshot, of whichever epoch it is.
        let proof = matches!(
            message,
            PeerMessage::EpochProof(_) | PeerMessage::Snapshot(_)
        );
        if proof || Place::of(epoch_of(message), epoch) != Place::Here {
            return Ok(());
        }
        let live = self.nodes[node].live.as_ref();
        let set = live.map_or(&self.chain.set, |live| &live.info().set);
        judge(self.chain.id, set, message).map_err(|why| why.to_string())
    }

    pub(super) fn submit(&mut self, submission: Submission) -> Check {
        let to = submission.to;
        let now = self.now(to);
        let answer = if self.postpone(to) {
            None
        } else {
            self.nodes[to].submit(now, &submission.tx)
        };
        let id = submission.tx.id();
        self.note(|| format!("{to} <- client: {} {answer:?}", id.short()));
        // Clients retry until calm is over: what was never accepted is no promise.
        if Workload::tries_again(answer)
            && self.now_us < self.scenario.calm_us + CLIENTS_PATIENCE_US
        {
            let next = Submission {
                to: (to + 1) % self.scenario.own_keys(),
                ..submission
            };
            let at = self.now_us + CLIENT_RETRY_US;
            self.schedule(at, Event::Submit(Box::new(next)));
        }
        self.after_turns(to)
    }

    /// A node that is slow is busy for a while with what it just took.
    fn work(&mut self, i: usize) {
        if self.cpu_us[i] > 0 {
            self.stalled_until_us[i] = self.now_us + self.cpu_us[i];
        }
    }

    /// After anything that made turns: starts a sync, or dies before it.
    pub(super) fn after_turns(&mut self, i: usize) -> Check {
        self.catch_up(i)?;
        let node = &mut self.nodes[i];
        let Some(live) = &mut node.live else {
            return Ok(());
        };
        let pending = node.disk.pending();
        let appended = std::mem::take(&mut node.appended) as u64;
        self.effects[i] += appended;
        if let Some(CrashPoint::Effect(k)) = self.crash_points[i]
            && appended > 0
            && k <= self.effects[i]
        {
            // The record of number k is the last that the disk has.
            let survive = pending - (self.effects[i] - k).min(pending as u64) as usize;
            return self.crash(i, survive);
        }
        if self.crash_points[i] == Some(CrashPoint::BeforeSync) && pending > 0 {
            let survive = self.rng.index(pending + 1);
            return self.crash(i, survive);
        }
        let life = node.life;
        if live.syncing.is_none() && !live.turns.is_empty() {
            let records = live.turns.iter().map(|turn| turn.records).sum();
            let nothing = records == 0;
            // Files of epoch proofs come first.
            node.disk.sync_proofs(records);
            live.syncing = Some(live.turns.len());
            let (least, most) = self.sync_us[i];
            let wait = if nothing {
                0
            } else {
                self.rng.between(least, most)
            };
            let at = self.now_us + wait;
            self.schedule(at, Event::Synced { node: i, life });
        }
        Ok(())
    }

    pub(super) fn synced(&mut self, i: usize, life: u64) -> Check {
        let node = &mut self.nodes[i];
        if node.life != life {
            return Ok(());
        }
        let Some(live) = &mut node.live else {
            return Ok(());
        };
        let count = live.syncing.take().expect("a sync was under way");
        let turns: Vec<Turn> = live.turns.drain(..count).collect();
        let records: usize = turns.iter().map(|turn| turn.records).sum();
        if records > 0 && self.crash_points[i] == Some(CrashPoint::SyncFails) {
            // After a failed sync nobody knows what is on disk; later records are not tried.
            let survive = self.rng.index(records + 1);
            self.note(|| format!("{i}: a sync fails"));
            return self.crash(i, survive);
        }
        node.disk.sync(records);
        if let Some(record) = node.disk.safety()
            && self.scenario.correct(i)
        {
            self.locks.durable(i, record)?;
        }
        if records > 0 {
            if self.crash_points[i] == Some(CrashPoint::AfterSync) {
                return self.crash(i, 0);
            }
            if self.effect(i) {
                return self.crash(i, 0);
            }
        }
        for turn in turns {
            self.release(i, turn)?;
            if self.nodes[i].live.is_none() {
                return Ok(());
            }
        }
        self.execute_next(i);
        self.after_turns(i)
    }

    /// Counts an effect; true when the node dies right after it.
    pub(super) fn effect(&mut self, i: usize) -> bool {
        self.effects[i] += 1;
        matches!(self.crash_points[i], Some(CrashPoint::Effect(k)) if k <= self.effects[i])
    }

    /// What a durable turn promised may leave now.
    fn release(&mut self, i: usize, turn: Turn) -> Check {
        let correct = self.scenario.correct(i);
        if let Some(proof) = &turn.epoch {
            self.note(|| {
                format!(
                    "{i} ends epoch {} at height {}",
                    proof.epoch(),
                    proof.last().height
                )
            });
            if correct {
                self.eras.ended(i, proof)?;
            }
        }
        if correct {
            for alarm in &turn.alarms {
                // A wrong state in a faulty leader's header is what the alarm is for.
                let theirs = matches!(alarm, Alarm::StateMismatch { header, .. }
                    if self.who(header.epoch, header.author).is_none_or(|who| self.scenario.faulty(who)));
                if !theirs {
                    return Err(format!("node {i} raises an alarm: {alarm:?}"));
                }
            }
            for accused in &turn.accused {
                self.note(|| format!("{i} accuses validator {accused}"));
                if !self.scenario.faulty(*accused) {
                    return Err(format!(
                        "node {i} accuses validator {accused}, which is correct"
                    ));
                }
                self.accusations.push((i, *accused));
            }
            for tx in &turn.acknowledged {
                self.promises.acknowledged(tx);
            }
        }
        for block in &turn.commits {
            self.note(|| {
                let (height, id) = (block.header.height, block.header.id());
                format!("{i} commits {height} {}", id.short())
            });
            if correct {
                extends_genesis(block, self.chain.id)?;
                let disk = &self.nodes[i].disk;
                let id = self.chain.id;
                let faulty = |node: usize| self.scenario.faulty(node);
                self.agreement
                    .committed(i, block, id, &self.eras, disk, faulty)?;
                let disks: Vec<_> = self
                    .nodes
                    .iter()
                    .filter(|node| self.scenario.correct(node.index))
                    .map(|node| &node.disk)
                    .collect();
                self.availability.committed(block, &disks)?;
            }
        }
        let mut left = usize::MAX;
        if self.crash_points[i] == Some(CrashPoint::WhileSending) && turn.sends.len() > 1 {
            left = self.rng.index(turn.sends.len());
        }
        for (index, message) in turn.sends {
            // Who that is is looked up when a message leaves. A node may have gone on to the next
            // epoch since: then an index of the old one has no meaning any more.
            let to = index.map(|index| self.nodes[i].number_of(index));
            let me = self.scenario.validator_of(i);
            let to = match to {
                Some(to) if to.is_none() || to == Some(me) => continue,
                Some(to) => to,
                None => None,
            };
            if left == 0 {
                return self.crash(i, 0);
            }
            left -= 1;
            if correct {
                let (scenario, eras) = (&self.scenario, &self.eras);
                eras.sent(i, &message)?;
                self.agreement.sent(i, &message, eras);
                let correct = |node: usize| scenario.correct(node);
                self.consistency.sent(i, &message, eras, correct)?;
                self.sight
                    .sent(i, &message, &self.nodes[i].disk, &self.agreement)?;
                let faulty = |node: usize| !scenario.correct(node);
                self.justification.sent(i, &message, eras, faulty)?;
                if let Some(sent) = &mut self.sent {
                    sent.push(Sent {
                        at_us: self.now_us,
                        from: i,
                        to,
                        message: message.clone(),
                    });
                }
            }
            self.leave(i, to, message)?;
            if self.effect(i) {
                return self.crash(i, 0);
            }
        }
        for (index, request) in turn.history {
            // Of an epoch that is over since, an index may even mean this node itself.
            let to = self.nodes[i].number_of(index);
            let Some(to) = to.filter(|to| *to != self.scenario.validator_of(i)) else {
                continue;
            };
            for message in self.nodes[i].history(&request) {
                if correct && let PeerMessage::Snapshot(offer) = &message {
                    snapshots::offered(i, offer, &self.nodes[i].disk, &self.agreement)?;
                }
                if correct {
                    let (scenario, eras) = (&self.scenario, &self.eras);
                    let correct = |node: usize| scenario.correct(node);
                    self.consistency.sent(i, &message, eras, correct)?;
                }
                self.leave(i, Some(to), message)?;
            }
        }
        let live = self.nodes[i].live.as_mut().expect("it did not crash");
        live.to_execute.extend(turn.payloads);
        match turn.prune {
            Some(height) => self.prune(i, height),
            None => Ok(()),
        }
    }

    /// A node's message leaves it, perhaps into an actor's hands.
    pub(super) fn leave(&mut self, i: usize, to: Option<usize>, message: PeerMessage) -> Check {
        if self.actors[i].is_some() {
            self.act(i, |actor, stage| actor.on_send(stage, to, message))
        } else {
            self.send_to(i, to, message)
        }
    }

    /// Lets a node's actor do something, and sends what it says.
    pub(super) fn act<R>(
        &mut self,
        i: usize,
        what: impl FnOnce(&mut dyn Actor, &mut Stage<'_>) -> R,
    ) -> Result<R, Violation> {
        let mut actor = self.actors[i].take().expect("an actor stands here");
        let node = self.scenario.validator_of(i);
        let epoch = self.nodes[i].epoch().unwrap_or(Epoch::ZERO);
        let set = self.nodes[i].live.as_ref().map(|live| &live.info().set);
        let chain = Chain {
            set: Arc::clone(set.unwrap_or(&self.chain.set)),
            ..self.chain.clone()
        };
        let members = match &self.nodes[i].live {
            Some(live) => live.members().to_vec(),
            None => self.eras.members(epoch).to_vec(),
        };
        let at = members.iter().position(|member| *member == node);
        let me = at.map(|at| ValidatorIndex(u16::try_from(at).expect("few nodes")));
        let mut stage = Stage {
            now: self.now(i),
            me: me.unwrap_or(ValidatorIndex::NOBODY),
            node,
            chain: &chain,
            members: &members,
            rng: &mut self.rng,
            sends: Vec::new(),
        };
        let answer = what(&mut *actor, &mut stage);
        let sends = stage.sends;
        self.actors[i] = Some(actor);
        for sending in sends {
            if sending.after_us == 0 {
                self.actor_sends(i, sending)?;
            } else {
                let at = self.now_us + sending.after_us;
                let sending = Box::new(sending);
                self.schedule(at, Event::ActorSends { node: i, sending });
            }
        }
        Ok(answer)
    }

    pub(super) fn actor_sends(&mut self, i: usize, sending: Sending) -> Check {
        match sending.what {
            What::Message(message) => self.send_to(i, sending.to, message),
            What::Frame(kind, payload) => match PeerMessage::parse(kind, &payload) {
                Ok(message) => self.send_to(i, sending.to, message),
                Err(why) => {
                    // The receiver closes the connection.
                    let me = self.scenario.validator_of(i);
                    for node in 0..self.nodes.len() {
                        let validator = self.scenario.validator_of(node);
                        let meant = sending.to.is_none_or(|to| to == validator);
                        if validator != me && meant && self.network.connected(i, node) {
                            self.note(|| format!("{node} closes the connection to {i}: {why}"));
                            self.refused[me] += 1;
                            self.reset(i, node);
                        }
                    }
                    Ok(())
                }
            },
        }
    }

    /// Sends to a validator (twins both get it), or to all others.
    pub(super) fn send_to(
        &mut self,
        from: usize,
        to: Option<usize>,
        message: PeerMessage,
    ) -> Check {
        let me = self.scenario.validator_of(from);
        if let Some(to) = to
            && (to >= self.scenario.own_keys() || to == me)
        {
            return Err(format!("node {from} sends {} to {to}", brief(&message)));
        }
        for node in 0..self.nodes.len() {
            let validator = self.scenario.validator_of(node);
            let meant = match to {
                Some(to) => to == validator,
                None => self.nodes[from].tells(validator, &message),
            };
            if validator != me && meant {
                self.send(from, node, message.clone())?;
            }
        }
        Ok(())
    }

    fn send(&mut self, from: usize, to: usize, message: PeerMessage) -> Check {
        if self.scenario.correct(from) && self.rng.below(WIRE_CHECK) == 0 {
            let verified = self.verify(from, &message);
            verified.map_err(|why| format!("node {from} sends {message:?}: {why}"))?;
        }
        let mut later = 0;
        if let Some(filter) = &mut self.filter {
            let passing = Passing {
                now_us: self.now_us,
                from,
                to,
                message: &message,
            };
            match filter(&passing) {
                Pass::On => {}
                Pass::Drop => return Ok(()),
                Pass::Later(us) => later = us,
            }
        }
        let fate = self.network.fate(from, to, message.kind(), &mut self.rng);
        match fate {
            Fate::Lost => {}
            Fate::Reset => self.reset(from, to),
            Fate::Arrives(delay, again) => {
                let generation = self.network.generation(from, to);
                for delay in [Some(delay), again].into_iter().flatten() {
                    let event = Event::Deliver {
                        from,
                        to,
                        generation,
                        message: Box::new(message.clone()),
                    };
                    self.schedule(self.now_us + later + delay, event);
                }
            }
        }
        Ok(())
    }

    fn execute_next(&mut self, i: usize) {
        if self.nodes[i].begin_execution() {
            let (least, most) = self.scenario.execute_us;
            let at = self.now_us + self.rng.between(least, most);
            let life = self.nodes[i].life;
            self.schedule(at, Event::Executed { node: i, life });
        }
    }

    pub(super) fn executed(&mut self, i: usize, life: u64) -> Check {
        if self.nodes[i].life != life {
            return Ok(());
        }
        let now = self.now(i);
        let Some(executed) = self.nodes[i].executed(now) else {
            return Ok(());
        };
        let Executed {
            payload,
            result,
            checkpoint,
        } = executed;
        self.note(|| {
            format!(
                "{i} executed {} {}",
                result.height,
                result.commitment().short()
            )
        });
        if payload.header.height != result.height {
            return Err(format!("node {i} executed another height than delivered"));
        }
        if self.scenario.correct(i) {
            self.agreement.executed(i, &result)?;
            self.promises.executed(i, &result)?;
        }
        if self.scenario.correct(i)
            && self.scenario.has_epochs()
            && let Some(view) = self.nodes[i].view()
        {
            self.promises.looked_at(i, &view, self.now(i).wall_ms);
        }
        if !result.receipts.is_empty()
            && let Some(view) = self.nodes[i].view()
        {
            conservation(i, &view, &self.chain.genesis)?;
        }
        if let Some(checkpoint) = checkpoint {
            self.save(i, checkpoint);
        }
        self.execute_next(i);
        self.after_turns(i)
    }
}
