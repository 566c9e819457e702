//! The second half of `falconet bench ledger`: what a committed transaction costs a validator once
//! it is verified, in CPU time of the two threads that deal with it.
//!
//! Block after block goes through the ledger and the state database as the execution thread sends
//! it there, so caches, tables and the database's pages are as they are in a running validator. Time
//! is that of the threads' CPU clocks: others on the machine stretch a run, but do not count.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use falconet_crypto::falcon::KeyPair;
use falconet_ledger::{Account, Application as _, Block, Ledger, Verdict, Verdicts};
use falconet_store::{AccountRows, StateDb, StateUpdate, Store, StoreConfig, StoreError};
use falconet_types::batch::Batch;
use falconet_types::block::LaneTip;
use falconet_types::genesis::Genesis;
use falconet_types::transaction::SignedTransaction;
use falconet_types::wire::Wire as _;
use falconet_types::{Epoch, Height, ValidatorIndex};
use rustix::time::{ClockId, clock_gettime};

use super::{sealed, transfer_bytes};
use crate::figures::Collector;

/// Lanes that the transactions of a block come from. Of the first one, the validator's own, nobody
/// has worked out the ids.
const LANES: usize = 4;
/// Blocks before the measured ones.
const WARM_BLOCKS: usize = 64;
/// Name of the thread that writes the state.
const WRITER: &str = "state-writer";

/// A size of state and block.
struct Case {
    name: &'static str,
    accounts: usize,
    transfers: usize,
    blocks: usize,
}

/// What a cluster of `falconet bench cluster` holds at 45,000 transactions a second, and a larger
/// state with larger blocks.
const CASES: [Case; 2] = [
    Case {
        name: "1024_accounts_blocks_of_448",
        accounts: 1_024,
        transfers: 448,
        blocks: 512,
    },
    Case {
        name: "100000_accounts_blocks_of_2000",
        accounts: 100_000,
        transfers: 2_000,
        blocks: 128,
    },
];

/// Adds the figures of this half.
pub(super) fn measure(
    dir: &Path,
    rounds: usize,
    collector: &mut Collector,
    progress: &dyn Fn(&str),
) -> Result<(), StoreError> {
    let validator = super::validator();
    for case in CASES {
        progress(&format!("making {} accounts", case.accounts));
        let genesis = super::genesis(&validator, case.accounts);
        for round in 0..rounds {
            progress(&format!(
                "round {} of {rounds}: {} blocks of {} transfers",
                round + 1,
                case.blocks,
                case.transfers
            ));
            let dir = dir.join(format!("{}-{round}", case.name));
            let spent = Run::start(&dir, &genesis, &validator)?.blocks(&case)?;
            let transactions = (case.blocks * case.transfers) as f64;
            let mut add = |what: &str, time: Duration| {
                let us = time.as_secs_f64() * 1e6 / transactions;
                collector.add(&format!("{}.{what}", case.name), "us/transaction", us);
            };
            add("ledger", spent.ledger);
            add("state_apply", spent.apply);
            add("state_writer", spent.writer);
            add("all", spent.ledger + spent.apply + spent.writer);
        }
    }
    Ok(())
}

/// CPU time.
#[derive(Default)]
struct Spent {
    ledger: Duration,
    apply: Duration,
    writer: Duration,
}

/// A ledger with its state on disk.
struct Run<'a> {
    genesis: &'a Genesis,
    validator: &'a KeyPair,
    ledger: Ledger,
    state: StateDb,
    rows: AccountRows,
    tips: [LaneTip; LANES],
    random: u64,
    /// Nonce of the next transfer of everybody.
    nonce: u64,
}

impl<'a> Run<'a> {
    fn start(dir: &Path, genesis: &'a Genesis, validator: &'a KeyPair) -> Result<Self, StoreError> {
        let config = StoreConfig::new(genesis.chain_id(), validator.public().id());
        let (store, _) = Store::open(dir, &config)?;
        Ok(Self {
            genesis,
            validator,
            ledger: Ledger::from_genesis(genesis),
            state: store.state,
            rows: AccountRows::default(),
            tips: [LaneTip::default(); LANES],
            random: 1,
            nonce: 1,
        })
    }

    fn blocks(mut self, case: &Case) -> Result<Spent, StoreError> {
        for _ in 0..WARM_BLOCKS {
            let batches = self.batches(case.transfers);
            self.block(&batches, &mut Spent::default())?;
        }
        self.state.flush()?;
        let mut spent = Spent::default();
        let before = writer_time();
        for _ in 0..case.blocks {
            let batches = self.batches(case.transfers);
            self.block(&batches, &mut spent)?;
        }
        self.state.flush()?;
        spent.writer = writer_time().saturating_sub(before);
        Ok(spent)
    }

    /// Executes a block and hands it to the state database.
    fn block(
        &mut self,
        batches: &[(Batch, Verdicts)],
        spent: &mut Spent,
    ) -> Result<(), StoreError> {
        let block = Block {
            height: self.ledger.height().next(),
            epoch: Epoch::ZERO,
            ends_epoch: false,
            time_ms: 2,
            batches,
        };
        let began = thread_time();
        let result = self.ledger.execute(&block);
        let executed = thread_time();
        self.rows.clear();
        for (id, account) in &result.changes {
            self.rows.push(*id, |out| Account::encode(account, out));
        }
        self.state.apply(&StateUpdate {
            height: result.height,
            commitment: result.commitment(),
            accounts_root: result.roots.accounts,
            validators_root: result.roots.validators,
            results: result.roots.results,
            receipts_root: result.roots.receipts,
            registry_root: None,
            checkpoint: false,
            accounts: &self.rows,
            keys: &[],
            registry: &result.registry,
            receipts: &result.receipts,
        })?;
        spent.ledger += executed - began;
        spent.apply += thread_time() - executed;
        let refused = result.receipts.iter().filter(|r| r.outcome as u8 != 0);
        assert_eq!(refused.count(), 0, "every transfer takes effect");
        assert_eq!(result.height, Height(self.state.height().0));
        Ok(())
    }

    /// Transfers between accounts anywhere, in batches of all lanes.
    fn batches(&mut self, transfers: usize) -> Vec<(Batch, Verdicts)> {
        let chain_id = self.genesis.chain_id();
        let accounts = self.genesis.accounts.len() as u64;
        let mut lanes: VecDeque<Vec<Bytes>> = VecDeque::new();
        lanes.resize_with(LANES, Vec::new);
        for i in 0..transfers {
            let account = |random: u64| self.genesis.accounts[(random % accounts) as usize].id;
            let (from, to) = (
                account(next(&mut self.random)),
                account(next(&mut self.random)),
            );
            // Ascending for each sender in the order of execution, which is that of lanes.
            self.nonce += 1;
            lanes[i * LANES / transfers].push(transfer_bytes(chain_id, from, to, self.nonce));
        }
        (0u16..)
            .zip(lanes)
            .map(|(lane, txs)| {
                let tip = &mut self.tips[usize::from(lane)];
                let batch = sealed(ValidatorIndex(lane), tip, &txs, chain_id, self.validator);
                let verdicts = vec![Verdict::Valid; txs.len()];
                let ids = || {
                    let txs = SignedTransaction::parse_many(&txs).into_iter();
                    txs.map(|tx| tx.expect("just made").id()).collect()
                };
                let verdicts = match lane {
                    0 => Verdicts::new(verdicts),
                    _ => Verdicts::with_ids(verdicts, ids()),
                };
                (batch, verdicts)
            })
            .collect()
    }
}

/// The next number of xorshift64.
fn next(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// CPU time of this thread.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// CPU time of the threads that write states, those of earlier runs not among them; zero when the
/// system does not tell.
fn writer_time() -> Duration {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return Duration::ZERO;
    };
    let times = tasks.flatten().filter_map(|task| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        let ns: u64 = stat.split(' ').next()?.parse().ok()?;
        (name.trim_end() == WRITER).then_some(Duration::from_nanos(ns))
    });
    times.sum()
}
