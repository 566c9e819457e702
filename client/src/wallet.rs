//! A key with what it takes to make transactions from it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use falconet_types::transaction::{Body, SignedTransaction, Transaction};
use falconet_types::{AccountId, ChainId, KeyPair};

/// How long a transaction stays valid unless said otherwise.
pub const VALIDITY_DEFAULT: Duration = Duration::from_secs(3600);
/// Fee unless said otherwise: the least fee of a chain with default parameters.
pub const FEE_DEFAULT: u64 = 1;

/// Makes signed transactions of one account, with ascending nonces.
///
/// An account accepts each nonce once, and only near or above the highest it has used (see
/// [`falconet_types::transaction`]). So a wallet must not begin with a nonce that an earlier
/// process used: begin with the account's `nonce_highest` plus 1 (from
/// `GET /v1/accounts/{id}`), or with [`Wallet::nonce_from_clock`], which needs no question as
/// long as the account always does so.
#[derive(Debug)]
pub struct Wallet {
    key: KeyPair,
    chain_id: ChainId,
    next_nonce: u64,
    fee: u64,
    validity: Duration,
}

impl Wallet {
    /// A wallet whose first transaction has the nonce `first_nonce`.
    #[must_use]
    pub fn new(key: KeyPair, chain_id: ChainId, first_nonce: u64) -> Self {
        Self {
            key,
            chain_id,
            next_nonce: first_nonce,
            fee: FEE_DEFAULT,
            validity: VALIDITY_DEFAULT,
        }
    }

    /// A first nonce for an account whose wallets all begin like this: microseconds since 1970.
    /// It lies above every nonce that an earlier wallet used, provided that the account made less
    /// than a million transactions a second and the clock was not set back.
    #[must_use]
    pub fn nonce_from_clock() -> u64 {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    /// Sets the fee of later transactions; a chain's minimum is in its genesis.
    pub fn set_fee(&mut self, fee: u64) {
        self.fee = fee;
    }

    /// Sets how long later transactions stay valid.
    pub fn set_validity(&mut self, validity: Duration) {
        self.validity = validity;
    }

    /// The account.
    #[must_use]
    pub fn id(&self) -> AccountId {
        self.key.public().id()
    }

    /// The nonce of the next transaction.
    #[must_use]
    pub fn next_nonce(&self) -> u64 {
        self.next_nonce
    }

    /// A signed transfer.
    pub fn transfer(&mut self, to: AccountId, amount: u64) -> SignedTransaction {
        self.sign(Body::Transfer { to, amount })
    }

    /// A signed transaction that publishes the account's key, for an account that came into
    /// being by receiving.
    pub fn register_key(&mut self) -> SignedTransaction {
        let key = self.key.public().clone();
        self.sign(Body::RegisterKey { key })
    }

    fn sign(&mut self, body: Body) -> SignedTransaction {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let until = now.saturating_add(self.validity).as_millis();
        let tx = Transaction {
            scheme: self.key.scheme(),
            chain_id: self.chain_id,
            sender: self.id(),
            nonce: self.next_nonce,
            valid_until_ms: u64::try_from(until).unwrap_or(u64::MAX),
            fee: self.fee,
            body,
        };
        self.next_nonce = self
            .next_nonce
            .checked_add(1)
            .expect("2^64 nonces are never used up");
        tx.sign(&self.key)
    }
}

#[cfg(test)]
mod tests {
    use falconet_crypto::falcon::{PreparedKey, Scheme, verify};
    use falconet_types::Digest;

    use super::*;

    #[test]
    fn nonces_ascend_and_signatures_verify() {
        let key = KeyPair::from_seed(Scheme::Falcon512, &[3; 32]);
        let mut wallet = Wallet::new(key.clone(), Digest([1; 32]), 7);
        wallet.set_fee(5);
        wallet.set_validity(Duration::MAX);
        let first = wallet.transfer(Digest([2; 32]), 10);
        let second = wallet.register_key();
        assert_eq!((first.nonce, second.nonce, wallet.next_nonce()), (7, 8, 9));
        assert_eq!((first.fee, first.valid_until_ms), (5, u64::MAX));
        let prepared = PreparedKey::from_public(key.public());
        for tx in [first, second] {
            assert!(verify(&prepared, &tx.message(), tx.signature()));
            assert_eq!(tx.sender, wallet.id());
            let parsed = SignedTransaction::parse(tx.bytes().clone()).unwrap();
            assert_eq!(parsed, tx);
        }
    }

    #[test]
    fn the_clock_gives_a_nonce_above_those_used_before() {
        let before = Wallet::nonce_from_clock();
        assert!(before > 1_000_000_000_000_000, "microseconds since 1970");
        assert!(Wallet::nonce_from_clock() >= before);
    }
}
