//! What the verify stage knew, or did not know in time, never changes a result.

use bytes::Bytes;
use falconet_ledger::{Application, Block, Ledger, Verdict, Verdicts};
use falconet_types::Digest;
use falconet_types::batch::Batch;
use falconet_types::receipt::Outcome::*;
use falconet_types::{Epoch, TxId};

use crate::world::*;

/// A block in which every kind of signature occurs, with the truth about each.
fn mixed(world: &mut World) -> (Batch, Vec<Verdict>) {
    let chain_id = world.chain_id;
    let tx = |n: u8, nonce| sign(&transfer(chain_id, &key(n), Digest::ZERO, nonce), &key(n));
    let register = sign(&registration(chain_id, &key(2), 1), &key(2));
    let (valid, invalid, unknown) = (Verdict::Valid, Verdict::Invalid, Verdict::Unknown);
    let entries = [
        (tx(0, 1), valid),
        (break_signature(&tx(0, 2)), invalid),
        (tx(2, 2), valid), // before the registration: refused, valid or not
        (break_signature(&register), invalid),
        (register, valid),
        (tx(2, 3), valid),
        (break_signature(&tx(2, 4)), invalid),
        (tx(9, 1), valid),
        (Bytes::from(vec![1; 80]), unknown),
    ];
    let (txs, truth): (Vec<Bytes>, Vec<Verdict>) = entries.into_iter().unzip();
    (world.lanes.seal(0, &txs), truth)
}

#[test]
fn every_subset_of_verdicts_gives_the_same_result() {
    let mut world = World::new();
    let (batch, truth) = mixed(&mut world);
    let run = |verdicts: Verdicts| {
        let mut ledger = Ledger::from_genesis(&world.genesis);
        let batches = [(batch.clone(), verdicts)];
        ledger.execute(&Block {
            height: ledger.height().next(),
            epoch: Epoch::ZERO,
            ends_epoch: false,
            time_ms: 2_000,
            batches: &batches,
        })
    };
    let all_known = run(Verdicts::new(truth.clone()));
    let expected = [
        Executed,
        BadSignature,
        UnknownKey,
        BadSignature,
        Executed,
        Executed,
        BadSignature,
        UnknownSender,
        Malformed,
    ];
    assert_eq!(outcomes(&all_known), expected);
    for subset in 0u32..1 << truth.len() {
        let verdicts = (0u32..).zip(&truth).map(|(i, verdict)| {
            if subset >> i & 1 == 1 {
                *verdict
            } else {
                Verdict::Unknown
            }
        });
        let verdicts = Verdicts::new(verdicts.collect());
        assert_eq!(run(verdicts), all_known, "subset {subset:b}");
    }
    // Ids that somebody has worked out are taken, but for what is no transaction.
    let mut ids: Vec<_> = all_known.receipts.iter().map(|r| r.tx_id).collect();
    *ids.last_mut().unwrap() = TxId::ZERO;
    assert_eq!(run(Verdicts::with_ids(truth, ids)), all_known);
}

#[test]
fn the_view_prepares_registered_keys_only() {
    let mut world = World::new();
    let view = world.ledger.view().unwrap();
    assert!(view.prepared_key(&account_of(&key(0))).is_some());
    assert!(view.prepared_key(&account_of(&key(2))).is_none());
    assert!(view.prepared_key(&account_of(&key(9))).is_none());
    let register = sign(&registration(world.chain_id, &key(2), 1), &key(2));
    assert_eq!(world.outcomes(&[register]), [Executed]);
    let prepared = view.prepared_key(&account_of(&key(2))).unwrap();
    let signature = key(2).sign(b"message");
    assert!(falconet_crypto::falcon::verify(
        &prepared,
        b"message",
        signature.as_bytes()
    ));
}
