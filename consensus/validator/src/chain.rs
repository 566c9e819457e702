//! What a validator knows from its files before it starts: the chain, its validators, itself.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use falconet_crypto::falcon::{PublicKey, Verifier};
use falconet_types::epoch::EpochInfo;
use falconet_types::genesis::{ApplicationKind, Genesis, GenesisError};
use falconet_types::validators::ValidatorSet;
use falconet_types::{ChainId, ValidatorIndex};

use crate::epochs::{Epochs, EpochsError};

/// The chain as this validator sees it.
pub struct Chain {
    /// Identity of the chain.
    pub id: ChainId,
    /// The genesis document.
    pub genesis: Genesis,
    /// This node's key.
    pub key: PublicKey,
    /// No validator would trust this node's key: it shows them none.
    anonymous: AtomicBool,
    /// The epochs up to the current one. The core thread moves on; all others look.
    pub epochs: Epochs,
    /// Name of the signature verifier's code path.
    pub verifier_backend: String,
}

/// Why genesis and key do not fit.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The genesis document is refused.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// The proofs of past epochs cannot be used.
    #[error(transparent)]
    Epochs(#[from] EpochsError),
}

impl Chain {
    /// Reads genesis and the proofs of past epochs in the data directory, and finds the validator
    /// whose key this is; with another key the node follows.
    pub fn load(genesis: &Path, data: &Path, key: &PublicKey) -> Result<Self, ChainError> {
        let document = Genesis::load(genesis)?;
        let epochs = Epochs::open(data, &document)?;
        // Validators trust the keys of as many epochs as they remember.
        let is_trusted = epochs
            .newest()
            .iter()
            .any(|info| info.set.by_key(key).is_some());
        Ok(Self {
            id: document.chain_id(),
            genesis: document,
            key: key.clone(),
            anonymous: AtomicBool::new(!is_trusted),
            epochs,
            verifier_backend: format!("{:?}", Verifier::new().backend()).to_lowercase(),
        })
    }

    /// The current epoch.
    #[must_use]
    pub fn info(&self) -> Arc<EpochInfo> {
        self.epochs.current()
    }

    /// Validators of the current epoch.
    #[must_use]
    pub fn set(&self) -> Arc<ValidatorSet> {
        Arc::clone(&self.epochs.current().set)
    }

    /// This node's place among them; [`ValidatorIndex::NOBODY`] if it has none.
    #[must_use]
    pub fn me(&self) -> ValidatorIndex {
        let set = self.set();
        set.by_key(&self.key).unwrap_or(ValidatorIndex::NOBODY)
    }

    /// Name of a validator of the current epoch.
    #[must_use]
    pub fn name_of(&self, index: ValidatorIndex) -> String {
        let info = self.epochs.current();
        let member = info.members.get(index.at());
        member.map_or_else(|| "?".into(), |member| member.name.clone())
    }

    /// This node's own name, from the newest epoch of which it was a member.
    #[must_use]
    pub fn my_name(&self) -> String {
        let known = self.epochs.newest();
        let mine = known.iter().rev().find_map(|info| {
            let mine = info.members.iter().find(|member| member.key == self.key)?;
            Some(mine.name.clone())
        });
        let genesis = self.genesis.validators.iter().find(|v| v.key == self.key);
        mine.or_else(|| genesis.map(|v| v.name.clone()))
            .unwrap_or_else(|| "follower".into())
    }

    /// True while this node has no place among the validators: it commits, executes, serves and
    /// does not sign.
    #[must_use]
    pub fn is_follower(&self) -> bool {
        self.me() == ValidatorIndex::NOBODY
    }

    /// True for a node that shows validators no key, because none would trust it.
    #[must_use]
    pub fn is_anonymous(&self) -> bool {
        self.anonymous.load(Ordering::Acquire)
    }

    /// The key is a validator's from now on; false if it was one's before.
    pub fn show_key(&self) -> bool {
        self.anonymous.swap(false, Ordering::AcqRel)
    }

    /// `ledger` or `opaque`.
    #[must_use]
    pub fn application_name(&self) -> &'static str {
        match self.genesis.application {
            ApplicationKind::Ledger => "ledger",
            ApplicationKind::Opaque => "opaque",
        }
    }
}
