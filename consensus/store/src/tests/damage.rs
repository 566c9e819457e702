//! A log after a crash, and a log on a bad medium: which is recovered, which is refused.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::{Chain, config, copy_dir, open};
use crate::frame::{FRAME_HEADER_LEN, Frame, framed_len};
use crate::index::{Entry, Key};
use crate::record::Kind;
use crate::scan::{MARK_LEN, Scan, scan, walk};
use crate::segment::{SEGMENT_HEADER_LEN, Segment};
use crate::{Safety, Store, StoreError};

/// Three synced turns and one that was not, in one small segment file.
struct Log {
    dir: tempfile::TempDir,
    segment: Segment,
    bytes: Vec<u8>,
    whole: Scan,
}

impl Log {
    fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, _) = open(dir.path());
        let mut chain = Chain::new(500);
        for _ in 0..3 {
            chain.next().write(&mut store);
        }
        chain.next().append(&mut store);
        let end = store.log.active.end;
        drop(store);
        let log_dir = dir.path().join("log");
        let mut bytes = std::fs::read(segment_path(dir.path())).unwrap();
        // Some of the reserved space: scanning all of it each time would only cost time.
        bytes.truncate(end as usize + 4_096);
        std::fs::write(segment_path(dir.path()), &bytes).unwrap();
        let segment = Segment::open(&log_dir, super::CHAIN, 1).unwrap();
        let whole = scan(&segment, None).unwrap();
        assert_eq!(whole.end, end);
        assert!(whole.confirmed < end);
        Self {
            dir,
            segment,
            bytes,
            whole,
        }
    }

    /// What a walk through these bytes in place of the file finds.
    fn walk(&self, bytes: &[u8]) -> Result<Scan, StoreError> {
        walk(&self.segment, bytes, None)
    }

    /// The records that are whole when everything from `cut` on is gone, or is zero now.
    fn records_before(&self, cut: u64, zeros: bool) -> usize {
        let whole = |e: &&Entry| {
            let end = u64::from(e.at) + FRAME_HEADER_LEN as u64 + u64::from(e.len);
            // Signatures end with zeros, so zeros may be what was there.
            let gone = &self.bytes[cut.min(end) as usize..end as usize];
            end <= cut || zeros && u64::from(e.at) < cut && gone.iter().all(|b| *b == 0)
        };
        self.whole.entries.iter().filter(whole).count()
    }

    fn ends_in_padding_of_a_record(&self, at: u64) -> bool {
        self.whole.entries.iter().any(|e| {
            let payload_end = u64::from(e.at) + FRAME_HEADER_LEN as u64 + u64::from(e.len);
            (payload_end..u64::from(e.at) + framed_len(e.len as usize)).contains(&at)
        })
    }
}

fn segment_path(dir: &Path) -> PathBuf {
    dir.join("log/0000000001.seg")
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

#[test]
fn a_log_cut_at_any_byte_is_recovered_to_the_last_complete_record() {
    let log = Log::make();
    let mut zeroed = log.bytes.clone();
    for cut in (SEGMENT_HEADER_LEN as u64..=log.whole.end).rev() {
        // Once cut off, once with zeros where the system had reserved space.
        zeroed[cut as usize..].fill(0);
        for (zeros, bytes) in [(false, &log.bytes[..cut as usize]), (true, &zeroed[..])] {
            let found = log.walk(bytes).unwrap();
            let n = log.records_before(cut, zeros);
            assert_eq!(
                found.entries,
                log.whole.entries[..n],
                "cut at {cut}, zeros {zeros}"
            );
            assert!(found.end <= cut.next_multiple_of(8) || zeros);
        }
    }
}

#[test]
fn a_directory_cut_around_each_record_opens_with_the_records_before() {
    let log = Log::make();
    let path = segment_path(log.dir.path());
    for entry in log.whole.entries.iter().rev() {
        let start = u64::from(entry.at);
        for cut in [start + FRAME_HEADER_LEN as u64 + 5, start + 1, start] {
            std::fs::write(&path, &log.bytes[..cut as usize]).unwrap();
            let (_, recovered) = open(log.dir.path());
            assert_eq!(
                recovered.tail_records as usize,
                log.records_before(cut, false)
            );
            // Opening repaired it: nothing is dropped twice.
            assert_eq!(open(log.dir.path()).1.tail_bytes_dropped, 0);
        }
    }
}

#[test]
fn any_flipped_byte_behind_the_last_sync_mark_is_a_torn_tail() {
    let log = Log::make();
    let mut bytes = log.bytes.clone();
    for at in log.whole.confirmed..log.whole.end {
        bytes[at as usize] ^= 0x10;
        let found = log.walk(&bytes).unwrap();
        let mut n = log
            .whole
            .entries
            .iter()
            .filter(|e| u64::from(e.at) <= at)
            .count()
            - 1;
        if log.ends_in_padding_of_a_record(at) {
            n = log.whole.entries.len();
        }
        assert_eq!(found.entries, log.whole.entries[..n], "flip at {at}");
        assert!(n == log.whole.entries.len() || found.dropped > 0);
        bytes[at as usize] ^= 0x10;
    }
}

#[test]
fn any_flipped_byte_of_what_was_durable_is_refused_or_found_in_a_safety_record() {
    let log = Log::make();
    let mut bytes = log.bytes.clone();
    let mark_at = log.whole.confirmed - framed_len(MARK_LEN);
    let (mut refused, mut in_safety) = (0, 0);
    for at in SEGMENT_HEADER_LEN as u64..mark_at {
        bytes[at as usize] ^= 0x10;
        match log.walk(&bytes) {
            Err(StoreError::Corrupt { path, offset, .. }) => {
                assert_eq!(path, segment_path(log.dir.path()));
                assert!(
                    offset <= at && at < offset + (1 << 12),
                    "flip at {at}, named {offset}"
                );
                refused += 1;
            }
            Err(other) => panic!("flip at {at}: {other}"),
            Ok(found) => {
                // Nothing may be missing: either padding, or the payload of a safety record.
                assert_eq!(found, log.whole, "flip at {at}");
                let hit = log.whole.entries.iter().any(|e| {
                    let payload = u64::from(e.at) + FRAME_HEADER_LEN as u64;
                    e.key == Key::Safety && (payload..payload + u64::from(e.len)).contains(&at)
                });
                assert!(
                    hit || log.ends_in_padding_of_a_record(at),
                    "flip at {at} went unnoticed"
                );
                in_safety += u64::from(hit);
            }
        }
        bytes[at as usize] ^= 0x10;
    }
    assert!(refused > 1_000 && in_safety > 10);
}

#[test]
fn a_torn_tail_leaves_nothing_that_could_come_back() {
    let log = Log::make();
    // The first record of the turn that was not synced is torn, those behind it are whole.
    flip(&segment_path(log.dir.path()), log.whole.confirmed + 20);
    let (mut store, recovered) = open(log.dir.path());
    assert!(recovered.tail_bytes_dropped > 0);
    assert_eq!(recovered.safety, Safety::Intact("safety 3".into()));
    assert_eq!(
        store.log.active.segment.len().unwrap(),
        config().segment_bytes
    );
    // What is written now ends where an old record began; the old one must be gone.
    let block = Chain::new(500).next();
    store.log.append(&block.records()[0]).unwrap();
    store.log.sync().unwrap();
    let records = store.log.active.entries.len();
    drop(store);
    let (_, recovered) = open(log.dir.path());
    assert_eq!(recovered.tail_records, records as u64);
    assert_eq!(recovered.safety, Safety::Intact("safety 1".into()));
}

#[test]
fn damage_in_the_middle_is_refused_with_file_offset_and_remedy() {
    let log = Log::make();
    let path = segment_path(log.dir.path());
    let header = log
        .whole
        .entries
        .iter()
        .find(|e| matches!(e.key, Key::Header { .. }))
        .unwrap();
    flip(&path, u64::from(header.at) + 100);
    let before = std::fs::read(&path).unwrap();
    let error = Store::open(log.dir.path(), &config())
        .unwrap_err()
        .to_string();
    assert!(error.contains("0000000001.seg"), "{error}");
    assert!(error.contains(&format!("at byte {}", header.at)), "{error}");
    assert!(error.contains("restore the data directory"), "{error}");
    assert_eq!(
        std::fs::read(&path).unwrap(),
        before,
        "a refused log must not change"
    );
}

#[test]
fn a_damaged_newest_safety_record_is_reported_and_an_older_one_does_not_matter() {
    let log = Log::make();
    let safeties: Vec<_> = log
        .whole
        .entries
        .iter()
        .filter(|e| e.key == Key::Safety)
        .collect();
    let payload = |i: usize| u64::from(safeties[i].at) + FRAME_HEADER_LEN as u64;
    let path = segment_path(log.dir.path());
    // The turn that was not synced never happened.
    OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(log.whole.confirmed)
        .unwrap();
    let bytes = std::fs::read(&path).unwrap();

    flip(&path, payload(1));
    let (store, recovered) = open(log.dir.path());
    assert_eq!(recovered.safety, Safety::Intact("safety 3".into()));
    drop(store);

    std::fs::write(&path, &bytes).unwrap();
    flip(&path, payload(2));
    for _ in 0..2 {
        let (store, recovered) = open(log.dir.path());
        let Safety::Corrupt { why } = recovered.safety else {
            panic!("{:?}", recovered.safety);
        };
        assert!(
            why.contains("0000000001.seg") && why.contains("Safety"),
            "{why}"
        );
        assert_eq!(recovered.headers.len(), 2, "the rest is there");
        drop(store);
    }
}

#[test]
fn a_torn_safety_record_in_the_tail_gives_the_one_before() {
    let log = Log::make();
    let last = log
        .whole
        .entries
        .iter()
        .rfind(|e| e.key == Key::Safety)
        .unwrap();
    assert!(u64::from(last.at) >= log.whole.confirmed);
    flip(
        &segment_path(log.dir.path()),
        u64::from(last.at) + FRAME_HEADER_LEN as u64,
    );
    let (_, recovered) = open(log.dir.path());
    assert_eq!(recovered.safety, Safety::Intact("safety 3".into()));
}

#[test]
fn bytes_of_a_peer_cannot_imitate_a_sync_mark() {
    let log = Log::make();
    let mark = framed_len(MARK_LEN) as usize;
    let old = log.whole.confirmed as usize - mark;
    let to = log.whole.end as usize + 64;
    let mut bytes = log.bytes.clone();
    bytes[log.whole.confirmed as usize + 20] ^= 1;
    // A whole mark, at another offset than its own.
    bytes.copy_within(old..old + mark, to);
    assert_eq!(log.walk(&bytes).unwrap().end, log.whole.confirmed);
    // The same made for this very offset, by someone who does not know the nonce.
    let nonce = [0x77; 16];
    bytes[to + 16..to + 32].copy_from_slice(&nonce);
    let header = Frame::for_payload(Kind::Sync, &nonce).encode(&nonce, to as u64);
    bytes[to..to + 16].copy_from_slice(&header);
    assert_eq!(log.walk(&bytes).unwrap().end, log.whole.confirmed);
    // With the nonce it is one: what precedes it must have been durable.
    let nonce = log.segment.nonce;
    bytes[to + 16..to + 32].copy_from_slice(&nonce);
    let header = Frame::for_payload(Kind::Sync, &nonce).encode(&nonce, to as u64);
    bytes[to..to + 16].copy_from_slice(&header);
    assert!(matches!(log.walk(&bytes), Err(StoreError::Corrupt { .. })));
}

/// A log of several segments; the paths of their files.
fn segments() -> (tempfile::TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let mut chain = Chain::new(900_000);
    while store.log.active.segment.number < 4 {
        chain.next().write(&mut store);
    }
    drop(store);
    let path = |n| dir.path().join(format!("log/{n:010}.seg"));
    let paths = (1..=4).map(path).collect();
    (dir, paths)
}

#[test]
fn a_segment_without_its_seal_is_read_in_full_and_sealed_again() {
    let (dir, paths) = segments();
    let sealed = std::fs::read(&paths[2]).unwrap();
    // The crash came after the next segment was made and before this one was sealed.
    let end = Segment::open(&dir.path().join("log"), super::CHAIN, 4)
        .unwrap()
        .prev_end;
    let file = OpenOptions::new().write(true).open(&paths[2]).unwrap();
    file.set_len(end).unwrap();
    file.set_len(config().segment_bytes).unwrap();
    drop(open(dir.path()));
    assert_eq!(std::fs::read(&paths[2]).unwrap(), sealed);

    // Without its seal, damage inside it is found at once.
    file.set_len(end).unwrap();
    flip(&paths[2], 5_000);
    let error = Store::open(dir.path(), &config()).unwrap_err();
    assert!(
        matches!(error, StoreError::Corrupt { ref path, .. } if *path == paths[2]),
        "{error}"
    );
}

#[test]
fn damage_in_a_sealed_segment_is_found_when_the_record_is_read() {
    let (dir, paths) = segments();
    let (store, _) = open(dir.path());
    let tip = store.reader.lane_above(
        super::EPOCH,
        falconet_types::ValidatorIndex(0),
        falconet_types::Seq(0),
    )[0];
    assert!(store.reader.batch(&tip.hash).unwrap().is_some());
    flip(&paths[0], 50_000);
    let error = store.reader.batch(&tip.hash).unwrap_err();
    assert!(
        matches!(error, StoreError::Corrupt { ref path, .. } if *path == paths[0]),
        "{error}"
    );
}

#[test]
fn a_missing_segment_is_refused_wherever_it_was() {
    let (dir, paths) = segments();
    for gone in [1, 3] {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());
        std::fs::remove_file(
            copy.path()
                .join("log")
                .join(paths[gone].file_name().unwrap()),
        )
        .unwrap();
        let error = Store::open(copy.path(), &config()).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains("missing"), "{error}");
    }
}

#[test]
fn a_log_older_than_the_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let mut chain = Chain::new(100);
    for _ in 0..3 {
        chain.next().write(&mut store);
    }
    let older = std::fs::read(segment_path(dir.path())).unwrap();
    for _ in 0..3 {
        chain.next().write(&mut store);
    }
    (1..=5).for_each(|height| super::apply(&mut store, height));
    store.state.flush().unwrap();
    drop(store);
    drop(open(dir.path()));
    std::fs::write(segment_path(dir.path()), older).unwrap();
    let error = Store::open(dir.path(), &config()).unwrap_err().to_string();
    assert!(error.contains("the log is older than the state"), "{error}");
}
