//! The second half of `falconet bench store`: what executed blocks change, brought to disk by our
//! state database and by the stores that it could have been made of.
//!
//! Nobody waits for it, because it can be computed again: so a round is many blocks and ends when
//! all of them are durable. The others commit each block and make the last one durable; ours
//! gathers blocks in memory and writes them sorted, in durable transactions only.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use falconet_store::{AccountRows, StateDb, StateUpdate, Store, StoreConfig};
use falconet_types::receipt::{Outcome, Receipt};
use falconet_types::{Digest, Height, Seq, ValidatorIndex};

use super::{CHAIN, GENESIS, StoreBenchError, failed, filler};
use crate::figures::Collector;

/// Blocks of one contender in one round.
const BLOCKS: u64 = 64;
/// Accounts of which each block changes some.
const ACCOUNTS: u64 = 200_000;
/// Accounts that a block changes, and transactions in it.
const ROWS: usize = 2_000;
const ACCOUNT_BYTES: usize = 150;
/// Where a transaction is, as the others store it.
#[cfg(feature = "peers")]
const PLACE_BYTES: usize = 24;

/// What one block changes, in the order of keys.
struct Rows {
    accounts: BTreeMap<[u8; 32], Bytes>,
    txs: Vec<[u8; 32]>,
}

impl Rows {
    fn make(random: &mut fastrand::Rng) -> Self {
        let accounts = (0..ROWS).map(|_| {
            let id = account(random.u64(..ACCOUNTS));
            (id, filler(random, ACCOUNT_BYTES))
        });
        let accounts = accounts.collect();
        let mut txs: Vec<[u8; 32]> = (0..ROWS)
            .map(|_| filler(random, 32)[..].try_into().expect("32 bytes"))
            .collect();
        txs.sort_unstable();
        Self { accounts, txs }
    }
}

fn account(n: u64) -> [u8; 32] {
    falconet_crypto::hash::hash("falconet/bench/account", &[&n.to_be_bytes()]).0
}

/// Brings one block's rows to a store; `durable` for the last block of a round.
type Apply = Box<dyn FnMut(&Rows, bool) -> Result<(), String>>;

/// Adds the figures of this half.
pub(super) fn measure(
    dir: &Path,
    rounds: usize,
    collector: &mut Collector,
    progress: &dyn Fn(&str),
) -> Result<(), StoreBenchError> {
    progress("filling the state");
    let mut contenders: Vec<(&'static str, Apply)> = vec![("state_db", ours(dir)?)];
    #[cfg(feature = "peers")]
    contenders.extend(peers::open(dir)?);
    for round in 0..rounds {
        for (who, apply) in &mut contenders {
            progress(&format!("round {} of {rounds}: state, {who}", round + 1));
            // The same rows for everybody.
            let mut random = fastrand::Rng::with_seed(round as u64 + 1);
            let mut spent = Duration::ZERO;
            for block in 1..=BLOCKS {
                let rows = Rows::make(&mut random);
                let began = Instant::now();
                apply(&rows, block == BLOCKS).map_err(|what| failed(who, dir, what))?;
                spent += began.elapsed();
            }
            let ms = spent.as_secs_f64() * 1e3 / BLOCKS as f64;
            collector.add(&format!("state_block.{who}"), "ms", ms);
        }
    }
    Ok(())
}

fn ours(dir: &Path) -> Result<Apply, StoreBenchError> {
    let config = StoreConfig::new(CHAIN, GENESIS);
    let (store, _) =
        Store::open(&dir.join("state"), &config).map_err(|error| failed("state_db", dir, error))?;
    let mut state = store.state;
    let mut height = 0;
    Ok(Box::new(move |rows, durable| {
        height += 1;
        let mut done = apply(&mut state, Height(height), rows);
        if durable {
            done = done.and_then(|()| state.flush());
        }
        done.map_err(|error| error.to_string())
    }))
}

fn apply(
    state: &mut StateDb,
    height: Height,
    rows: &Rows,
) -> Result<(), falconet_store::StoreError> {
    let mut accounts = AccountRows::default();
    for (id, row) in &rows.accounts {
        accounts.push(Digest(*id), |out| out.extend_from_slice(row));
    }
    let receipts: Vec<Receipt> = (0..)
        .zip(&rows.txs)
        .map(|(index, id)| Receipt {
            tx_id: Digest(*id),
            height,
            lane: ValidatorIndex(0),
            seq: Seq(height.0),
            index,
            outcome: Outcome::Executed,
        })
        .collect();
    state.apply(&StateUpdate {
        height,
        commitment: Digest::ZERO,
        accounts_root: Digest::ZERO,
        validators_root: Digest::ZERO,
        results: Digest::ZERO,
        receipts_root: Digest::ZERO,
        registry_root: None,
        checkpoint: false,
        accounts: &accounts,
        keys: &[],
        registry: &[],
        receipts: &receipts,
    })
}

#[cfg(feature = "peers")]
mod peers {
    //! redb and fjall on the same rows.

    use fjall::{KeyspaceCreateOptions, PersistMode};
    use redb::{Database, Durability, TableDefinition};

    use super::super::peers::CACHE_BYTES;
    use super::*;

    const STATE: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("accounts");
    const TXS: TableDefinition<'_, &[u8; 32], &[u8; PLACE_BYTES]> =
        TableDefinition::new("transactions");

    pub(super) fn open(dir: &Path) -> Result<[(&'static str, Apply); 2], StoreBenchError> {
        let redb = redb(&dir.join("redb-state")).map_err(|error| failed("redb", dir, error))?;
        let fjall = fjall(&dir.join("fjall-state")).map_err(|error| failed("fjall", dir, error))?;
        Ok([("redb", redb), ("fjall", fjall)])
    }

    fn redb(path: &Path) -> Result<Apply, redb::Error> {
        let db = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(path)?;
        let tx = db.begin_write()?;
        {
            let mut accounts = tx.open_table(STATE)?;
            for n in 0..ACCOUNTS {
                accounts.insert(&account(n), &[0; ACCOUNT_BYTES][..])?;
            }
        }
        tx.commit()?;
        let write = move |rows: &Rows, durable: bool| -> Result<(), redb::Error> {
            let mut tx = db.begin_write()?;
            if durable {
                tx.set_quick_repair(true);
            } else {
                tx.set_durability(Durability::None)?;
            }
            {
                let mut accounts = tx.open_table(STATE)?;
                for (id, row) in &rows.accounts {
                    accounts.insert(id, &row[..])?;
                }
                let mut txs = tx.open_table(TXS)?;
                for id in &rows.txs {
                    txs.insert(id, &[7; PLACE_BYTES])?;
                }
            }
            Ok(tx.commit()?)
        };
        Ok(Box::new(move |rows, durable| {
            write(rows, durable).map_err(|error| error.to_string())
        }))
    }

    fn fjall(path: &Path) -> Result<Apply, fjall::Error> {
        let db = fjall::Database::builder(path)
            .cache_size(CACHE_BYTES as u64)
            .open()?;
        let accounts = db.keyspace("accounts", KeyspaceCreateOptions::default)?;
        let txs = db.keyspace("transactions", KeyspaceCreateOptions::default)?;
        let mut batch = db.batch().durability(Some(PersistMode::SyncData));
        for n in 0..ACCOUNTS {
            batch.insert(&accounts, account(n), [0; ACCOUNT_BYTES]);
        }
        batch.commit()?;
        let write = move |rows: &Rows, durable: bool| -> Result<(), fjall::Error> {
            let mode = match durable {
                true => PersistMode::SyncData,
                false => PersistMode::Buffer,
            };
            let mut batch = db.batch().durability(Some(mode));
            for (id, row) in &rows.accounts {
                batch.insert(&accounts, *id, &row[..]);
            }
            for id in &rows.txs {
                batch.insert(&txs, *id, [7; PLACE_BYTES]);
            }
            batch.commit()
        };
        Ok(Box::new(move |rows, durable| {
            write(rows, durable).map_err(|error| error.to_string())
        }))
    }
}
