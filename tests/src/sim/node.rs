//! One whole node: the cores, composed as the validator composes them, and its disk.
//!
//! Each input makes one *turn*. A turn's records are appended to the disk at once; its sends,
//! deliveries and answers wait until a sync has covered them. A sync covers all turns that were
//! there when it began (group commit).
//!
//! | module | what |
//! |---|---|
//! | [`live`] | the cores of a running node, and what becomes of their effects |
//! | [`crossing`] | from one epoch to the next |
//! | [`recovery`] | what a node makes of its disk when it starts |
//! | [`serving`] | what is read back from the disk for peers |
//! | [`catchup`] | when it is behind by more than peers keep: snapshots |

mod catchup;
mod crossing;
mod live;
mod recovery;
mod serving;

use std::sync::Arc;

use falconet_hotstuff::{Alarm, Committed, HotStuff};
use falconet_ledger::{Application, Block, BlockResult, Ledger, Verdicts, View};
use falconet_mempool::Payload;
use falconet_types::batch::Batch;
use falconet_types::block::SignedHeader;
use falconet_types::epoch::{EpochInfo, EpochProof};
use falconet_types::genesis::Genesis;
use falconet_types::message::{Admission, PeerMessage};
use falconet_types::time::Now;
use falconet_types::transaction::SignedTransaction;
use falconet_types::validators::ValidatorSet;
use falconet_types::{ChainId, Epoch, Height, ValidatorIndex};

use super::disk::Disk;
use super::keys;
pub use catchup::{Checkpoint, Installed};
pub(super) use crossing::judge;
use live::Context;
pub use live::Live;
pub use recovery::Started;
pub use serving::History;

/// What all nodes share.
#[derive(Debug, Clone)]
pub struct Chain {
    /// The genesis document.
    pub genesis: Arc<Genesis>,
    /// Its identity.
    pub id: ChainId,
    /// The validators: those of genesis, or for an actor those of the epoch that it is in.
    pub set: Arc<ValidatorSet>,
}

impl Chain {
    /// Epoch 0.
    #[must_use]
    pub fn first_epoch(&self) -> EpochInfo {
        EpochInfo::genesis(&self.genesis).expect("a checked genesis")
    }
}

/// Called for each HotStuff core at each start, with the node's index. A test can turn a rule off.
pub type Setup = Box<dyn FnMut(usize, &mut HotStuff)>;

/// What one input caused.
#[derive(Debug, Default)]
pub struct Turn {
    /// Records appended.
    pub records: usize,
    /// Messages to members of the epoch or followers; `None` is everybody.
    pub sends: Vec<(Option<ValidatorIndex>, PeerMessage)>,
    /// Blocks that are final.
    pub commits: Vec<Committed>,
    /// Blocks to execute.
    pub payloads: Vec<Payload>,
    /// Transactions in batches sealed here: acknowledged once durable.
    pub acknowledged: Vec<SignedTransaction>,
    /// Requests to answer from the disk.
    pub history: Vec<(ValidatorIndex, History)>,
    /// What the core raised.
    pub alarms: Vec<Alarm>,
    /// Nodes that this node found misbehaving.
    pub accused: Vec<usize>,
    /// An epoch is over: durable before all else of the turn.
    pub epoch: Option<Arc<EpochProof>>,
    /// History below this height may go.
    pub prune: Option<Height>,
}

/// A block that was executed.
#[derive(Debug)]
pub struct Executed {
    /// What was delivered.
    pub payload: Payload,
    /// What came of it.
    pub result: BlockResult,
    /// What becomes durable after it, if it is a checkpoint.
    pub checkpoint: Option<Checkpoint>,
}

/// A node, running or not.
pub struct Node {
    /// Its place among the nodes.
    pub index: usize,
    /// The number of its key. Two nodes with one key are twins.
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

    /// The machine dies. `survive` of the records that were not synced are on the disk anyway.
    pub fn crash(&mut self, survive: usize) {
        self.live = None;
        self.appended = 0;
        self.disk.crash(survive);
    }

    /// The epoch that it is in, while it runs.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        Some(self.live.as_ref()?.info().start.epoch)
    }

    /// The node behind an index of the epoch that this node is in now, as a validator's table of
    /// connections would say when a message leaves.
    #[must_use]
    pub fn number_of(&self, index: ValidatorIndex) -> Option<usize> {
        self.live.as_ref()?.number_of(index)
    }

    /// True when what this node says to all goes to the node of that number, too.
    #[must_use]
    pub fn tells(&self, number: usize, message: &PeerMessage) -> bool {
        let live = self.live.as_ref();
        live.is_none_or(|live| live.tells(number, message))
    }

    /// A peer's message. Its signatures were checked, if its epoch is the one that this node is in.
    pub fn peer(&mut self, now: Now, from: usize, message: PeerMessage) {
        self.turn(now, |live, context| live.receive(context, from, message));
    }

    /// A connection is up or gone.
    pub fn link(&mut self, now: Now, peer: usize, up: bool) {
        self.turn(now, |live, context| live.link(context, peer, up));
    }

    /// A client's transaction, whose signature the door has verified.
    pub fn submit(&mut self, now: Now, tx: &SignedTransaction) -> Option<Admission> {
        let mut admission = None;
        self.turn(now, |live, context| {
            admission = Some(live.mempool.admit(now, tx.id(), tx.bytes().clone()));
            live.mempool(context, falconet_mempool::Input::Tick);
        });
        admission
    }

    /// Time passed.
    pub fn tick(&mut self, now: Now) {
        self.turn(now, |live, context| live.tick(context));
    }

    /// When [`Node::tick`] would do something.
    #[must_use]
    pub fn deadline_us(&self) -> Option<u64> {
        self.live.as_ref()?.deadline_us()
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
    pub fn executed(&mut self, now: Now) -> Option<Executed> {
        let live = self.live.as_mut()?;
        live.executing = false;
        let payload = live.to_execute.pop_front().expect("it was being executed");
        let result = live.execute(&self.disk, &payload.header, payload.batches.clone());
        let height = result.height;
        let checkpoint = live.checkpoint(height);
        self.turn(now, |live, context| {
            live.mempool(context, falconet_mempool::Input::Executed { height });
            live.punish();
            live.feed_backlog(context);
            live.hotstuff(context, falconet_hotstuff::Input::PayloadChanged);
        });
        Some(Executed {
            payload,
            result,
            checkpoint,
        })
    }

    /// A view of the ledger.
    #[must_use]
    pub fn view(&self) -> Option<View> {
        self.live.as_ref()?.ledger.view()
    }

    fn turn(&mut self, now: Now, act: impl FnOnce(&mut Live, &mut Context<'_>)) {
        let Some(live) = &mut self.live else { return };
        let mut context = Context {
            now,
            disk: &self.disk,
            turn: Turn::default(),
            records: Vec::new(),
        };
        act(live, &mut context);
        live.hand_over(&mut context);
        live.look_around(now);
        let Context {
            mut turn, records, ..
        } = context;
        turn.records = records.len();
        self.appended += records.len();
        if let Some(proof) = &turn.epoch {
            self.disk.append_proof(EpochProof::clone(proof));
        }
        self.disk.append(records);
        live.turns.push_back(turn);
    }
}

/// Executes a block as the validator does.
pub(super) fn execute(
    ledger: &mut Ledger,
    header: &SignedHeader,
    ends_epoch: bool,
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
        ends_epoch,
        time_ms: header.time_ms,
        batches: &batches,
    })
}
