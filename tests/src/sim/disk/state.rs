//! The state database and the snapshots of a node: rows as they were written, block by block, and
//! what is made of them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use falconet_ledger::snapshot::{
    BUCKET_COUNT, Head, LeafBuilder, LeafTree, Rows, bucket_of, put_row, registry_rows, split_row,
};
use falconet_ledger::{Account, BlockResult, Ledger};
use falconet_sync::head_of;
use falconet_types::genesis::Genesis;
use falconet_types::receipt::StateRoots;
use falconet_types::snapshot::{Chunk, GetChunk, Manifest};
use falconet_types::stake::RowId;
use falconet_types::wire::Wire;
use falconet_types::{AccountId, Digest, Height, PublicKey, TxId};

use super::super::keys;

/// Rows in one part of a snapshot, bytes: states are small in here, and should come in parts.
const CHUNK_BYTES: usize = 3_000;
/// Trees that a thread remembers: all nodes of a run serve the same states.
const TREES_MAX: usize = 4;

/// The state after a block.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// The block; 0 for genesis, of which nothing is stored.
    pub height: Height,
    accounts: BTreeMap<AccountId, Account>,
    keys: BTreeMap<AccountId, PublicKey>,
    registry: BTreeMap<RowId, Bytes>,
    /// Of the heights that are kept.
    pub roots: BTreeMap<Height, StateRoots>,
    /// Of those from the last height of an epoch until the next one begins.
    pub registry_roots: BTreeMap<Height, Digest>,
    /// Transactions of the heights that are kept.
    settled: BTreeMap<TxId, Height>,
}

impl State {
    /// Writes what a block changed, and forgets what lies below a height.
    pub fn apply(
        &mut self,
        result: &BlockResult,
        registry_root: Option<Digest>,
        forget_below: Height,
    ) {
        assert_eq!(
            result.height,
            self.height.next(),
            "blocks follow each other"
        );
        self.height = result.height;
        self.accounts.extend(result.changes.iter().copied());
        self.keys.extend(result.keys.iter().cloned());
        for (id, row) in &result.registry {
            match row {
                Some(row) => self.registry.insert(*id, row.clone()),
                None => self.registry.remove(id),
            };
        }
        self.roots.insert(result.height, result.roots);
        let noted = registry_root.map(|root| (result.height, root));
        self.registry_roots.extend(noted);
        let receipts = result.receipts.iter();
        let settled = receipts.map(|receipt| (receipt.tx_id, result.height));
        self.settled.extend(settled);
        self.roots = self.roots.split_off(&forget_below);
        self.registry_roots = self.registry_roots.split_off(&forget_below);
        self.settled.retain(|_, height| *height >= forget_below);
    }

    /// True for a transaction that was executed not too long ago.
    #[must_use]
    pub fn is_settled(&self, id: &TxId) -> bool {
        self.settled.contains_key(id)
    }

    /// The application at this state.
    pub fn ledger(&self, genesis: &Genesis) -> Result<Ledger, String> {
        let ledger = if self.height == Height::ZERO {
            Ledger::from_genesis(genesis)
        } else {
            let row = self.roots.get(&self.height).expect("roots of its height");
            Ledger::restore(
                genesis,
                self.height,
                row.results,
                self.accounts.iter().map(|(id, account)| (*id, *account)),
                self.keys.iter().map(|(id, key)| (*id, key.clone())),
                self.registry.iter().map(|(id, row)| (*id, row.clone())),
            )
            .map_err(|why| format!("the rows at height {} make no state: {why}", self.height))?
        };
        Ok(ledger.with_verifier(keys::verifier))
    }

    /// What a snapshot of this state holds. Accounts of genesis that no block wrote have no row.
    #[must_use]
    pub fn snapshot(&self, genesis: &Genesis, head: Head) -> Snapshot {
        let mut accounts = self.accounts.clone();
        let mut keys = self.keys.clone();
        for account in &genesis.accounts {
            let of_genesis = || Account::of_genesis(account);
            accounts.entry(account.id).or_insert_with(of_genesis);
            if let Some(key) = &account.key {
                keys.insert(account.id, key.clone());
            }
        }
        let row = |(id, account): (&AccountId, &Account)| {
            let mut row = account.to_bytes();
            row.extend(keys.get(id).into_iter().flat_map(|key| key.as_bytes()));
            (*id, row)
        };
        Snapshot {
            height: self.height,
            head,
            roots: *self.roots.get(&self.height).expect("roots of its height"),
            rows: accounts.iter().map(row).collect(),
        }
    }

    /// The state that a manifest and all chunks of it make; `None` when parts are missing.
    pub fn of_chunks(manifest: &Manifest, chunks: &[Chunk]) -> Result<Option<Self>, String> {
        let height = manifest.height();
        let mut state = Self {
            height,
            ..Self::default()
        };
        let mut buckets = 0;
        for chunk in chunks {
            buckets += usize::from(chunk.last - chunk.first) + 1;
            for row in Rows::new(&chunk.rows) {
                let unreadable = |why| format!("a row of the snapshot of {height}: {why}");
                let (id, row) = row.map_err(unreadable)?;
                let (stored, key) = split_row(row);
                let account = Account::from_bytes(stored).map_err(unreadable)?;
                if let (Some(scheme), Some(key)) = (account.scheme, key) {
                    let key = PublicKey::from_bytes(scheme, key);
                    let key = key.map_err(|why| format!("a key of the snapshot: {why}"))?;
                    state.keys.insert(id, key);
                }
                state.accounts.insert(id, account);
            }
        }
        if buckets != BUCKET_COUNT {
            return Ok(None);
        }
        let rows = registry_rows(&manifest.registry).expect("the manifest was checked");
        state.registry.extend(rows);
        let roots = StateRoots {
            // Receipts below the snapshot are not here, so nothing is proven with it.
            receipts: Digest::ZERO,
            accounts: head_of(manifest).accounts_root(),
            validators: manifest.validators,
            results: manifest.results,
        };
        state.roots.insert(height, roots);
        Ok(Some(state))
    }
}

/// A snapshot that is ready to be served.
#[derive(Debug)]
pub struct Snapshot {
    /// Its height.
    pub height: Height,
    /// The application's part.
    pub head: Head,
    /// The digests of the height.
    pub roots: StateRoots,
    /// Stored form and key of each account.
    rows: BTreeMap<AccountId, Vec<u8>>,
}

type Tree = Arc<(BTreeMap<AccountId, Vec<u8>>, LeafTree)>;

thread_local! {
    static TREES: RefCell<Vec<Tree>> = const { RefCell::new(Vec::new()) };
}

impl Snapshot {
    /// Bytes of its rows.
    #[must_use]
    pub fn rows_bytes(&self) -> u64 {
        self.rows.values().map(|row| 34 + row.len() as u64).sum()
    }

    /// A part of it.
    ///
    /// # Panics
    /// If the rows are not those of the state that was executed.
    #[must_use]
    pub fn chunk(&self, request: &GetChunk) -> Chunk {
        let tree = self.tree();
        assert_eq!(
            tree.1.root(),
            self.head.tree_root,
            "rows of this very state"
        );
        let (mut bytes, mut last) = (0, request.last);
        for (id, row) in &self.rows {
            let bucket = bucket_of(id);
            if bucket > request.first && bucket <= request.last && bytes >= CHUNK_BYTES {
                last = bucket - 1;
                break;
            }
            if bucket >= request.first {
                bytes += row.len();
            }
        }
        let (left, right) = tree.1.beside(request.first, last);
        let mut rows = Vec::new();
        for (id, row) in &self.rows {
            if (request.first..=last).contains(&bucket_of(id)) {
                put_row(&mut rows, id, row);
            }
        }
        Chunk {
            height: self.height,
            first: request.first,
            last,
            left,
            right,
            rows: rows.into(),
        }
    }

    fn tree(&self) -> Tree {
        TREES.with_borrow_mut(|trees| {
            if let Some(known) = trees.iter().find(|tree| tree.0 == self.rows) {
                return Arc::clone(known);
            }
            let mut builders = BTreeMap::<u16, LeafBuilder>::new();
            for (id, row) in &self.rows {
                let builder = builders.entry(bucket_of(id)).or_default();
                builder.add(id, row).expect("a row of the ledger");
            }
            let leaves = (0..=u16::MAX).map(|bucket| {
                let builder = builders.get_mut(&bucket);
                builder.map_or_else(|| LeafBuilder::default().finish(), LeafBuilder::finish)
            });
            let tree = Arc::new((self.rows.clone(), LeafTree::new(leaves.collect())));
            if trees.len() == TREES_MAX {
                trees.remove(0);
            }
            trees.push(Arc::clone(&tree));
            tree
        })
    }
}
