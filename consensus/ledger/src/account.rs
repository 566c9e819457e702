//! One account, as the store keeps it and as the state commitment sees it.

use falconet_crypto::falcon::{PublicKey, Scheme};
use falconet_types::AccountId;
use falconet_types::wire::{Reader, Wire, WireError};

use crate::replay::NonceWindow;

const VERSION: u8 = 1;

/// An account. Its id is the id of its key, also before the key is registered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Account {
    /// What it owns, in the chain's smallest unit.
    pub balance: u64,
    /// Nonces that it has used.
    pub nonces: NonceWindow,
    /// Its key, once genesis or the account itself has published it; never changes after that.
    pub key: Option<PublicKey>,
}

impl Account {
    /// Bytes of a row under the state commitment.
    pub const ROW_LEN: usize = 32 + 8 + 8 + 32 + 1;

    /// Appends the row that the state commitment hashes: id, balance, nonce window, and whether
    /// the key is registered. The id is the hash of scheme and key, so one flag commits to the
    /// key.
    pub fn encode_row(&self, id: &AccountId, out: &mut Vec<u8>) {
        out.extend_from_slice(id.as_ref());
        out.extend_from_slice(&self.balance.to_le_bytes());
        self.nonces.encode(out);
        out.push(u8::from(self.key.is_some()));
    }
}

/// The store's form: it carries the key itself.
impl Wire for Account {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.extend_from_slice(&self.balance.to_le_bytes());
        self.nonces.encode(out);
        match &self.key {
            None => out.push(0),
            Some(key) => {
                out.push(key.scheme().as_byte());
                out.extend_from_slice(key.as_bytes());
            }
        }
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let version = r.u8()?;
        if version != VERSION {
            return Err(WireError::Version {
                what: "account",
                found: version,
            });
        }
        let balance = r.u64()?;
        let nonces = NonceWindow::decode(r)?;
        let key = match r.u8()? {
            0 => None,
            byte => {
                let scheme = Scheme::try_from(byte).map_err(|_| WireError::Value("scheme"))?;
                let bytes = r.bytes(scheme.public_key_len())?;
                let key = PublicKey::from_bytes(scheme, bytes);
                Some(key.map_err(|_| WireError::Value("public key"))?)
            }
        };
        Ok(Self {
            balance,
            nonces,
            key,
        })
    }
}
