//! What a validator knows from its files before it starts: the chain, its validators, itself.

use std::path::Path;
use std::sync::Arc;

use falconet_crypto::falcon::{PublicKey, Verifier};
use falconet_types::genesis::{ApplicationKind, Genesis, GenesisError};
use falconet_types::validators::{Validator, ValidatorSet};
use falconet_types::{ChainId, ValidatorIndex};

/// The chain as this validator sees it.
pub struct Chain {
    /// Identity of the chain.
    pub id: ChainId,
    /// The genesis document.
    pub genesis: Genesis,
    /// Validators of the epoch.
    pub set: Arc<ValidatorSet>,
    /// This validator.
    pub me: ValidatorIndex,
    /// Name of the signature verifier's code path.
    pub verifier_backend: String,
}

/// Why genesis and key do not fit.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The genesis document is refused.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// The key is no validator's.
    #[error(
        "the key in {key} is not the key of any validator in {genesis}; use the key that genesis \
         names, or the genesis that names this key"
    )]
    NotAValidator {
        /// The key file.
        key: String,
        /// The genesis file.
        genesis: String,
    },
}

impl Chain {
    /// Reads genesis and finds the validator whose key this is.
    pub fn load(genesis: &Path, key_file: &Path, key: &PublicKey) -> Result<Self, ChainError> {
        let document = Genesis::load(genesis)?;
        let set = document.validator_set().map_err(GenesisError::from)?;
        let me = set.by_key(key).ok_or_else(|| ChainError::NotAValidator {
            key: key_file.display().to_string(),
            genesis: genesis.display().to_string(),
        })?;
        Ok(Self {
            id: document.chain_id(),
            genesis: document,
            set: Arc::new(set),
            me,
            verifier_backend: format!("{:?}", Verifier::new().backend()).to_lowercase(),
        })
    }

    /// This validator.
    #[must_use]
    pub fn myself(&self) -> &Validator {
        self.set.get(self.me).expect("this validator is in the set")
    }

    /// Name of a validator in genesis.
    #[must_use]
    pub fn name_of(&self, index: ValidatorIndex) -> &str {
        &self.genesis.validators[index.at()].name
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
