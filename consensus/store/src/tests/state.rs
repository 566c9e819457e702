//! The state: whole heights, rows visible at once, durable in steps, rebuilt after a crash.

use bytes::Bytes;
use falconet_types::Height;
use falconet_types::receipt::Outcome;

use super::{Chain, apply, config, copy_dir, open, receipt, rows, tx, update};
use crate::{BUCKET_HEIGHTS, Store, StoreConfig, StoreError};

/// Commits of `blocks` heights, so that the log is ahead of any state up to there.
fn commit(store: &mut Store, blocks: u64) {
    let mut chain = Chain::new(100);
    for _ in 0..=blocks {
        chain.next().append(store);
    }
    store.log.sync().unwrap();
}

#[test]
fn rows_are_visible_at_once_and_after_a_flush_and_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    commit(&mut store, 12);
    (1..=12).for_each(|height| apply(&mut store, height));
    for durable in [false, true] {
        assert_eq!(store.state.height(), Height(12));
        for height in 1..=12 {
            let found = store
                .reader
                .tx_location(&tx(1_000 + height))
                .unwrap()
                .unwrap();
            assert_eq!(
                (found.height, found.outcome),
                (Height(height), Outcome::Executed)
            );
            let row = store.reader.block_row(Height(height)).unwrap().unwrap();
            assert_eq!(row.commitment, tx(height));
            assert_eq!(row.outcomes, [Outcome::Executed]);
        }
        assert_eq!(store.reader.tx_location(&tx(7)).unwrap(), None);
        assert_eq!(store.reader.block_row(Height(13)).unwrap(), None);
        if !durable {
            store.state.flush().unwrap();
            assert_eq!(store.state.durable_height(), Height(12));
            drop(store);
            let recovered;
            (store, recovered) = open(dir.path());
            assert_eq!(recovered.state_height, Height(12));
            let mut accounts = Vec::new();
            store
                .state
                .for_each_account(|id, row, _| accounts.push((id, row.to_vec())))
                .unwrap();
            assert!(accounts.is_sorted_by(|a, b| a.0 < b.0));
            let mut expected: Vec<_> = (8..=12u64)
                .map(|h| (tx(h % 5), h.to_le_bytes().to_vec()))
                .collect();
            expected.sort();
            assert_eq!(accounts, expected);
        }
    }
}

#[test]
fn a_crash_takes_the_state_back_to_a_whole_height_and_the_rest_can_be_applied_again() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig {
        state_flush_blocks: 4,
        ..config()
    };
    let (mut store, _) = Store::open(dir.path(), &config).unwrap();
    commit(&mut store, 30);
    (1..=10).for_each(|height| apply(&mut store, height));
    store.state.flush().unwrap();
    (11..=13).for_each(|height| apply(&mut store, height));
    let crashed = tempfile::tempdir().unwrap();
    copy_dir(dir.path(), crashed.path());
    let (mut store, recovered) = Store::open(crashed.path(), &config).unwrap();
    assert_eq!(recovered.state_height, Height(10));
    assert_eq!(store.state.durable_height(), Height(10));
    assert_eq!(store.reader.block_row(Height(11)).unwrap(), None);
    (11..=30).for_each(|height| apply(&mut store, height));
    store.state.flush().unwrap();
    assert!(store.reader.block_row(Height(30)).unwrap().is_some());
}

#[test]
fn a_height_that_does_not_follow_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    apply(&mut store, 1);
    for height in [0, 1, 3] {
        let error = store
            .state
            .apply(&update(height, &rows(&[]), &[]))
            .unwrap_err();
        assert!(
            matches!(error, StoreError::StateHeight { at: Height(1), .. }),
            "{error}"
        );
    }
}

#[test]
fn a_replay_does_not_hide_where_a_transaction_was_executed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    commit(&mut store, 10);
    let id = tx(77);
    let steps = [
        (Outcome::InsufficientFunds, 1),
        (Outcome::Expired, 2),
        (Outcome::Executed, 3),
        (Outcome::Replayed, 3),
        (Outcome::Replayed, 3),
    ];
    // With everything in memory, and with each block in the file.
    for flush in [false, true] {
        for (height, (outcome, expected)) in (1..).zip(steps) {
            let height = height + if flush { steps.len() as u64 } else { 0 };
            let id = if flush { tx(78) } else { id };
            let expected = expected + if flush { steps.len() as u64 } else { 0 };
            store
                .state
                .apply(&update(height, &rows(&[]), &[receipt(id, height, outcome)]))
                .unwrap();
            if flush {
                store.state.flush().unwrap();
            }
            let found = store.reader.tx_location(&id).unwrap().unwrap();
            assert_eq!(found.height, Height(expected));
        }
    }
}

/// Keys are written once, whatever becomes of the rows, and come with them.
#[test]
fn keys_stay_beside_the_rows() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    commit(&mut store, 3);
    let key = Bytes::from_static(b"a long key");
    let keys = [(tx(2), key.clone())];
    let first = rows(&[(tx(1), b"a"), (tx(2), b"bb"), (tx(3), b"c")]);
    let mut registering = update(1, &first, &[]);
    registering.keys = &keys;
    store.state.apply(&registering).unwrap();
    // A longer row, a shorter one, in the same step and in the next.
    for (height, row) in [(2, &b"bbb"[..]), (3, b"")] {
        let rows = rows(&[(tx(2), row)]);
        store.state.apply(&update(height, &rows, &[])).unwrap();
        if height == 2 {
            store.state.flush().unwrap();
        }
    }
    store.state.flush().unwrap();
    let mut found = Vec::new();
    store
        .state
        .for_each_account(|id, row, key| found.push((id, row.to_vec(), key.map(<[u8]>::to_vec))))
        .unwrap();
    let mut expected = vec![
        (tx(1), b"a".to_vec(), None),
        (tx(2), Vec::new(), Some(key.to_vec())),
        (tx(3), b"c".to_vec(), None),
    ];
    expected.sort();
    assert_eq!(found, expected);
}

/// Steps of all lengths leave few runs, and every transaction is found in them.
#[test]
fn short_runs_are_merged() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let mut next = 0;
    for height in 1..=200u64 {
        let receipts: Vec<_> = (0..height % 7 * 40)
            .map(|i| receipt(tx(next + i), height, Outcome::Executed))
            .collect();
        next += receipts.len() as u64;
        let none = rows(&[]);
        let update = update(height, &none, &receipts);
        store.state.apply(&update).unwrap();
        store.state.flush().unwrap();
    }
    let runs = store.state.runs().unwrap();
    assert!(runs.len() <= 16, "{runs:?}");
    assert_eq!(runs.iter().map(|(_, len)| len).sum::<u64>(), next);
    let mut at = 0;
    for height in 1..=200u64 {
        for _ in 0..height % 7 * 40 {
            let found = store.reader.tx_location(&tx(at)).unwrap();
            assert_eq!(found.map(|found| found.height), Some(Height(height)));
            at += 1;
        }
    }
    assert_eq!(store.reader.tx_location(&tx(next)).unwrap(), None);
}

#[test]
fn another_format_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path());
    drop(store);
    let path = dir.path().join("state.redb");
    let db = redb::Database::open(&path).unwrap();
    let tx = db.begin_write().unwrap();
    // The first format did not say its number.
    let meta = redb::TableDefinition::<&str, &[u8]>::new("meta");
    tx.open_table(meta).unwrap().remove("format").unwrap();
    tx.commit().unwrap();
    drop(db);
    let error = Store::open(dir.path(), &config()).map(drop).unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::StateFormat {
                found: 1,
                expected: 2,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn pruning_drops_blocks_and_whole_buckets_of_transactions() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let last = 2 * BUCKET_HEIGHTS + 10;
    (1..=last).for_each(|height| apply(&mut store, height));
    store.state.prune(Height(BUCKET_HEIGHTS + 5));
    store.state.flush().unwrap();
    let has_tx = |height: u64| {
        store
            .reader
            .tx_location(&tx(1_000 + height))
            .unwrap()
            .is_some()
    };
    assert!(!has_tx(1) && !has_tx(BUCKET_HEIGHTS - 1));
    assert!(has_tx(BUCKET_HEIGHTS) && has_tx(last));
    let has_block = |height| store.reader.block_row(Height(height)).unwrap().is_some();
    assert!(!has_block(1) && !has_block(BUCKET_HEIGHTS + 4));
    assert!(has_block(BUCKET_HEIGHTS + 5) && has_block(last));
}
