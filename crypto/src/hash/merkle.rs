//! Binary Merkle trees in the shape of RFC 6962 (section 2.1).
//!
//! A tree over n > 1 leaves splits at the largest power of two below n; built level by level, that
//! is: pair neighbours, and carry an odd last node up unchanged. No leaf is ever duplicated, so
//! two different lists never share a root through padding. Leaves and inner nodes hash in
//! different domains, so an inner node cannot pass for a leaf.
//!
//! ```text
//!           root              3 leaves: c is carried up
//!          /    \
//!        ab      c
//!       /  \
//!      a    b
//! ```

use super::{Digest, hash, hash_many};

const DOMAIN_EMPTY: &str = "falconet/merkle-empty";
const DOMAIN_LEAF: &str = "falconet/merkle-leaf";
const DOMAIN_NODE: &str = "falconet/merkle-node";

/// Longest path from a leaf to the root: a tree has at most 2^64 leaves.
pub const SIBLINGS_MAX: usize = 64;

/// The root of the tree over `leaves`. The empty list has a root of its own.
pub fn root(leaves: &[Digest]) -> Digest {
    if leaves.is_empty() {
        return hash(DOMAIN_EMPTY, &[]);
    }
    let mut level = leaf_level(leaves);
    while level.len() > 1 {
        level = level_above(&level);
    }
    level[0]
}

/// Evidence that one leaf is in a tree: the siblings on the way from the leaf to the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Position of the leaf.
    pub index: u64,
    /// Number of leaves in the tree.
    pub count: u64,
    /// Siblings, lowest first; a level where the node is carried up has none.
    pub siblings: Vec<Digest>,
}

impl Proof {
    /// Proves leaf `index` of `leaves`; `None` when there is no such leaf.
    pub fn prove(leaves: &[Digest], index: usize) -> Option<Self> {
        if index >= leaves.len() {
            return None;
        }
        let mut siblings = Vec::new();
        let mut level = leaf_level(leaves);
        let mut at = index;
        while level.len() > 1 {
            if let Some(sibling) = level.get(at ^ 1) {
                siblings.push(*sibling);
            }
            level = level_above(&level);
            at /= 2;
        }
        Some(Self {
            index: index as u64,
            count: leaves.len() as u64,
            siblings,
        })
    }

    /// Whether `leaf` is at [`Proof::index`] of the tree of [`Proof::count`] leaves under `root`.
    ///
    /// The number of siblings must be exactly the one that index and count imply.
    pub fn verify(&self, root: &Digest, leaf: &Digest) -> bool {
        if self.index >= self.count || self.siblings.len() > SIBLINGS_MAX {
            return false;
        }
        let mut siblings = self.siblings.iter();
        let mut node = hash(DOMAIN_LEAF, &[leaf.as_ref()]);
        let (mut at, mut last) = (self.index, self.count - 1);
        while last > 0 {
            if at % 2 == 1 {
                let Some(left) = siblings.next() else {
                    return false;
                };
                node = parent(left, &node);
            } else if at < last {
                let Some(right) = siblings.next() else {
                    return false;
                };
                node = parent(&node, right);
            }
            at /= 2;
            last /= 2;
        }
        siblings.next().is_none() && node == *root
    }
}

fn parent(left: &Digest, right: &Digest) -> Digest {
    hash(DOMAIN_NODE, &[left.as_ref(), right.as_ref()])
}

fn leaf_level(leaves: &[Digest]) -> Vec<Digest> {
    let mut level = vec![Digest::ZERO; leaves.len()];
    hash_many(DOMAIN_LEAF, leaves, &mut level);
    level
}

fn level_above(level: &[Digest]) -> Vec<Digest> {
    let mut above = vec![Digest::ZERO; level.len().div_ceil(2)];
    let pairs: Vec<[u8; 64]> = level
        .chunks_exact(2)
        .map(|pair| {
            let mut bytes = [0; 64];
            bytes[..32].copy_from_slice(&pair[0].0);
            bytes[32..].copy_from_slice(&pair[1].0);
            bytes
        })
        .collect();
    hash_many(DOMAIN_NODE, &pairs, &mut above[..pairs.len()]);
    if level.len() % 2 == 1 {
        above[pairs.len()] = level[level.len() - 1];
    }
    above
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: usize) -> Vec<Digest> {
        (0..count)
            .map(|i| hash("leaf", &[&(i as u64).to_le_bytes()]))
            .collect()
    }

    /// The recursive definition of RFC 6962, section 2.1.
    fn root_by_definition(leaves: &[Digest]) -> Digest {
        match leaves.len() {
            0 => hash(DOMAIN_EMPTY, &[]),
            1 => hash(DOMAIN_LEAF, &[leaves[0].as_ref()]),
            n => {
                let split = n.next_power_of_two() / 2;
                let (left, right) = leaves.split_at(split);
                parent(&root_by_definition(left), &root_by_definition(right))
            }
        }
    }

    #[test]
    fn the_root_follows_the_recursive_definition() {
        for count in 0..70 {
            assert_eq!(
                root(&leaves(count)),
                root_by_definition(&leaves(count)),
                "{count} leaves"
            );
        }
    }

    #[test]
    fn every_leaf_of_every_small_tree_is_provable() {
        for count in 1..40 {
            let leaves = leaves(count);
            let root = root(&leaves);
            for (index, leaf) in leaves.iter().enumerate() {
                let proof = Proof::prove(&leaves, index).expect("the leaf exists");
                assert!(proof.verify(&root, leaf), "leaf {index} of {count}");
                assert!(!proof.verify(&root, &Digest::ZERO));
            }
            assert_eq!(Proof::prove(&leaves, count), None);
        }
    }

    #[test]
    fn an_altered_proof_is_refused() {
        let leaves = leaves(13);
        let root = root(&leaves);
        let proof = Proof::prove(&leaves, 6).expect("the leaf exists");
        for index in (0..16).filter(|&index| index != 6) {
            assert!(
                !Proof {
                    index,
                    ..proof.clone()
                }
                .verify(&root, &leaves[6]),
                "index {index}"
            );
        }
        let mut longer = proof.clone();
        longer.siblings.push(Digest::ZERO);
        assert!(!longer.verify(&root, &leaves[6]));
        let mut shorter = proof.clone();
        shorter.siblings.pop();
        assert!(!shorter.verify(&root, &leaves[6]));
        assert!(!Proof { count: 0, ..proof }.verify(&root, &leaves[6]));
    }

    #[test]
    fn repeating_the_last_leaf_changes_the_root() {
        let mut leaves = leaves(5);
        let before = root(&leaves);
        leaves.push(leaves[4]);
        assert_ne!(root(&leaves), before);
    }
}
