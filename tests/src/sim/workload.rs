//! Clients: transfers, the same transfer to several validators, and pairs of transfers of which
//! only one can be paid for.

use falconet_types::message::Admission;
use falconet_types::receipt::{Outcome, Receipt};
use falconet_types::transaction::SignedTransaction;
use falconet_types::{ChainId, TxId};

use super::keys::{ACCOUNTS, BALANCE, FEE, transfer};
use super::rng::Rng;

/// One submission.
#[derive(Debug, Clone)]
pub struct Submission {
    /// When, microseconds.
    pub at_us: u64,
    /// To which validator first; the others are tried in turn while it does not accept.
    pub to: usize,
    /// What.
    pub tx: SignedTransaction,
}

/// All that clients do in a run.
#[derive(Debug)]
pub struct Workload {
    /// In order of time.
    pub submissions: Vec<Submission>,
    /// Pairs of which exactly one executes.
    pub conflicts: Vec<(TxId, TxId)>,
}

impl Workload {
    /// No clients at all.
    #[must_use]
    pub fn none() -> Self {
        Self {
            submissions: Vec::new(),
            conflicts: Vec::new(),
        }
    }

    /// A random load until `end_us`.
    #[must_use]
    pub fn random(rng: &mut Rng, chain: ChainId, n: usize, end_us: u64) -> Self {
        let mut submissions = Vec::new();
        let mut nonces = [0u64; ACCOUNTS];
        // Accounts 0 and 1 pay for the conflicting pair, and for nothing else.
        for _ in 0..rng.between(5, 40) {
            let from = 2 + rng.index(ACCOUNTS - 2);
            nonces[from] += 1;
            let to = 2 + rng.index(ACCOUNTS - 2);
            let amount = rng.between(1, 100);
            let tx = transfer(chain, from, to, nonces[from], amount);
            let at_us = rng.below(end_us);
            let first = rng.index(n);
            // Sometimes to two or three validators: it executes once.
            for copy in 0..=rng.below(3).saturating_sub(1) as usize {
                submissions.push(Submission {
                    at_us: at_us + copy as u64 * rng.below(50_000),
                    to: (first + copy) % n,
                    tx: tx.clone(),
                });
            }
        }
        let mut conflicts = Vec::new();
        for from in 0..2 {
            let amount = BALANCE - FEE - rng.below(BALANCE / 2 - FEE);
            let pair = [1, 2].map(|nonce| transfer(chain, from, 3, nonce, amount));
            let at_us = rng.below(end_us);
            let first = rng.index(n);
            for (k, tx) in pair.iter().enumerate() {
                submissions.push(Submission {
                    at_us: at_us + rng.below(20_000),
                    to: (first + k) % n,
                    tx: tx.clone(),
                });
            }
            conflicts.push((pair[0].id(), pair[1].id()));
        }
        submissions.sort_by_key(|submission| submission.at_us);
        Self {
            submissions,
            conflicts,
        }
    }

    /// True when a client tries elsewhere, or again, after this answer.
    #[must_use]
    pub fn tries_again(answer: Option<Admission>) -> bool {
        !matches!(answer, Some(Admission::Accepted | Admission::Duplicate))
    }

    /// True when the receipt says that the transaction took effect.
    #[must_use]
    pub fn took_effect(receipt: &Receipt) -> bool {
        receipt.outcome == Outcome::Executed
    }
}
