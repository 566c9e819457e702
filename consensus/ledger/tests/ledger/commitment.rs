//! The state commitment against its definition, and proofs about accounts.

use std::collections::BTreeMap;

use falconet_crypto::hash::hash;
use falconet_ledger::proof::{AccountProof, AccountProofError};
use falconet_ledger::{Account, Application};
use falconet_types::receipt::{self, Outcome::*};
use falconet_types::wire::Wire;
use falconet_types::{AccountId, Digest};

use crate::world::*;

/// The accounts root as `docs/wire-format.md` defines it, without any shortcut.
fn accounts_root(accounts: &BTreeMap<AccountId, Account>, burned: u64) -> Digest {
    fn node(
        accounts: &BTreeMap<AccountId, Account>,
        depth: u32,
        prefix: u32,
        cache: &mut Vec<Option<Digest>>,
    ) -> Digest {
        let first = prefix << (16 - depth);
        let last = first + (1 << (16 - depth)) - 1;
        let bucket_of = |id: &AccountId| u32::from(id.0[0]) << 8 | u32::from(id.0[1]);
        let inside: Vec<_> = accounts
            .iter()
            .filter(|(id, _)| (first..=last).contains(&bucket_of(id)))
            .collect();
        if inside.is_empty() && cache[depth as usize].is_some() {
            return cache[depth as usize].unwrap();
        }
        let digest = if depth == 16 {
            let mut rows = Vec::new();
            for (id, account) in &inside {
                rows.extend_from_slice(id.as_ref());
                rows.extend_from_slice(&account.balance.to_le_bytes());
                account.nonces.encode(&mut rows);
                rows.push(account.scheme.is_some().into());
            }
            hash("falconet/bucket", &[&rows])
        } else {
            let left = node(accounts, depth + 1, prefix * 2, cache);
            let right = node(accounts, depth + 1, prefix * 2 + 1, cache);
            hash("falconet/bucket-node", &[left.as_ref(), right.as_ref()])
        };
        if inside.is_empty() {
            cache[depth as usize] = Some(digest);
        }
        digest
    }
    let root = node(accounts, 0, 0, &mut vec![None; 17]);
    hash("falconet/accounts", &[root.as_ref(), &burned.to_le_bytes()])
}

#[test]
fn the_incremental_root_follows_the_definition() {
    let mut world = World::new();
    let mut accounts: BTreeMap<AccountId, Account> = world
        .genesis
        .accounts
        .iter()
        .map(|a| (a.id, Account::of_genesis(a)))
        .collect();
    let root = accounts_root(&accounts, 0);
    let validators = world.ledger.view().unwrap().registry().root();
    let expected = receipt::commitment(world.height(), root, validators, Digest::ZERO);
    assert_eq!(world.ledger.genesis_commitment(), expected);

    // Some recipients share a bucket, with one another or with a genesis account.
    let neighbour = |id: AccountId, last: u8| {
        let mut bytes = id.0;
        bytes[31] ^= last;
        Digest(bytes)
    };
    let recipients = [
        neighbour(account_of(&key(0)), 1),
        neighbour(account_of(&key(0)), 2),
        Digest::ZERO,
        Digest([255; 32]),
        account_of(&key(1)),
    ];
    for (nonce, to) in (1..).zip(recipients) {
        let tx = sign(&transfer(world.chain_id, &key(0), to, nonce), &key(0));
        let result = world.block(2_000, &[&[tx]]);
        assert_eq!(outcomes(&result), [Executed]);
        accounts.extend(result.changes);
        assert_eq!(
            result.roots.accounts,
            accounts_root(&accounts, nonce * FEE_MIN)
        );
    }
}

#[test]
fn a_proof_shows_an_account_or_its_absence() {
    let mut world = World::new();
    let tx = sign(
        &transfer(world.chain_id, &key(0), Digest::ZERO, 40),
        &key(0),
    );
    assert_eq!(world.outcomes(&[tx]), [Executed]);
    let commitment = world.ledger.commitment();
    for n in [0, 1, 2] {
        let id = account_of(&key(n));
        let proof = world.ledger.prove_account(&id);
        let proof = AccountProof::from_bytes(&proof.to_bytes()).unwrap();
        let row = proof
            .verify(commitment, &id)
            .unwrap()
            .expect("a genesis account");
        assert_eq!(Some(row.balance), world.balance(&id));
        assert_eq!(row.registered, n < 2);
        assert_eq!(row.nonces.highest(), (n == 0).then_some(40));
    }
    let mut same_bucket = account_of(&key(0));
    same_bucket.0[31] ^= 1;
    for absent in [account_of(&key(9)), same_bucket] {
        let proof = world.ledger.prove_account(&absent);
        assert_eq!(proof.verify(commitment, &absent), Ok(None));
    }
}

#[test]
fn an_altered_proof_is_refused() {
    let world = World::new();
    let commitment = world.ledger.commitment();
    let id = account_of(&key(0));
    let proof = world.ledger.prove_account(&id);
    assert!(proof.verify(commitment, &id).is_ok());
    assert!(proof.verify(Digest::ZERO, &id).is_err());

    // No bit of the encoding is free.
    let bytes = proof.to_bytes();
    for at in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        if let Ok(altered) = AccountProof::from_bytes(&bytes) {
            assert_eq!(altered.to_bytes(), bytes, "one encoding for one value");
            assert!(altered.verify(commitment, &id).is_err(), "byte {at}");
        }
    }
    for len in 0..bytes.len() {
        assert!(AccountProof::from_bytes(&bytes[..len]).is_err());
    }

    // Absence cannot be claimed by leaving the account out, nor by proving another bucket.
    let mut emptied = proof.clone();
    emptied.bucket.clear();
    assert!(matches!(
        emptied.verify(commitment, &id),
        Err(AccountProofError::Commitment { .. })
    ));
    let mut other_bucket = id;
    other_bucket.0[0] ^= 1;
    assert!(proof.verify(commitment, &other_bucket).is_err());
    let elsewhere = world.ledger.prove_account(&other_bucket);
    assert!(elsewhere.verify(commitment, &id).is_err());
}

/// The stored form of an account and the proof's form must not change by accident.
#[test]
fn encodings_are_what_they_were() {
    let mut account = Account {
        balance: 77,
        ..Account::default()
    };
    account.nonces.mark(300);
    account.nonces.mark(299);
    let mut plain = vec![1];
    plain.extend_from_slice(&77u64.to_le_bytes());
    plain.extend_from_slice(&300u64.to_le_bytes());
    plain.extend_from_slice(&[3]);
    plain.extend_from_slice(&[0; 31]);
    let mut without_key = plain.clone();
    without_key.push(0);
    assert_eq!(account.to_bytes(), without_key);
    account.scheme = Some(key(0).scheme());
    let with_key = [plain, vec![1]].concat();
    assert_eq!(account.to_bytes(), with_key);
    assert_eq!(with_key.len(), Account::STORED_LEN);
    assert_eq!(Account::from_bytes(&with_key), Ok(account));
}
