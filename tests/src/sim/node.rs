//! One whole node: the cores, composed as the validator composes them, and its disk.
//!
//! Each input makes one *turn*. A turn's records are appended to the disk at once; its sends,
//! deliveries and answers wait until a sync has covered them. A sync covers all turns that were
//! there when it began (group commit).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use falconet_hotstuff::{Alarm, Committed, Evidence, HotStuff};
use falconet_ledger::{Application, Block, BlockResult, Ledger, Verdicts, View};
use falconet_mempool::{Mempool, Payload};
use falconet_types::batch::Batch;
use falconet_types::block::{self, Cut, SignedHeader};
use falconet_types::epoch::EpochStart;
use falconet_types::genesis::Genesis;
use falconet_types::message::{Admission, BLOCKS_PER_ANSWER_MAX, PeerMessage};
use falconet_types::signing::Verified;
use falconet_types::time::Now;
use falconet_types::transaction::SignedTransaction;
use falconet_types::validators::ValidatorSet;
use falconet_types::{ChainId, Digest, Height, TxId, ValidatorIndex};

use super::disk::{Disk, LogRecord};
use super::keys::{self, SimSigner};

/// What all nodes share.
#[derive(Debug, Clone)]
pub struct Chain {
    /// The genesis document.
    pub genesis: Genesis,
    /// Its identity.
    pub id: ChainId,
    /// The validators.
    pub set: Arc<ValidatorSet>,
}

/// Called for each HotStuff core at each start, with the node's index. A test can turn a rule off.
pub type Setup = Box<dyn FnMut(usize, &mut HotStuff)>;

/// What one input caused.
#[derive(Debug, Default)]
pub struct Turn {
    /// Records appended.
    pub records: usize,
    /// Messages; `None` is everybody.
    pub sends: Vec<(Option<usize>, PeerMessage)>,
    /// Blocks that are final.
    pub commits: Vec<Committed>,
    /// Blocks to execute.
    pub payloads: Vec<Payload>,
    /// Transactions in batches sealed here: acknowledged once durable.
    pub acknowledged: Vec<TxId>,
    /// Requests to answer from the disk.
    pub history: Vec<(usize, History)>,
    /// What the core raised.
    pub alarms: Vec<Alarm>,
    /// Validators that this node found misbehaving.
    pub accused: Vec<usize>,
}

/// What a peer wants from the disk.
#[derive(Debug)]
pub enum History {
    /// Headers.
    Blocks(falconet_types::message::GetBlocks),
    /// Batches of a lane, from the newest, until so many bytes.
    Batches(
        ValidatorIndex,
        falconet_types::Seq,
        falconet_types::Seq,
        u64,
    ),
}

/// A running node.
pub struct Live {
    /// The consensus core.
    pub hotstuff: HotStuff,
    /// The data layer.
    pub mempool: Mempool,
    /// The application.
    pub ledger: Ledger,
    commitments: BTreeMap<Height, Digest>,
    genesis_commitment: Digest,
    backlog: VecDeque<Arc<SignedHeader>>,
    cut: Cut,
    /// Turns that wait for a sync.
    pub turns: VecDeque<Turn>,
    /// Turns that the sync under way covers.
    pub syncing: Option<usize>,
    /// Delivered payloads, in order, that wait for execution.
    pub to_execute: VecDeque<Payload>,
    executing: bool,
}

/// A node, running or not.
pub struct Node {
    /// Its place among the nodes.
    pub index: usize,
    /// The validator that it is. Two nodes that are one validator are twins.
    pub validator: usize,
    /// What survives a crash.
    pub disk: Disk,
    /// `None` while it is down.
    pub live: Option<Live>,
    /// Counts starts: what was scheduled for an earlier life is void.
    pub life: u64,
    /// Offset of its wall clock, milliseconds.
    pub skew_ms: i64,
    /// Records appended since somebody looked.
    pub appended: usize,
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
    fn interval_us(&self, parent: &Cut, least_us: u64) -> u64 {
        self.mempool.block_interval_us(parent, least_us)
    }
    fn available(&self, parent: &Cut, cut: &Cut) -> bool {
        self.mempool.available(parent, cut)
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

impl Node {
    /// A node that never ran.
    #[must_use]
    pub fn new(index: usize, validator: usize) -> Self {
        Self {
            index,
            validator,
            disk: Disk::default(),
            live: None,
            life: 0,
            skew_ms: 0,
            appended: 0,
        }
    }

    /// Starts, or starts again from the disk. Returns the results of blocks executed again.
    pub fn start(
        &mut self,
        chain: &Chain,
        now: Now,
        setup: &mut dyn FnMut(usize, &mut HotStuff),
    ) -> Vec<BlockResult> {
        assert!(self.live.is_none(), "a node is started once");
        self.life += 1;
        let me = ValidatorIndex(u16::try_from(self.validator).expect("few nodes"));
        let mut ledger = Ledger::from_genesis(&chain.genesis);
        let genesis_commitment = ledger.genesis_commitment();
        let mut cut = Cut::empty(chain.set.len());
        let mut results = Vec::new();
        let mut commitments = BTreeMap::new();
        let mut backlog = VecDeque::new();
        for id in self.disk.committed() {
            let header = self.disk.header(id).expect("a committed header is logged");
            if backlog.is_empty()
                && let Some(batches) = self.payload_on_disk(&cut, &header.cut)
            {
                let result = execute(&mut ledger, header, batches);
                commitments.insert(result.height, result.commitment());
                results.push(result);
                cut = header.cut.clone();
            } else {
                backlog.push_back(Arc::new(header.clone()));
            }
        }
        let params = &chain.genesis.params;
        let mut hotstuff = HotStuff::new(
            falconet_hotstuff::Config {
                chain_id: chain.id,
                me,
                set: Arc::clone(&chain.set),
                params: params.clone(),
                start: EpochStart::genesis(chain.id, chain.genesis.time_ms),
            },
            Box::new(SimSigner(self.validator)),
            self.disk.recover(),
        )
        .expect("the log is whole");
        setup(self.index, &mut hotstuff);
        let mempool = Mempool::new(
            falconet_mempool::Config {
                chain_id: chain.id,
                me,
                set: Arc::clone(&chain.set),
                params: params.clone(),
            },
            Box::new(SimSigner(self.validator)),
            falconet_mempool::Recovered {
                executed: ledger.height(),
                batches: self.disk.batches_above(&cut),
                cut: cut.clone(),
            },
        )
        .expect("the log is whole");
        self.live = Some(Live {
            hotstuff,
            mempool,
            ledger,
            commitments,
            genesis_commitment,
            backlog,
            cut,
            turns: VecDeque::new(),
            syncing: None,
            to_execute: VecDeque::new(),
            executing: false,
        });
        self.with_turn(now, me, |live, _, turn, records| {
            live.feed_backlog(now, turn, records);
            live.mempool(now, falconet_mempool::Input::Tick, turn, records);
            live.hotstuff(now, falconet_hotstuff::Input::Tick, turn, records);
        });
        results
    }

    /// The machine dies. `survive` of the records that were not synced are on the disk anyway.
    pub fn crash(&mut self, survive: usize) {
        self.live = None;
        self.appended = 0;
        self.disk.crash(survive);
    }

    /// A peer's message.
    pub fn peer(&mut self, now: Now, from: usize, message: PeerMessage) {
        use falconet_mempool::Input as M;
        let from = ValidatorIndex(u16::try_from(from).expect("few nodes"));
        let input = falconet_hotstuff::Input::from_message(from, Verified::trusted(message));
        let input = match input.map_err(|other| *other) {
            Ok(input) => Ok(input),
            Err(PeerMessage::Watermark(watermark)) => Err(M::Watermark { from, watermark }),
            Err(PeerMessage::GetBatches(request)) => Err(M::GetBatches { from, request }),
            Err(PeerMessage::Batch(bytes)) => {
                let batch = Batch::parse(bytes).expect("the verify stage parsed it");
                Err(M::Batch {
                    from,
                    batch: Verified::trusted(batch),
                })
            }
            // Nodes of the simulator keep all history and follow nobody.
            Err(_) => return,
        };
        self.turn(now, |live, turn, records| match input {
            Ok(input) => live.hotstuff(now, input, turn, records),
            Err(input) => live.mempool(now, input, turn, records),
        });
    }

    /// A connection is up or gone.
    pub fn link(&mut self, now: Now, peer: usize, up: bool) {
        let peer = ValidatorIndex(u16::try_from(peer).expect("few nodes"));
        self.turn(now, |live, turn, records| {
            let (m, h) = if up {
                (
                    falconet_mempool::Input::PeerUp(peer),
                    falconet_hotstuff::Input::PeerUp(peer),
                )
            } else {
                (
                    falconet_mempool::Input::PeerDown(peer),
                    falconet_hotstuff::Input::PeerDown(peer),
                )
            };
            live.mempool(now, m, turn, records);
            live.hotstuff(now, h, turn, records);
        });
    }

    /// A client's transaction, whose signature the door has verified.
    pub fn submit(&mut self, now: Now, tx: &SignedTransaction) -> Option<Admission> {
        let mut admission = None;
        self.turn(now, |live, turn, records| {
            admission = Some(live.mempool.admit(now, tx.id(), tx.bytes().clone()));
            live.mempool(now, falconet_mempool::Input::Tick, turn, records);
        });
        admission
    }

    /// Time passed.
    pub fn tick(&mut self, now: Now) {
        self.turn(now, |live, turn, records| {
            live.mempool(now, falconet_mempool::Input::Tick, turn, records);
            live.hotstuff(now, falconet_hotstuff::Input::Tick, turn, records);
        });
    }

    /// When [`Node::tick`] would do something.
    #[must_use]
    pub fn deadline_us(&self) -> Option<u64> {
        let live = self.live.as_ref()?;
        let (h, m) = (&live.hotstuff, &live.mempool);
        h.next_deadline_us()
            .into_iter()
            .chain(m.next_deadline_us())
            .min()
    }

    /// Begins to execute the next payload that waits, if none is being executed.
    pub fn begin_execution(&mut self) -> bool {
        let Some(live) = &mut self.live else {
            return false;
        };
        let begins = !live.executing && !live.to_execute.is_empty();
        live.executing |= begins;
        begins
    }

    /// The block that was being executed is.
    pub fn executed(&mut self, now: Now) -> Option<(Payload, BlockResult)> {
        let live = self.live.as_mut()?;
        live.executing = false;
        let payload = live.to_execute.pop_front().expect("it was being executed");
        let result = execute(&mut live.ledger, &payload.header, payload.batches.clone());
        live.commitments.insert(result.height, result.commitment());
        let height = result.height;
        self.turn(now, |live, turn, records| {
            live.mempool(
                now,
                falconet_mempool::Input::Executed { height },
                turn,
                records,
            );
            live.feed_backlog(now, turn, records);
            live.hotstuff(now, falconet_hotstuff::Input::PayloadChanged, turn, records);
        });
        Some((payload, result))
    }

    /// A view of the ledger.
    #[must_use]
    pub fn view(&self) -> Option<View> {
        self.live.as_ref()?.ledger.view()
    }

    /// Answers a request for history from the disk.
    #[must_use]
    pub fn history(&self, request: &History) -> Vec<PeerMessage> {
        match request {
            History::Blocks(request) => {
                let mut headers = Vec::new();
                let mut id = request.from;
                while let Some(header) = self.disk.header(&id) {
                    let enough = headers.len() >= BLOCKS_PER_ANSWER_MAX.min(request.max.into());
                    if enough || header.height <= request.stop_height {
                        break;
                    }
                    id = header.parent_id;
                    headers.push(header.clone());
                }
                if headers.is_empty() {
                    Vec::new()
                } else {
                    vec![PeerMessage::Blocks(headers)]
                }
            }
            History::Batches(lane, first, last, bytes_max) => {
                let mut bytes = 0;
                let mut batches = Vec::new();
                for batch in self.disk.lane(*lane, *first, *last) {
                    if bytes >= *bytes_max {
                        break;
                    }
                    bytes += batch.bytes().len() as u64;
                    batches.push(PeerMessage::Batch(batch.bytes().clone()));
                }
                batches
            }
        }
    }

    fn turn(&mut self, now: Now, act: impl FnOnce(&mut Live, &mut Turn, &mut Vec<LogRecord>)) {
        let me = ValidatorIndex(u16::try_from(self.validator).expect("few nodes"));
        self.with_turn(now, me, |live, _, turn, records| act(live, turn, records));
    }

    fn with_turn(
        &mut self,
        _now: Now,
        me: ValidatorIndex,
        act: impl FnOnce(&mut Live, ValidatorIndex, &mut Turn, &mut Vec<LogRecord>),
    ) {
        let Some(live) = &mut self.live else { return };
        let mut turn = Turn::default();
        let mut records = Vec::new();
        act(live, me, &mut turn, &mut records);
        turn.records = records.len();
        for record in &records {
            if let LogRecord::Batch(batch) = record
                && batch.header().lane == me
            {
                let ids = batch.transactions().map(|bytes| {
                    let tx = SignedTransaction::parse(bytes);
                    tx.expect("the door lets transactions in only").id()
                });
                turn.acknowledged.extend(ids);
            }
        }
        self.appended += records.len();
        self.disk.append(records);
        live.turns.push_back(turn);
    }

    /// The batches between two cuts, if all are on the disk: found by hash from the newer tip.
    fn payload_on_disk(&self, from: &Cut, to: &Cut) -> Option<Vec<Batch>> {
        let mut all = Vec::new();
        for (_, old, new) in to.advances(from) {
            let mut lane = Vec::new();
            let mut hash = new.hash;
            for _ in old.seq.0..new.seq.0 {
                let batch = self.disk.batch(&hash)?;
                hash = batch.header().prev_hash;
                lane.push(batch.clone());
            }
            assert_eq!(
                hash, old.hash,
                "a committed lane range continues the one before"
            );
            lane.reverse();
            all.extend(lane);
        }
        Some(all)
    }
}

impl Live {
    fn mempool(
        &mut self,
        now: Now,
        input: falconet_mempool::Input,
        turn: &mut Turn,
        records: &mut Vec<LogRecord>,
    ) {
        use falconet_mempool::Effect;
        let mut effects = Vec::new();
        self.mempool.handle(now, input, &mut effects);
        let mut changed = false;
        for effect in effects {
            match effect {
                Effect::Persist(batch) => records.push(LogRecord::Batch(batch)),
                Effect::Broadcast(message) => turn.sends.push((None, message)),
                Effect::Send { to, message } => turn.sends.push((Some(to.at()), message)),
                Effect::Serve {
                    to,
                    epoch: _,
                    lane,
                    first,
                    last,
                    bytes_max,
                } => turn
                    .history
                    .push((to.at(), History::Batches(lane, first, last, bytes_max))),
                Effect::Deliver(payload) => turn.payloads.push(payload),
                Effect::Prune { .. } | Effect::Sealed { .. } => {}
                Effect::PayloadChanged => changed = true,
                Effect::Evidence(evidence) => {
                    assert!(evidence.is_conflict(), "{evidence:?}");
                    turn.accused.push(evidence.first.header.lane.at());
                }
            }
        }
        if changed {
            self.hotstuff(now, falconet_hotstuff::Input::PayloadChanged, turn, records);
        }
    }

    fn hotstuff(
        &mut self,
        now: Now,
        input: falconet_hotstuff::Input,
        turn: &mut Turn,
        records: &mut Vec<LogRecord>,
    ) {
        use falconet_hotstuff::Effect;
        let mut effects = Vec::new();
        let layers = Layers {
            mempool: &self.mempool,
            commitments: &self.commitments,
            genesis: self.genesis_commitment,
        };
        self.hotstuff.handle(now, input, &layers, &mut effects);
        let before = turn.commits.len();
        for effect in effects {
            match effect {
                Effect::Persist(record) => records.push(LogRecord::Consensus(record)),
                Effect::Broadcast(message) => turn.sends.push((None, message)),
                Effect::Send { to, message } => turn.sends.push((Some(to.at()), message)),
                Effect::ServeBlocks { to, request } => {
                    turn.history.push((to.at(), History::Blocks(request)));
                }
                Effect::Commit(block) => {
                    self.backlog.push_back(block.header.clone());
                    turn.commits.push(block);
                }
                Effect::ServeEpochProof { .. } | Effect::EpochEnded { .. } => {
                    unreachable!("a chain of one epoch")
                }
                Effect::Evidence(evidence) => turn.accused.push(accused(&evidence)),
                Effect::Alarm(alarm) => turn.alarms.push(alarm),
            }
        }
        if turn.commits.len() > before {
            self.feed_backlog(now, turn, records);
        }
    }

    fn feed_backlog(&mut self, now: Now, turn: &mut Turn, records: &mut Vec<LogRecord>) {
        while self.mempool.committed_room() > 0
            && let Some(header) = self.backlog.pop_front()
        {
            let parent_cut = std::mem::replace(&mut self.cut, header.cut.clone());
            let input = falconet_mempool::Input::Committed { header, parent_cut };
            self.mempool(now, input, turn, records);
        }
    }
}

fn accused(evidence: &Evidence) -> usize {
    evidence.accused().at()
}

/// Executes a block as the validator does.
pub(super) fn execute(
    ledger: &mut Ledger,
    header: &SignedHeader,
    batches: Vec<Batch>,
) -> BlockResult {
    let batches: Vec<(Batch, Verdicts)> = batches
        .into_iter()
        .map(|batch| {
            let verdicts = batch.transactions().map(|tx| keys::verdict(&tx)).collect();
            (batch, Verdicts::new(verdicts))
        })
        .collect();
    ledger.execute(&Block {
        height: header.height,
        epoch: header.epoch,
        ends_epoch: false, // simulated chains have one epoch
        time_ms: header.time_ms,
        batches: &batches,
    })
}
