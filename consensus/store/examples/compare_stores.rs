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
use falconet_store::{Record, Store, StoreConfig};
use falconet_types::batch::Batch;
use falconet_types::block::{Cut, Executed, Header, HeaderKind, LaneTip, SignedHeader};
use falconet_types::certificate::{Qc, Vote};
use falconet_types::{Digest, Epoch, Height, Round, ValidatorIndex};
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
            let row = measure(turns, turn)?;
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

    println!(
        "\nA block applied lazily: {BLOCKS} blocks, {ACCOUNTS} accounts, durable every {FLUSH_BLOCKS}"
    );
    println!("{:<34} {}", "", header());
    let redb_path = dir.path().join("redb-state");
    {
        let db = redb(&redb_path)?;
        redb_accounts(&db)?;
        let mut random = Random(1);
        let row = measure(BLOCKS, &mut |i| redb_block(&db, &mut random, i))?;
        println!("{:<34} {row}", "redb, Durability::None");
        println!("{:<34} {} MB", "  file", size(&redb_path)? >> 20);
        std::fs::copy(&redb_path, dir.path().join("redb-crashed"))?;
    }
    let fjall_path = dir.path().join("fjall-state");
    {
        let db = Fjall::open(&fjall_path)?;
        db.accounts()?;
        let mut random = Random(1);
        let row = measure(BLOCKS, &mut |i| db.block(&mut random, i))?;
        println!("{:<34} {row}", "fjall, PersistMode::Buffer");
        println!("{:<34} {} MB", "  files", size(&fjall_path)? >> 20);
        copy_dir(&fjall_path, &dir.path().join("fjall-crashed"))?;
    }
    let started = Instant::now();
    drop(redb(&dir.path().join("redb-crashed"))?);
    println!("{:<34} {:.0} ms", "redb, open after a crash", ms(started));
    let started = Instant::now();
    drop(Fjall::open(&dir.path().join("fjall-crashed"))?);
    println!("{:<34} {:.0} ms", "fjall, open after a crash", ms(started));

    println!("\nA turn of the log every {PACE:?} (one batch) while a block is applied every 50 ms");
    println!("{:<34} {}", "", header());
    for name in ["nothing", "redb", "fjall"] {
        let stop = Arc::new(AtomicBool::new(false));
        let mut apply: Box<dyn FnMut(u64) -> Result<()> + Send> = match name {
            "redb" => {
                let db = redb(&dir.path().join("redb-beside"))?;
                redb_accounts(&db)?;
                let mut random = Random(2);
                Box::new(move |i| redb_block(&db, &mut random, i))
            }
            "fjall" => {
                let db = Fjall::open(&dir.path().join("fjall-beside"))?;
                db.accounts()?;
                let mut random = Random(2);
                Box::new(move |i| db.block(&mut random, i))
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
        let txs: Vec<Bytes> = (0..185).map(|i| vec![i as u8; 1_412].into()).collect();
        let batches: Vec<Batch> = (0..4)
            .map(|lane| {
                let lane = ValidatorIndex(lane);
                Batch::seal(Epoch(0), lane, LaneTip::default(), &txs, chain, &signer)
            })
            .collect();
        let safety = Bytes::from(vec![0x5a; 3_000]);
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

fn redb_block(db: &Database, random: &mut Random, block: u64) -> Result<()> {
    let mut tx = db.begin_write()?;
    if (block + 1).is_multiple_of(FLUSH_BLOCKS) {
        tx.set_quick_repair(true);
    } else {
        tx.set_durability(Durability::None)?;
    }
    {
        let mut accounts = tx.open_table(ROWS)?;
        let mut txs = tx.open_table(TXS)?;
        for _ in 0..ROWS_PER_BLOCK {
            accounts.insert(
                &account(random.next() % ACCOUNTS),
                &random.bytes::<150>()[..],
            )?;
            txs.insert(&random.bytes::<32>(), &random.bytes::<24>())?;
        }
    }
    Ok(tx.commit()?)
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

    fn block(&self, random: &mut Random, block: u64) -> Result<()> {
        let mode = if (block + 1).is_multiple_of(FLUSH_BLOCKS) {
            PersistMode::SyncData
        } else {
            PersistMode::Buffer
        };
        let mut batch = self.db.batch().durability(Some(mode));
        for _ in 0..ROWS_PER_BLOCK {
            let id = account(random.next() % ACCOUNTS);
            batch.insert(&self.accounts, id, random.bytes::<150>());
            batch.insert(&self.txs, random.bytes::<32>(), random.bytes::<24>());
        }
        Ok(batch.commit()?)
    }
}

/// Latency of each call, bytes that reached the block device, in one row of a table.
fn measure(calls: u64, call: &mut dyn FnMut(u64) -> Result<()>) -> Result<String> {
    let mut histogram = Histogram::new(3)?;
    let written = device_bytes()?;
    let all = Instant::now();
    for i in 0..calls {
        let started = Instant::now();
        call(i)?;
        histogram.record(micros(started))?;
    }
    let rate = calls as f64 / all.elapsed().as_secs_f64();
    let kilobytes = (device_bytes()? - written) / calls / 1_000;
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

/// Bytes that this process sent to block devices (or dirtied, for what is written back later).
fn device_bytes() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/io")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(line.ok_or("no write_bytes in /proc/self/io")?.parse()?)
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
