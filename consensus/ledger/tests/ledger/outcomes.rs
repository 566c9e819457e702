//! Every outcome, and the order in which rules are asked.

use bytes::Bytes;
use falconet_crypto::falcon::{KeyPair, Scheme};
use falconet_ledger::Application;
use falconet_types::receipt::Outcome::{self, *};
use falconet_types::transaction::{Body, SignedTransaction, Transaction, opaque_id};
use falconet_types::wire::Wire;
use falconet_types::{Digest, Height, Seq, ValidatorIndex};

use crate::world::*;

/// The outcome of key 0's transfer after `spoil`, on a fresh chain, at time 2,000.
fn spoiled(spoil: impl FnOnce(&mut Transaction)) -> Outcome {
    let mut world = World::new();
    let mut tx = transfer(world.chain_id, &key(0), account_of(&key(1)), 1);
    spoil(&mut tx);
    let before = world.ledger.prove_account(&account_of(&key(0)));
    let outcome = world.outcomes(&[sign(&tx, &key(0))])[0];
    if outcome != Executed {
        let after = world.ledger.prove_account(&account_of(&key(0)));
        assert_eq!(
            before.bucket, after.bucket,
            "a refused transaction changes nothing"
        );
    }
    outcome
}

fn amount(tx: &mut Transaction, value: u64) {
    let Body::Transfer { amount, .. } = &mut tx.body else {
        panic!("not a transfer")
    };
    *amount = value;
}

#[test]
fn a_transfer_moves_amount_and_burns_the_fee() {
    let mut world = World::new();
    let (from, to) = (account_of(&key(0)), account_of(&key(1)));
    let tx = transfer(world.chain_id, &key(0), to, 1);
    let result = world.block(2_000, &[&[], &[sign(&tx, &key(0))]]);
    assert_eq!(world.balance(&from), Some(RICH - 100 - FEE_MIN));
    assert_eq!(world.balance(&to), Some(RICH + 100));
    assert_eq!(world.ledger.view().unwrap().burned(), FEE_MIN);
    let receipt = result.receipts[0];
    let signed = SignedTransaction::parse(sign(&tx, &key(0))).unwrap();
    assert_eq!(receipt.tx_id, signed.id());
    assert_eq!(receipt.height, Height(1));
    assert_eq!(
        (receipt.lane, receipt.seq, receipt.index),
        (ValidatorIndex(1), Seq(1), 0)
    );
    assert_eq!(receipt.outcome, Executed);
    let mut written = [from, to];
    written.sort();
    assert!(result.changes.iter().map(|(id, _)| *id).eq(written));
}

#[test]
fn a_transfer_creates_the_recipient() {
    let mut world = World::new();
    let stranger = account_of(&key(9));
    assert_eq!(world.balance(&stranger), None);
    let tx = transfer(world.chain_id, &key(0), stranger, 1);
    assert_eq!(world.outcomes(&[sign(&tx, &key(0))]), [Executed]);
    assert_eq!(world.balance(&stranger), Some(100));
}

#[test]
fn a_transfer_to_oneself_costs_the_fee_only() {
    let mut world = World::new();
    let me = account_of(&key(0));
    let mut all = transfer(world.chain_id, &key(0), me, 1);
    amount(&mut all, RICH - FEE_MIN);
    assert_eq!(world.outcomes(&[sign(&all, &key(0))]), [Executed]);
    assert_eq!(world.balance(&me), Some(RICH - FEE_MIN));
}

#[test]
fn malformed_bytes_get_a_receipt_under_their_hash() {
    let mut world = World::new();
    let good = sign(&transfer(world.chain_id, &key(0), Digest::ZERO, 1), &key(0));
    let garbage = Bytes::from(vec![0; 100]);
    let truncated = good.slice(..good.len() - 1);
    let result = world.block(2_000, &[&[garbage.clone(), truncated.clone()]]);
    assert_eq!(outcomes(&result), [Malformed, Malformed]);
    assert_eq!(result.receipts[0].tx_id, opaque_id(&garbage));
    assert_eq!(result.receipts[1].tx_id, opaque_id(&truncated));
}

#[test]
fn a_key_that_is_not_the_senders_is_malformed() {
    let mut world = World::new();
    let tx = registration(world.chain_id, &key(2), 1);
    let mut bytes = sign(&tx, &key(2)).to_vec();
    bytes[36..68].copy_from_slice(account_of(&key(0)).as_ref());
    assert_eq!(world.outcomes(&[bytes.into()]), [Malformed]);
}

#[test]
fn wrong_chain() {
    assert_eq!(spoiled(|tx| tx.chain_id = Digest([7; 32])), WrongChain);
}

#[test]
fn unknown_sender() {
    let mut world = World::new();
    let tx = transfer(world.chain_id, &key(9), account_of(&key(0)), 1);
    assert_eq!(world.outcomes(&[sign(&tx, &key(9))]), [UnknownSender]);
    let registration = registration(world.chain_id, &key(9), 2);
    assert_eq!(
        world.outcomes(&[sign(&registration, &key(9))]),
        [UnknownSender]
    );
}

#[test]
fn a_key_serves_from_its_registration_on() {
    let mut world = World::new();
    let tx = |nonce| {
        sign(
            &transfer(world.chain_id, &key(2), Digest::ZERO, nonce),
            &key(2),
        )
    };
    let (early, later, next_block) = (tx(1), tx(2), tx(3));
    let register = sign(&registration(world.chain_id, &key(2), 7), &key(2));
    let block = [early, register, later];
    assert_eq!(world.outcomes(&block), [UnknownKey, Executed, Executed]);
    let id = account_of(&key(2));
    assert_eq!(world.balance(&id), Some(RICH - 100 - 2 * FEE_MIN));
    let view = world.ledger.view().unwrap();
    assert_eq!(view.key_of(&id).as_ref(), Some(key(2).public()));
    assert_eq!(world.outcomes(&[next_block]), [Executed]);
}

#[test]
fn already_registered() {
    let mut world = World::new();
    let again = sign(&registration(world.chain_id, &key(0), 1), &key(0));
    assert_eq!(world.outcomes(&[again]), [AlreadyRegistered]);
    let register = |nonce| sign(&registration(world.chain_id, &key(2), nonce), &key(2));
    let (first, second) = (register(1), register(2));
    assert_eq!(
        world.outcomes(&[first, second]),
        [Executed, AlreadyRegistered]
    );
}

#[test]
fn bad_signature() {
    let mut world = World::new();
    let transfer = sign(&transfer(world.chain_id, &key(0), Digest::ZERO, 1), &key(0));
    let registration = sign(&registration(world.chain_id, &key(2), 1), &key(2));
    let block = [
        break_signature(&transfer),
        break_signature(&registration),
        transfer,
    ];
    assert_eq!(
        world.outcomes(&block),
        [BadSignature, BadSignature, Executed]
    );
}

#[test]
fn a_signature_of_another_scheme_is_bad() {
    let mut world = World::new();
    let strong = KeyPair::from_seed(Scheme::Falcon1024, &[0; 32]);
    let mut tx = transfer(world.chain_id, &strong, Digest::ZERO, 1);
    tx.sender = account_of(&key(0));
    let mut bytes = tx.to_bytes();
    bytes.extend_from_slice(strong.sign(b"anything").as_bytes());
    assert_eq!(world.outcomes(&[bytes.into()]), [BadSignature]);
}

#[test]
fn expired_is_after_the_limit_not_at_it() {
    assert_eq!(spoiled(|tx| tx.valid_until_ms = 2_000), Executed);
    assert_eq!(spoiled(|tx| tx.valid_until_ms = 1_999), Expired);
}

#[test]
fn fee_too_low() {
    assert_eq!(spoiled(|tx| tx.fee = FEE_MIN - 1), FeeTooLow);
}

#[test]
fn overflow_of_amount_plus_fee() {
    assert_eq!(spoiled(|tx| amount(tx, u64::MAX - FEE_MIN + 1)), Overflow);
    assert_eq!(
        spoiled(|tx| amount(tx, u64::MAX - FEE_MIN)),
        InsufficientFunds
    );
}

#[test]
fn insufficient_funds_is_above_the_balance_not_at_it() {
    assert_eq!(spoiled(|tx| amount(tx, RICH - FEE_MIN)), Executed);
    assert_eq!(
        spoiled(|tx| amount(tx, RICH - FEE_MIN + 1)),
        InsufficientFunds
    );
}

#[test]
fn a_duplicate_in_another_lane_executes_once() {
    let mut world = World::new();
    let tx = sign(
        &transfer(world.chain_id, &key(0), account_of(&key(1)), 5),
        &key(0),
    );
    let one = std::slice::from_ref(&tx);
    let result = world.block(2_000, &[one, one, one]);
    assert_eq!(outcomes(&result), [Executed, Replayed, Replayed]);
    assert_eq!(world.outcomes(&[tx]), [Replayed], "nor in a later block");
    assert_eq!(world.balance(&account_of(&key(1))), Some(RICH + 100));
}

#[test]
fn of_two_transfers_that_spend_the_same_money_one_executes() {
    let mut world = World::new();
    let all = |to: u8, nonce| {
        let mut tx = transfer(world.chain_id, &key(0), account_of(&key(to)), nonce);
        amount(&mut tx, RICH - FEE_MIN);
        sign(&tx, &key(0))
    };
    let (one, other) = ([all(1, 1)], [all(2, 2)]);
    let result = world.block(2_000, &[&one, &other]);
    assert_eq!(outcomes(&result), [Executed, InsufficientFunds]);
}

#[test]
fn nonces_may_arrive_in_any_order_within_the_window() {
    let mut world = World::new();
    let tx = |nonce| {
        sign(
            &transfer(world.chain_id, &key(0), Digest::ZERO, nonce),
            &key(0),
        )
    };
    let block = [
        tx(300),
        tx(45),
        tx(44),
        tx(299),
        tx(45),
        tx(1000),
        tx(744),
        tx(745),
        tx(1000),
    ];
    let expected = [
        Executed, // 300 moves the window to 45..=300
        Executed, // its lower edge
        Replayed, // below it
        Executed, // inside
        Replayed, // used
        Executed, // moves the window to 745..=1000
        Replayed, // below it
        Executed, // its lower edge
        Replayed, // used
    ];
    assert_eq!(world.outcomes(&block), expected);
}

#[test]
fn a_refused_transaction_does_not_use_its_nonce() {
    let mut world = World::new();
    let mut poor = transfer(world.chain_id, &key(0), Digest::ZERO, 1);
    amount(&mut poor, RICH);
    assert_eq!(world.outcomes(&[sign(&poor, &key(0))]), [InsufficientFunds]);
    let enough = transfer(world.chain_id, &key(1), account_of(&key(0)), 1);
    let again = [sign(&enough, &key(1)), sign(&poor, &key(0))];
    assert_eq!(world.outcomes(&again), [Executed, Executed]);
}

/// A transaction that breaks every rule at once, repaired rule by rule: each time the next rule
/// in the documented order speaks.
#[test]
fn the_first_broken_rule_in_the_documented_order_names_the_outcome() {
    let mut world = World::new();
    let chain_id = world.chain_id;
    let used = transfer(chain_id, &key(0), Digest::ZERO, 1);
    assert_eq!(world.outcomes(&[sign(&used, &key(0))]), [Executed]);

    let mut tx = Transaction {
        chain_id: Digest([7; 32]),
        valid_until_ms: 1_999,
        fee: FEE_MIN - 1,
        ..transfer(chain_id, &key(9), Digest::ZERO, 1)
    };
    amount(&mut tx, u64::MAX);
    let mut ask = |tx: &Transaction, with: &KeyPair, broken: bool| {
        let bytes = sign(tx, with);
        world.outcomes(&[if broken {
            break_signature(&bytes)
        } else {
            bytes
        }])[0]
    };
    assert_eq!(ask(&tx, &key(9), true), WrongChain);
    tx.chain_id = chain_id;
    assert_eq!(ask(&tx, &key(9), true), UnknownSender);
    tx.sender = account_of(&key(2));
    assert_eq!(ask(&tx, &key(2), true), UnknownKey);
    tx.sender = account_of(&key(0));
    assert_eq!(ask(&tx, &key(0), true), BadSignature);
    assert_eq!(ask(&tx, &key(0), false), Expired);
    tx.valid_until_ms = 2_000;
    assert_eq!(ask(&tx, &key(0), false), Replayed);
    tx.nonce = 2;
    assert_eq!(ask(&tx, &key(0), false), FeeTooLow);
    tx.fee = FEE_MIN;
    assert_eq!(ask(&tx, &key(0), false), Overflow);
    amount(&mut tx, RICH);
    assert_eq!(ask(&tx, &key(0), false), InsufficientFunds);
    amount(&mut tx, 1);
    assert_eq!(ask(&tx, &key(0), false), Executed);
}
