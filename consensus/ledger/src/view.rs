//! What other threads may ask while blocks execute.
//!
//! One executor writes, many verify threads read. The executor works out a block beside the
//! table and holds the write lock only while it copies the changed accounts in (about 0.1 µs an
//! account), so a reader never waits for signatures or hashing.

use std::sync::Arc;

use falconet_crypto::falcon::{KeyCache, PreparedKey, PublicKey, Verifier};
use falconet_types::receipt::Outcome;
use falconet_types::transaction::{Body, SignedTransaction};
use falconet_types::{AccountId, ChainId, Digest, Height};
use parking_lot::RwLock;

use crate::account::Account;
use crate::registry::Registry;
use crate::rules::{self, Context};
use crate::staking;
use crate::table::Table;

/// Most prepared keys in memory, 2 KiB each.
pub const PREPARED_KEYS_MAX: usize = 32 * 1024;

/// State that executor and readers share.
pub(crate) struct Shared {
    pub(crate) chain_id: ChainId,
    pub(crate) fee_min: u64,
    pub(crate) keys: KeyCache,
    /// Makes verifiers; a simulation has one of its own.
    pub(crate) verifier: fn() -> Verifier,
    pub(crate) state: RwLock<State>,
}

/// What changes with each block.
pub(crate) struct State {
    pub(crate) height: Height,
    pub(crate) table: Table,
    pub(crate) registry: Arc<Registry>,
    pub(crate) burned: u64,
}

/// A handle on the state after the last executed block. Cheap to clone; of any number of
/// threads.
#[derive(Clone)]
pub struct View {
    pub(crate) shared: Arc<Shared>,
}

impl View {
    /// The door's question: would this transaction execute now? Asks every rule but the
    /// signature, see [`crate::rules`]. What passes here may still fail in its block, when
    /// another transaction of the sender comes first.
    pub fn check(&self, tx: &SignedTransaction, now_ms: u64) -> Result<(), Outcome> {
        let Shared {
            chain_id, fee_min, ..
        } = *self.shared;
        let context = Context {
            chain_id,
            fee_min,
            time_ms: now_ms,
        };
        let Body::Stake(stake) = &tx.body else {
            let state = self.shared.state.read();
            return rules::check(&context, tx, state.table.get(&tx.sender), || true).map(|_| ());
        };
        let registry = self.registry();
        if stake.is_by_validator() {
            rules::check_by_validator(&context, tx, &registry, || true)?;
        } else {
            let state = self.shared.state.read();
            rules::check(&context, tx, state.table.get(&tx.sender), || true)?;
        }
        // Signatures inside are checked as well: a transaction that fails pays nothing, so what
        // cannot succeed must not get into a block.
        staking::check(&registry, tx, stake, &mut (self.shared.verifier)())
    }

    /// The registry of validators after the last executed block.
    #[must_use]
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.shared.state.read().registry)
    }

    /// The key of a validator with this id, ready for verification.
    #[must_use]
    pub fn validator_key(&self, key_id: &Digest) -> Option<Arc<PreparedKey>> {
        let registry = self.registry();
        let key = registry.key(key_id)?;
        Some(Arc::new(PreparedKey::from_public(key)))
    }

    /// The account, if it exists.
    #[must_use]
    pub fn account(&self, id: &AccountId) -> Option<Account> {
        self.shared.state.read().table.get(id).copied()
    }

    /// The account's key, if it is registered.
    #[must_use]
    pub fn key_of(&self, id: &AccountId) -> Option<PublicKey> {
        self.shared.state.read().table.key(id).cloned()
    }

    /// The account's key, ready for verification, if it is registered. Kept in a cache of
    /// [`PREPARED_KEYS_MAX`] keys.
    #[must_use]
    pub fn prepared_key(&self, id: &AccountId) -> Option<Arc<PreparedKey>> {
        // Only registered keys are ever cached, and a registered key never changes.
        self.shared.keys.get(id).or_else(|| {
            let key = self.key_of(id)?;
            Some(self.shared.keys.get_or_prepare(&key))
        })
    }

    /// Height of the last executed block.
    #[must_use]
    pub fn height(&self) -> Height {
        self.shared.state.read().height
    }

    /// Fees and punishments since genesis.
    #[must_use]
    pub fn burned(&self) -> u64 {
        self.shared.state.read().burned
    }

    /// Number of accounts.
    #[must_use]
    pub fn accounts(&self) -> usize {
        self.shared.state.read().table.len()
    }
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "View {{ height: {} }}", self.height())
    }
}
