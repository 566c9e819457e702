//! Opening a data directory: whose it is, who has it, what its log holds.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use falconet_types::{ChainId, Digest, Epoch, Height, Round};
use parking_lot::RwLock;

use crate::config::{Recovered, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, Safety, StoreConfig};
use crate::disk::{make_names_durable, write_all_at};
use crate::error::StoreError;
use crate::frame::FRAME_HEADER_LEN;
use crate::index::{Entry, Index, decode_table};
use crate::log::{Active, LogWriter};
use crate::reader::{Reader, Shared};
use crate::record::{Committed, Kind};
use crate::replace::replace;
use crate::scan::{Scan, scan};
use crate::segment::{SEGMENT_HEADER_LEN, SPARES_MAX, Segment, number_of};
use crate::state::StateDb;

const META_MAGIC: &[u8; 8] = b"FALCDATA";
const META_VERSION: u32 = 1;
const META_LEN: usize = 80;

/// A validator's storage, opened. The three parts go to the threads that use them.
#[derive(Debug)]
pub struct Store {
    /// Appends to the log; for the store thread.
    pub log: LogWriter,
    /// Finds records; for any thread.
    pub reader: Reader,
    /// Keeps the state; for the thread that executes.
    pub state: StateDb,
}

impl Store {
    /// Opens a data directory, or makes one where there is none.
    ///
    /// An incomplete tail, left by a crash, is dropped and logged. Damage to anything that was
    /// durable is an error, except a damaged safety record: that is reported as
    /// [`Safety::Corrupt`], for the validator to run without signing.
    pub fn open(dir: &Path, config: &StoreConfig) -> Result<(Self, Recovered), StoreError> {
        assert!(
            (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&config.segment_bytes),
            "segments of {} bytes",
            config.segment_bytes
        );
        // Before anything is touched: a directory of another chain stays as it is.
        check_meta(dir, config)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| StoreError::io("create", dir, e))?;
        let lock = lock(dir)?;
        let known = check_meta(dir, config)?;
        let log_dir = dir.join("log");
        if !known {
            create(dir, &log_dir, config)?;
        }
        let mut index = Index::default();
        let tail = recover_segments(&log_dir, config, &mut index)?;
        let state_durable = Arc::new(AtomicU64::new(0));
        let state = StateDb::open(&dir.join("state.redb"), config, Arc::clone(&state_durable))?;
        let shared = Arc::new(Shared {
            log_dir,
            chain: config.chain_id,
            index: RwLock::new(index),
            state_durable,
            _lock: lock,
        });
        let recovered = recover_records(&shared, &tail, state.height(), !known)?;
        let safety = match &recovered.safety {
            Safety::Intact(bytes) => Some(bytes.clone()),
            Safety::Absent | Safety::Corrupt { .. } => None,
        };
        let log = LogWriter::new(
            Arc::clone(&shared),
            config,
            tail.active,
            tail.spares,
            safety,
        );
        let reader = Reader {
            shared,
            state: state.view(),
        };
        Ok((Self { log, reader, state }, recovered))
    }
}

/// Reads META. `false` when the directory is new.
fn check_meta(dir: &Path, config: &StoreConfig) -> Result<bool, StoreError> {
    let path = dir.join("META");
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            // META is written before the first record and before the state exists.
            let state = std::fs::exists(dir.join("state.redb"));
            let state = state.map_err(|e| StoreError::io("look for", dir, e))?;
            if state || log_has_records(&dir.join("log"))? {
                return Err(StoreError::corrupt(&path, 0, "the file is missing"));
            }
            return Ok(false);
        }
        Err(e) => return Err(StoreError::io("read", &path, e)),
    };
    if bytes.len() != META_LEN || &bytes[..8] != META_MAGIC {
        return Err(StoreError::corrupt(
            &path,
            0,
            "not the META file of a Falconet data directory",
        ));
    }
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4"));
    if word(8) != META_VERSION {
        return Err(StoreError::Version {
            path,
            found: word(8),
            expected: META_VERSION,
        });
    }
    let digest = |at: usize| Digest(bytes[at..at + 32].try_into().expect("32"));
    let (chain, key) = (digest(16), digest(48));
    if bytes != encode_meta(chain, key) {
        return Err(StoreError::corrupt(&path, 0, "the checksum does not match"));
    }
    if chain != config.chain_id {
        let (found, expected) = (chain, config.chain_id);
        return Err(StoreError::OtherChain {
            dir: dir.to_owned(),
            found,
            expected,
        });
    }
    if key != config.key_id {
        let (found, expected) = (key, config.key_id);
        return Err(StoreError::OtherKey {
            dir: dir.to_owned(),
            found,
            expected,
        });
    }
    Ok(true)
}

/// True unless the log is what an interrupted [`create`] leaves: at most one segment, empty.
fn log_has_records(log_dir: &Path) -> Result<bool, StoreError> {
    let unreadable = |e| StoreError::io("read", log_dir, e);
    let entries = match std::fs::read_dir(log_dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(unreadable(e)),
    };
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        let Some(number) = entry.file_name().to_str().and_then(number_of) else {
            continue;
        };
        let file = File::open(entry.path()).map_err(unreadable)?;
        let mut first = [0; FRAME_HEADER_LEN];
        let read = file.read_exact_at(&mut first, SEGMENT_HEADER_LEN as u64);
        if number != 1 || (read.is_ok() && first != [0; FRAME_HEADER_LEN]) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn encode_meta(chain: ChainId, key: Digest) -> [u8; META_LEN] {
    let mut out = [0; META_LEN];
    out[..8].copy_from_slice(META_MAGIC);
    out[8..12].copy_from_slice(&META_VERSION.to_le_bytes());
    out[16..48].copy_from_slice(chain.as_ref());
    out[48..].copy_from_slice(key.as_ref());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&out[..12]), &out[16..]);
    out[12..16].copy_from_slice(&crc.to_le_bytes());
    out
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("LOCK");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|e| StoreError::io("open", &path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(dir.to_owned())),
        Err(TryLockError::Error(e)) => Err(StoreError::io("lock", &path, e)),
    }
}

/// Makes an empty log, and META last: a crash on the way leaves a directory that counts as new.
fn create(dir: &Path, log_dir: &Path, config: &StoreConfig) -> Result<(), StoreError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(log_dir)
        .map_err(|e| StoreError::io("create", log_dir, e))?;
    Segment::create(log_dir, config.chain_id, 1, 0, config.segment_bytes, None)?;
    let path = dir.join("META");
    replace(&path, &encode_meta(config.chain_id, config.key_id))
        .map_err(|e| StoreError::io("write", &path, e))
}

/// The segment that goes on being written.
struct Tail {
    active: Active,
    records: u64,
    dropped: u64,
    spares: Vec<PathBuf>,
}

/// Reads the tables of sealed segments and walks through the last one.
fn recover_segments(
    log_dir: &Path,
    config: &StoreConfig,
    index: &mut Index,
) -> Result<Tail, StoreError> {
    let (segments, spares) = list(log_dir, config)?;
    let (last, older) = segments.split_last().expect("list() returns at least one");
    for (segment, next) in older.iter().zip(&segments[1..]) {
        let entries = old_segment(segment, next.prev_end, config)?;
        index.segments.insert(segment.number, Arc::clone(segment));
        entries
            .iter()
            .for_each(|entry| index.insert(segment.number, entry));
    }
    if last.sealed_index()?.is_some() {
        return Err(last.corrupt(
            0,
            "the segment is sealed, so a later one existed, which is missing",
        ));
    }
    let found = scan(last, None)?;
    index.segments.insert(last.number, Arc::clone(last));
    found
        .entries
        .iter()
        .for_each(|entry| index.insert(last.number, entry));
    let end = settle_tail(last, config, &found)?;
    if found.dropped > 0 {
        tracing::warn!(
            segment = %last.path.display(),
            records_kept = found.entries.len(),
            bytes_dropped = found.dropped,
            "dropped the incomplete tail of the log; no sync had confirmed it"
        );
    }
    let records = found.entries.len() as u64;
    let active = Active {
        segment: Arc::clone(last),
        end,
        entries: found.entries,
        dirty: false,
    };
    Ok(Tail {
        active,
        records,
        dropped: found.dropped,
        spares,
    })
}

/// All segments, in order, without a gap, and the files of old ones that may serve again.
fn list(
    log_dir: &Path,
    config: &StoreConfig,
) -> Result<(Vec<Arc<Segment>>, Vec<PathBuf>), StoreError> {
    let unreadable = |e| StoreError::io("list", log_dir, e);
    let delete =
        |path: &Path| std::fs::remove_file(path).map_err(|e| StoreError::io("delete", path, e));
    let mut numbers = Vec::new();
    let mut spares = Vec::new();
    for entry in std::fs::read_dir(log_dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        if let Some(number) = name.to_str().and_then(number_of) {
            numbers.push(number);
        } else if Path::new(&name).extension().is_some_and(|e| e == "tmp") {
            // A segment whose creation was interrupted: nothing was ever written to it.
            delete(&entry.path())?;
        } else if Path::new(&name).extension().is_some_and(|e| e == "old") {
            if spares.len() < SPARES_MAX {
                spares.push(entry.path());
            } else {
                delete(&entry.path())?;
            }
        }
    }
    if !spares.is_empty() {
        // Whoever gave them these names may have been killed before that was durable.
        make_names_durable(log_dir)?;
    }
    numbers.sort_unstable();
    if numbers.is_empty() {
        return Err(StoreError::corrupt(
            log_dir,
            0,
            "the log has no segments any more",
        ));
    }
    if let Some(pair) = numbers.windows(2).find(|pair| pair[1] != pair[0] + 1) {
        let what = format!("segment {} is missing", pair[0] + 1);
        return Err(StoreError::corrupt(log_dir, 0, what));
    }
    let segments = numbers
        .into_iter()
        .map(|number| Segment::open(log_dir, config.chain_id, number).map(Arc::new))
        .collect::<Result<_, _>>()?;
    Ok((segments, spares))
}

/// Entries of a segment that has a successor: from its table, or, where a crash came between the
/// two, from a walk; then it is sealed now.
fn old_segment(
    segment: &Segment,
    must_end: u64,
    config: &StoreConfig,
) -> Result<Vec<Entry>, StoreError> {
    if let Some((end, table)) = segment.sealed_index()?
        && end == must_end
        && let Ok(entries) = decode_table(&table)
    {
        return Ok(entries);
    }
    tracing::warn!(segment = %segment.path.display(), "reading a segment without an intact seal");
    let found = scan(segment, Some(must_end))?;
    assert_eq!(found.end, must_end, "scan() ends where it must");
    segment.seal(
        &*config.disk,
        must_end,
        &crate::index::encode_table(&found.entries),
    )?;
    Ok(found.entries)
}

/// Makes what was found durable and everything behind it zero. Returns where the next record
/// goes.
///
/// The records that no mark confirms are written again before the sync. They were read from the
/// page cache, and after an earlier `fdatasync` that failed the kernel holds such pages as clean,
/// so that a sync alone would report success without writing them.
fn settle_tail(segment: &Segment, config: &StoreConfig, found: &Scan) -> Result<u64, StoreError> {
    let (confirmed, end) = (found.confirmed, found.end);
    let len = segment.len()?;
    if !found.blank || len < config.segment_bytes {
        segment.reset_tail(end, config.segment_bytes.max(len))?;
    }
    if confirmed == end && found.dropped == 0 {
        return Ok(end);
    }
    let mut bytes = vec![0; usize::try_from(end - confirmed).expect("a segment fits memory")];
    segment
        .file
        .read_exact_at(&mut bytes, confirmed)
        .map_err(|e| StoreError::io("read", &segment.path, e))?;
    write_all_at(
        &*config.disk,
        &segment.file,
        &mut [io::IoSlice::new(&bytes)],
        confirmed,
    )
    .map_err(|e| StoreError::io("write", &segment.path, e))?;
    segment.sync(&*config.disk)?;
    let mark = segment.write_frame(&*config.disk, end, Kind::Sync, &segment.nonce)?;
    Ok(end + mark.framed_len())
}

fn recover_records(
    shared: &Shared,
    tail: &Tail,
    state_height: Height,
    fresh: bool,
) -> Result<Recovered, StoreError> {
    let index = shared.index.read();
    let newest = index
        .committed
        .last_key_value()
        .map(|(_, (_, location))| *location);
    let safety = index.safety;
    let committed: Option<Committed> = newest
        .map(|location| shared_value(&index, Kind::Committed, location))
        .transpose()?;
    let height = committed.as_ref().map_or(Height::ZERO, |c| c.height);
    if state_height > height {
        let what = format!(
            "the state is at height {state_height}, the log ends at committed height {height}: \
             the log is older than the state, part of it is gone"
        );
        return Err(tail.active.segment.corrupt(tail.active.end, what));
    }
    let mut headers = Vec::new();
    for (_, location) in index.headers.values().filter(|(h, _)| *h >= height) {
        headers.push(shared_value::<falconet_types::block::SignedHeader>(
            &index,
            Kind::Header,
            *location,
        )?);
    }
    headers.sort_by_key(|header| (header.height, header.epoch, header.round, header.id()));
    let from = committed
        .as_ref()
        .map_or((Epoch::ZERO, Round::ZERO), |committed| {
            let header = headers
                .iter()
                .find(|header| header.id() == committed.block_id);
            header.map_or(
                (committed.child_qc.epoch, committed.child_qc.parent_round),
                |header| (header.epoch, header.round),
            )
        });
    let qcs = index
        .qcs
        .range(from..)
        .map(|(_, at)| shared_value(&index, Kind::Qc, *at));
    let tcs = index
        .tcs
        .range(from..)
        .map(|(_, at)| shared_value(&index, Kind::Tc, *at));
    let safety = match safety {
        None => Safety::Absent,
        Some(at) => match index
            .segment(at)
            .read_frame(u64::from(at.at), Kind::Safety, at.len)
        {
            Ok(bytes) => Safety::Intact(bytes),
            Err(e @ StoreError::Corrupt { .. }) => {
                tracing::error!(error = %e, "the newest safety record is damaged");
                Safety::Corrupt { why: e.to_string() }
            }
            Err(e) => return Err(e),
        },
    };
    Ok(Recovered {
        fresh,
        safety,
        qcs: qcs.collect::<Result<_, _>>()?,
        tcs: tcs.collect::<Result<_, _>>()?,
        committed,
        headers,
        state_height,
        tail_records: tail.records,
        tail_bytes_dropped: tail.dropped,
    })
}

fn shared_value<T: falconet_types::wire::Wire>(
    index: &Index,
    kind: Kind,
    at: crate::index::Location,
) -> Result<T, StoreError> {
    let segment = index.segment(at);
    let payload = segment.read_frame(u64::from(at.at), kind, at.len)?;
    T::from_bytes(&payload).map_err(|e| {
        segment.corrupt(
            u64::from(at.at),
            format!("the record cannot be parsed: {e}"),
        )
    })
}
