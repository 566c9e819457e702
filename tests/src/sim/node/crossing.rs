//! From one epoch to the next, as the validator's core thread goes ([`falconet_epochs`]).

use std::sync::Arc;

use falconet_epochs::Place;
use falconet_epochs::handover::epoch_of;
use falconet_types::batch::Batch;
use falconet_types::epoch::{EpochInfo, EpochProof};
use falconet_types::message::{PeerMessage, kind};
use falconet_types::signing;
use falconet_types::transaction::SignedTransaction;
use falconet_types::validators::ValidatorSet;
use falconet_types::{ChainId, ValidatorIndex};

use super::super::keys;
use super::live::{Context, Live};
use super::serving::{History, Log};

/// Who is who in an epoch, seen from one node.
#[derive(Debug, Clone)]
pub(super) struct Names {
    /// The index, or the number of a follower, of each node.
    of_node: Vec<ValidatorIndex>,
    /// The node of each index.
    members: Vec<usize>,
    /// Nodes that are or were members: they show keys that are trusted.
    keyed: Vec<bool>,
}

impl Names {
    pub(super) fn new(set: &ValidatorSet, newest: &[Arc<EpochInfo>]) -> Self {
        let key = keys::validator;
        let is_in = |info: &Arc<EpochInfo>, i| info.set.by_key(key(i)).is_some();
        Self {
            of_node: (0..keys::NODES_MAX)
                .map(|i| {
                    set.by_key(key(i))
                        .unwrap_or_else(|| ValidatorIndex::of_follower(i))
                })
                .collect(),
            members: set
                .iter()
                .map(|v| keys::node_of(&v.key.id()).expect("all keys are the simulator's"))
                .collect(),
            keyed: (0..keys::NODES_MAX)
                .map(|i| newest.iter().any(|info| is_in(info, i)))
                .collect(),
        }
    }

    pub(super) fn of(&self, node: usize) -> ValidatorIndex {
        self.of_node[node]
    }

    pub(super) fn members(&self) -> &[usize] {
        &self.members
    }

    pub(super) fn number(&self, index: ValidatorIndex) -> Option<usize> {
        index
            .follower_slot()
            .or_else(|| self.members.get(index.at()).copied())
    }

    fn is_member(&self, node: usize) -> bool {
        self.of_node[node].follower_slot().is_none()
    }
}

impl Live {
    /// True when what this node says to all goes to that node, too: lanes are the validators'
    /// business; those that show no key hear what is for followers.
    pub(super) fn tells(&self, node: usize, message: &PeerMessage) -> bool {
        match message {
            PeerMessage::Batch(_) | PeerMessage::Watermark(_) => self.names.is_member(node),
            PeerMessage::Header(_)
            | PeerMessage::Vote(_)
            | PeerMessage::Timeout(_)
            | PeerMessage::Qc(_)
            | PeerMessage::Tc(_)
            | PeerMessage::CertRefs(_) => true,
            _ => self.names.keyed[node],
        }
    }

    /// A message arrives.
    pub(super) fn receive(&mut self, context: &mut Context<'_>, node: usize, message: PeerMessage) {
        // Whoever shows no key may only ask.
        let asks = matches!(
            message.kind(),
            kind::CERT_REFS
                | kind::GET_CERT
                | kind::GET_BLOCKS
                | kind::GET_EPOCH_PROOF
                | kind::GET_BATCHES
                | kind::RELAY
                | kind::GET_SNAPSHOT
                | kind::GET_CHUNK
        );
        if !self.names.keyed[node] && !asks {
            return;
        }
        let from = self.names.of(node);
        let current = self.info().start.epoch;
        match message {
            PeerMessage::EpochProof(proof) => self.shown(context, node, proof),
            PeerMessage::Snapshot(offer) => self.offered(context.now, node, *offer),
            PeerMessage::Chunk(chunk) => {
                self.catch_up(
                    context.now,
                    falconet_sync::catchup::Input::Chunk(node, chunk),
                );
            }
            PeerMessage::GetSnapshot(request) => {
                context
                    .turn
                    .history
                    .push((from, History::Snapshot(request)));
            }
            PeerMessage::GetChunk(request) => {
                context.turn.history.push((from, History::Chunk(request)));
            }
            PeerMessage::Relay(bytes) => self.relayed(context, bytes),
            message => match Place::of(epoch_of(&message), current) {
                Place::Here => self.peer(context, from, message),
                Place::Next => self.early(context, node, message),
                Place::Elsewhere(_) if matches!(message, PeerMessage::Batch(_)) => {}
                Place::Elsewhere(epoch) => {
                    let input = falconet_hotstuff::Input::OtherEpoch { from, epoch };
                    self.hotstuff(context, input);
                }
            },
        }
    }

    /// A proof that the current epoch is over, or the newest one that is known to a node that fell
    /// behind; others are of no use here.
    fn shown(&mut self, context: &mut Context<'_>, node: usize, proof: Box<EpochProof>) {
        let newest = Arc::clone(self.timeline.newest_known());
        let is_current = proof.epoch() == self.info().start.epoch;
        let is_newest = proof.epoch() == newest.start.epoch;
        if !is_current && !is_newest {
            return;
        }
        let judge = if is_current { self.info() } else { &newest };
        let params = &self.chain.genesis.params;
        let next = proof.verify(self.chain.id, params, judge, &mut keys::verifier());
        let Ok(next) = next else { return };
        if is_newest {
            self.learn(context.now, node, &proof, next);
        }
        if is_current {
            self.handover.shown = Some(proof.clone());
            let from = self.names.of(node);
            self.peer(context, from, PeerMessage::EpochProof(proof));
        }
    }

    /// What somebody without a lane has to say: through the door, into the own lane.
    fn relayed(&mut self, context: &mut Context<'_>, bytes: bytes::Bytes) {
        use falconet_ledger::Application as _;
        let signed = keys::verdict(&bytes) == falconet_ledger::Verdict::Valid;
        let Ok(tx) = SignedTransaction::parse(bytes) else {
            return;
        };
        let view = self.ledger.view().expect("the ledger has accounts");
        if signed && view.check(&tx, context.now.wall_ms).is_ok() {
            self.say(context, &tx);
        }
    }

    fn early(&mut self, context: &mut Context<'_>, node: usize, message: PeerMessage) {
        self.handover.keep(node, message);
        // After the last block the proof is made of what was executed. A node that began with a
        // snapshot may not know enough for that, and needs a peer's.
        let end = &self.handover;
        if end.last.is_none() || (end.ending.is_none() && end.shown.is_none()) {
            let epoch = self.info().start.epoch.next();
            let from = self.names.of(node);
            let input = falconet_hotstuff::Input::OtherEpoch { from, epoch };
            self.hotstuff(context, input);
        }
    }

    /// Starts the next epoch, if the current one is over and executed.
    pub(super) fn hand_over(&mut self, context: &mut Context<'_>) {
        let current = self.info().start.epoch;
        if self.handover.last.is_some()
            && self.handover.shown.is_none()
            && self.timeline.newest_known().start.epoch > current
        {
            self.handover.shown = self.learned.get(&current).cloned();
        }
        let log = Log {
            disk: context.disk,
            roots: &self.roots,
            registry_roots: &self.state.registry_roots,
        };
        let next = self.handover.next(
            (self.chain.id, &self.chain.genesis.params),
            self.timeline.current(),
            &log,
            || self.mempool.status().executed,
            |_| {},
        );
        let Some(next) = next else {
            return;
        };
        context.turn.epoch = Some(Arc::clone(&next.proof));
        self.timeline.push(next.info.clone());
        self.me = self.place();
        self.names = Names::new(&next.info.set, self.timeline.newest());
        let mut effects = Vec::new();
        let cores = (&mut self.hotstuff, &mut self.mempool);
        self.cut = self
            .handover
            .cross(context.now, &next, self.me, cores, &mut effects);
        self.reporter.adopt(self.mempool.take_orphans());
        self.carry_out(context, effects);
        let present: Vec<ValidatorIndex> = self
            .linked
            .iter()
            .map(|node| self.names.of(*node))
            .collect();
        for index in present {
            self.mempool(context, falconet_mempool::Input::PeerUp(index));
            self.hotstuff(context, falconet_hotstuff::Input::PeerUp(index));
        }
        for (node, message) in self.handover.take_early() {
            if judge(self.chain.id, &self.info().set, &message).is_ok() {
                let from = self.names.of(node);
                self.peer(context, from, message);
            }
        }
    }
}

/// Checks a message's structure and signatures with a set.
pub(in super::super) fn judge(
    chain: ChainId,
    set: &ValidatorSet,
    message: &PeerMessage,
) -> Result<(), String> {
    let mut verifier = keys::verifier();
    let checked = match message {
        PeerMessage::Batch(bytes) => {
            let batch = Batch::parse(bytes.clone()).map_err(|why| why.to_string())?;
            signing::verify(batch, chain, set, &mut verifier).map(|_| ())
        }
        message => signing::verify(message.clone(), chain, set, &mut verifier).map(|_| ()),
    };
    checked.map_err(|why| why.to_string())
}
