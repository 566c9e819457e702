//! The ledger: accounts, signed transfers, fees, and a commitment to all of it.

use std::sync::Arc;

use bytes::Bytes;
use falconet_crypto::falcon::{KeyCache, PublicKey, Verifier};
use falconet_crypto::hash::merkle;
use falconet_types::genesis::{Genesis, RESULTS_AT_GENESIS};
use falconet_types::receipt::{Receipt, StateRoots, fold_results};
use falconet_types::stake::RowId;
use falconet_types::validators::Member;
use falconet_types::{AccountId, Digest, Height};
use parking_lot::RwLock;

use crate::account::Account;
use crate::application::{Application, Block, BlockResult, assert_next};
use crate::execute;
use crate::proof::AccountProof;
use crate::registry::{Registry, RegistryError};
use crate::rules::Context;
use crate::snapshot::{Head, pack_registry};
use crate::table::{Table, bucket_of};
use crate::tree::{self, Tree};
use crate::view::{PREPARED_KEYS_MAX, Shared, State, View};

/// Why stored rows are not a state of this chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The same account was given twice.
    #[error(
        "account {0} is stored twice; the state is corrupt, restore it from a snapshot or replay the chain"
    )]
    Twice(AccountId),
    /// A stored key has another id or scheme than its account.
    #[error(
        "the key stored for account {0} is not its key; the state is corrupt, restore it from a snapshot or replay the chain"
    )]
    Key(AccountId),
    /// The key of an account that has registered one is missing.
    #[error(
        "the key of account {0} is not stored; the state is corrupt, restore it from a snapshot or replay the chain"
    )]
    NoKey(AccountId),
    /// The registry of validators is not one.
    #[error(
        "the stored registry of validators is not one: {0}; the state is corrupt, restore it from a snapshot or replay the chain"
    )]
    Registry(#[from] RegistryError),
    /// The balances exceed what genesis created.
    #[error(
        "the stored balances and stakes add up to more than the supply of {supply}; the state is corrupt or belongs to another chain"
    )]
    Supply {
        /// Sum of balances and stakes in genesis.
        supply: u64,
    },
}

/// Accounts with balances; see [`crate::rules`] for what a transaction must fulfil.
///
/// Fees and punishments are burned: at every height, the sum of all balances, of the stake that is
/// bonded or on its way back and of what was burned is the supply that genesis created.
pub struct Ledger {
    shared: Arc<Shared>,
    tree: Tree,
    genesis_commitment: Digest,
    height: Height,
    /// Digest over the receipts of all blocks so far.
    results: Digest,
    verifier: Verifier,
    scratch: execute::Scratch,
}

impl Ledger {
    /// The state at height 0. The genesis document must have passed its checks.
    #[must_use]
    pub fn from_genesis(genesis: &Genesis) -> Self {
        let registry = Registry::from_genesis(genesis);
        Self::build(
            genesis,
            None,
            Height::ZERO,
            RESULTS_AT_GENESIS,
            std::iter::empty(),
            std::iter::empty(),
            registry,
        )
        .expect("a checked genesis has distinct accounts, matching keys and a supply below 2^64")
    }

    /// Has signatures checked by another verifier than this machine's: for simulations, in which
    /// signatures are not FALCON's. Before anybody has a view.
    ///
    /// # Panics
    /// If there is a view already.
    #[must_use]
    pub fn with_verifier(mut self, verifier: fn() -> Verifier) -> Self {
        let shared = Arc::get_mut(&mut self.shared);
        shared.expect("nobody has a view").verifier = verifier;
        self.verifier = verifier();
        self
    }

    /// The state after the block at `height`, from all rows that were ever written, each account
    /// with its last state, in any order, and the keys that were registered. Accounts that no block
    /// wrote and keys of genesis may be missing: they are taken from there. Rows of the registry are complete, unless `height` is 0. The caller
    /// compares [`Application::commitment`] with the one that it stored.
    pub fn restore(
        genesis: &Genesis,
        height: Height,
        results: Digest,
        rows: impl Iterator<Item = (AccountId, Account)>,
        keys: impl Iterator<Item = (AccountId, PublicKey)>,
        registry: impl Iterator<Item = (RowId, Bytes)>,
    ) -> Result<Self, RestoreError> {
        let registry = match height {
            Height::ZERO => Registry::from_genesis(genesis),
            _ => Registry::restore(genesis, registry)?,
        };
        let at_genesis = Self::from_genesis(genesis).genesis_commitment;
        Self::build(
            genesis,
            Some(at_genesis),
            height,
            results,
            rows,
            keys,
            registry,
        )
    }

    fn build(
        genesis: &Genesis,
        genesis_commitment: Option<Digest>,
        height: Height,
        results: Digest,
        rows: impl Iterator<Item = (AccountId, Account)>,
        keys: impl Iterator<Item = (AccountId, PublicKey)>,
        registry: Registry,
    ) -> Result<Self, RestoreError> {
        let supply = genesis.supply().expect("a checked genesis has a supply");
        let mut table = Table::new();
        let mut registered = 0;
        for (id, account) in rows {
            registered += usize::from(account.scheme.is_some());
            if table.put(id, account).is_some() {
                return Err(RestoreError::Twice(id));
            }
        }
        for a in &genesis.accounts {
            if table.get(&a.id).is_none() {
                registered += usize::from(a.key.is_some());
                table.put(a.id, Account::of_genesis(a));
            }
        }
        let of_genesis = genesis.accounts.iter();
        let of_genesis = of_genesis.filter_map(|a| Some((a.id, a.key.clone()?)));
        for (id, key) in keys.chain(of_genesis) {
            let named = table.get(&id).and_then(|account| account.scheme);
            if key.id() != id || named != Some(key.scheme()) {
                return Err(RestoreError::Key(id));
            }
            table.put_key(id, key);
        }
        if table.keys() != registered {
            let lacks = |id: &AccountId| table.key(id).is_none();
            let without = table
                .accounts()
                .find(|(id, account)| account.scheme.is_some() && lacks(id));
            let (id, _) = without.expect("there are fewer keys than accounts that need one");
            return Err(RestoreError::NoKey(*id));
        }
        let burned = table
            .accounts()
            .map(|(_, account)| account.balance)
            .try_fold(supply, u64::checked_sub)
            .and_then(|rest| rest.checked_sub(registry.total()?))
            .ok_or(RestoreError::Supply { supply })?;
        let tree = Tree::of(&table);
        let shared = Shared {
            chain_id: genesis.chain_id(),
            fee_min: genesis.params.fee_min,
            keys: KeyCache::with_capacity(PREPARED_KEYS_MAX),
            verifier: Verifier::new,
            state: RwLock::new(State {
                height,
                table,
                registry: Arc::new(registry),
                burned,
            }),
        };
        let mut ledger = Self {
            shared: Arc::new(shared),
            tree,
            genesis_commitment: Digest::ZERO,
            height,
            results,
            verifier: Verifier::new(),
            scratch: execute::Scratch::default(),
        };
        ledger.genesis_commitment = genesis_commitment.unwrap_or_else(|| ledger.commitment());
        Ok(ledger)
    }

    /// Proves to anybody who knows the commitment what the account is, or that there is none.
    #[must_use]
    pub fn prove_account(&self, id: &AccountId) -> AccountProof {
        let state = self.shared.state.read();
        let bucket = bucket_of(id);
        AccountProof {
            height: self.height,
            results: self.results,
            validators: state.registry.root(),
            burned: state.burned,
            bucket: state.table.bucket(bucket).iter().map(Into::into).collect(),
            path: self.tree.path(bucket),
        }
    }

    fn validators_root(&self) -> Digest {
        self.shared.state.read().registry.root()
    }

    /// The registry at the beginning of `block`: with the commitment of the block before, if it is
    /// one of those to keep.
    fn registry_before(&self, block: &Block<'_>) -> Arc<Registry> {
        let mut registry = Arc::clone(&self.shared.state.read().registry);
        if registry.wants_checkpoint(self.height) {
            let commitment = self.commitment();
            Arc::make_mut(&mut registry).put_checkpoint(self.height, commitment);
        }
        let (epoch, height) = (registry.epoch(), block.height);
        let between = block.epoch.next() == epoch && block.batches.is_empty() && !block.ends_epoch;
        assert!(
            block.epoch == epoch || between,
            "block {height} of epoch {} with transactions comes after epoch {epoch} has begun",
            block.epoch
        );
        registry
    }

    fn accounts_root(&self) -> Digest {
        tree::accounts_root(self.tree.root(), self.shared.state.read().burned)
    }
}

impl Application for Ledger {
    fn genesis_commitment(&self) -> Digest {
        self.genesis_commitment
    }

    fn height(&self) -> Height {
        self.height
    }

    fn commitment(&self) -> Digest {
        let accounts = self.accounts_root();
        StateRoots {
            accounts,
            validators: self.validators_root(),
            results: self.results,
            ..StateRoots::default()
        }
        .commitment(self.height)
    }

    fn execute(&mut self, block: &Block<'_>) -> BlockResult {
        assert_next(block, self.height);
        let Shared {
            chain_id, fee_min, ..
        } = *self.shared;
        let context = Context {
            chain_id,
            fee_min,
            time_ms: block.time_ms,
        };
        let before = self.registry_before(block);
        let effects = {
            // Readers go on meanwhile: there is no other writer for them to queue behind.
            let state = self.shared.state.read();
            let keys = &self.shared.keys;
            execute::execute(
                block,
                &context,
                &state.table,
                before,
                keys,
                &mut self.verifier,
                &mut self.scratch,
            )
        };
        let mut registry = effects.registry;
        let mut written = Vec::new();
        if !Arc::ptr_eq(&registry, &self.shared.state.read().registry) {
            written = Arc::make_mut(&mut registry).take_changes();
        }
        if block.height == Height(1) {
            let rows = registry.rows();
            written = rows.map(|(id, row)| (id, Some(row))).collect();
        }
        {
            let mut state = self.shared.state.write();
            state.registry = registry;
            for (id, account) in &effects.changes {
                state.table.put(*id, *account);
            }
            for (id, key) in &effects.keys {
                state.table.put_key(*id, key.clone());
            }
            state.burned += effects.burned;
            state.height = block.height;
        }
        let mut dirty: Vec<u16> = effects
            .changes
            .iter()
            .map(|(id, _)| bucket_of(id))
            .collect();
        dirty.dedup(); // ascending, because ids are
        self.tree.update(&self.shared.state.read().table, &dirty);
        let receipts_root = merkle::root(&Receipt::leaves(&effects.receipts));
        self.results = fold_results(self.results, block.height, receipts_root);
        self.height = block.height;
        let roots = StateRoots {
            receipts: receipts_root,
            accounts: self.accounts_root(),
            validators: self.validators_root(),
            results: self.results,
        };
        BlockResult {
            height: block.height,
            roots,
            receipts: effects.receipts,
            changes: effects.changes,
            keys: effects.keys,
            registry: written,
        }
    }

    fn head(&self) -> Head {
        let state = self.shared.state.read();
        Head {
            tree_root: self.tree.root(),
            burned: state.burned,
            registry: pack_registry(state.registry.rows()),
        }
    }

    fn next_validators(&self) -> Option<Vec<Member>> {
        let state = self.shared.state.read();
        let registry = &state.registry;
        let members = registry.members(registry.epoch()).unwrap_or_default();
        registry
            .has_epochs()
            .then(|| members.iter().map(|m| m.member.clone()).collect())
    }

    fn registry_root(&self) -> Digest {
        self.shared.state.read().registry.registry_root()
    }

    fn view(&self) -> Option<View> {
        Some(View {
            shared: Arc::clone(&self.shared),
        })
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Ledger {{ height: {}, commitment: {} }}",
            self.height,
            self.commitment()
        )
    }
}
