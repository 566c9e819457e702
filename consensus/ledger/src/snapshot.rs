//! What a snapshot of the accounts consists of, and how a part of it is proven.
//!
//! A snapshot is the accounts in order of their ids, as the store keeps them, with their keys; a *chunk* of it is
//! the accounts of some neighbouring buckets. The leaves of those buckets and at most
//! [`SIBLINGS_MAX`] nodes beside them lead to the root of the tree, so each chunk is judged when
//! it arrives, whoever sent it:
//!
//! ```text
//!                 root
//!            ┌─────┴─────┐
//!          left          ●              left, right: nodes that the sender shows
//!                    ┌───┴───┐          ●: computed
//!                    ●     right
//!                 ┌──┴──┐
//!               first  last             leaves of the chunk's buckets
//! ```

use std::sync::OnceLock;

use bytes::Bytes;
use falconet_crypto::falcon::PublicKey;
use falconet_crypto::hash::Digest;
use falconet_types::AccountId;
use falconet_types::genesis::Genesis;
use falconet_types::stake::RowId;
use falconet_types::wire::{Reader, Wire, WireError};

use crate::account::Account;
use crate::ledger::RestoreError;
use crate::registry::{Registry, RegistryError};
use crate::table::BUCKETS;
use crate::tree::{self, DEPTH};

/// Number of buckets: chunks are ranges of them.
pub const BUCKET_COUNT: usize = BUCKETS;
/// Most nodes beside a chunk that its proof shows.
pub const SIBLINGS_MAX: usize = 2 * DEPTH;
/// Longest row of an account with its key, bytes.
const ACCOUNT_BYTES_MAX: usize = 4_096;

/// What the state of an application is beside its accounts' rows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Head {
    /// Root over the buckets; zero when there are no accounts.
    pub tree_root: Digest,
    /// What was burned until then.
    pub burned: u64,
    /// Rows of the registry of validators ([`registry_rows`]); empty without a registry.
    pub registry: Bytes,
}

impl Head {
    /// The accounts root that a state commitment names; zero for an application without accounts.
    #[must_use]
    pub fn accounts_root(&self) -> Digest {
        if self.tree_root == Digest::ZERO && self.burned == 0 {
            return Digest::ZERO;
        }
        tree::accounts_root(self.tree_root, self.burned)
    }

    /// The validators root that a state commitment names; zero without a registry. An error when
    /// the rows make no registry.
    pub fn validators_root(&self, genesis: &Genesis) -> Result<Digest, RestoreError> {
        if self.registry.is_empty() {
            return Ok(Digest::ZERO);
        }
        let rows = registry_rows(&self.registry).map_err(|source| RegistryError::Row {
            kind: 0,
            row: Digest::ZERO,
            source,
        })?;
        Ok(Registry::restore(genesis, rows.into_iter())?.root())
    }
}

/// Packs rows of the registry: id, length, row.
pub(crate) fn pack_registry(rows: impl Iterator<Item = (RowId, Bytes)>) -> Bytes {
    let mut out = Vec::new();
    for (id, row) in rows {
        out.extend_from_slice(&id.0);
        let len = u16::try_from(row.len()).expect("a row of the registry is short");
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&row);
    }
    out.into()
}

/// The rows in a head's registry, which are distinct and in ascending order of their ids.
pub fn registry_rows(packed: &Bytes) -> Result<Vec<(RowId, Bytes)>, WireError> {
    let mut r = Reader::new(packed);
    let mut rows: Vec<(RowId, Bytes)> = Vec::new();
    while r.remaining() > 0 {
        let id = RowId(r.array()?);
        let len = usize::from(r.u16()?);
        let at = packed.len() - r.remaining();
        r.bytes(len)?;
        if len > ACCOUNT_BYTES_MAX || rows.last().is_some_and(|(before, _)| *before >= id) {
            return Err(WireError::Value("row of the registry"));
        }
        rows.push((id, packed.slice(at..at + len)));
    }
    Ok(rows)
}

/// The bucket of an account.
#[must_use]
pub fn bucket_of(id: &AccountId) -> u16 {
    crate::table::bucket_of(id)
}

/// Appends a row as snapshots carry it: id, length, and the row, which is the account's stored form
/// and its key, if that is registered.
pub fn put_row(out: &mut Vec<u8>, id: &AccountId, row: &[u8]) {
    out.extend_from_slice(id.as_ref());
    let len = u16::try_from(row.len()).expect("an account and its key are short");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(row);
}

/// The stored form of an account and its key out of a row that was judged.
#[must_use]
pub fn split_row(row: &[u8]) -> (&[u8], Option<&[u8]>) {
    let (stored, key) = row.split_at(Account::STORED_LEN);
    (stored, (!key.is_empty()).then_some(key))
}

/// Reads a row, which must be whole and carry the account's own key if that is registered.
fn parse_row(id: &AccountId, row: &[u8]) -> Result<Account, WireError> {
    let mut r = Reader::new(row);
    let account = Account::decode(&mut r)?;
    if let Some(scheme) = account.scheme {
        let bytes = r.bytes(scheme.public_key_len())?;
        let key = PublicKey::from_bytes(scheme, bytes);
        let key = key.map_err(|_| WireError::Value("public key"))?;
        if key.id() != *id {
            return Err(WireError::Value("key"));
        }
    }
    r.finish()?;
    Ok(account)
}

/// Reads rows in the order in which they stand.
#[derive(Debug)]
pub struct Rows<'a> {
    reader: Reader<'a>,
}

impl<'a> Rows<'a> {
    /// Rows that [`put_row`] wrote, one behind the other.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            reader: Reader::new(bytes),
        }
    }
}

impl<'a> Iterator for Rows<'a> {
    type Item = Result<(AccountId, &'a [u8]), WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.remaining() == 0 {
            return None;
        }
        let mut read = || {
            let id = self.reader.digest()?;
            let len = self.reader.u16()?;
            let len = usize::from(len);
            if len > ACCOUNT_BYTES_MAX {
                return Err(WireError::TooLong {
                    field: "account",
                    len,
                    max: ACCOUNT_BYTES_MAX,
                });
            }
            Ok((id, self.reader.bytes(len)?))
        };
        let row = read();
        if row.is_err() {
            self.reader = Reader::new(&[]);
        }
        Some(row)
    }
}

/// Computes leaves out of rows in ascending order.
#[derive(Debug, Default)]
pub struct LeafBuilder {
    rows: Vec<u8>,
}

impl LeafBuilder {
    /// Adds an account of the bucket, in its stored form with its key. The key, if there is one,
    /// must be the account's: the leaf only says that it is registered.
    pub fn add(&mut self, id: &AccountId, row: &[u8]) -> Result<(), WireError> {
        parse_row(id, row)?.encode_row(id, &mut self.rows);
        Ok(())
    }

    /// The leaf of the bucket; the next one begins.
    pub fn finish(&mut self) -> Digest {
        // Most buckets of a small state are empty.
        static EMPTY: OnceLock<Digest> = OnceLock::new();
        if self.rows.is_empty() {
            return *EMPTY.get_or_init(|| tree::bucket_leaf(&[]));
        }
        let leaf = tree::bucket_leaf(&self.rows);
        self.rows.clear();
        leaf
    }
}

/// Why rows are not the accounts of the buckets that they are said to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    /// A row cannot be read.
    #[error("a row cannot be read: {0}")]
    Row(#[from] WireError),
    /// Rows out of order, or of other buckets.
    #[error("account {0} is out of order or of another bucket")]
    Order(AccountId),
    /// The proof has too few or too many nodes.
    #[error("the proof does not fit the range of buckets")]
    Shape,
    /// The rows are of another state.
    #[error("rows and proof lead to root {found}, not {expected}")]
    Root {
        /// What they lead to.
        found: Digest,
        /// What they should lead to.
        expected: Digest,
    },
}

/// Checks that `rows` are all accounts of the buckets `first..=last` under `root`.
pub fn verify_chunk(
    root: Digest,
    first: u16,
    last: u16,
    rows: &[u8],
    left: &[Digest],
    right: &[Digest],
) -> Result<(), ChunkError> {
    if last < first {
        return Err(ChunkError::Shape);
    }
    let mut leaves = Vec::with_capacity(usize::from(last - first) + 1);
    let mut builder = LeafBuilder::default();
    let mut bucket = first;
    let mut before: Option<AccountId> = None;
    for row in Rows::new(rows) {
        let (id, stored) = row?;
        let its = bucket_of(&id);
        if its > last || its < bucket || before.is_some_and(|before| before >= id) {
            return Err(ChunkError::Order(id));
        }
        while bucket < its {
            leaves.push(builder.finish());
            bucket += 1;
        }
        builder.add(&id, stored)?;
        before = Some(id);
    }
    while leaves.len() <= usize::from(last - first) {
        leaves.push(builder.finish());
    }
    let found = root_of_range(first, leaves, left, right).ok_or(ChunkError::Shape)?;
    if found != root {
        let expected = root;
        return Err(ChunkError::Root { found, expected });
    }
    Ok(())
}

/// The root over a range of leaves that begins at `first` and the nodes beside it, lowest first;
/// `None` when these are too few or too many.
fn root_of_range(
    first: u16,
    leaves: Vec<Digest>,
    left: &[Digest],
    right: &[Digest],
) -> Option<Digest> {
    let (mut left, mut right) = (left.iter(), right.iter());
    let mut start = usize::from(first);
    let mut level = leaves;
    for _ in 0..DEPTH {
        if start % 2 == 1 {
            level.insert(0, *left.next()?);
            start -= 1;
        }
        if level.len() % 2 == 1 {
            level.push(*right.next()?);
        }
        level = tree::parents(&level);
        start /= 2;
    }
    let whole = left.next().is_none() && right.next().is_none();
    (whole && level.len() == 1).then(|| level[0])
}

/// The tree over the leaves of a snapshot, to prove chunks with.
#[derive(Debug)]
pub struct LeafTree {
    /// Leaves first, root last.
    levels: Vec<Vec<Digest>>,
}

impl LeafTree {
    /// The tree over all leaves.
    ///
    /// # Panics
    /// If there are not [`BUCKET_COUNT`] leaves.
    #[must_use]
    pub fn new(leaves: Vec<Digest>) -> Self {
        assert_eq!(leaves.len(), BUCKET_COUNT, "one leaf a bucket");
        let mut levels = vec![leaves];
        for depth in 0..DEPTH {
            levels.push(tree::parents(&levels[depth]));
        }
        Self { levels }
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> Digest {
        self.levels[DEPTH][0]
    }

    /// The nodes beside the buckets `first..=last`, left and right of them, lowest first.
    #[must_use]
    pub fn beside(&self, first: u16, last: u16) -> (Vec<Digest>, Vec<Digest>) {
        let (mut left, mut right) = (Vec::new(), Vec::new());
        let (mut start, mut end) = (usize::from(first), usize::from(last));
        for level in &self.levels[..DEPTH] {
            if start % 2 == 1 {
                left.push(level[start - 1]);
            }
            if end.is_multiple_of(2) {
                right.push(level[end + 1]);
            }
            (start, end) = (start / 2, end / 2);
        }
        (left, right)
    }
}
