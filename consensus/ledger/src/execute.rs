//! One block against the table: parsing, signatures that nobody has checked yet, the rules.
//!
//! Nothing here writes the table; the block's changes are gathered beside it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use falconet_crypto::falcon::{
    Bitmap, Job, Key, KeyCache, PreparedKey, PublicKey, SIGNING_MESSAGE_LEN, Verifier,
};
use falconet_types::receipt::{Outcome, Receipt};
use falconet_types::transaction::{Body, SignedTransaction, opaque_id};
use falconet_types::{AccountId, TxId};

use crate::account::Account;
use crate::application::{Block, Verdict};
use crate::rules::{self, Context};
use crate::table::Table;

/// What a block does, not yet written.
pub(crate) struct Effects {
    pub(crate) receipts: Vec<Receipt>,
    /// Written accounts by ascending id.
    pub(crate) changes: Vec<(AccountId, Account)>,
    /// Fees of the block.
    pub(crate) burned: u64,
}

/// Works out a block.
pub(crate) fn execute(
    block: &Block<'_>,
    context: &Context,
    table: &Table,
    keys: &KeyCache,
    verifier: &mut Verifier,
) -> Effects {
    let mut entries = parse(block);
    verify_unknown(&mut entries, table, keys, verifier);
    let mut writes = Writes::new(table);
    let mut burned = 0u64;
    let receipts = entries.iter().map(|entry| {
        let (tx_id, outcome) = match &entry.tx {
            Err(id) => (*id, Outcome::Malformed),
            Ok(tx) => match apply(context, tx, entry.verdict, &mut writes) {
                Ok(fee) => {
                    burned += fee;
                    (tx.id(), Outcome::Executed)
                }
                Err(outcome) => (tx.id(), outcome),
            },
        };
        Receipt {
            tx_id,
            outcome,
            ..entry.receipt
        }
    });
    let receipts = receipts.collect();
    Effects {
        receipts,
        changes: writes.into_sorted(),
        burned,
    }
}

/// A transaction on its way through a block.
struct Entry {
    /// The id of the bytes when they are no transaction.
    tx: Result<SignedTransaction, TxId>,
    verdict: Verdict,
    /// Its position; id and outcome follow.
    receipt: Receipt,
}

fn parse(block: &Block<'_>) -> Vec<Entry> {
    let count = block
        .batches
        .iter()
        .map(|(batch, _)| batch.header().tx_count as usize)
        .sum();
    let mut entries = Vec::with_capacity(count);
    for (batch, verdicts) in block.batches {
        let header = batch.header();
        // The ids of a batch are hashed together.
        let bytes: Vec<Bytes> = batch.transactions().collect();
        let txs = SignedTransaction::parse_many(&bytes);
        for (((index, bytes), tx), verdict) in (0u32..).zip(bytes).zip(txs).zip(&verdicts.0) {
            let receipt = Receipt {
                tx_id: TxId::ZERO,
                height: block.height,
                lane: header.lane,
                seq: header.seq,
                index,
                outcome: Outcome::Malformed,
            };
            entries.push(Entry {
                tx: tx.map_err(|_| opaque_id(&bytes)),
                verdict: *verdict,
                receipt,
            });
        }
    }
    entries
}

/// Replaces [`Verdict::Unknown`] wherever the sender's key is known: from the table, or from a
/// registration in this block. An account has one key for ever, the one whose id it is, so the
/// verdict does not depend on when in the block the key becomes usable; whether it is usable yet
/// is for the rules to say.
fn verify_unknown(entries: &mut [Entry], table: &Table, keys: &KeyCache, verifier: &mut Verifier) {
    if entries
        .iter()
        .all(|entry| entry.verdict != Verdict::Unknown)
    {
        return;
    }
    let mut registered: HashMap<AccountId, &PublicKey> = HashMap::new();
    for tx in entries.iter().filter_map(|entry| entry.tx.as_ref().ok()) {
        if let Body::RegisterKey { key } = &tx.body {
            registered.insert(tx.sender, key);
        }
    }
    let mut open: Vec<(usize, Arc<PreparedKey>, [u8; SIGNING_MESSAGE_LEN])> = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let (Ok(tx), Verdict::Unknown) = (&entry.tx, entry.verdict) else {
            continue;
        };
        let prepared = match table
            .get(&tx.sender)
            .and_then(|account| account.key.as_ref())
        {
            Some(key) => keys.get_or_prepare(key),
            None => match registered.get(&tx.sender) {
                Some(key) => Arc::new(PreparedKey::from_public(key)),
                None => continue,
            },
        };
        open.push((at, prepared, tx.message()));
    }
    let jobs: Vec<Job<'_>> = open
        .iter()
        .map(|(at, key, message)| {
            let tx = entries[*at]
                .tx
                .as_ref()
                .expect("only transactions are open");
            Job {
                key: Key::Prepared(key),
                message,
                signature: tx.signature(),
            }
        })
        .collect();
    let mut valid = Bitmap::new();
    verifier.verify_batch(&jobs, &mut valid);
    for ((at, ..), valid) in open.iter().zip(valid.iter()) {
        entries[*at].verdict = if valid {
            Verdict::Valid
        } else {
            Verdict::Invalid
        };
    }
}

/// Applies one transaction; returns the fee that it burned.
fn apply(
    context: &Context,
    tx: &SignedTransaction,
    verdict: Verdict,
    writes: &mut Writes<'_>,
) -> Result<u64, Outcome> {
    let total = rules::check(context, tx, writes.get(&tx.sender), |_| match verdict {
        Verdict::Valid => true,
        Verdict::Invalid => false,
        Verdict::Unknown => unreachable!("the account has a key, so its signature was checked"),
    })?;
    let sender = writes.entry(tx.sender);
    sender.balance -= total;
    sender.nonces.mark(tx.nonce);
    match &tx.body {
        Body::RegisterKey { key } => sender.key = Some(key.clone()),
        Body::Transfer { to, amount } => {
            // Read after the sender was written: it may be the same account.
            let recipient = writes.entry(*to);
            recipient.balance = recipient
                .balance
                .checked_add(*amount)
                .expect("the sum of all balances is at most the supply, which is below 2^64");
        }
    }
    Ok(tx.fee)
}

/// The accounts that a block has written so far, above the table.
struct Writes<'a> {
    table: &'a Table,
    /// Where in `accounts`; looked up, never iterated.
    index: HashMap<AccountId, usize>,
    accounts: Vec<(AccountId, Account)>,
}

impl<'a> Writes<'a> {
    fn new(table: &'a Table) -> Self {
        Self {
            table,
            index: HashMap::new(),
            accounts: Vec::new(),
        }
    }

    fn get(&self, id: &AccountId) -> Option<&Account> {
        match self.index.get(id) {
            Some(&at) => Some(&self.accounts[at].1),
            None => self.table.get(id),
        }
    }

    /// The account, to be written; created when it does not exist.
    fn entry(&mut self, id: AccountId) -> &mut Account {
        let at = *self.index.entry(id).or_insert_with(|| {
            let account = self.table.get(&id).cloned().unwrap_or_default();
            self.accounts.push((id, account));
            self.accounts.len() - 1
        });
        &mut self.accounts[at].1
    }

    fn into_sorted(mut self) -> Vec<(AccountId, Account)> {
        self.accounts.sort_unstable_by_key(|(id, _)| *id);
        self.accounts
    }
}
