//! Proofs about accounts: that an account has a certain state, or that it does not exist.
//!
//! A proof shows the whole bucket of the account and the path from the bucket to the root, so the
//! same proof settles existence and absence.

use falconet_types::receipt::StateRoots;
use falconet_types::wire::{Reader, Wire, WireError, put_count16};
use falconet_types::{AccountId, Digest, Height};

use crate::account::Account;
use crate::replay::NonceWindow;
use crate::table::bucket_of;
use crate::tree::{self, DEPTH};

const VERSION: u8 = 1;
/// Most rows that a proof may show.
pub const BUCKET_ROWS_MAX: usize = 4096;

/// One account as the commitment sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The account.
    pub id: AccountId,
    /// Its balance.
    pub balance: u64,
    /// Nonces that it has used.
    pub nonces: NonceWindow,
    /// Whether its key is registered. The key is the one whose id is the account.
    pub registered: bool,
}

impl From<&(AccountId, Account)> for Row {
    fn from((id, account): &(AccountId, Account)) -> Self {
        let Account {
            balance,
            nonces,
            scheme,
        } = *account;
        Self {
            id: *id,
            balance,
            nonces,
            registered: scheme.is_some(),
        }
    }
}

impl Wire for Row {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.id.as_ref());
        out.extend_from_slice(&self.balance.to_le_bytes());
        self.nonces.encode(out);
        out.push(u8::from(self.registered));
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let id = r.digest()?;
        let balance = r.u64()?;
        let nonces = NonceWindow::decode(r)?;
        let registered = match r.u8()? {
            0 => false,
            1 => true,
            _ => return Err(WireError::Value("registered")),
        };
        Ok(Self {
            id,
            balance,
            nonces,
            registered,
        })
    }
}

/// Proves what one account is at one height.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountProof {
    /// The height.
    pub height: Height,
    /// Results digest at that height.
    pub results: Digest,
    /// Validators root at that height.
    pub validators: Digest,
    /// What was burned until then.
    pub burned: u64,
    /// Every account of the bucket, by ascending id.
    pub bucket: Vec<Row>,
    /// Siblings from the bucket to the root, lowest first.
    pub path: [Digest; DEPTH],
}

/// Why an account proof proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccountProofError {
    /// The rows are not in ascending order of distinct accounts, or belong to other buckets.
    #[error("the rows are not the ascending accounts of the bucket of account {0}")]
    Rows(AccountId),
    /// The proof leads to another commitment.
    #[error("the proof leads to state commitment {found}, not {expected}")]
    Commitment {
        /// What the proof leads to.
        found: Digest,
        /// What it should lead to.
        expected: Digest,
    },
}

impl AccountProof {
    /// The account's state under `commitment`, `None` when it does not exist there. The caller
    /// takes the commitment from a committed header.
    pub fn verify(
        &self,
        commitment: Digest,
        id: &AccountId,
    ) -> Result<Option<Row>, AccountProofError> {
        let bucket = bucket_of(id);
        let ascending = self.bucket.is_sorted_by(|a, b| a.id < b.id);
        if !ascending || self.bucket.iter().any(|row| bucket_of(&row.id) != bucket) {
            return Err(AccountProofError::Rows(*id));
        }
        let mut rows = Vec::with_capacity(self.bucket.len() * Account::ROW_LEN);
        self.bucket.iter().for_each(|row| row.encode(&mut rows));
        let root = tree::root_from(bucket, tree::bucket_leaf(&rows), &self.path);
        let accounts = tree::accounts_root(root, self.burned);
        let roots = StateRoots {
            accounts,
            validators: self.validators,
            results: self.results,
            ..StateRoots::default()
        };
        let found = roots.commitment(self.height);
        if found != commitment {
            return Err(AccountProofError::Commitment {
                found,
                expected: commitment,
            });
        }
        Ok(self.bucket.iter().find(|row| row.id == *id).copied())
    }
}

impl Wire for AccountProof {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        self.height.encode(out);
        out.extend_from_slice(self.results.as_ref());
        out.extend_from_slice(self.validators.as_ref());
        out.extend_from_slice(&self.burned.to_le_bytes());
        self.path
            .iter()
            .for_each(|sibling| out.extend_from_slice(sibling.as_ref()));
        put_count16(out, self.bucket.len());
        self.bucket.iter().for_each(|row| row.encode(out));
    }
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let version = r.u8()?;
        if version != VERSION {
            return Err(WireError::Version {
                what: "account proof",
                found: version,
            });
        }
        let height = Height::decode(r)?;
        let results = r.digest()?;
        let validators = r.digest()?;
        let burned = r.u64()?;
        let mut path = [Digest::ZERO; DEPTH];
        for sibling in &mut path {
            *sibling = r.digest()?;
        }
        let n = r.count16("rows", BUCKET_ROWS_MAX)?;
        let mut bucket = Vec::with_capacity(n.min(r.remaining() / Account::ROW_LEN));
        for _ in 0..n {
            bucket.push(Row::decode(r)?);
        }
        Ok(Self {
            height,
            results,
            validators,
            burned,
            bucket,
            path,
        })
    }
}
