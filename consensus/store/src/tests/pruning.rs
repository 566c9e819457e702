//! Old segments go; what is still needed stays.

use falconet_types::{Height, Seq, ValidatorIndex};

use super::{Chain, EPOCH, apply, open};
use crate::segment::number_of;
use crate::{Pruned, Record, Safety};

#[test]
fn segments_below_the_horizon_go_and_everything_above_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    let mut chain = Chain::new(600_000);
    // Held by nobody else yet, in no block: must outlive its segment.
    let pending = chain.batch(
        1,
        falconet_types::block::LaneTip {
            seq: Seq(900),
            hash: EPOCH_HASH,
        },
        1,
    );
    store.log.append(&Record::Batch(pending.clone())).unwrap();
    let blocks: Vec<_> = (0..40).map(|_| chain.next()).collect();
    blocks.iter().for_each(|block| block.write(&mut store));
    let newest = store.log.active.segment.number;
    assert!(newest >= 5);

    // The state is not durable anywhere: a restart would replay from genesis.
    (1..=39).for_each(|height| apply(&mut store, height));
    assert_eq!(store.log.prune(Height(30)).unwrap(), Pruned::default());
    store.state.flush().unwrap();

    let pruned = store.log.prune(Height(30)).unwrap();
    assert!(pruned.segments >= 3, "{pruned:?}");
    assert_eq!(pruned.carried_bytes, pending.bytes().len() as u64);
    assert_eq!(store.log.prune(Height(30)).unwrap(), Pruned::default());
    let names = std::fs::read_dir(dir.path().join("log")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let segments = names.filter(|name| number_of(name).is_some()).count() as u64;
    assert_eq!(
        segments,
        newest - pruned.segments + (store.log.active.segment.number - newest)
    );
    for _ in 0..2 {
        blocks[30..]
            .iter()
            .for_each(|block| block.assert_in(&store));
        assert!(store.reader.header_at(Height(30)).unwrap().is_some());
        assert!(store.reader.commit_proof(Height(30)).unwrap().is_some());
        assert_eq!(
            store.reader.batch(&pending.hash()).unwrap().as_ref(),
            Some(&pending)
        );
        assert_eq!(store.reader.header(&blocks[0].header.id()).unwrap(), None);
        assert_eq!(
            store.reader.batch(&blocks[0].batches[0].hash()).unwrap(),
            None
        );
        assert_eq!(
            store.reader.batch_hash_at(EPOCH, ValidatorIndex(0), Seq(1)),
            None
        );
        assert!(store.reader.heights().unwrap().0 > Height(1));
        drop(store);
        let recovered;
        (store, recovered) = open(dir.path());
        assert_eq!(recovered.safety, Safety::Intact("safety 40".into()));
        assert_eq!(recovered.committed.unwrap().height, Height(39));
        assert_eq!(recovered.headers.len(), 2);
    }
    // The log goes on.
    let next = chain.next();
    next.write(&mut store);
    next.assert_in(&store);
}

const EPOCH_HASH: falconet_types::Digest = falconet_types::Digest([0xee; 32]);

#[test]
fn the_safety_record_outlives_the_segment_in_which_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    store
        .log
        .append(&Record::Safety("written once".into()))
        .unwrap();
    let mut chain = Chain::new(900_000);
    let blocks: Vec<_> = (0..20).map(|_| chain.next()).collect();
    for block in &blocks {
        for record in block.records().iter().skip(1) {
            store.log.append(record).unwrap();
        }
        store.log.sync().unwrap();
    }
    (1..=19).for_each(|height| apply(&mut store, height));
    store.state.flush().unwrap();
    assert!(store.log.prune(Height(19)).unwrap().segments >= 2);
    drop(store);
    let (_, recovered) = open(dir.path());
    assert_eq!(recovered.safety, Safety::Intact("written once".into()));
}

#[test]
fn a_damaged_safety_record_is_not_pruned_away() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = open(dir.path());
    store
        .log
        .append(&Record::Safety("the only one".into()))
        .unwrap();
    store.log.sync().unwrap();
    drop(store);
    let path = dir.path().join("log/0000000001.seg");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[crate::segment::SEGMENT_HEADER_LEN + crate::frame::FRAME_HEADER_LEN] ^= 1;
    std::fs::write(&path, bytes).unwrap();

    let (mut store, recovered) = open(dir.path());
    assert!(matches!(recovered.safety, Safety::Corrupt { .. }));
    let mut chain = Chain::new(900_000);
    for _ in 0..20 {
        for record in chain.next().records().iter().skip(1) {
            store.log.append(record).unwrap();
        }
        store.log.sync().unwrap();
    }
    (1..=19).for_each(|height| apply(&mut store, height));
    store.state.flush().unwrap();
    assert_eq!(store.log.prune(Height(19)).unwrap(), Pruned::default());
    drop(store);
    assert!(matches!(open(dir.path()).1.safety, Safety::Corrupt { .. }));
}
