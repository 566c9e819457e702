//! All accounts in memory, in 2^16 buckets by the first 16 bits of the id. A bucket is what one
//! leaf of the state tree hashes.

use std::cmp::Ordering;
use std::collections::HashMap;

use falconet_crypto::falcon::PublicKey;
use falconet_types::AccountId;

use crate::account::Account;

/// Number of buckets.
pub(crate) const BUCKETS: usize = 1 << 16;

/// Accounts by id.
#[derive(Debug)]
pub(crate) struct Table {
    /// Each sorted by id. Sixteen accounts a bucket are a million accounts; the work of a block
    /// grows with the size of the buckets that it touches, so far above that a deeper tree pays.
    buckets: Vec<Vec<(AccountId, Account)>>,
    /// The keys that are registered.
    keys: HashMap<AccountId, PublicKey>,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            buckets: vec![Vec::new(); BUCKETS],
            keys: HashMap::new(),
        }
    }

    pub(crate) fn get(&self, id: &AccountId) -> Option<&Account> {
        let bucket = self.bucket(bucket_of(id));
        let at = bucket
            .binary_search_by(|(other, _)| order(other, id))
            .ok()?;
        Some(&bucket[at].1)
    }

    /// Brings what [`Table::get`] will look at into the caches: any byte of it.
    pub(crate) fn touch(&self, id: &AccountId) -> u8 {
        let first = self.bucket(bucket_of(id)).first();
        first.map_or(0, |(id, account)| id.0[31] ^ account.balance as u8)
    }

    /// Writes an account; returns what was there before.
    pub(crate) fn put(&mut self, id: AccountId, account: Account) -> Option<Account> {
        let bucket = &mut self.buckets[usize::from(bucket_of(&id))];
        match bucket.binary_search_by(|(other, _)| order(other, &id)) {
            Ok(at) => Some(std::mem::replace(&mut bucket[at].1, account)),
            Err(at) => {
                bucket.insert(at, (id, account));
                None
            }
        }
    }

    /// The account's key, if it is registered.
    pub(crate) fn key(&self, id: &AccountId) -> Option<&PublicKey> {
        self.keys.get(id)
    }

    /// Keeps the key of an account whose row says that it is registered.
    pub(crate) fn put_key(&mut self, id: AccountId, key: PublicKey) {
        self.keys.insert(id, key);
    }

    /// The accounts of one bucket, by ascending id.
    pub(crate) fn bucket(&self, index: u16) -> &[(AccountId, Account)] {
        &self.buckets[usize::from(index)]
    }

    /// All accounts, by ascending id.
    pub(crate) fn accounts(&self) -> impl Iterator<Item = &(AccountId, Account)> + '_ {
        self.buckets.iter().flatten()
    }

    /// Number of registered keys.
    pub(crate) fn keys(&self) -> usize {
        self.keys.len()
    }

    /// Number of accounts.
    pub(crate) fn len(&self) -> usize {
        self.buckets.iter().map(Vec::len).sum()
    }
}

/// The bucket of an account. Big-endian, so that buckets in order are accounts in order.
pub(crate) fn bucket_of(id: &AccountId) -> u16 {
    u16::from_be_bytes([id.0[0], id.0[1]])
}

/// The order of ids. Nearly always the first bytes decide, without a call to compare memory.
pub(crate) fn order(a: &AccountId, b: &AccountId) -> Ordering {
    prefix(a).cmp(&prefix(b)).then_with(|| a.cmp(b))
}

/// The first bytes of an id as a number: in the order of ids, except between those that share it.
pub(crate) fn prefix(id: &AccountId) -> u64 {
    u64::from_be_bytes(*id.0.first_chunk().expect("eight of 32 bytes"))
}
