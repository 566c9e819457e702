//! One account, as the store keeps it and as the state commitment sees it.

use falconet_crypto::falcon::{PublicKey, Scheme};
use falconet_types::AccountId;
use falconet_types::genesis::GenesisAccount;
use falconet_types::wire::{Reader, Wire, WireError};

use crate::replay::NonceWindow;

const VERSION: u8 = 1;

/// An account. Its id is the id of its key, also before the key is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Account {
    /// What it owns, in the chain's smallest unit.
    pub balance: u64,
    /// Nonces that it has used.
    pub nonces: NonceWindow,
    /// Scheme of its key, once genesis or the account itself has published it; never changes
    /// after that. The key is kept apart: it is long, and written once.
    pub scheme: Option<Scheme>,
}

impl Account {
    /// Bytes of a row under the state commitment.
    pub const ROW_LEN: usize = 32 + 8 + 8 + 32 + 1;
    /// Bytes of the stored form.
    pub const STORED_LEN: usize = 1 + 8 + 8 + 32 + 1;

    /// The account at genesis.
    #[must_use]
    pub fn of_genesis(account: &GenesisAccount) -> Self {
        Self {
            balance: account.balance,
            scheme: account.key.as_ref().map(PublicKey::scheme),
            ..Self::default()
        }
    }

    /// Appends the row that the state commitment hashes: id, balance, nonce window, and whether
    /// the key is registered. The id is the hash of scheme and key, so one flag commits to the
    /// key.
    pub fn encode_row(&self, id: &AccountId, out: &mut Vec<u8>) {
        out.extend_from_slice(id.as_ref());
        out.extend_from_slice(&self.balance.to_le_bytes());
        self.nonces.encode(out);
        out.push(u8::from(self.scheme.is_some()));
    }
}

/// The store's form: without the key, which has a table of its own there.
impl Wire for Account {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        out.extend_from_slice(&self.balance.to_le_bytes());
        self.nonces.encode(out);
        out.push(self.scheme.map_or(0, Scheme::as_byte));
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
        let scheme = match r.u8()? {
            0 => None,
            byte => Some(Scheme::try_from(byte).map_err(|_| WireError::Value("scheme"))?),
        };
        Ok(Self {
            balance,
            nonces,
            scheme,
        })
    }
}
