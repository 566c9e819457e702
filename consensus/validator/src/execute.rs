//! The execution thread: the application, the state on disk, receipts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use falconet_ledger::{Account, Application, Block, BlockResult, Ledger, Opaque, Verdicts};
use falconet_mempool::Payload;
use falconet_probes as probes;
use falconet_probes::id;
use falconet_store::{AccountRows, Reader, StateDb, StateUpdate, StoreError};
use falconet_sync::keeping;
use falconet_types::batch::Batch;
use falconet_types::block::{Cut, SignedHeader};
use falconet_types::genesis::ApplicationKind;
use falconet_types::receipt::Outcome;
use falconet_types::stake::RowId;
use falconet_types::wire::{Wire, WireError};
use falconet_types::{AccountId, Digest, Height, PublicKey};

use crate::chain::Chain;
use crate::clients::ReceiptSender;
use crate::epochs::{Ending, Log};
use crate::metrics::Metrics;
use crate::metrics::stages::{Clock, Queue};
use crate::pipeline::Executed;
use crate::snapshots::{Snapshots, StateHead};
use crate::status::{BlockSummary, ExecutionStatus, StatusBoard};
use crate::trace::{Moment, spans};
use crate::verdicts::VerdictTable;

/// After so much time without a block the state is made durable, so that a restart replays
/// little.
const IDLE_FLUSH: Duration = Duration::from_secs(2);

/// Heights between two prunings of what the state database keeps of old blocks.
const PRUNE_INTERVAL_HEIGHTS: u64 = 1024;

/// The application with its state on disk.
pub struct Executor {
    application: Box<dyn Application>,
    state: StateDb,
    snapshots: Arc<Snapshots>,
    chain: Arc<Chain>,
    /// Rows of the last block.
    rows: AccountRows,
}

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A row of the state cannot be read.
    #[error(
        "the row of account {id} in the state database is damaged: {source}; delete state.redb to have it rebuilt from the log, if the log goes back to genesis"
    )]
    Row {
        /// The account.
        id: AccountId,
        /// What is wrong.
        source: WireError,
    },
    /// The rows do not make a state.
    #[error("state database: {0}")]
    Restore(#[from] falconet_ledger::RestoreError),
    /// The rows make another state than the one that was executed.
    #[error(
        "the state database is damaged: at height {height} its rows have commitment {found}, \
         {expected} was executed; delete state.redb to have it rebuilt from the log, if the log \
         goes back to genesis"
    )]
    Commitment {
        /// Height of the state.
        height: Height,
        /// Of the rows.
        found: Digest,
        /// Of the execution.
        expected: Digest,
    },
}

impl Executor {
    /// Restores the application to where the state on disk stands.
    pub fn open(
        chain: &Arc<Chain>,
        state: StateDb,
        reader: &Reader,
        snapshots: Arc<Snapshots>,
    ) -> Result<Self, ExecuteError> {
        let height = state.height();
        let row = reader.block_row(height)?;
        let results = row.as_ref().map_or(Digest::ZERO, |row| row.results);
        let application: Box<dyn Application> = match (chain.genesis.application, height) {
            (ApplicationKind::Opaque, Height::ZERO) => Box::new(Opaque::from_genesis()),
            (ApplicationKind::Opaque, _) => Box::new(Opaque::restore(height, results)),
            (ApplicationKind::Ledger, Height::ZERO) => {
                Box::new(Ledger::from_genesis(&chain.genesis))
            }
            (ApplicationKind::Ledger, _) => {
                let (rows, keys) = accounts_of(&state)?;
                Box::new(Ledger::restore(
                    &chain.genesis,
                    height,
                    results,
                    rows.into_iter(),
                    keys.into_iter(),
                    registry_rows(&state)?.into_iter(),
                )?)
            }
        };
        let found = application.commitment();
        if let Some(row) = row
            && row.commitment != found
        {
            return Err(ExecuteError::Commitment {
                height,
                found,
                expected: row.commitment,
            });
        }
        Ok(Self {
            application,
            state,
            snapshots,
            chain: Arc::clone(chain),
            rows: AccountRows::default(),
        })
    }

    /// The application.
    #[must_use]
    pub fn application(&self) -> &dyn Application {
        &*self.application
    }

    /// Executes the next block and writes what it changed.
    pub fn execute(
        &mut self,
        header: &SignedHeader,
        batches: Vec<Batch>,
        verdicts: &VerdictTable,
        metrics: Option<&Metrics>,
    ) -> Result<BlockResult, StoreError> {
        let start = Instant::now();
        let (block_digest, height) = (header.id(), header.height.0);
        let block_id = id(&block_digest.0);
        let span = |moment| spans::block(moment, &block_digest, Some(height), None);
        probes::execute_start(height, block_id, batches.len() as u64);
        span(Moment::ExecutionBegun);
        let batches: Vec<(Batch, Verdicts)> = batches
            .into_iter()
            .map(|batch| {
                let known = verdicts.take(&batch.hash());
                let verdicts = known.unwrap_or_else(|| Verdicts::unknown(&batch));
                (batch, verdicts)
            })
            .collect();
        let block = Block {
            height: header.height,
            epoch: header.epoch,
            ends_epoch: self.chain.epochs.ends_epoch(header),
            time_ms: header.time_ms,
            batches: &batches,
        };
        let result = self.application.execute(&block);
        let executed = Instant::now();
        let (txs, changes) = (result.receipts.len() as u64, result.changes.len() as u64);
        probes::executed(header.height.0, txs, changes);
        span(Moment::Executed);
        self.rows.clear();
        for (id, account) in &result.changes {
            self.rows.push(*id, |out| account.encode(out));
        }
        let keys: Vec<(AccountId, Bytes)> = result
            .keys
            .iter()
            .map(|(id, key)| (*id, Bytes::copy_from_slice(key.as_bytes())))
            .collect();
        let past_end = self.chain.epochs.is_past_end(header);
        let checkpoint = self.chain.genesis.params.is_checkpoint(result.height);
        if checkpoint {
            let head = StateHead {
                head: self.application.head(),
                roots: result.roots,
            };
            self.snapshots.expect(result.height, head);
        }
        self.state.apply(&StateUpdate {
            checkpoint,
            height: result.height,
            commitment: result.commitment(),
            accounts_root: result.roots.accounts,
            validators_root: result.roots.validators,
            results: result.roots.results,
            receipts_root: result.roots.receipts,
            registry_root: past_end.then(|| self.application.registry_root()),
            accounts: &self.rows,
            keys: &keys,
            registry: &result.registry,
            receipts: &result.receipts,
        })?;
        probes::state_written(header.height.0, block_id);
        span(Moment::StateWritten);
        if let Some(metrics) = metrics {
            metrics
                .execute_time
                .observe((executed - start).as_secs_f64());
            metrics
                .state_write_time
                .observe(executed.elapsed().as_secs_f64());
        }
        Ok(result)
    }

    /// Executes committed blocks out of the log, up to `committed` or until a batch is missing
    /// (it was committed but had not arrived when the process ended). Returns the cut of the last
    /// executed block.
    pub fn replay(
        &mut self,
        chain: &Chain,
        reader: &Reader,
        committed: Height,
        mut progress: impl FnMut(Height),
    ) -> Result<Cut, ExecuteError> {
        let nothing_known = VerdictTable::default();
        let mut cut = cut_after(chain, reader, self.application.height())?;
        while self.application.height() < committed {
            let height = self.application.height().next();
            let Some(header) = reader.header_at(height)? else {
                break;
            };
            let before = parent_cut(reader, &header)?;
            let Some(batches) = payload_of(reader, &header, &before)? else {
                break;
            };
            self.execute(&header, batches, &nothing_known, None)?;
            cut = header.cut.clone();
            progress(height);
        }
        Ok(cut)
    }

    /// What the next epoch is made of, once `last`, the last block of the current one, is the last
    /// executed block. `None` where the state that it names is not known well enough any more:
    /// peers have the proof.
    pub fn ending(
        &self,
        reader: &Reader,
        last: &SignedHeader,
    ) -> Result<Option<Ending>, StoreError> {
        falconet_epochs::ending(&*self.application, &Log(reader), last)
    }

    /// Forgets receipts and roots of blocks below `height`.
    pub fn prune(&mut self, height: Height) {
        self.state.prune(height);
    }

    /// Makes the state durable.
    pub fn flush(&mut self) -> Result<(), StoreError> {
        self.state.flush()
    }
}

/// Rows of accounts and keys that are registered.
type Accounts = (Vec<(AccountId, Account)>, Vec<(AccountId, PublicKey)>);

fn accounts_of(state: &StateDb) -> Result<Accounts, ExecuteError> {
    let (mut rows, mut keys) = (Vec::new(), Vec::new());
    let mut bad = None;
    state.for_each_account(|id, row, key| {
        let mut read = || -> Result<(), WireError> {
            let account = Account::from_bytes(row)?;
            rows.push((id, account));
            if let (Some(scheme), Some(key)) = (account.scheme, key) {
                let key = PublicKey::from_bytes(scheme, key);
                keys.push((id, key.map_err(|_| WireError::Value("public key"))?));
            }
            Ok(())
        };
        if let Err(source) = read() {
            bad.get_or_insert(ExecuteError::Row { id, source });
        }
    })?;
    match bad {
        Some(error) => Err(error),
        None => Ok((rows, keys)),
    }
}

fn registry_rows(state: &StateDb) -> Result<Vec<(RowId, Bytes)>, StoreError> {
    let mut rows = Vec::new();
    state.for_each_registry_row(|id, bytes| rows.push((id, Bytes::copy_from_slice(bytes))))?;
    Ok(rows)
}

/// The cut that the block above `height` extends, see [`falconet_epochs::cut_after`].
pub fn cut_after(chain: &Chain, reader: &Reader, height: Height) -> Result<Cut, StoreError> {
    falconet_epochs::cut_after(&chain.info(), &Log(reader), height)
}

/// The cut that a block extends, see [`falconet_epochs::parent_cut`].
pub fn parent_cut(reader: &Reader, header: &SignedHeader) -> Result<Cut, StoreError> {
    falconet_epochs::parent_cut(&Log(reader), header)
}

/// The batches of a block out of the log, see [`falconet_epochs::payload_of`].
pub fn payload_of(
    reader: &Reader,
    header: &SignedHeader,
    parent_cut: &Cut,
) -> Result<Option<Vec<Batch>>, StoreError> {
    falconet_epochs::payload_of(&Log(reader), header, parent_cut)
}

/// Everything the execution thread owns.
pub struct ExecuteThread {
    /// Application and state.
    pub executor: Executor,
    /// Chain and epochs.
    pub chain: Arc<Chain>,
    /// The store.
    pub reader: Reader,
    /// Blocks whose data is complete, in height order.
    pub payloads: Receiver<Payload>,
    /// Where results go.
    pub executed: Sender<Executed>,
    /// What the verify stage found out.
    pub verdicts: Arc<VerdictTable>,
    /// Heights whose receipts are kept.
    pub history_heights: u64,
    /// Receipts for clients.
    pub receipts: ReceiptSender,
    /// Where the condition is published.
    pub board: Arc<StatusBoard>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Where this thread's time goes.
    pub stage: Clock,
}

impl ExecuteThread {
    /// Runs until the log thread stops, then makes the state durable.
    pub fn run(mut self) {
        loop {
            let next = self
                .stage
                .waiting(|| self.payloads.recv_timeout(IDLE_FLUSH));
            self.stage.depth(Queue::Blocks, self.payloads.len());
            let done = match next {
                Ok(payload) => self.block(payload),
                Err(RecvTimeoutError::Timeout) => self.executor.flush(),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if let Err(error) = done {
                tracing::error!(%error, "the state database failed: this validator stops");
                self.board.fail(error.to_string());
                return;
            }
        }
        if let Err(error) = self.executor.flush() {
            tracing::warn!(%error, "the state was not made durable; the next start replays it");
        }
    }

    fn ending(&self, header: &SignedHeader) -> Result<Option<Ending>, StoreError> {
        if !self.chain.epochs.is_over(header) {
            return Ok(None);
        }
        self.executor.ending(&self.reader, header)
    }

    fn block(&mut self, payload: Payload) -> Result<(), StoreError> {
        let Payload { header, batches } = payload;
        let bytes: usize = batches.iter().map(|batch| batch.bytes().len()).sum();
        let result =
            self.executor
                .execute(&header, batches, &self.verdicts, Some(&self.metrics))?;
        let commitment = result.commitment();
        *self.board.execution.lock() = ExecutionStatus {
            height: result.height.0,
            commitment,
        };
        let ending = self.ending(&header)?;
        // An error means that the core has stopped, which ends the process.
        let _ = self.executed.send(Executed {
            height: result.height,
            commitment,
            ending: ending.map(Box::new),
        });
        self.receipts.send(&result.receipts);
        self.board.block(BlockSummary {
            height: result.height.0,
            id: header.id().to_string(),
            round: header.round.0,
            author: header.author.0,
            time_ms: header.time_ms,
            transactions: result.receipts.len() as u64,
            bytes: bytes as u64,
        });
        let metrics = &self.metrics;
        metrics.blocks_executed.inc();
        metrics.executed_height.set(result.height.0 as i64);
        let mut counts = [0u64; Outcome::ALL.len()];
        for receipt in &result.receipts {
            counts[receipt.outcome as usize] += 1;
        }
        for (outcome, count) in Outcome::ALL.into_iter().zip(counts) {
            if count > 0 {
                metrics.outcome(outcome, count);
            }
        }
        let height = result.height.0;
        if height % PRUNE_INTERVAL_HEIGHTS == 0 && height > self.history_heights {
            let below = keeping::forget_below(&header, self.history_heights);
            self.executor.prune(below);
        }
        Ok(())
    }
}
