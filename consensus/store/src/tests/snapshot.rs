//! Images of the state, snapshot files, and states that come from elsewhere.

use std::ops::ControlFlow;
use std::sync::Arc;

use falconet_types::{Digest, Height};

use super::{Chain, apply, config, open, rows, tx, update};
use crate::{
    BlockRow, SNAPSHOT_BUCKETS, SnapshotDir, SnapshotFile, StateImage, StateInstaller, Store,
    StoreError, SystemFiles,
};

const CHAIN: Digest = Digest([7; 32]);

fn rows_of(image: &StateImage) -> Vec<(Digest, Vec<u8>)> {
    let mut rows = Vec::new();
    let broke: Option<()> = image
        .for_each_account(|id, row, _| {
            rows.push((id, row.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(broke, None);
    rows
}

/// The image is that of its height, although the rows changed in every block after it, and
/// blocks before it that were still being written are in it.
#[test]
fn an_image_stands_still_while_blocks_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let images = store.state.take_images();
    (1..=300).for_each(|height| apply(&mut store, height));
    let accounts = rows(&[(tx(301 % 5), &301u64.to_le_bytes())]);
    let mut at_checkpoint = update(301, &accounts, &[]);
    at_checkpoint.checkpoint = true;
    store.state.apply(&at_checkpoint).unwrap();
    (302..=900).for_each(|height| apply(&mut store, height));
    store.state.flush().unwrap();
    let image = images.recv().unwrap();
    assert_eq!(image.height(), Height(301));
    let mut expected: Vec<_> = (297..=301u64)
        .map(|h| (tx(h % 5), h.to_le_bytes().to_vec()))
        .collect();
    expected.sort();
    assert_eq!(rows_of(&image), expected);
    let first = image
        .for_each_account(|id, _, _| ControlFlow::Break(id))
        .unwrap();
    assert_eq!(first, Some(expected[0].0), "a visit may end early");
}

/// Whoever does not take images in time gets the one that waited.
#[test]
fn images_that_nobody_takes_hold_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let images = store.state.take_images();
    let none = rows(&[]);
    for height in 1..=20 {
        let mut update = update(height, &none, &[]);
        update.checkpoint = true;
        store.state.apply(&update).unwrap();
    }
    store.state.flush().unwrap();
    assert_eq!(images.recv().unwrap().height(), Height(1));
    assert!(images.try_recv().is_err());
    drop(images);
    let mut update = update(21, &none, &[]);
    update.checkpoint = true;
    store.state.apply(&update).unwrap();
    store.state.flush().unwrap();
    assert_eq!(store.state.durable_height(), Height(21));
}

fn write(dir: &SnapshotDir, height: u64, len: impl Fn(usize) -> usize) -> SnapshotFile {
    let mut writer = dir.create(Height(height)).unwrap();
    for bucket in 0..SNAPSHOT_BUCKETS {
        writer.rows(&vec![bucket as u8; len(bucket)]).unwrap();
        writer.end_bucket(tx(bucket as u64));
    }
    writer.finish(b"head").unwrap()
}

#[test]
fn a_snapshot_is_read_in_ranges_of_buckets() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(&SnapshotDir::new(dir.path(), CHAIN), 5, |bucket| bucket % 3);
    assert_eq!(file.height(), Height(5));
    assert_eq!(file.head(), b"head");
    assert_eq!(file.rows(4, 6).unwrap(), vec![4, 5, 5]);
    assert_eq!(file.rows(3, 3).unwrap(), Vec::<u8>::new());
    let last = u16::MAX;
    assert_eq!(file.rows(0, last).unwrap().len() as u64, file.rows_bytes());
    assert_eq!(file.leaves().unwrap()[77], tx(77));
    // Up to the bucket that fills it, at least one, never beyond the range.
    assert_eq!(file.fill(0, last, 3), 2);
    assert_eq!(file.fill(0, last, 4), 4);
    assert_eq!(file.fill(0, 3, 1_000), 3);
    assert_eq!(file.fill(9, 9, 0), 9);
    assert_eq!(file.fill(last, last, u64::MAX), last);
    assert_eq!(file.fill(2, 5, 1), 2);
}

#[test]
fn snapshots_are_listed_once_they_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (path, dir) = (
        dir.path().join("snapshots"),
        SnapshotDir::new(dir.path(), CHAIN),
    );
    assert_eq!(dir.heights().unwrap(), vec![]);
    for height in [512, 256] {
        write(&dir, height, |_| 0);
    }
    // As a process leaves them that is killed, and what somebody else put there.
    std::fs::write(path.join(format!("{:020}.tmp", 768)), b"half").unwrap();
    std::fs::write(path.join("768.snap"), b"of another name").unwrap();
    assert_eq!(dir.heights().unwrap(), [Height(256), Height(512)]);
    let left = std::fs::read_dir(&path).unwrap().count();
    assert_eq!(left, 3, "what was not finished is gone");
    dir.delete(Height(256)).unwrap();
    assert_eq!(dir.heights().unwrap(), [Height(512)]);
}

/// A disk that is full does not stay so because of a snapshot that did not fit.
#[test]
fn what_is_given_up_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("snapshots");
    let dir = SnapshotDir::new(dir.path(), CHAIN);
    let mut writer = dir.create(Height(768)).unwrap();
    for _ in 0..40 {
        writer.rows(&[7; 100_000]).unwrap();
    }
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 1);
    drop(writer);
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
}

#[test]
fn damage_to_anything_but_rows_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = SnapshotDir::new(dir.path(), CHAIN);
    drop(write(&snapshots, 5, |bucket| usize::from(bucket == 9)));
    let path = dir.path().join(format!("snapshots/{:020}.snap", 5));
    let whole = std::fs::read(&path).unwrap();
    let (rows, len) = (64..65, whole.len());
    for at in (0..64).chain(65..75).chain(len - 60..len).chain([len / 2]) {
        // Padding of the footer says nothing.
        if rows.contains(&at) || (len - 12..len - 8).contains(&at) {
            continue;
        }
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let opened = snapshots.open(Height(5));
        assert!(
            matches!(opened, Err(StoreError::Corrupt { .. })),
            "byte {at}"
        );
    }
    for len in [0, 63, 64, 1_000, len - 1] {
        std::fs::write(&path, &whole[..len]).unwrap();
        assert!(snapshots.open(Height(5)).is_err());
    }
    std::fs::write(&path, &whole).unwrap();
    let of_another_chain = SnapshotDir::new(dir.path(), Digest([8; 32]));
    assert!(of_another_chain.open(Height(5)).is_err());
    assert!(snapshots.open(Height(5)).is_ok());
}

/// The log is ahead of the old state; the new one stands where the log has a committed block.
#[test]
fn a_state_from_elsewhere_takes_the_place_of_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let mut chain = Chain::new(100);
    (0..=12).for_each(|_| chain.next().append(&mut store));
    store.log.sync().unwrap();
    (1..=4).for_each(|height| apply(&mut store, height));
    store.state.flush().unwrap();
    drop(store);
    let row = BlockRow {
        commitment: tx(9),
        accounts_root: tx(1),
        validators_root: tx(1),
        results: tx(2),
        receipts_root: tx(3),
        outcomes: Vec::new(),
        registry_root: None,
    };
    // Interrupted: the old state stays.
    let mut installer =
        StateInstaller::create(dir.path(), &config(), Arc::new(SystemFiles)).unwrap();
    installer.account(tx(50), b"half", None).unwrap();
    drop(installer);
    assert!(!dir.path().join("state.redb.new").exists());
    let (store, recovered) = open(dir.path());
    assert_eq!(recovered.state_height, Height(4));
    drop(store);
    let mut installer =
        StateInstaller::create(dir.path(), &config(), Arc::new(SystemFiles)).unwrap();
    for account in [60, 50] {
        let key = (account == 60).then_some(&[7; 1_793][..]);
        installer
            .account(tx(account), &[account as u8; 100], key)
            .unwrap();
    }
    let built = installer.finish(Height(9), &row).unwrap();
    built.put_in_place().unwrap();
    let (mut store, recovered): (Store, _) = open(dir.path());
    assert_eq!(recovered.state_height, Height(9));
    let mut accounts = Vec::new();
    store
        .state
        .for_each_account(|id, row, key| accounts.push((id, row.len(), key.map(<[u8]>::len))))
        .unwrap();
    let mut expected = vec![(tx(50), 100, None), (tx(60), 100, Some(1_793))];
    expected.sort();
    assert_eq!(accounts, expected);
    assert_eq!(store.reader.block_row(Height(9)).unwrap(), Some(row));
    assert_eq!(store.reader.block_row(Height(4)).unwrap(), None);
    apply(&mut store, 10);
    store.state.flush().unwrap();
    assert_eq!(store.state.durable_height(), Height(10));
}
