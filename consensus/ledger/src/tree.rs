//! The binary Merkle tree over the 2^16 buckets of accounts.
//!
//! Its shape is fixed, so there is no rebalancing, and a block costs at most 16 hashes a bucket
//! that it touched, fewer where paths meet. A block's dirty paths are hashed level by level, each
//! level in one call, which lets a multi-buffer SHA-3 work on many nodes at once.
//!
//! ```text
//! leaf(b)       = H("falconet/bucket", rows of the accounts in b, by ascending id)
//! node(l, r)    = H("falconet/bucket-node", l ‖ r)
//! accounts_root = H("falconet/accounts", root ‖ burned)
//! ```

use falconet_crypto::hash::{self, Digest};

use crate::account::Account;
use crate::table::{BUCKETS, Table};

/// Levels below the root.
pub(crate) const DEPTH: usize = BUCKETS.trailing_zeros() as usize;
/// Most buckets whose rows are gathered in memory before they are hashed.
const GATHER_MAX: usize = 1024;
const DOMAIN_BUCKET: &str = "falconet/bucket";
const DOMAIN_NODE: &str = "falconet/bucket-node";
const DOMAIN_ACCOUNTS: &str = "falconet/accounts";

/// The tree, all nodes kept: 4 MiB.
#[derive(Debug)]
pub(crate) struct Tree {
    /// As in a heap: the root is node 1, the children of i are 2i and 2i + 1, the leaf of bucket
    /// b is node `BUCKETS + b`. Node 0 is not used.
    nodes: Vec<Digest>,
}

impl Tree {
    /// The tree of a table without accounts.
    pub(crate) fn empty() -> Self {
        let mut nodes = vec![Digest::ZERO; 2 * BUCKETS];
        let mut node = hash::hash(DOMAIN_BUCKET, &[]);
        for depth in (0..=DEPTH).rev() {
            nodes[1 << depth..2 << depth].fill(node);
            node = parent(&node, &node);
        }
        Self { nodes }
    }

    /// The tree of a table.
    pub(crate) fn of(table: &Table) -> Self {
        let mut tree = Self::empty();
        let filled = (0..=u16::MAX)
            .filter(|&b| !table.bucket(b).is_empty())
            .collect::<Vec<_>>();
        tree.update(table, &filled);
        tree
    }

    /// Brings the tree up to date after the accounts of `dirty` buckets (ascending, distinct)
    /// were written.
    pub(crate) fn update(&mut self, table: &Table, dirty: &[u16]) {
        assert!(
            dirty.is_sorted_by(|a, b| a < b),
            "dirty buckets are ascending and distinct"
        );
        for buckets in dirty.chunks(GATHER_MAX) {
            self.hash_buckets(table, buckets);
        }
        let mut level: Vec<usize> = dirty.iter().map(|&b| BUCKETS + usize::from(b)).collect();
        let mut pairs: Vec<[u8; 64]> = Vec::with_capacity(level.len());
        let mut digests: Vec<Digest> = Vec::with_capacity(level.len());
        for _ in 0..DEPTH {
            level.iter_mut().for_each(|node| *node /= 2);
            level.dedup();
            pairs.clear();
            for &node in &level {
                let mut pair = [0; 64];
                pair[..32].copy_from_slice(&self.nodes[2 * node].0);
                pair[32..].copy_from_slice(&self.nodes[2 * node + 1].0);
                pairs.push(pair);
            }
            digests.clear();
            digests.resize(level.len(), Digest::ZERO);
            hash::hash_many(DOMAIN_NODE, &pairs, &mut digests);
            for (&node, digest) in level.iter().zip(&digests) {
                self.nodes[node] = *digest;
            }
        }
    }

    /// The root over the buckets.
    pub(crate) fn root(&self) -> Digest {
        self.nodes[1]
    }

    /// The siblings on the way from a bucket to the root, lowest first.
    pub(crate) fn path(&self, bucket: u16) -> [Digest; DEPTH] {
        let leaf = BUCKETS + usize::from(bucket);
        std::array::from_fn(|level| self.nodes[leaf >> level ^ 1])
    }

    fn hash_buckets(&mut self, table: &Table, buckets: &[u16]) {
        let mut rows = Vec::new();
        let mut ends = Vec::with_capacity(buckets.len());
        for &b in buckets {
            encode_bucket(table.bucket(b).iter().map(|(id, a)| (id, a)), &mut rows);
            ends.push(rows.len());
        }
        let mut start = 0;
        let items: Vec<&[u8]> = ends
            .iter()
            .map(|&end| &rows[std::mem::replace(&mut start, end)..end])
            .collect();
        let mut digests = vec![Digest::ZERO; items.len()];
        hash::hash_many(DOMAIN_BUCKET, &items, &mut digests);
        for (&b, digest) in buckets.iter().zip(&digests) {
            self.nodes[BUCKETS + usize::from(b)] = *digest;
        }
    }
}

fn encode_bucket<'a>(accounts: impl Iterator<Item = (&'a Digest, &'a Account)>, out: &mut Vec<u8>) {
    for (id, account) in accounts {
        account.encode_row(id, out);
    }
}

/// Leaf of a bucket whose rows are given.
pub(crate) fn bucket_leaf(rows: &[u8]) -> Digest {
    hash::hash(DOMAIN_BUCKET, &[rows])
}

/// The root that a leaf and its path lead to.
pub(crate) fn root_from(bucket: u16, leaf: Digest, path: &[Digest; DEPTH]) -> Digest {
    let mut node = leaf;
    for (level, sibling) in path.iter().enumerate() {
        node = match bucket >> level & 1 {
            0 => parent(&node, sibling),
            _ => parent(sibling, &node),
        };
    }
    node
}

/// The accounts root: what a state commitment says about accounts and burned fees.
pub(crate) fn accounts_root(root: Digest, burned: u64) -> Digest {
    hash::hash(DOMAIN_ACCOUNTS, &[root.as_ref(), &burned.to_le_bytes()])
}

/// The nodes above a level, which has an even number of nodes.
pub(crate) fn parents(level: &[Digest]) -> Vec<Digest> {
    let mut pairs: Vec<[u8; 64]> = Vec::with_capacity(level.len() / 2);
    for nodes in level.chunks_exact(2) {
        let mut pair = [0; 64];
        pair[..32].copy_from_slice(&nodes[0].0);
        pair[32..].copy_from_slice(&nodes[1].0);
        pairs.push(pair);
    }
    let mut digests = vec![Digest::ZERO; pairs.len()];
    hash::hash_many(DOMAIN_NODE, &pairs, &mut digests);
    digests
}

fn parent(left: &Digest, right: &Digest) -> Digest {
    hash::hash(DOMAIN_NODE, &[left.as_ref(), right.as_ref()])
}
