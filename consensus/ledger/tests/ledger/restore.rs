//! A ledger built again from stored rows is the ledger that wrote them.

use std::collections::BTreeMap;

use bytes::Bytes;
use falconet_ledger::{Account, Application, Block, BlockResult, Ledger, RestoreError, Verdicts};
use falconet_types::receipt::Outcome::*;
use falconet_types::stake::RowId;
use falconet_types::wire::Wire;
use falconet_types::{AccountId, Digest, Epoch, Height, PublicKey};

use crate::world::*;

/// What a store keeps of accounts.
struct Stored {
    rows: BTreeMap<AccountId, Vec<u8>>,
    keys: Vec<(AccountId, PublicKey)>,
}

/// Two blocks that touch some accounts, create one and register a key; what a store would keep.
fn run() -> (World, Stored, BlockResult) {
    let mut world = World::new();
    let chain_id = world.chain_id;
    let (mut rows, mut keys) = (BTreeMap::new(), Vec::new());
    let to_new = sign(
        &transfer(chain_id, &key(0), account_of(&key(9)), 3),
        &key(0),
    );
    let register = sign(&registration(chain_id, &key(2), 900), &key(2));
    let mut last = None;
    for txs in [[to_new], [register]] {
        let result = world.block(2_000, &[&txs]);
        assert_eq!(outcomes(&result), [Executed]);
        rows.extend(
            result
                .changes
                .iter()
                .map(|(id, account)| (*id, account.to_bytes())),
        );
        keys.extend(result.keys.iter().cloned());
        last = Some(result);
    }
    (world, Stored { rows, keys }, last.unwrap())
}

fn decoded(stored: &Stored) -> Vec<(AccountId, Account)> {
    stored
        .rows
        .iter()
        .map(|(id, row)| (*id, Account::from_bytes(row).unwrap()))
        .collect()
}

fn registry(world: &World) -> impl Iterator<Item = (RowId, Bytes)> {
    let rows: Vec<_> = world.ledger.view().unwrap().registry().rows().collect();
    rows.into_iter()
}

#[test]
fn restored_is_live() {
    let (mut world, stored, last) = run();
    assert_eq!(
        stored.rows.len(),
        3,
        "key 1 was never written: it comes from genesis"
    );
    let mut restored = Ledger::restore(
        &world.genesis,
        Height(2),
        last.roots.results,
        decoded(&stored).into_iter(),
        stored.keys.into_iter(),
        registry(&world),
    )
    .unwrap();
    assert_eq!(restored.height(), world.height());
    assert_eq!(restored.commitment(), world.ledger.commitment());
    assert_eq!(restored.commitment(), last.commitment());
    assert_eq!(
        restored.genesis_commitment(),
        world.ledger.genesis_commitment()
    );
    assert_eq!(restored.view().unwrap().burned(), 2 * FEE_MIN);

    let again = sign(&transfer(world.chain_id, &key(0), Digest::ZERO, 3), &key(0));
    let fresh = sign(
        &transfer(world.chain_id, &key(2), Digest::ZERO, 901),
        &key(2),
    );
    let batch = world.lanes.seal(0, &[again, fresh]);
    let batches = [(batch.clone(), Verdicts::unknown(&batch))];
    let block = Block {
        height: Height(3),
        epoch: Epoch::ZERO,
        ends_epoch: false,
        time_ms: 3_000,
        batches: &batches,
    };
    let result = restored.execute(&block);
    assert_eq!(outcomes(&result), [Replayed, Executed]);
    assert_eq!(result, world.ledger.execute(&block));
}

#[test]
fn rows_that_are_no_state_of_the_chain_are_refused() {
    let (world, stored, last) = run();
    let restore = |rows: Vec<(AccountId, Account)>, keys: &[(AccountId, PublicKey)]| {
        Ledger::restore(
            &world.genesis,
            Height(2),
            last.roots.results,
            rows.into_iter(),
            keys.iter().cloned(),
            registry(&world),
        )
        .map(|_| ())
        .unwrap_err()
    };
    let good = decoded(&stored);
    let keys = &stored.keys[..];
    let late = account_of(&key(2));

    let mut twice = good.clone();
    twice.push(good[0]);
    assert_eq!(restore(twice, keys), RestoreError::Twice(good[0].0));

    let other_key = [(late, key(77).public().clone())];
    assert_eq!(restore(good.clone(), &other_key), RestoreError::Key(late));
    let of_nobody = [
        keys[0].clone(),
        (account_of(&key(77)), other_key[0].1.clone()),
    ];
    assert_eq!(
        restore(good.clone(), &of_nobody),
        RestoreError::Key(of_nobody[1].0)
    );
    assert_eq!(restore(good.clone(), &[]), RestoreError::NoKey(late));
    let mut without = good.clone();
    without
        .iter_mut()
        .for_each(|(_, account)| account.scheme = None);
    assert!(matches!(restore(without, keys), RestoreError::Key(_)));

    let mut inflated = good.clone();
    inflated[0].1.balance += 3 * RICH + 3_000;
    assert_eq!(
        restore(inflated, keys),
        RestoreError::Supply {
            supply: 3 * RICH + 3_000
        }
    );
}

#[test]
fn a_changed_row_leads_to_another_commitment() {
    let (world, stored, last) = run();
    let with = |change: fn(&mut Account)| {
        let mut rows = decoded(&stored);
        let at = rows
            .iter()
            .position(|(id, _)| *id == account_of(&key(2)))
            .unwrap();
        change(&mut rows[at].1);
        let registered = rows[at].1.scheme.is_some();
        let keys = stored.keys.iter().filter(|_| registered).cloned();
        Ledger::restore(
            &world.genesis,
            Height(2),
            last.roots.results,
            rows.into_iter(),
            keys,
            registry(&world),
        )
        .unwrap()
        .commitment()
    };
    let live = world.ledger.commitment();
    assert_eq!(with(|_| ()), live);
    let mut seen = vec![live];
    for change in [
        (|a| a.balance -= 1) as fn(&mut Account),
        |a| a.nonces.mark(899),
        |a| a.nonces.mark(901),
        |a| a.scheme = None,
    ] {
        seen.push(with(change));
    }
    for (height, results) in [(3, last.roots.results), (2, Digest([1; 32]))] {
        let other = Ledger::restore(
            &world.genesis,
            Height(height),
            results,
            decoded(&stored).into_iter(),
            stored.keys.iter().cloned(),
            registry(&world),
        );
        seen.push(other.unwrap().commitment());
    }
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), count, "two different states share a commitment");
}

#[test]
fn every_truncation_of_a_row_is_refused() {
    let (_, stored, _) = run();
    for row in stored.rows.values() {
        for len in 0..row.len() {
            assert!(Account::from_bytes(&row[..len]).is_err(), "{len} bytes");
        }
        let longer = [row.as_slice(), &[0]].concat();
        assert!(Account::from_bytes(&longer).is_err());
    }
}

#[test]
#[should_panic(expected = "blocks are executed in height order")]
fn a_skipped_height_is_a_bug() {
    World::new().ledger.execute(&Block {
        height: Height(2),
        epoch: Epoch::ZERO,
        ends_epoch: false,
        time_ms: 1,
        batches: &[],
    });
}
