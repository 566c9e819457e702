//! Measures what could hold a validator's data on the write pattern of a validator: redb, fjall,
//! plain files and the segment log of this crate. Prints the tables of
//! `docs/decisions/0003-store.md`.
//!
//! ```text
//! cargo run --release -p falconet-store --example compare_stores -- [DIRECTORY]
//! ```
//! The directory (default: `target`) decides which disk is measured; a tmpfs measures nothing.
//! The pattern is the canonical one of the protocol at n = 4: a turn persists a safety record, a
//! header, a QC and one batch a lane, then waits for the disk; a block changes 2,000 accounts and
//! adds 2,000 transactions to the index, and nobody waits for that.

use std::fs::{File, OpenOptions};
use std::io::IoSlice;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use falconet_crypto::falcon::{KeyPair, Scheme, SigningMessage};
use falconet_store::{Record, StateDb, StateUpdate, Store, StoreConfig};
use falconet_types::batch::Batch;
use falconet_types::block::{Cut, Executed, Header, HeaderKind, LaneTip, SignedHeader};
use falconet_types::certificate::{Qc, Vote};
use falconet_types::receipt::{Outcome, Receipt};
use falconet_types::{Digest, Epoch, Height, Round, Seq, ValidatorIndex};
use fjall::{KeyspaceCreateOptions, PersistMode};
use hdrhistogram::Histogram;
use redb::{Database, Durability, TableDefinition};

const TURNS: u64 = 120;
const SMALL_TURNS: u64 = 400;
const BLOCKS: u64 = 256;
const ACCOUNTS: u64 = 200_000;
const ROWS_PER_BLOCK: u64 = 2_000;
const FLUSH_BLOCKS: u64 = 64;
const CACHE_BYTES: usize = 256 << 20;
const PACE: Duration = Duration::from_millis(25);

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let base = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "target".to_owned());
    let dir = tempfile::Builder::new()
        .prefix("compare-stores-")
        .tempdir_in(&base)?;
    let records = Records::make();
    println!("directory {base}; sizes in bytes: {}", records.sizes());

    println!("\nA turn made durable: {TURNS} turns with four batches; {SMALL_TURNS} without");
    println!("{:<34} {}", "", header());
    for batches in [true, false] {
        let turns = if batches { TURNS } else { SMALL_TURNS };
        let what = if batches { "4 batches" } else { "no batch" };
        let run = |name: &str, turn: &mut dyn FnMut(u64) -> Result<()>| -> Result<()> {
            let row = measure(dir.path(), turns, turn)?;
            println!("{:<34} {row}", format!("{name}, {what}"));
            Ok(())
        };
        let place = |name: &str| dir.path().join(format!("{name}-{batches}"));
        let mut log = log(&place("log"))?;
        run("segment log", &mut |_| {
            log_turn(&mut log, &records, batches)
        })?;
        for (name, prepare) in [
            ("file, appended", Prepare::Nothing),
            ("file, fallocate", Prepare::Reserve),
            ("file, zeros written before", Prepare::Zero),
        ] {
            let file = raw_file(&place(name), prepare)?;
            let mut at = 0;
            run(name, &mut |_| raw_turn(&file, &mut at, &records, batches))?;
        }
        let redb = redb(&place("redb"))?;
        run("redb", &mut |i| redb_turn(&redb, i, &records, batches))?;
        let fjall = Fjall::open(&place("fjall"))?;
        run("fjall", &mut |i| fjall.turn(i, &records, batches))?;
    }

    let started = Instant::now();
    drop(log(&dir.path().join("log-true"))?);
    let megabytes = size(&dir.path().join("log-true"))? >> 20;
    println!(
        "{:<34} {megabytes} MB, {:.0} ms",
        "segment log, open",
        ms(started)
    );

    println!("\nThe state: {BLOCKS} blocks on {ACCOUNTS} accounts; a call is one commit");
    println!("{:<34} {}", "", header());
    for step in [1, FLUSH_BLOCKS] {
        let what = if step == 1 {
            format!("a block, durable every {FLUSH_BLOCKS}")
        } else {
            format!("{step} blocks, sorted, durable")
        };
        let redb_path = dir.path().join(format!("redb-state-{step}"));
        let db = redb(&redb_path)?;
        redb_accounts(&db)?;
        let mut random = Random(1);
        let row = measure(dir.path(), BLOCKS / step, &mut |i| {
            redb_blocks(&db, &mut random, i, step)
        })?;
        println!("{:<34} {row}", format!("redb, {what}"));
        let crashed = dir.path().join(format!("redb-crashed-{step}"));
        std::fs::copy(&redb_path, &crashed)?;
        let started = Instant::now();
        drop(redb(&crashed)?);
        println!(
            "{:<34} {} MB, {:.0} ms",
            "  file, open after a crash",
            size(&crashed)? >> 20,
            ms(started)
        );
        let fjall_path = dir.path().join(format!("fjall-state-{step}"));
        let db = Fjall::open(&fjall_path)?;
        db.accounts()?;
        let mut random = Random(1);
        let row = measure(dir.path(), BLOCKS / step, &mut |i| {
            db.blocks(&mut random, i, step)
        })?;
        println!("{:<34} {row}", format!("fjall, {what}"));
        let crashed = dir.path().join(format!("fjall-crashed-{step}"));
        copy_live_dir(&fjall_path, &crashed)?;
        let started = Instant::now();
        drop(Fjall::open(&crashed)?);
        println!(
            "{:<34} {} MB, {:.0} ms",
            "  files, open after a crash",
            size(&crashed)? >> 20,
            ms(started)
        );
    }
    {
        let mut store = log(&dir.path().join("state-product"))?;
        let mut random = Random(1);
        let row = measure(dir.path(), 4 * BLOCKS, &mut |i| {
            product_block(&mut store.state, &mut random, i)
        })?;
        println!("{:<34} {row}", "StateDb::apply, 4 times as many");
    }

    println!("\nA turn of the log every {PACE:?} (one batch) while a block is applied every 50 ms");
    println!("{:<34} {}", "", header());
    for name in ["nothing", "redb", "fjall", "StateDb"] {
        let stop = Arc::new(AtomicBool::new(false));
        let mut apply: Box<dyn FnMut(u64) -> Result<()> + Send> = match name {
            "redb" => {
                let db = redb(&dir.path().join("redb-beside"))?;
                redb_accounts(&db)?;
                let mut random = Random(2);
                Box::new(move |i| redb_blocks(&db, &mut random, i, 1))
            }
            "fjall" => {
                let db = Fjall::open(&dir.path().join("fjall-beside"))?;
                db.accounts()?;
                let mut random = Random(2);
                Box::new(move |i| db.blocks(&mut random, i, 1))
            }
            "StateDb" => {
                let store = log(&dir.path().join("product-beside"))?;
                let mut state = store.state;
                let mut random = Random(2);
                Box::new(move |i| product_block(&mut state, &mut random, i))
            }
            _ => Box::new(|_| Ok(())),
        };
        let stopping = Arc::clone(&stop);
        let beside = std::thread::spawn(move || -> std::result::Result<(), String> {
            for i in 0.. {
                if stopping.load(Ordering::Relaxed) {
                    break;
                }
                let started = Instant::now();
                apply(i).map_err(|e| e.to_string())?;
                std::thread::sleep(Duration::from_millis(50).saturating_sub(started.elapsed()));
            }
            Ok(())
        });
        let mut log = log(&dir.path().join(format!("log-beside-{name}")))?;
        let mut histogram = Histogram::new(3)?;
        for _ in 0..200 {
            let started = Instant::now();
            log.log.append(&records.safety)?;
            log.log.append(&records.header)?;
            log.log.append(&records.qc)?;
            log.log.append(&records.batches[0])?;
            log.log.sync()?;
            histogram.record(micros(started))?;
            std::thread::sleep(PACE.saturating_sub(started.elapsed()));
        }
        stop.store(true, Ordering::Relaxed);
        beside.join().expect("the other thread does not panic")?;
        println!("{:<34} {}", format!("state in {name}"), latency(&histogram));
    }
    Ok(())
}

/// One of each record, as large as they are at n = 4 with FALCON-1024.
struct Records {
    safety: Record,
    header: Record,
    qc: Record,
    batches: Vec<Record>,
    /// The same as bytes.
    small: Vec<Bytes>,
    large: Vec<Bytes>,
}

struct TestSigner(KeyPair);

impl falconet_types::signing::Signer for TestSigner {
    fn key_id(&self) -> Digest {
        self.0.public().id()
    }
    fn sign(&self, message: &SigningMessage) -> falconet_types::Signature {
        self.0.sign(&message.as_bytes())
    }
}

impl Records {
    fn make() -> Self {
        let signer = TestSigner(KeyPair::from_seed(Scheme::Falcon1024, &[7; 32]));
        let chain = Digest([1; 32]);
        let header = SignedHeader::sign(
            Header {
                epoch: Epoch(0),
                round: Round(2),
                kind: HeaderKind::Normal,
                parent_id: Digest([2; 32]),
                parent_round: Round(1),
                height: Height(2),
                cut: Cut::empty(4),
                time_ms: 1,
                executed: Executed {
                    height: Height(0),
                    root: Digest([3; 32]),
                },
                evidence_root: Digest::ZERO,
                author: ValidatorIndex(0),
            },
            chain,
            &signer,
        );
        let votes = (0..3).map(|i| {
            let voter = ValidatorIndex(i);
            let vote = Vote::sign(
                Epoch(0),
                Round(2),
                header.id(),
                Round(1),
                voter,
                chain,
                &signer,
            );
            (voter, vote.signature)
        });
        let qc = Qc {
            epoch: Epoch(0),
            round: Round(2),
            block_id: header.id(),
            parent_round: Round(1),
            votes: votes.collect(),
        };
        // Signatures do not compress, so neither do these.
        let mut random = Random(7);
        let txs: Vec<Bytes> = (0..185)
            .map(|_| Bytes::copy_from_slice(&random.bytes::<1_412>()))
            .collect();
        let batches: Vec<Batch> = (0..4)
            .map(|lane| {
                let lane = ValidatorIndex(lane);
                Batch::seal(Epoch(0), lane, LaneTip::default(), &txs, chain, &signer)
            })
            .collect();
        let safety = Bytes::copy_from_slice(&random.bytes::<3_000>());
        let encode = |value: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            value(&mut out);
            Bytes::from(out)
        };
        use falconet_types::wire::Wire;
        Self {
            small: vec![
                safety.clone(),
                encode(&|out| header.encode(out)),
                encode(&|out| qc.encode(out)),
            ],
            large: batches.iter().map(|batch| batch.bytes().clone()).collect(),
            safety: Record::Safety(safety),
            header: Record::Header(Arc::new(header)),
            qc: Record::Qc(qc),
            batches: batches.into_iter().map(Record::Batch).collect(),
        }
    }

    fn all(&self, batches: bool) -> impl Iterator<Item = &Bytes> {
        self.small
            .iter()
            .chain(self.large.iter().take(if batches { 4 } else { 0 }))
    }

    fn sizes(&self) -> String {
        let sizes: Vec<String> = self
            .all(true)
            .map(|bytes| bytes.len().to_string())
            .collect();
        sizes.join(", ")
    }
}

fn log(dir: &Path) -> Result<Store> {
    Ok(Store::open(dir, &StoreConfig::new(Digest([1; 32]), Digest([2; 32])))?.0)
}

fn log_turn(store: &mut Store, records: &Records, batches: bool) -> Result<()> {
    for record in [&records.safety, &records.header, &records.qc] {
        store.log.append(record)?;
    }
    for batch in records.batches.iter().take(if batches { 4 } else { 0 }) {
        store.log.append(batch)?;
    }
    Ok(store.log.sync()?)
}

#[derive(Clone, Copy, PartialEq)]
enum Prepare {
    Nothing,
    Reserve,
    Zero,
}

fn raw_file(path: &Path, prepare: Prepare) -> Result<File> {
    const BYTES: usize = 192 << 20;
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    if prepare == Prepare::Reserve {
        let flags = rustix::fs::FallocateFlags::empty();
        rustix::fs::fallocate(&file, flags, 0, BYTES as u64)?;
    } else if prepare == Prepare::Zero {
        file.write_all_at(&vec![0; BYTES], 0)?;
    }
    file.sync_all()?;
    Ok(file)
}

fn raw_turn(file: &File, at: &mut u64, records: &Records, batches: bool) -> Result<()> {
    for bytes in records.all(batches) {
        let n = rustix::io::pwritev(file, &[IoSlice::new(bytes)], *at)?;
        assert_eq!(n, bytes.len(), "short write");
        *at += n as u64;
    }
    Ok(rustix::fs::fdatasync(file)?)
}

const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");
const ROWS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("accounts");
const TXS: TableDefinition<'_, &[u8; 32], &[u8; 24]> = TableDefinition::new("transactions");

fn redb(path: &Path) -> Result<Database> {
    Ok(Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create(path)?)
}

fn redb_turn(db: &Database, turn: u64, records: &Records, batches: bool) -> Result<()> {
    let tx = db.begin_write()?;
    {
        let mut table = tx.open_table(RECORDS)?;
        for (i, bytes) in (0..).zip(records.all(batches)) {
            table.insert(turn * 8 + i, &bytes[..])?;
        }
    }
    Ok(tx.commit()?)
}

fn redb_accounts(db: &Database) -> Result<()> {
    let tx = db.begin_write()?;
    {
        let mut accounts = tx.open_table(ROWS)?;
        for n in 0..ACCOUNTS {
            accounts.insert(&account(n), &[0u8; 150][..])?;
        }
    }
    Ok(tx.commit()?)
}

fn redb_blocks(db: &Database, random: &mut Random, call: u64, blocks: u64) -> Result<()> {
    let mut tx = db.begin_write()?;
    if ((call + 1) * blocks).is_multiple_of(FLUSH_BLOCKS) {
        tx.set_quick_repair(true);
    } else {
        tx.set_durability(Durability::None)?;
    }
    {
        let rows = Rows::make(random, blocks);
        let mut accounts = tx.open_table(ROWS)?;
        for (id, row) in &rows.accounts {
            accounts.insert(id, &row[..])?;
        }
        let mut txs = tx.open_table(TXS)?;
        for (id, row) in &rows.txs {
            txs.insert(id, row)?;
        }
    }
    Ok(tx.commit()?)
}

/// What some blocks change, each row once, in the order of keys.
struct Rows {
    accounts: std::collections::BTreeMap<[u8; 32], [u8; 150]>,
    txs: std::collections::BTreeMap<[u8; 32], [u8; 24]>,
}

impl Rows {
    fn make(random: &mut Random, blocks: u64) -> Self {
        let n = || 0..ROWS_PER_BLOCK * blocks;
        let accounts = n()
            .map(|_| (account(random.next() % ACCOUNTS), random.bytes()))
            .collect();
        let txs = n().map(|_| (random.bytes(), random.bytes())).collect();
        Self { accounts, txs }
    }
}

fn product_block(state: &mut StateDb, random: &mut Random, block: u64) -> Result<()> {
    let height = Height(block + 1);
    let accounts: Vec<_> = (0..ROWS_PER_BLOCK)
        .map(|_| {
            let row = random.bytes::<150>();
            (
                Digest(account(random.next() % ACCOUNTS)),
                Some(Bytes::copy_from_slice(&row)),
            )
        })
        .collect();
    let receipts: Vec<_> = (0..ROWS_PER_BLOCK as u32)
        .map(|index| Receipt {
            tx_id: Digest(random.bytes()),
            height,
            lane: ValidatorIndex(0),
            seq: Seq(1),
            index,
            outcome: Outcome::Executed,
        })
        .collect();
    Ok(state.apply(&StateUpdate {
        checkpoint: false,
        height,
        commitment: Digest::ZERO,
        accounts_root: Digest::ZERO,
        validators_root: Digest::ZERO,
        registry: &[],
        results: Digest::ZERO,
        receipts_root: Digest::ZERO,
        accounts: &accounts,
        receipts: &receipts,
    })?)
}

struct Fjall {
    db: fjall::Database,
    records: fjall::Keyspace,
    accounts: fjall::Keyspace,
    txs: fjall::Keyspace,
}

impl Fjall {
    fn open(path: &Path) -> Result<Self> {
        let db = fjall::Database::builder(path)
            .cache_size(CACHE_BYTES as u64)
            .open()?;
        let keyspace = |name: &str| db.keyspace(name, KeyspaceCreateOptions::default);
        let (records, accounts) = (keyspace("records")?, keyspace("accounts")?);
        let txs = keyspace("transactions")?;
        Ok(Self {
            records,
            accounts,
            txs,
            db,
        })
    }

    fn turn(&self, turn: u64, records: &Records, batches: bool) -> Result<()> {
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncData));
        for (i, bytes) in (0..).zip(records.all(batches)) {
            batch.insert(&self.records, (turn * 8 + i).to_be_bytes(), &bytes[..]);
        }
        Ok(batch.commit()?)
    }

    fn accounts(&self) -> Result<()> {
        for n in 0..ACCOUNTS {
            self.accounts.insert(account(n), [0u8; 150])?;
        }
        Ok(self.db.persist(PersistMode::SyncAll)?)
    }

    fn blocks(&self, random: &mut Random, call: u64, blocks: u64) -> Result<()> {
        let mode = if ((call + 1) * blocks).is_multiple_of(FLUSH_BLOCKS) {
            PersistMode::SyncData
        } else {
            PersistMode::Buffer
        };
        let mut batch = self.db.batch().durability(Some(mode));
        let rows = Rows::make(random, blocks);
        for (id, row) in &rows.accounts {
            batch.insert(&self.accounts, *id, *row);
        }
        for (id, row) in &rows.txs {
            batch.insert(&self.txs, *id, *row);
        }
        Ok(batch.commit()?)
    }
}

/// Latency of each call and bytes that went to the block device, in one row of a table.
fn measure(dir: &Path, calls: u64, call: &mut dyn FnMut(u64) -> Result<()>) -> Result<String> {
    let mut histogram = Histogram::new(3)?;
    let written = device_bytes(dir)?;
    let all = Instant::now();
    for i in 0..calls {
        let started = Instant::now();
        call(i)?;
        histogram.record(micros(started))?;
    }
    let rate = calls as f64 / all.elapsed().as_secs_f64();
    let kilobytes = (device_bytes(dir)? - written) / calls / 1_000;
    Ok(format!(
        "{} {rate:>9.0} {kilobytes:>9}",
        latency(&histogram)
    ))
}

fn header() -> String {
    format!(
        "{:>8} {:>8} {:>8} {:>9} {:>9}",
        "p50 ms", "p99 ms", "max ms", "per s", "kB each"
    )
}

fn latency(histogram: &Histogram<u64>) -> String {
    let at = |q: f64| histogram.value_at_quantile(q) as f64 / 1_000.0;
    format!("{:>8.2} {:>8.2} {:>8.2}", at(0.5), at(0.99), at(1.0))
}

fn micros(started: Instant) -> u64 {
    started.elapsed().as_micros().max(1) as u64
}

fn ms(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1_000.0
}

/// Bytes written to the block device under a directory, by whatever process.
fn device_bytes(dir: &Path) -> Result<u64> {
    let device = rustix::fs::stat(dir)?.st_dev;
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let text = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat"))?;
    let sectors: u64 = text
        .split_whitespace()
        .nth(6)
        .ok_or("no sectors written")?
        .parse()?;
    Ok(sectors * 512)
}

fn size(path: &Path) -> Result<u64> {
    if path.is_file() {
        return Ok(path.metadata()?.len());
    }
    let mut sum = 0;
    for entry in std::fs::read_dir(path)? {
        sum += size(&entry?.path())?;
    }
    Ok(sum)
}

/// Copies a directory in which a database is at work. Where that deletes files meanwhile, tries
/// again a few times.
fn copy_live_dir(from: &Path, to: &Path) -> Result<()> {
    const TRIES: usize = 5;
    for _ in 1..TRIES {
        if copy_dir(from, to).is_ok() {
            return Ok(());
        }
        std::fs::remove_dir_all(to)?;
    }
    copy_dir(from, to)
}

fn copy_dir(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_dir(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

fn account(n: u64) -> [u8; 32] {
    Random(n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1).bytes()
}

/// xorshift64*: fast and the same in each run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
        out
    }
}
