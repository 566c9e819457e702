//! `falconet bench store`: what a validator writes before it answers, made durable by our segment
//! log and by general-purpose stores; and what executed blocks change, see [`state`].
//!
//! A *turn* is what the protocol persists at a time at n = 4 with FALCON-1024: a safety record, a
//! header, a QC, and one batch a lane or none. Everybody syncs with `fdatasync` or what the store
//! calls its durable commit; contenders take turns on the same directory.

mod state;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use falconet_crypto::falcon::{KeyPair, Scheme};
use falconet_store::{Record, Store, StoreConfig};
use falconet_types::batch::Batch;
use falconet_types::block::{Cut, Executed, Header, HeaderKind, LaneTip, SignedHeader};
use falconet_types::certificate::{Qc, Vote};
use falconet_types::wire::Wire as _;
use falconet_types::{Digest, Epoch, Height, Round, ValidatorIndex};

use crate::figures::{Collector, FiguresReport};

/// Turns of one contender in one round.
const TURNS: u64 = 24;
const LANES: u16 = 4;
const BATCH_TXS: usize = 185;
const TRANSACTION_BYTES: usize = 1_412;
const SAFETY_BYTES: usize = 3_000;
const CHAIN: Digest = Digest([1; 32]);
const GENESIS: Digest = Digest([2; 32]);

/// Why the stores cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum StoreBenchError {
    /// A contender failed.
    #[error("{who} in {}: {what}; choose another --dir", dir.display())]
    Contender {
        /// Which.
        who: &'static str,
        /// Where.
        dir: PathBuf,
        /// What it said.
        what: String,
    },
}

type Turn<'a> = Box<dyn FnMut(&Records, bool) -> Result<(), String> + 'a>;

/// Compares in `dir`, which must be empty and on the disk that is meant.
pub fn measure(
    dir: &Path,
    rounds: usize,
    progress: &dyn Fn(&str),
) -> Result<FiguresReport, StoreBenchError> {
    progress("signing records");
    let records = Records::make();
    let mut contenders: Vec<(&'static str, Turn<'_>)> = vec![("segment_log", log(dir)?)];
    #[cfg(feature = "peers")]
    contenders.extend(peers::open(dir)?);
    let mut collector = Collector::start("store");
    for round in 0..rounds {
        for (batches, what) in [(true, "turn_4_batches"), (false, "turn_small")] {
            for (who, turn) in &mut contenders {
                progress(&format!("round {} of {rounds}: {what}, {who}", round + 1));
                let began = Instant::now();
                for _ in 0..TURNS {
                    turn(&records, batches).map_err(|what| failed(who, dir, what))?;
                }
                let ms = began.elapsed().as_secs_f64() * 1e3 / TURNS as f64;
                collector.add(&format!("{what}.{who}"), "ms", ms);
            }
        }
    }
    drop(contenders);
    state::measure(dir, rounds, &mut collector, progress)?;
    Ok(collector.finish(&[
        (
            "state_block_vs_redb",
            "state_block.state_db",
            "state_block.redb",
        ),
        (
            "state_block_vs_fjall",
            "state_block.state_db",
            "state_block.fjall",
        ),
        (
            "turn_4_batches_vs_redb",
            "turn_4_batches.segment_log",
            "turn_4_batches.redb",
        ),
        (
            "turn_4_batches_vs_fjall",
            "turn_4_batches.segment_log",
            "turn_4_batches.fjall",
        ),
        (
            "turn_small_vs_redb",
            "turn_small.segment_log",
            "turn_small.redb",
        ),
        (
            "turn_small_vs_fjall",
            "turn_small.segment_log",
            "turn_small.fjall",
        ),
    ]))
}

fn failed(who: &'static str, dir: &Path, what: impl std::fmt::Display) -> StoreBenchError {
    StoreBenchError::Contender {
        who,
        dir: dir.to_owned(),
        what: what.to_string(),
    }
}

fn log(dir: &Path) -> Result<Turn<'static>, StoreBenchError> {
    let config = StoreConfig::new(CHAIN, GENESIS);
    let (mut store, _) = Store::open(&dir.join("log"), &config)
        .map_err(|error| failed("segment_log", dir, error))?;
    Ok(Box::new(move |records, batches| {
        for record in records.of_turn(batches) {
            store
                .log
                .append(record)
                .map_err(|error| error.to_string())?;
        }
        store.log.sync().map_err(|error| error.to_string())
    }))
}

/// One of each record, as large as they are at n = 4 with FALCON-1024.
struct Records {
    records: Vec<Record>,
    /// The same as bytes, for the other stores.
    #[cfg_attr(
        not(feature = "peers"),
        allow(dead_code, reason = "only peers store bytes")
    )]
    bytes: Vec<Bytes>,
    /// How many of them are not batches.
    small: usize,
}

impl Records {
    fn of_turn(&self, batches: bool) -> &[Record] {
        &self.records[..if batches {
            self.records.len()
        } else {
            self.small
        }]
    }

    #[cfg(feature = "peers")]
    fn bytes_of_turn(&self, batches: bool) -> &[Bytes] {
        &self.bytes[..self.of_turn(batches).len()]
    }

    fn make() -> Self {
        let signer = KeyPair::from_seed(Scheme::Falcon1024, &[7; 32]);
        let (epoch, round) = (Epoch(0), Round(2));
        let header = Header {
            epoch,
            round,
            kind: HeaderKind::Normal,
            parent_id: Digest([2; 32]),
            parent_round: Round(1),
            height: Height(2),
            cut: Cut::empty(usize::from(LANES)),
            time_ms: 1,
            executed: Executed {
                height: Height(0),
                root: Digest([3; 32]),
            },
            ended_by: Digest::ZERO,
            author: ValidatorIndex(0),
        };
        let header = SignedHeader::sign(header, CHAIN, &signer);
        let vote = |i| {
            let (voter, id) = (ValidatorIndex(i), header.id());
            let vote = Vote::sign(epoch, round, id, Round(1), voter, CHAIN, &signer);
            (voter, vote.signature)
        };
        let qc = Qc {
            epoch,
            round,
            block_id: header.id(),
            parent_round: Round(1),
            votes: (0..3).map(vote).collect(),
        };
        let mut random = fastrand::Rng::with_seed(7);
        let safety = filler(&mut random, SAFETY_BYTES);
        let txs = (0..BATCH_TXS).map(|_| filler(&mut random, TRANSACTION_BYTES));
        let txs: Vec<Bytes> = txs.collect();
        let mut bytes = vec![
            safety.clone(),
            header.to_bytes().into(),
            qc.to_bytes().into(),
        ];
        let small = bytes.len();
        let mut records = vec![
            Record::Safety(safety),
            Record::Header(Arc::new(header)),
            Record::Qc(qc),
        ];
        for lane in 0..LANES {
            let (lane, tip) = (ValidatorIndex(lane), LaneTip::default());
            let batch = Batch::seal(epoch, lane, tip, &txs, CHAIN, &signer);
            bytes.push(batch.bytes().clone());
            records.push(Record::Batch(batch));
        }
        Self {
            records,
            bytes,
            small,
        }
    }
}

/// Bytes that do not compress, as signatures do not.
fn filler(random: &mut fastrand::Rng, len: usize) -> Bytes {
    (0..len).map(|_| random.u8(..)).collect()
}

#[cfg(feature = "peers")]
mod peers {
    //! redb and fjall on the same bytes.

    use fjall::{KeyspaceCreateOptions, PersistMode};
    use redb::{Database, TableDefinition};

    use super::*;

    const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");
    /// Cache of each, bytes.
    pub(super) const CACHE_BYTES: usize = 256 << 20;

    pub(super) fn open(dir: &Path) -> Result<[(&'static str, Turn<'static>); 2], StoreBenchError> {
        let redb = redb(&dir.join("redb")).map_err(|error| failed("redb", dir, error))?;
        let fjall = fjall(&dir.join("fjall")).map_err(|error| failed("fjall", dir, error))?;
        Ok([("redb", redb), ("fjall", fjall)])
    }

    fn redb(path: &Path) -> Result<Turn<'static>, redb::Error> {
        let db = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(path)?;
        let mut key = 0;
        let mut turn = move |records: &Records, batches: bool| -> Result<(), redb::Error> {
            let tx = db.begin_write()?;
            {
                let mut table = tx.open_table(RECORDS)?;
                for bytes in records.bytes_of_turn(batches) {
                    table.insert(key, &bytes[..])?;
                    key += 1;
                }
            }
            Ok(tx.commit()?)
        };
        Ok(Box::new(move |records, batches| {
            turn(records, batches).map_err(|error| error.to_string())
        }))
    }

    fn fjall(path: &Path) -> Result<Turn<'static>, fjall::Error> {
        let db = fjall::Database::builder(path)
            .cache_size(CACHE_BYTES as u64)
            .open()?;
        let keyspace = db.keyspace("records", KeyspaceCreateOptions::default)?;
        let mut key = 0u64;
        Ok(Box::new(move |records, batches| {
            let mut batch = db.batch().durability(Some(PersistMode::SyncData));
            for bytes in records.bytes_of_turn(batches) {
                batch.insert(&keyspace, key.to_be_bytes(), &bytes[..]);
                key += 1;
            }
            batch.commit().map_err(|error| error.to_string())
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contender_has_a_figure() {
        let dir = tempfile::tempdir().unwrap();
        let report = measure(dir.path(), 1, &|_| {}).unwrap();
        let expected = if cfg!(feature = "peers") { 9 } else { 3 };
        assert_eq!(report.cases.len(), expected);
        assert!(
            report
                .cases
                .values()
                .all(|figure| figure.series.median > 0.0)
        );
    }

    #[test]
    fn a_directory_that_cannot_be_used_is_named() {
        let error = measure(Path::new("/proc/nowhere"), 1, &|_| {}).unwrap_err();
        assert!(error.to_string().contains("/proc/nowhere"), "{error}");
    }
}
