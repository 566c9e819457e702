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
use falconet_types::stake::Stake;
use falconet_types::transaction::{Body, SignedTransaction, opaque_id};
use falconet_types::{AccountId, Digest, TxId, ValidatorIndex};

use crate::account::Account;
use crate::application::{Block, Verdict};
use crate::registry::Registry;
use crate::rules::{self, Context};
use crate::staking::{self, REPORTS_PER_LANE_MAX, STAKE_TXS_PER_LANE_MAX};
use crate::table::Table;

/// What a block does, not yet written.
pub(crate) struct Effects {
    pub(crate) receipts: Vec<Receipt>,
    /// Written accounts by ascending id.
    pub(crate) changes: Vec<(AccountId, Account)>,
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
) -> Effects {
    let mut entries = parse(block);
    verify_unknown(&mut entries, table, &registry, keys, verifier);
    let mut writes = Writes::new(table);
    let mut stakes = Stakes::new(registry);
    let mut burned = 0u64;
    let receipts = entries.iter().map(|entry| {
        let (tx_id, outcome) = match &entry.tx {
            Err(id) => (*id, Outcome::Malformed),
            Ok(tx) => match apply(
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
    if block.ends_epoch {
        for (owner, amount) in Arc::make_mut(&mut stakes.registry).end_epoch(block.height) {
            credit(&mut writes, owner, amount);
        }
    }
    Effects {
        receipts,
        changes: writes.into_sorted(),
        burned,
        registry: stakes.registry,
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

/// Replaces [`Verdict::Unknown`] wherever the sender's key is known: from the table or the
/// registry, or from a registration or a bond in this block. An account has one key for ever, the one whose id it is, so the
/// verdict does not depend on when in the block the key becomes usable; whether it is usable yet
/// is for the rules to say.
fn verify_unknown(
    entries: &mut [Entry],
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
    for tx in entries.iter().filter_map(|entry| entry.tx.as_ref().ok()) {
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
    let unknown = |entry: &Entry| {
        let tx = entry.tx.as_ref().ok();
        entry.verdict == Verdict::Unknown && tx.is_some_and(is_by_validator)
    };
    if entries.iter().any(unknown) {
        // Gathered once, however many say something.
        named.extend(registry.keys().map(|key| (key.id(), key)));
    }
    let mut open: Vec<(usize, Arc<PreparedKey>, [u8; SIGNING_MESSAGE_LEN])> = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        let (Ok(tx), Verdict::Unknown) = (&entry.tx, entry.verdict) else {
            continue;
        };
        if is_by_validator(tx) {
            if let Some(key) = named.get(&tx.sender) {
                let prepared = Arc::new(PreparedKey::from_public(key));
                open.push((at, prepared, tx.message()));
            }
            continue;
        }
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

fn is_by_validator(tx: &SignedTransaction) -> bool {
    matches!(&tx.body, Body::Stake(stake) if stake.is_by_validator())
}

fn credit(writes: &mut Writes<'_>, id: AccountId, amount: u64) {
    let account = writes.entry(id);
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
    tx: &SignedTransaction,
    verdict: Verdict,
    writes: &mut Writes<'_>,
    stakes: &mut Stakes,
    verifier: &mut Verifier,
) -> Result<u64, Outcome> {
    let verifies = |_: &PublicKey| match verdict {
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
    let total = rules::check(context, tx, writes.get(&tx.sender), verifies)?;
    if let Body::Stake(stake) = &tx.body {
        staking::check(&stakes.registry, tx, stake, verifier)?;
        let registry = Arc::make_mut(&mut stakes.registry);
        staking::apply(registry, tx.sender, stake, at.height);
    }
    let sender = writes.entry(tx.sender);
    sender.balance -= total;
    sender.nonces.mark(tx.nonce);
    match &tx.body {
        Body::RegisterKey { key } => sender.key = Some(key.clone()),
        Body::Transfer { to, amount } => {
            // Read after the sender was written: it may be the same account.
            credit(writes, *to, *amount);
        }
        Body::Stake(_) => {}
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
