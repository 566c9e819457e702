//! What was written is found, before and after reopening, across segments.

use falconet_types::{Height, Round, Seq, ValidatorIndex};

use super::{Chain, EPOCH, open};
use crate::Safety;

#[test]
fn a_fresh_directory_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let (store, recovered) = open(&dir.path().join("data"));
    assert!(recovered.fresh);
    assert_eq!(recovered.safety, Safety::Absent);
    assert!(recovered.committed.is_none() && recovered.headers.is_empty());
    assert_eq!(store.reader.heights(), None);
    drop(store);
    assert!(!open(&dir.path().join("data")).1.fresh);
}

#[test]
fn records_are_found_at_once_and_after_reopening_across_segments() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let mut chain = Chain::new(600_000);
    // 24 MB in segments of 8 MiB.
    let blocks: Vec<_> = (0..20).map(|_| chain.next()).collect();
    for block in &blocks {
        block.append(&mut store);
        block.assert_in(&store);
        store.log.sync().unwrap();
    }
    assert!(store.log.active.segment.number >= 3, "the log did not roll");
    for round in 0..3 {
        drop(store);
        let recovered;
        (store, recovered) = open(dir.path());
        blocks.iter().for_each(|block| block.assert_in(&store));
        assert_eq!(recovered.tail_bytes_dropped, 0, "round {round}");
        assert_eq!(recovered.safety, Safety::Intact("safety 20".into()));
        let committed = recovered.committed.unwrap();
        assert_eq!(Some(&committed), blocks[19].committed.as_ref());
        // From the committed block upward, that one included.
        let heights: Vec<_> = recovered
            .headers
            .iter()
            .map(|header| header.height)
            .collect();
        assert_eq!(heights, [Height(19), Height(20)]);
        let rounds: Vec<_> = recovered.qcs.iter().map(|qc| qc.round).collect();
        assert_eq!(rounds, [Round(19), Round(20)]);
        assert_eq!(recovered.tcs.len(), 2);
        assert_eq!(store.reader.heights(), Some((Height(1), Height(19))));
        let above = store.reader.lane_above(EPOCH, ValidatorIndex(1), Seq(18));
        let expected: Vec<_> = blocks[18..]
            .iter()
            .map(|block| block.batches[1].tip())
            .collect();
        assert_eq!(above, expected);
    }
}

#[test]
fn records_written_after_a_reopening_follow_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut chain = Chain::new(1_000);
    let blocks: Vec<_> = (0..6).map(|_| chain.next()).collect();
    for block in &blocks {
        let (mut store, _) = open(dir.path());
        block.write(&mut store);
    }
    let (store, recovered) = open(dir.path());
    blocks.iter().for_each(|block| block.assert_in(&store));
    assert_eq!(recovered.safety, Safety::Intact("safety 6".into()));
}

#[test]
fn the_newest_batch_of_a_lane_position_wins_and_both_are_found_by_hash() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let mut chain = Chain::new(1_000);
    let block = chain.next();
    block.write(&mut store);
    let fork = chain.batch(0, Default::default(), 99);
    store
        .log
        .append(&crate::Record::Batch(fork.clone()))
        .unwrap();
    for _ in 0..2 {
        let at = store.reader.batch_hash_at(EPOCH, ValidatorIndex(0), Seq(1));
        assert_eq!(at, Some(fork.hash()));
        assert!(store.reader.has_batch(&block.batches[0].hash()));
        drop(store);
        (store, _) = open(dir.path());
    }
}
