//! The opaque application, and empty blocks.

use bytes::Bytes;
use falconet_ledger::{Application, Block, Opaque, Verdicts};
use falconet_types::receipt::{self, Outcome, StateRoots};
use falconet_types::transaction::opaque_id;
use falconet_types::{Digest, Epoch, Height};

use crate::world::*;

#[test]
fn opaque_orders_bytes_and_executes_nothing() {
    let mut lanes = Lanes::new(Digest([1; 32]));
    let txs: Vec<Bytes> = (0..5u8).map(|n| vec![n; 512].into()).collect();
    let batches = [lanes.seal(0, &txs[..2]), lanes.seal(2, &txs[2..])]
        .map(|batch| (batch.clone(), Verdicts::unknown(&batch)));
    let mut opaque = Opaque::from_genesis();
    assert_eq!(opaque.commitment(), opaque.genesis_commitment());
    assert!(opaque.view().is_none());
    let result = opaque.execute(&Block {
        height: Height(1),
        epoch: Epoch::ZERO,
        ends_epoch: false,
        time_ms: 1,
        batches: &batches,
    });
    let ids: Vec<_> = result.receipts.iter().map(|r| r.tx_id).collect();
    assert_eq!(ids, txs.iter().map(|tx| opaque_id(tx)).collect::<Vec<_>>());
    assert!(
        result
            .receipts
            .iter()
            .all(|r| r.outcome == Outcome::Executed)
    );
    assert_eq!(result.receipts[4].index, 2);
    assert!(result.changes.is_empty());
    assert_eq!(result.roots.accounts, Digest::ZERO);
    assert_eq!(result.commitment(), opaque.commitment());

    let mut restored = Opaque::restore(Height(1), result.roots.results);
    assert_eq!(restored.commitment(), opaque.commitment());
    let next = Block {
        height: Height(2),
        epoch: Epoch::ZERO,
        ends_epoch: false,
        time_ms: 2,
        batches: &[],
    };
    assert_eq!(restored.execute(&next), opaque.execute(&next));
}

#[test]
fn an_empty_block_moves_height_and_results() {
    let mut world = World::new();
    let genesis = world.ledger.commitment();
    assert_eq!(genesis, world.ledger.genesis_commitment());
    let result = world.block(2_000, &[]);
    assert!(result.receipts.is_empty() && result.changes.is_empty());
    let empty = falconet_crypto::hash::merkle::root(&[]);
    let results = receipt::fold_results(Digest::ZERO, Height(1), empty);
    let expected = StateRoots {
        receipts: empty,
        results,
        ..result.roots
    };
    assert_eq!(result.roots, expected);
    assert_eq!(result.commitment(), world.ledger.commitment());
    assert_ne!(result.commitment(), genesis);
    assert_eq!(world.ledger.genesis_commitment(), genesis, "genesis stays");
}
