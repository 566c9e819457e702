//! One block against the table: parsing, signatures that nobody has checked yet, the rules.
//!
//! Nothing here writes the table; the block's changes are gathered beside it.

use std::collections::HashMap;
use std::sync::Arc;

use falconet_crypto::falcon::{
    Bitmap, Job, Key, KeyCache, PreparedKey, PublicKey, SIGNING_MESSAGE_LEN, Verifier,
};
use falconet_types::hashing::DigestState;
use falconet_types::receipt::{Outcome, Receipt};
use falconet_types::stake::Stake;
use falconet_types::transaction::{Body, Transaction, ids_of, message_of, opaque_id, parse_fields};
use falconet_types::{AccountId, Digest, TxId, ValidatorIndex};

use crate::account::Account;
use crate::application::{Block, Verdict};
use crate::registry::Registry;
use crate::rules::{self, Context};
use crate::staking::{self, REPORTS_PER_LANE_MAX, STAKE_TXS_PER_LANE_MAX};
use crate::table::{Table, prefix};

/// What a block does, not yet written.
pub(crate) struct Effects {
    pub(crate) receipts: Vec<Receipt>,
    /// Written accounts by ascending id.
    pub(crate) changes: Vec<(AccountId, Account)>,
    /// Keys that were registered.
    pub(crate) keys: Vec<(AccountId, PublicKey)>,
    /// Fees of the block and punishments.
    pub(crate) burned: u64,
    /// The registry after the block.
    pub(crate) registry: Arc<Registry>,
}

/// Works out a block.
pub(crate) fn execute(
    block: &Block<'_>,
    context: &Context,
    table: &Table,
    registry: Arc<Registry>,
    keys: &KeyCache,
    verifier: &mut Verifier,
    scratch: &mut Scratch,
) -> Effects {
    let mut entries = parse(block);
    verify_unknown(&mut entries, table, &registry, keys, verifier);
    fetch_accounts(&entries, table);
    let mut writes = Writes::new(table, scratch);
    let mut stakes = Stakes::new(registry);
    let mut burned = 0u64;
    let receipts = entries.iter().map(|entry| {
        let outcome = match &entry.tx {
            None => Outcome::Malformed,
            Some(tx) => match apply(
                context,
                &entry.receipt,
                tx,
                entry.verdict,
                &mut writes,
                &mut stakes,
                verifier,
            ) {
                Ok(cost) => {
                    burned += cost;
                    Outcome::Executed
                }
                Err(outcome) => outcome,
            },
        };
        Receipt {
            outcome,
            ..entry.receipt
        }
    });
    let receipts = receipts.collect();
    if block.ends_epoch {
        for (owner, amount) in Arc::make_mut(&mut stakes.registry).end_epoch(block.height) {
            credit(&mut writes, owner, amount);
        }
    }
    Effects {
        receipts,
        changes: writes.sort(),
        keys: writes.keys,
        burned,
        registry: stakes.registry,
    }
}

/// A transaction on its way through a block.
struct Entry<'a> {
    /// `None` when the bytes are no transaction.
    tx: Option<Transaction>,
    /// What is not under the id.
    signature: &'a [u8],
    verdict: Verdict,
    /// Its id and position; the outcome follows.
    receipt: Receipt,
}

fn parse<'a>(block: &Block<'a>) -> Vec<Entry<'a>> {
    let count = block
        .batches
        .iter()
        .map(|(batch, _)| batch.header().tx_count as usize)
        .sum();
    let mut entries = Vec::with_capacity(count);
    // Where ids are missing, and what they are made of: they are hashed together.
    let mut without_id: Vec<usize> = Vec::new();
    let mut unsigned: Vec<&[u8]> = Vec::new();
    for (batch, verdicts) in block.batches {
        let header = batch.header();
        let mut ids = verdicts.ids().iter();
        let txs = (0u32..).zip(batch.borrowed_transactions());
        for ((index, bytes), verdict) in txs.zip(verdicts.of()) {
            let known = ids.next();
            let (tx, tx_id, signature) = match parse_fields(bytes) {
                Err(_) => (None, opaque_id(bytes), &[][..]),
                Ok((tx, end)) => {
                    debug_assert!(known.is_none_or(|id| [*id] == ids_of(&[&bytes[..end]])[..]));
                    let tx_id = known.copied().unwrap_or_else(|| {
                        without_id.push(entries.len());
                        unsigned.push(&bytes[..end]);
                        TxId::ZERO
                    });
                    (Some(tx), tx_id, &bytes[end..])
                }
            };
            let receipt = Receipt {
                tx_id,
                height: block.height,
                lane: header.lane,
                seq: header.seq,
                index,
                outcome: Outcome::Malformed,
            };
            entries.push(Entry {
                tx,
                signature,
                verdict: *verdict,
                receipt,
            });
        }
    }
    for (at, id) in without_id.into_iter().zip(ids_of(&unsigned)) {
        entries[at].receipt.tx_id = id;
    }
    entries
}

/// Reads a little of each account that transfers touch. One by one, as the rules ask for them, the
/// processor would wait for the memory of nearly each; here it waits for many at a time.
fn fetch_accounts(entries: &[Entry<'_>], table: &Table) {
    let mut sum = 0;
    for tx in entries.iter().filter_map(|entry| entry.tx.as_ref()) {
        sum ^= table.touch(&tx.sender);
        if let Body::Transfer { to, .. } = &tx.body {
            sum ^= table.touch(to);
        }
    }
    std::hint::black_box(sum);
}

/// Replaces [`Verdict::Unknown`] wherever the sender's key is known: from the table or the
/// registry, or from a registration or a bond in this block. An account has one key for ever, the
/// one whose id it is, so the verdict does not depend on when in the block the key becomes usable;
/// whether it is usable yet is for the rules to say.
fn verify_unknown(
    entries: &mut [Entry<'_>],
    table: &Table,
    registry: &Registry,
    keys: &KeyCache,
    verifier: &mut Verifier,
) {
    if entries
        .iter()
        .all(|entry| entry.verdict != Verdict::Unknown)
    {
        return;
    }
    let mut registered: HashMap<AccountId, &PublicKey> = HashMap::new();
    let mut named: HashMap<Digest, &PublicKey> = HashMap::new();
    for tx in entries.iter().filter_map(|entry| entry.tx.as_ref()) {
        match &tx.body {
            Body::RegisterKey { key } => drop(registered.insert(tx.sender, key)),
            // Keys that may speak for a validator from now on.
            Body::Stake(stake) => match &**stake {
                Stake::Bond { key, .. } | Stake::RotateKey { key, .. } => {
                    named.insert(key.id(), key);
                }
                _ => {}
            },
            Body::Transfer { .. } => {}
        }
    }
    let unknown = |entry: &Entry<'_>| {
        let tx = entry.tx.as_ref();
        entry.verdict == Verdict::Unknown && tx.is_some_and(is_by_validator)
    };
    if entries.iter().any(unknown) {
        // Gathered once, however many say something.
        named.extend(registry.keys().map(|key| (key.id(), key)));
    }
    let mut open: Vec<(usize, Arc<PreparedKey>, [u8; SIGNING_MESSAGE_LEN])> = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let (Some(tx), Verdict::Unknown) = (&entry.tx, entry.verdict) else {
            continue;
        };
        let message = message_of(entry.receipt.tx_id);
        if is_by_validator(tx) {
            if let Some(key) = named.get(&tx.sender) {
                let prepared = Arc::new(PreparedKey::from_public(key));
                open.push((at, prepared, message));
            }
            continue;
        }
        let prepared = match table.key(&tx.sender) {
            Some(key) => keys.get_or_prepare(key),
            None => match registered.get(&tx.sender) {
                Some(key) => Arc::new(PreparedKey::from_public(key)),
                None => continue,
            },
        };
        open.push((at, prepared, message));
    }
    let jobs: Vec<Job<'_>> = open
        .iter()
        .map(|(at, key, message)| Job {
            key: Key::Prepared(key),
            message,
            signature: entries[*at].signature,
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

fn is_by_validator(tx: &Transaction) -> bool {
    matches!(&tx.body, Body::Stake(stake) if stake.is_by_validator())
}

fn credit(writes: &mut Writes<'_>, id: AccountId, amount: u64) {
    let at = writes.find_or_create(id);
    let account = writes.write(at);
    account.balance = account
        .balance
        .checked_add(amount)
        .expect("all that there is together is at most the supply, which is below 2^64");
}

/// The registry as a block changes it, and how much of its allowance the lane has used.
struct Stakes {
    registry: Arc<Registry>,
    /// The lane whose transactions are executing; lanes come one after the other.
    lane: ValidatorIndex,
    txs: usize,
    reports: usize,
}

impl Stakes {
    fn new(registry: Arc<Registry>) -> Self {
        Self {
            registry,
            lane: ValidatorIndex(0),
            txs: 0,
            reports: 0,
        }
    }

    /// Counts a transaction about stake, whatever becomes of it.
    fn count(&mut self, lane: ValidatorIndex, stake: &Stake) -> Result<(), Outcome> {
        if self.lane != lane {
            (self.lane, self.txs, self.reports) = (lane, 0, 0);
        }
        let report = matches!(stake, Stake::Report { .. });
        self.txs += 1;
        self.reports += usize::from(report);
        let too_many =
            self.txs > STAKE_TXS_PER_LANE_MAX || (report && self.reports > REPORTS_PER_LANE_MAX);
        if too_many {
            return Err(Outcome::LimitReached);
        }
        Ok(())
    }
}

/// Applies one transaction; returns what it burned.
fn apply(
    context: &Context,
    at: &Receipt,
    tx: &Transaction,
    verdict: Verdict,
    writes: &mut Writes<'_>,
    stakes: &mut Stakes,
    verifier: &mut Verifier,
) -> Result<u64, Outcome> {
    let verifies = || match verdict {
        Verdict::Valid => true,
        Verdict::Invalid => false,
        Verdict::Unknown => unreachable!("the sender has a key, so its signature was checked"),
    };
    if let Body::Stake(stake) = &tx.body {
        stakes.count(at.lane, stake)?;
    }
    if let Body::Stake(stake) = &tx.body
        && stake.is_by_validator()
    {
        rules::check_by_validator(context, tx, &stakes.registry, verifies)?;
        staking::check(&stakes.registry, tx, stake, verifier)?;
        let registry = Arc::make_mut(&mut stakes.registry);
        return Ok(staking::apply(registry, tx.sender, stake, at.height));
    }
    let at_sender = writes.find(&tx.sender);
    let sender = at_sender.map(|at| writes.read(at));
    let total = rules::check(context, tx, sender, verifies)?;
    if let Body::Stake(stake) = &tx.body {
        staking::check(&stakes.registry, tx, stake, verifier)?;
        let registry = Arc::make_mut(&mut stakes.registry);
        staking::apply(registry, tx.sender, stake, at.height);
    }
    let sender = writes.write(at_sender.expect("the rules refuse a sender that does not exist"));
    sender.balance -= total;
    sender.nonces.mark(tx.nonce);
    match &tx.body {
        Body::RegisterKey { key } => {
            sender.scheme = Some(key.scheme());
            writes.keys.push((tx.sender, key.clone()));
        }
        Body::Transfer { to, amount } => {
            // Found after the sender was written: it may be the same account.
            credit(writes, *to, *amount);
        }
        Body::Stake(_) => {}
    }
    Ok(tx.fee)
}

/// Memory that one block after the other uses.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Where in `accounts`; looked up, never iterated.
    index: HashMap<AccountId, u32, DigestState>,
    accounts: Vec<Touched>,
    /// The order of the accounts that were written.
    order: Vec<(u64, u32)>,
}

/// An account that a block has read.
#[derive(Debug)]
struct Touched {
    id: AccountId,
    account: Account,
    written: bool,
}

/// The accounts that a block has read and written so far, above the table.
struct Writes<'a> {
    table: &'a Table,
    index: &'a mut HashMap<AccountId, u32, DigestState>,
    accounts: &'a mut Vec<Touched>,
    order: &'a mut Vec<(u64, u32)>,
    keys: Vec<(AccountId, PublicKey)>,
}

impl<'a> Writes<'a> {
    fn new(table: &'a Table, scratch: &'a mut Scratch) -> Self {
        let Scratch {
            index,
            accounts,
            order,
        } = scratch;
        index.clear();
        accounts.clear();
        Self {
            table,
            index,
            accounts,
            order,
            keys: Vec::new(),
        }
    }

    /// The place of an account, `None` when it does not exist.
    fn find(&mut self, id: &AccountId) -> Option<u32> {
        if let Some(&at) = self.index.get(id) {
            return Some(at);
        }
        let account = *self.table.get(id)?;
        Some(self.add(*id, account))
    }

    /// The place of an account; created when it does not exist.
    fn find_or_create(&mut self, id: AccountId) -> u32 {
        self.find(&id)
            .unwrap_or_else(|| self.add(id, Account::default()))
    }

    fn add(&mut self, id: AccountId, account: Account) -> u32 {
        let at = u32::try_from(self.accounts.len()).expect("at most two accounts a transaction");
        self.accounts.push(Touched {
            id,
            account,
            written: false,
        });
        self.index.insert(id, at);
        at
    }

    fn read(&self, at: u32) -> &Account {
        &self.accounts[at as usize].account
    }

    fn write(&mut self, at: u32) -> &mut Account {
        let touched = &mut self.accounts[at as usize];
        touched.written = true;
        &mut touched.account
    }

    /// The accounts that were written, by ascending id.
    fn sort(&mut self) -> Vec<(AccountId, Account)> {
        let accounts = &*self.accounts;
        let at = |i: u32| &accounts[i as usize];
        let written = (0u32..).zip(accounts).filter(|(_, t)| t.written);
        // Sorted by what fits into a register; the accounts themselves are moved once.
        self.order.clear();
        self.order.extend(written.map(|(i, t)| (prefix(&t.id), i)));
        self.order.sort_unstable_by(|(a, i), (b, j)| {
            let same_prefix = || at(*i).id.cmp(&at(*j).id);
            a.cmp(b).then_with(same_prefix)
        });
        let changes = self.order.iter().map(|(_, i)| (at(*i).id, at(*i).account));
        changes.collect()
    }
}
