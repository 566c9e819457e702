//! System calls that fail or do half of what they should.

use std::fs::File;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::{Chain, config, open};
use crate::{Disk, Record, Safety, Store, StoreConfig, StoreError, SystemDisk};

/// Fails once the counters have run out; writes at most `chunk` bytes at a time.
struct FaultyDisk {
    writes_left: AtomicI64,
    syncs_left: AtomicI64,
    chunk: usize,
}

impl FaultyDisk {
    fn config(writes: i64, syncs: i64, chunk: usize) -> (Arc<Self>, StoreConfig) {
        let disk = Arc::new(Self {
            writes_left: writes.into(),
            syncs_left: syncs.into(),
            chunk,
        });
        (Arc::clone(&disk), StoreConfig { disk, ..config() })
    }
}

fn spend(counter: &AtomicI64) -> io::Result<()> {
    if counter.fetch_sub(1, Ordering::Relaxed) > 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(
            rustix::io::Errno::IO.raw_os_error(),
        ))
    }
}

impl Disk for FaultyDisk {
    fn write_at(&self, file: &File, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        spend(&self.writes_left)?;
        let first = bufs
            .iter()
            .find(|buf| !buf.is_empty())
            .expect("something to write");
        let part = &first[..first.len().min(self.chunk)];
        SystemDisk.write_at(file, &[IoSlice::new(part)], offset)
    }
    fn sync(&self, file: &File) -> io::Result<()> {
        spend(&self.syncs_left)?;
        SystemDisk.sync(file)
    }
}

/// Opens with a healthy disk behind the faults, then sets when they begin.
fn open_faulty(dir: &Path, writes: i64, syncs: i64, chunk: usize) -> Store {
    let (disk, config) = FaultyDisk::config(1 << 40, 1 << 40, chunk);
    let (store, _) = Store::open(dir, &config).unwrap();
    disk.writes_left.store(writes, Ordering::Relaxed);
    disk.syncs_left.store(syncs, Ordering::Relaxed);
    store
}

fn assert_poisoned(store: &mut Store, cause: &str) {
    let record = Record::Safety("later".into());
    for _ in 0..2 {
        for result in [
            store.log.append(&record),
            store.log.sync(),
            store.log.prune(falconet_types::Height(0)).map(drop),
        ] {
            let error = result.unwrap_err();
            assert!(
                matches!(&error, StoreError::Poisoned { cause: c } if c == cause),
                "{error}"
            );
        }
    }
}

#[test]
fn a_failed_sync_poisons_the_store_and_the_turn_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = Chain::new(100);
    let first = chain.next();
    let mut store = open_faulty(dir.path(), 1 << 40, 1, usize::MAX);
    first.write(&mut store);
    chain.next().append(&mut store);
    let cause = store.log.sync().unwrap_err().to_string();
    assert!(
        cause.contains("sync") && cause.contains("Input/output error"),
        "{cause}"
    );
    assert_poisoned(&mut store, &cause);
    drop(store);
    // After a restart the disk is healthy again. The second turn was written, so it may be there.
    let (store, recovered) = open(dir.path());
    first.assert_in(&store);
    assert!(matches!(recovered.safety, Safety::Intact(_)));
}

#[test]
fn a_failed_write_poisons_the_store_wherever_it_happens() {
    let mut chain = Chain::new(100);
    let (first, second) = (chain.next(), chain.next());
    let mut failures = 0;
    for writes in 0..40 {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open_faulty(dir.path(), 1 << 40, 1 << 40, usize::MAX);
        first.write(&mut store);
        drop(store);
        let mut store = open_faulty(dir.path(), writes, 1 << 40, 400);
        let mut run = || -> Result<(), StoreError> {
            second
                .records()
                .iter()
                .try_for_each(|record| store.log.append(record))?;
            store.log.sync()
        };
        if let Err(error) = run() {
            failures += 1;
            assert_poisoned(&mut store, &error.to_string());
        }
        drop(store);
        let (store, recovered) = open(dir.path());
        first.assert_in(&store);
        assert!(matches!(recovered.safety, Safety::Intact(_)));
    }
    assert!(failures > 20, "only {failures} of the writes failed");
}

#[test]
fn short_writes_are_continued() {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = Chain::new(300);
    let blocks: Vec<_> = (0..3).map(|_| chain.next()).collect();
    let mut store = open_faulty(dir.path(), 1 << 40, 1 << 40, 7);
    blocks.iter().for_each(|block| block.write(&mut store));
    blocks.iter().for_each(|block| block.assert_in(&store));
    drop(store);
    let (store, recovered) = open(dir.path());
    blocks.iter().for_each(|block| block.assert_in(&store));
    assert_eq!(recovered.tail_bytes_dropped, 0);
}

#[test]
fn a_turn_costs_one_sync_and_an_empty_turn_none() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, config) = FaultyDisk::config(1 << 40, 1 << 40, usize::MAX);
    let (mut store, _) = Store::open(dir.path(), &config).unwrap();
    let before = disk.syncs_left.load(Ordering::Relaxed);
    let mut chain = Chain::new(100);
    for _ in 0..10 {
        chain.next().write(&mut store);
        store.log.sync().unwrap();
    }
    assert_eq!(before - disk.syncs_left.load(Ordering::Relaxed), 10);
}

#[test]
fn records_that_no_sync_confirmed_are_written_and_synced_again_on_opening() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    Chain::new(100).next().append(&mut store);
    let unconfirmed = store.log.active.end - crate::segment::SEGMENT_HEADER_LEN as u64;
    drop(store);
    let (disk, config) = FaultyDisk::config(1 << 40, 1 << 40, usize::MAX);
    let (store, recovered) = Store::open(dir.path(), &config).unwrap();
    assert_eq!(recovered.safety, Safety::Intact("safety 1".into()));
    assert_eq!((1 << 40) - disk.syncs_left.load(Ordering::Relaxed), 1);
    assert!(
        (1 << 40) - disk.writes_left.load(Ordering::Relaxed) >= 2,
        "{unconfirmed} bytes"
    );
    drop(store);
    // If that sync fails, the store does not open on promises that are not durable.
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    Chain::new(100).next().append(&mut store);
    drop(store);
    let (_, config) = FaultyDisk::config(1 << 40, 0, usize::MAX);
    assert!(matches!(
        Store::open(dir.path(), &config),
        Err(StoreError::Io { .. })
    ));
}
