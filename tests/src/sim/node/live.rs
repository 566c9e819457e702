//! The cores of a running node, and what becomes of their effects.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use falconet_epochs::reporter::provable;
use falconet_epochs::{Handover, Reporter, Timeline};
use falconet_hotstuff::HotStuff;
use falconet_ledger::{BlockResult, Ledger};
use falconet_mempool::{Mempool, Offered, Payload};
use falconet_sync::catchup::{Effect, Input};
use falconet_sync::{Catchup, keeping};
use falconet_types::batch::Batch;
use falconet_types::block::{self, Cut, SignedHeader};
use falconet_types::epoch::{EpochInfo, EpochProof};
use falconet_types::evidence::Evidence as Proof;
use falconet_types::message::PeerMessage;
use falconet_types::receipt::StateRoots;
use falconet_types::signing::Verified;
use falconet_types::time::Now;
use falconet_types::transaction::SignedTransaction;
use falconet_types::{Digest, Epoch, Height, ValidatorIndex};

use super::super::disk::state::State;
use super::super::disk::{Disk, LogRecord};
use super::super::keys;
use super::crossing::Names;
use super::serving::{History, Log, sure};
use super::{Chain, Turn, execute};

/// A running node.
pub struct Live {
    pub(super) chain: Chain,
    pub(super) number: usize,
    pub(super) me: ValidatorIndex,
    pub(super) names: Names,
    /// The consensus core.
    pub hotstuff: HotStuff,
    /// The data layer.
    pub mempool: Mempool,
    /// The application.
    pub ledger: Ledger,
    pub(super) timeline: Timeline,
    pub(super) handover: Handover<usize>,
    pub(super) reporter: Reporter,
    /// Nodes that it has a connection with.
    pub(super) linked: BTreeSet<usize>,
    pub(super) roots: BTreeMap<Height, StateRoots>,
    pub(super) commitments: BTreeMap<Height, Digest>,
    pub(super) genesis_commitment: Digest,
    pub(super) backlog: VecDeque<Arc<SignedHeader>>,
    pub(super) cut: Cut,
    /// Turns that wait for a sync.
    pub turns: VecDeque<Turn>,
    /// Turns that the sync under way covers.
    pub syncing: Option<usize>,
    /// Delivered payloads, in order, that wait for execution.
    pub to_execute: VecDeque<Payload>,
    pub(super) executing: bool,
    /// The state as it was written, block by block; not durable.
    pub(super) state: State,
    /// When it is behind by more than peers keep; `None` where everything is kept.
    pub(super) catchup: Option<Catchup<usize>>,
    /// What that wants done.
    pub(super) catching: Vec<Effect<usize>>,
    /// Proofs of epochs from the current one on, shown by others; on disk, too.
    pub(super) learned: BTreeMap<Epoch, Box<EpochProof>>,
    /// Of these, those that are not on disk yet.
    pub(super) to_keep: Vec<EpochProof>,
}

/// What one input has to do with.
pub(super) struct Context<'a> {
    pub(super) now: Now,
    pub(super) disk: &'a Disk,
    pub(super) turn: Turn,
    pub(super) records: Vec<LogRecord>,
}

struct Layers<'a> {
    mempool: &'a Mempool,
    commitments: &'a BTreeMap<Height, Digest>,
    genesis: Digest,
}

impl falconet_hotstuff::Payload for Layers<'_> {
    fn propose(&self, parent: &Cut) -> Cut {
        self.mempool.propose(parent)
    }
    fn has_work(&self, parent: &Cut) -> bool {
        self.mempool.has_work(parent)
    }
    fn available(&self, parent: &Cut, cut: &Cut) -> bool {
        self.mempool.available(parent, cut)
    }
    fn interval_us(&self, parent: &Cut, least_us: u64) -> u64 {
        self.mempool.block_interval_us(parent, least_us)
    }
    fn executed(&self) -> block::Executed {
        self.commitments.last_key_value().map_or(
            block::Executed {
                height: Height::ZERO,
                root: self.genesis,
            },
            |(height, root)| block::Executed {
                height: *height,
                root: *root,
            },
        )
    }
    fn commitment_at(&self, height: Height) -> Option<Digest> {
        if height == Height::ZERO {
            return Some(self.genesis);
        }
        self.commitments.get(&height).copied()
    }
}

impl Live {
    /// The epoch that it is in.
    #[must_use]
    pub fn info(&self) -> &EpochInfo {
        self.timeline.current()
    }

    /// Its place in that epoch's set.
    #[must_use]
    pub fn me(&self) -> ValidatorIndex {
        self.me
    }

    /// The nodes that are that epoch's validators, by index.
    #[must_use]
    pub fn members(&self) -> &[usize] {
        self.names.members()
    }

    /// The node behind an index of the epoch.
    #[must_use]
    pub fn number_of(&self, index: ValidatorIndex) -> Option<usize> {
        self.names.number(index)
    }

    pub(super) fn place(&self) -> ValidatorIndex {
        let place = self.info().set.by_key(keys::validator(self.number));
        place.unwrap_or(ValidatorIndex::NOBODY)
    }

    pub(super) fn deadline_us(&self) -> Option<u64> {
        let deadlines = [
            self.hotstuff.next_deadline_us(),
            self.mempool.next_deadline_us(),
            self.reporter.next_deadline_us(),
            self.catchup.as_ref().map(Catchup::next_deadline_us),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// A message of this epoch, or of none, whose signatures hold.
    pub(super) fn peer(
        &mut self,
        context: &mut Context<'_>,
        from: ValidatorIndex,
        message: PeerMessage,
    ) {
        use falconet_mempool::Input as M;
        let input = falconet_hotstuff::Input::from_message(from, Verified::trusted(message));
        let input = match input.map_err(|other| *other) {
            Ok(input) => return self.hotstuff(context, input),
            Err(PeerMessage::Watermark(watermark)) => M::Watermark { from, watermark },
            Err(PeerMessage::GetBatches(request)) => M::GetBatches { from, request },
            Err(PeerMessage::Batch(bytes)) => {
                let batch = Batch::parse(bytes).expect("the verify stage parsed it");
                let batch = Verified::trusted(batch);
                M::Batch { from, batch }
            }
            Err(_) => return,
        };
        self.mempool(context, input);
    }

    pub(super) fn link(&mut self, context: &mut Context<'_>, peer: usize, up: bool) {
        let index = self.names.of(peer);
        let (m, h) = if up {
            self.linked.insert(peer);
            (
                falconet_mempool::Input::PeerUp(index),
                falconet_hotstuff::Input::PeerUp(index),
            )
        } else {
            self.linked.remove(&peer);
            (
                falconet_mempool::Input::PeerDown(index),
                falconet_hotstuff::Input::PeerDown(index),
            )
        };
        self.mempool(context, m);
        self.hotstuff(context, h);
        self.catch_up(
            context.now,
            if up {
                Input::PeerUp(peer, keys::validator(peer).id())
            } else {
                Input::PeerDown(peer)
            },
        );
    }

    /// Leaders that the ledger has punished in this epoch are passed over.
    pub(super) fn punish(&mut self) {
        let epoch = self.info().start.epoch;
        self.hotstuff.punish(self.reporter.offenders(epoch));
    }

    pub(super) fn tick(&mut self, context: &mut Context<'_>) {
        self.mempool(context, falconet_mempool::Input::Tick);
        self.hotstuff(context, falconet_hotstuff::Input::Tick);
        let (to, orphans) = (self.reporter).orphans_due(context.now, self.info().set.len());
        for tx in orphans {
            if to != self.me {
                context.turn.sends.push((Some(to), PeerMessage::Relay(tx)));
            }
        }
        for tx in self.reporter.due(context.now) {
            if self.me == ValidatorIndex::NOBODY {
                let message = PeerMessage::Relay(tx.bytes().clone());
                context.turn.sends.push((None, message));
            } else {
                self.say(context, &tx);
            }
        }
    }

    /// Puts what a validator's key says into the own lane.
    pub(super) fn say(&mut self, context: &mut Context<'_>, tx: &SignedTransaction) {
        let offered = Offered {
            id: tx.id(),
            bytes: tx.bytes().clone(),
            sender: None,
            priority: u64::MAX,
            ticket: 0,
        };
        self.mempool
            .admit_offered(context.now, offered, &mut Vec::new());
        self.mempool(context, falconet_mempool::Input::Tick);
    }

    /// Executes the next block.
    pub(super) fn execute(
        &mut self,
        disk: &Disk,
        header: &SignedHeader,
        batches: Vec<Batch>,
    ) -> BlockResult {
        let params = &self.chain.genesis.params;
        let ends = self.timeline.ends_epoch(params, header);
        let result = execute(&mut self.ledger, header, ends, batches);
        self.commitments.insert(result.height, result.commitment());
        self.roots.insert(result.height, result.roots);
        let past_end = self.timeline.is_past_end(params, header);
        let registry_root =
            past_end.then(|| falconet_ledger::Application::registry_root(&self.ledger));
        let forget = keeping::forget_below(header, params.history_heights());
        self.state.apply(&result, registry_root, forget);
        if self.timeline.is_over(params, header) {
            let log = Log {
                disk,
                roots: &self.roots,
                registry_roots: &self.state.registry_roots,
            };
            let ending = sure(falconet_epochs::ending(&self.ledger, &log, header));
            self.handover.ending = ending.map(Box::new);
        }
        result
    }

    pub(super) fn mempool(&mut self, context: &mut Context<'_>, input: falconet_mempool::Input) {
        use falconet_mempool::Effect;
        let mut effects = Vec::new();
        self.mempool.handle(context.now, input, &mut effects);
        let mut changed = false;
        let turn = &mut context.turn;
        for effect in effects {
            match effect {
                Effect::Persist(batch) => {
                    if batch.header().lane == self.me {
                        let txs = batch.transactions().map(|bytes| {
                            let tx = SignedTransaction::parse(bytes);
                            tx.expect("the door lets transactions in only")
                        });
                        turn.acknowledged.extend(txs);
                    }
                    context.records.push(LogRecord::Batch(batch));
                }
                Effect::Broadcast(message) => {
                    if let PeerMessage::Batch(bytes) = &message {
                        let sealed = Batch::parse(bytes.clone()).expect("just sealed");
                        self.handover.sealed(sealed.header().tx_count as usize);
                    }
                    turn.sends.push((None, message));
                }
                Effect::Send { to, message } => turn.sends.push((Some(to), message)),
                Effect::Serve {
                    to,
                    epoch,
                    lane,
                    first,
                    last,
                    bytes_max,
                } => {
                    let request = History::Batches((epoch, lane), first, last, bytes_max);
                    turn.history.push((to, request));
                }
                Effect::Deliver(payload) => turn.payloads.push(payload),
                Effect::Prune { height, .. } => turn.prune = Some(height),
                Effect::Sealed { .. } => {}
                Effect::PayloadChanged => changed = true,
                Effect::Evidence(evidence) => {
                    assert!(evidence.is_conflict(), "{evidence:?}");
                    let lane = evidence.first.header.lane;
                    turn.accused.extend(self.names.number(lane));
                    self.reporter.found(Proof::Batches(
                        Box::new(evidence.first.clone()),
                        Box::new(evidence.second.clone()),
                    ));
                }
            }
        }
        if changed {
            self.hotstuff(context, falconet_hotstuff::Input::PayloadChanged);
        }
    }

    pub(super) fn hotstuff(&mut self, context: &mut Context<'_>, input: falconet_hotstuff::Input) {
        let mut effects = Vec::new();
        let layers = Layers {
            mempool: &self.mempool,
            commitments: &self.commitments,
            genesis: self.genesis_commitment,
        };
        self.hotstuff
            .handle(context.now, input, &layers, &mut effects);
        self.carry_out(context, effects);
    }

    pub(super) fn carry_out(
        &mut self,
        context: &mut Context<'_>,
        effects: Vec<falconet_hotstuff::Effect>,
    ) {
        use falconet_hotstuff::Effect;
        let turn = &mut context.turn;
        let before = turn.commits.len();
        for effect in effects {
            match effect {
                Effect::Persist(record) => context.records.push(LogRecord::Consensus(record)),
                Effect::Broadcast(message) => turn.sends.push((None, message)),
                Effect::Send { to, message } => turn.sends.push((Some(to), message)),
                Effect::ServeBlocks { to, request } => {
                    turn.history.push((to, History::Blocks(request)));
                }
                Effect::ServeEpochProof { to, epoch } => {
                    turn.history.push((to, History::EpochProof(epoch)));
                }
                Effect::Commit(block) => {
                    self.backlog.push_back(block.header.clone());
                    turn.commits.push(block);
                }
                Effect::EpochEnded { last } => self.handover.last = Some(last),
                Effect::Evidence(evidence) => {
                    turn.accused.extend(self.names.number(evidence.accused()));
                    if let Some(evidence) = provable(*evidence) {
                        self.reporter.found(evidence);
                    }
                }
                Effect::Alarm(alarm) => turn.alarms.push(alarm),
            }
        }
        if turn.commits.len() > before {
            self.feed_backlog(context);
        }
    }

    pub(super) fn feed_backlog(&mut self, context: &mut Context<'_>) {
        while self.mempool.committed_room() > 0
            && let Some(header) = self.backlog.pop_front()
        {
            let parent_cut = std::mem::replace(&mut self.cut, header.cut.clone());
            let input = falconet_mempool::Input::Committed { header, parent_cut };
            self.mempool(context, input);
        }
    }
}
