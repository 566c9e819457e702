//! What the two cores want done, put into the turn.

use falconet_epochs::reporter::provable;
use falconet_probes as probes;
use falconet_probes::id;
use falconet_store::{Committed, Record};
use falconet_types::evidence::Evidence as Proof;
use falconet_types::message::PeerMessage;
use falconet_types::time::Now;
use falconet_types::wire::Wire;

use crate::peers::score::Fault;
use crate::pipeline::{HistoryRequest, To, Turn};
use crate::shelf::Change;
use crate::trace;

use super::{Core, Layers};

impl Core {
    /// Lets the mempool handle an input and carries out its effects.
    pub(crate) fn mempool(&mut self, now: Now, input: falconet_mempool::Input, turn: &mut Turn) {
        let mut effects = Vec::new();
        self.mempool.handle(now, input, &mut effects);
        self.carry_out_data(now, effects, turn);
    }

    /// Lets the mempool take in one of the turn's inputs; what follows from them it does at the turn's
    /// end, in [`Self::tick`].
    pub(super) fn mempool_takes(
        &mut self,
        now: Now,
        input: falconet_mempool::Input,
        turn: &mut Turn,
    ) {
        let mut effects = Vec::new();
        self.mempool.take_in(now, input, &mut effects);
        self.carry_out_data(now, effects, turn);
    }

    /// Carries out the mempool's effects.
    fn carry_out_data(
        &mut self,
        now: Now,
        effects: Vec<falconet_mempool::Effect>,
        turn: &mut Turn,
    ) {
        use falconet_mempool::Effect;
        let mut changed = false;
        // Own batches that are made durable are fresh only if they are broadcast as well; others
        // were fetched back from peers by a validator whose disk is an old copy.
        let mut own = None;
        for effect in effects {
            match effect {
                Effect::Persist(batch) => {
                    own = (batch.header().lane == self.handover.me).then(|| batch.clone());
                    if own.is_none() {
                        let (lane, seq) = (batch.header().lane, batch.header().seq);
                        probes::batch_accepted(lane.0.into(), seq.0, id(&batch.hash().0));
                    }
                    turn.records.push(Record::Batch(batch));
                }
                Effect::Broadcast(message) => {
                    if let PeerMessage::Batch(bytes) = &message {
                        let sealed = own.take().expect("persisted before it is broadcast");
                        assert_eq!(bytes.len(), sealed.bytes().len(), "another batch");
                        self.sealed(&sealed);
                    }
                    turn.sends.push((To::All, message));
                }
                // Acknowledged with the turn, whose records hold the batch.
                Effect::Sealed { tickets } => self.settle(&tickets, turn),
                Effect::Send { to, message } => turn.sends.push((To::One(to), message)),
                Effect::Serve {
                    to,
                    epoch,
                    lane,
                    first,
                    last,
                    bytes_max,
                } => turn.history.push(HistoryRequest::Batches {
                    to,
                    epoch,
                    lane,
                    first,
                    last,
                    bytes_max,
                }),
                Effect::Deliver(payload) => turn.payloads.push(payload),
                Effect::Prune { height, .. } => turn.prune = Some(height),
                Effect::PayloadChanged => changed = true,
                Effect::Evidence(evidence) => {
                    let lane = evidence.first.header.lane;
                    self.standing.fault(lane, Fault::Proven, 1);
                    let proof = Proof::Batches(
                        Box::new(evidence.first.clone()),
                        Box::new(evidence.second.clone()),
                    );
                    self.found(proof, turn);
                    tracing::warn!(
                        validator = lane.0,
                        seq = evidence.first.header.seq.0,
                        "a lane's owner signed two batches that contradict each other"
                    );
                }
            }
        }
        if changed {
            self.hotstuff(now, falconet_hotstuff::Input::PayloadChanged, turn);
        }
    }

    /// Reports misbehaviour, and keeps it on disk until it is settled.
    fn found(&mut self, evidence: Proof, turn: &mut Turn) {
        if self.reporter.found(evidence.clone()) {
            turn.evidence.push(Change::Keep(Box::new(evidence)));
        }
    }

    /// Lets HotStuff handle an input and carries out its effects.
    pub(crate) fn hotstuff(&mut self, now: Now, input: falconet_hotstuff::Input, turn: &mut Turn) {
        let mut effects = Vec::new();
        let layers = Layers {
            mempool: &self.mempool,
            executions: &self.executions,
        };
        self.hotstuff.handle(now, input, &layers, &mut effects);
        self.carry_out(now, effects, turn);
    }

    /// Carries out HotStuff's effects.
    pub(crate) fn carry_out(
        &mut self,
        now: Now,
        effects: Vec<falconet_hotstuff::Effect>,
        turn: &mut Turn,
    ) {
        use falconet_hotstuff::Effect;
        let mut committed = false;
        for effect in effects {
            match effect {
                Effect::Persist(record) => turn.records.push(record_of(record)),
                Effect::Broadcast(message) => {
                    self.watch
                        .sends(&message, |round| self.hotstuff.leader_of(round));
                    turn.sends.push((To::All, message));
                }
                Effect::Send { to, message } => turn.sends.push((To::One(to), message)),
                Effect::ServeBlocks { to, request } => {
                    turn.history.push(HistoryRequest::Blocks { to, request });
                }
                Effect::Commit(block) => {
                    trace::committed(&block);
                    self.backlog.push_back(block.header);
                    committed = true;
                }
                Effect::Evidence(evidence) => {
                    use falconet_hotstuff::Evidence as E;
                    // Two timeouts are a warning: they harm nobody.
                    let warning = matches!(evidence.as_ref(), E::Timeouts(..));
                    let fault = if warning {
                        Fault::Invalid
                    } else {
                        Fault::Proven
                    };
                    self.standing.fault(evidence.accused(), fault, 1);
                    tracing::warn!(?evidence, "misbehaviour");
                    if let Some(evidence) = provable(*evidence) {
                        self.found(evidence, turn);
                    }
                }
                Effect::ServeEpochProof { to, epoch } => {
                    turn.history.push(HistoryRequest::EpochProof { to, epoch });
                }
                Effect::EpochEnded { last } => self.handover.end.last = Some(last),
                Effect::Alarm(alarm) => tracing::error!(?alarm, "this must not happen"),
            }
        }
        let (progress, hotstuff) = (self.hotstuff.progress(), &self.hotstuff);
        self.watch
            .progress(progress, |round| hotstuff.leader_of(round));
        if committed {
            self.feed_backlog(now, turn);
        }
    }
}

/// How the log keeps a record of the consensus core.
fn record_of(record: falconet_hotstuff::Record) -> Record {
    use falconet_hotstuff::Record as R;
    match record {
        R::Safety(safety) => Record::Safety(safety.to_bytes().into()),
        R::Header(header) => Record::Header(header),
        R::Tc(tc) => Record::Tc(tc.as_ref().clone()),
        R::Committed {
            height,
            block_id,
            proof,
        } => Record::Committed(Committed {
            height,
            block_id,
            child_id: proof.child.id(),
            child_qc: proof.qc.as_ref().clone(),
        }),
    }
}
