//! The door: what can be said of a transaction before it is ordered. What passes may still fail
//! in its block, when another transaction of the same sender comes first.

use std::sync::Arc;

use falconet_crypto::falcon::PreparedKey;
use falconet_ledger::View;
use falconet_types::batch::TX_BYTES_MIN;
use falconet_types::receipt::Outcome;
use falconet_types::transaction::{Body, SignedTransaction};

/// Longest transaction of an opaque application, bytes.
pub const OPAQUE_TX_BYTES_MAX: usize = 16 << 10;

/// The rules at the door of this chain's application.
pub struct Door {
    /// `None` when the application is opaque.
    view: Option<View>,
}

impl Door {
    /// The door of an application with accounts (`view`) or without.
    #[must_use]
    pub fn new(view: Option<View>) -> Self {
        Self { view }
    }

    /// True when the chain orders opaque bytes.
    #[must_use]
    pub fn is_opaque(&self) -> bool {
        self.view.is_none()
    }

    /// The only rules on opaque bytes: neither too few nor too many.
    pub fn check_opaque(&self, bytes: &[u8]) -> Result<(), Outcome> {
        if bytes.len() < TX_BYTES_MIN || bytes.len() > OPAQUE_TX_BYTES_MAX {
            return Err(Outcome::Malformed);
        }
        Ok(())
    }

    /// Every rule but the signature; on success the key under which to verify it.
    pub fn check(&self, tx: &SignedTransaction, now_ms: u64) -> Result<Arc<PreparedKey>, Outcome> {
        let view = self.view.as_ref().ok_or(Outcome::Malformed)?;
        view.check(tx, now_ms)?;
        self.key(tx).ok_or(Outcome::UnknownKey)
    }

    /// The key whose id is the sender, if it is known: from the state, or from the transaction
    /// itself when it registers one.
    #[must_use]
    pub fn key(&self, tx: &SignedTransaction) -> Option<Arc<PreparedKey>> {
        match &tx.body {
            Body::RegisterKey { key } => Some(Arc::new(PreparedKey::from_public(key))),
            Body::Stake(stake) if stake.is_by_validator() => {
                let key = self.view.as_ref()?.validator_key(&tx.sender)?;
                (key.scheme() == tx.scheme).then_some(key)
            }
            Body::Transfer { .. } | Body::Stake(_) => {
                let key = self.view.as_ref()?.prepared_key(&tx.sender)?;
                (key.scheme() == tx.scheme).then_some(key)
            }
        }
    }
}
