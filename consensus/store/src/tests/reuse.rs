//! Files of old segments serve again, and what is left of their records never comes back.

use std::collections::BTreeSet;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use falconet_types::Height;

use super::{Block, Chain, apply, open};
use crate::frame::FRAME_HEADER_LEN;
use crate::segment::SPARES_MAX;
use crate::{Record, Safety, Store};

/// Bytes of each of a block's two batches: four blocks fill a segment.
const BATCH_BYTES: usize = 900_000;

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join("log")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect()
}

fn inode(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().ino()
}

/// Blocks that are written, executed up to the last but one, and durable.
fn grow(store: &mut Store, chain: &mut Chain, blocks: usize) -> Vec<Block> {
    let blocks: Vec<_> = (0..blocks).map(|_| chain.next()).collect();
    for block in &blocks {
        block.write(store);
        let height = block.header.height.0 - 1;
        if height > 0 {
            apply(store, height);
        }
    }
    store.state.flush().unwrap();
    blocks
}

/// A log whose active segment is in the file of an old one, behind a few records of its own.
fn reused(dir: &Path) -> (Store, Chain, Vec<Block>) {
    let (mut store, _) = open(dir);
    let mut chain = Chain::new(BATCH_BYTES);
    grow(&mut store, &mut chain, 20);
    let before: BTreeSet<_> = files(dir, "seg").iter().map(|path| inode(path)).collect();
    assert!(store.log.prune(Height(19)).unwrap().segments >= 3);
    assert!(files(dir, "old").len() >= 3);
    let newest = store.log.active.segment.number;
    let mut blocks = Vec::new();
    while store.log.active.segment.number < newest + 2 {
        blocks.extend(grow(&mut store, &mut chain, 1));
    }
    assert!(store.log.active.segment.reused);
    assert!(before.contains(&inode(&store.log.active.segment.path)));
    (store, chain, blocks)
}

#[test]
fn files_of_old_segments_serve_again_and_hold_the_new_records_only() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, mut chain, mut blocks) = reused(dir.path());
    for _ in 0..3 {
        let (end, entries) = (store.log.active.end, store.log.active.entries.len());
        drop(store);
        let recovered;
        (store, recovered) = open(dir.path());
        // The old records have the lengths of the new ones, so one of them begins at `end`.
        assert_eq!(store.log.active.end, end);
        assert_eq!(recovered.tail_records as usize, entries);
        assert_eq!(recovered.tail_bytes_dropped, 0);
        let newest = blocks.last().unwrap();
        assert_eq!(recovered.safety, Safety::Intact(newest.safety.clone()));
        blocks.iter().for_each(|block| block.assert_in(&store));
        blocks.extend(grow(&mut store, &mut chain, 5));
    }
    assert!(files(dir.path(), "old").len() < 3, "more of them were used");
}

#[test]
fn the_torn_tail_of_a_reused_file_is_dropped_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, ..) = reused(dir.path());
    let end = store.log.active.end;
    store.log.append(&Record::Safety("torn".into())).unwrap();
    store
        .log
        .append(&Record::Safety("behind it".into()))
        .unwrap();
    let file = &store.log.active.segment.file;
    file.write_all_at(b"X", end + FRAME_HEADER_LEN as u64)
        .unwrap();
    let written = store.log.active.end - end;
    drop(store);
    let (store, recovered) = open(dir.path());
    assert_eq!(recovered.tail_bytes_dropped, written);
    assert!(matches!(recovered.safety, Safety::Intact(bytes) if bytes != "behind it"));
    drop(store);
    assert_eq!(open(dir.path()).1.tail_bytes_dropped, 0);
}

#[test]
fn a_segment_that_is_being_read_keeps_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let mut chain = Chain::new(BATCH_BYTES);
    grow(&mut store, &mut chain, 20);
    let held = Arc::clone(&store.log.shared.index.read().segments[&1]);
    let ino = inode(&held.path);
    let pruned = store.log.prune(Height(19)).unwrap();
    let spares = files(dir.path(), "old");
    assert_eq!(spares.len() as u64, pruned.segments - 1);
    assert!(spares.iter().all(|path| inode(path) != ino));
    assert!(held.sealed_index().unwrap().is_some(), "it still reads");
}

#[test]
fn spares_are_bounded_and_may_be_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, mut chain, mut blocks) = reused(dir.path());
    for path in files(dir.path(), "old") {
        std::fs::remove_file(path).unwrap();
    }
    blocks.extend(grow(&mut store, &mut chain, 5 * SPARES_MAX + 20));
    blocks.iter().for_each(|block| block.assert_in(&store));
    let newest = blocks.last().unwrap().header.height;
    let pruned = store.log.prune(Height(newest.0 - 1)).unwrap();
    assert!(pruned.segments > SPARES_MAX as u64);
    assert_eq!(files(dir.path(), "old").len(), SPARES_MAX);
    drop(store);
    let one_more = dir.path().join("log/0000000000.old");
    std::fs::write(one_more, b"anything").unwrap();
    let (mut store, _) = open(dir.path());
    assert_eq!(files(dir.path(), "old").len(), SPARES_MAX);
    let blocks = grow(&mut store, &mut chain, 5 * SPARES_MAX);
    drop(store);
    let (store, _) = open(dir.path());
    blocks.iter().for_each(|block| block.assert_in(&store));
}
