//! Parts of a state and their proofs.

use std::sync::OnceLock;

use falconet_ledger::snapshot::{
    BUCKET_COUNT, ChunkError, LeafBuilder, LeafTree, bucket_of, put_row, split_row, verify_chunk,
};
use falconet_ledger::{Account, Application, Ledger};
use falconet_types::Digest;
use falconet_types::wire::Wire;
use proptest::prelude::*;

use crate::world;

fn rows(accounts: u64) -> Vec<(Digest, Vec<u8>)> {
    let mut rows: Vec<_> = (0..accounts)
        .map(|i| {
            let id = falconet_crypto::hash::hash("test", &[&i.to_le_bytes()]);
            let account = Account {
                balance: i,
                ..Account::default()
            };
            (id, account.to_bytes())
        })
        .collect();
    rows.sort();
    rows
}

fn tree(rows: &[(Digest, Vec<u8>)]) -> LeafTree {
    let mut builders: Vec<LeafBuilder> = Vec::new();
    builders.resize_with(BUCKET_COUNT, LeafBuilder::default);
    for (id, stored) in rows {
        builders[usize::from(bucket_of(id))]
            .add(id, stored)
            .unwrap();
    }
    LeafTree::new(builders.iter_mut().map(LeafBuilder::finish).collect())
}

fn part(rows: &[(Digest, Vec<u8>)], first: u16, last: u16) -> Vec<u8> {
    let mut out = Vec::new();
    for (id, stored) in rows {
        if (first..=last).contains(&bucket_of(id)) {
            put_row(&mut out, id, stored);
        }
    }
    out
}

/// The leaves that a snapshot is made of lead to the root that the ledger commits to.
#[test]
fn the_tree_of_a_snapshot_is_the_ledgers() {
    let genesis = world::genesis();
    let ledger = Ledger::from_genesis(&genesis);
    let mut rows: Vec<_> = genesis
        .accounts
        .iter()
        .map(|a| {
            let mut row = Account::of_genesis(a).to_bytes();
            row.extend_from_slice(a.key.as_ref().map_or(&[], |key| key.as_bytes()));
            (a.id, row)
        })
        .collect();
    rows.sort();
    assert_eq!(tree(&rows).root(), ledger.head().tree_root);
}

#[test]
fn a_key_that_is_not_the_accounts_makes_no_leaf() {
    use falconet_types::{KeyPair, Scheme};
    let key = KeyPair::from_seed(Scheme::Falcon512, &[1; 32]);
    let account = Account {
        scheme: Some(Scheme::Falcon512),
        ..Account::default()
    };
    let mut builder = LeafBuilder::default();
    let (id, stored) = (key.public().id(), account.to_bytes());
    let row = [&stored, key.public().as_bytes()].concat();
    assert!(builder.add(&id, &row).is_ok());
    assert!(builder.add(&Digest([1; 32]), &row).is_err());
    assert_eq!(
        split_row(&row),
        (&stored[..], Some(key.public().as_bytes()))
    );
    // The key is there exactly if the account says so.
    assert!(builder.add(&id, &stored).is_err());
    assert!(builder.add(&id, &[&row[..], &[0]].concat()).is_err());
    let without = Account::default().to_bytes();
    assert!(builder.add(&id, &without).is_ok());
    let row = [&without, key.public().as_bytes()].concat();
    assert!(builder.add(&id, &row).is_err());
    assert_eq!(split_row(&without), (&without[..], None));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_range_is_proven_and_nothing_else_is(a: u16, b: u16, at: usize, bit in 0u8..8) {
        let (first, last) = (a.min(b), a.max(b));
        type State = (Vec<(Digest, Vec<u8>)>, LeafTree);
        static STATE: OnceLock<State> = OnceLock::new();
        let (rows, tree) = STATE.get_or_init(|| {
            let rows = rows(200);
            let tree = tree(&rows);
            (rows, tree)
        });
        let bytes = part(rows, first, last);
        let (left, right) = tree.beside(first, last);
        let judge = |bytes: &[u8], first, last, left: &[Digest], right: &[Digest]| {
            verify_chunk(tree.root(), first, last, bytes, left, right)
        };
        prop_assert_eq!(judge(&bytes, first, last, &left, &right), Ok(()));
        // A changed byte, a row less, a row of elsewhere.
        if !bytes.is_empty() {
            let mut changed = bytes.clone();
            let at = at % changed.len();
            changed[at] ^= 1 << bit;
            prop_assert!(judge(&changed, first, last, &left, &right).is_err());
            let row = 34 + rows[0].1.len();
            prop_assert!(judge(&bytes[row..], first, last, &left, &right).is_err());
            prop_assert!(judge(&bytes[..bytes.len() - row], first, last, &left, &right).is_err());
        }
        if let Some((id, stored)) = rows.iter().find(|(id, _)| bucket_of(id) > last) {
            let mut more = bytes.clone();
            put_row(&mut more, id, stored);
            prop_assert_eq!(
                judge(&more, first, last, &left, &right),
                Err(ChunkError::Order(*id))
            );
        }
        // Nodes too few, too many, exchanged.
        let more: Vec<Digest> = left.iter().copied().chain([Digest([1; 32])]).collect();
        prop_assert_eq!(judge(&bytes, first, last, &more, &right), Err(ChunkError::Shape));
        if !right.is_empty() {
            let fewer = &right[1..];
            prop_assert_eq!(judge(&bytes, first, last, &left, fewer), Err(ChunkError::Shape));
        }
        if first != last {
            prop_assert_eq!(judge(&bytes, last, first, &left, &right), Err(ChunkError::Shape));
        }
        let whole = part(rows, 0, u16::MAX);
        prop_assert_eq!(judge(&whole, 0, u16::MAX, &[], &[]), Ok(()));
    }
}
