//! Accounts that the load generator spends from. Their keys follow from a seed, so that the same
//! network can be loaded again, and are cached on disk, because making a FALCON-1024 key takes
//! tens of milliseconds.
//!
//! **Not for money.** Whoever knows the seed has the keys. They exist for networks that serve as
//! test or benchmark.
//!
//! Cache file: magic and version (8), scheme (1), zeros (3), number of accounts (4), digest of
//! the seed (32), the encoded secret keys, CRC-32 of all before (4). Numbers are little-endian.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use falconet_crypto::falcon::{KeyPair, PublicKey, Scheme};
use falconet_crypto::hash;
use falconet_types::AccountId;
use falconet_types::genesis::GenesisAccount;
use rayon::prelude::*;

use crate::files;
use crate::progress::{OnProgress, Progress};

/// Most accounts of one generator.
pub const ACCOUNTS_MAX: usize = 65_536;
/// Fewest accounts that [`accounts_for_rate`] proposes.
const ACCOUNTS_MIN: u64 = 64;
/// Transactions a second that one account should carry at most, so that a transaction which is
/// retried seconds later is still inside the nonce window (256 nonces, about five seconds).
const RATE_PER_ACCOUNT: u64 = 50;
/// Default balance of a load account: enough for years of transfers of 1 with a fee of 1.
pub const BALANCE: u64 = 1_000_000_000_000;

const MAGIC: [u8; 8] = *b"FLCNACC\x01";
const HEADER_LEN: usize = 48;
const CRC_LEN: usize = 4;
const FILE_MODE: u32 = 0o600;

/// Why accounts cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    /// None, or too many.
    #[error("{0} load accounts asked for; choose between 1 and {ACCOUNTS_MAX}")]
    Count(usize),
    /// The cache cannot be written.
    #[error("cannot write the key cache {}: {source}; make its directory writable or set FALCONET_CACHE", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// How many accounts a load of `rate` transactions a second needs.
#[must_use]
pub fn accounts_for_rate(rate: u64) -> usize {
    let wanted = rate.div_ceil(RATE_PER_ACCOUNT).max(ACCOUNTS_MIN);
    usize::try_from(wanted.next_power_of_two())
        .unwrap_or(ACCOUNTS_MAX)
        .min(ACCOUNTS_MAX)
}

/// The accounts of a load generator.
pub struct LoadAccounts {
    scheme: Scheme,
    accounts: Vec<Account>,
}

/// The secret stays encoded: a decoded one holds some 100 KB of tables, too much for thousands.
struct Account {
    public: PublicKey,
    secret: Box<[u8]>,
}

impl LoadAccounts {
    /// The first `count` accounts of `seed`. With a directory `cache`, keys are read from there
    /// and new ones are added; a damaged cache is made again.
    pub fn generate(
        scheme: Scheme,
        count: usize,
        seed: &[u8; 32],
        cache: Option<&Path>,
        progress: OnProgress<'_>,
    ) -> Result<Self, AccountsError> {
        if count == 0 || count > ACCOUNTS_MAX {
            return Err(AccountsError::Count(count));
        }
        let path = cache.map(|dir| cache_path(dir, scheme, seed));
        let mut secrets = match &path {
            Some(path) => read_cache(path, scheme, seed, progress),
            None => Vec::new(),
        };
        let cached = secrets.len();
        if cached < count {
            let done = AtomicU64::new(0);
            let total = (count - cached) as u64;
            let made: Vec<Box<[u8]>> = (cached..count)
                .into_par_iter()
                .map(|index| {
                    let pair = KeyPair::from_seed(scheme, &account_seed(seed, index));
                    let done = done.fetch_add(1, Ordering::Relaxed) + 1;
                    progress(Progress::Step {
                        what: "making load keys",
                        done,
                        total,
                    });
                    pair.secret_bytes().into()
                })
                .collect();
            secrets.extend(made);
            if let Some(path) = path {
                let bytes = encode_cache(scheme, seed, &secrets);
                files::replace(&path, &bytes, FILE_MODE)
                    .map_err(|source| AccountsError::Write { path, source })?;
            }
        }
        secrets.truncate(count);
        let accounts = secrets
            .into_par_iter()
            .map(|secret| Account {
                public: decode(scheme, &secret).public().clone(),
                secret,
            })
            .collect();
        Ok(Self { scheme, accounts })
    }

    /// Number of accounts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    /// Never true.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    /// The scheme of all keys.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The account's id.
    #[must_use]
    pub fn id(&self, index: usize) -> AccountId {
        self.accounts[index].public.id()
    }

    /// The account's key, decoded anew by each call so that threads sign without sharing a lock.
    #[must_use]
    pub fn key_pair(&self, index: usize) -> KeyPair {
        decode(self.scheme, &self.accounts[index].secret)
    }

    /// The accounts as genesis funds them, in ascending order of their ids.
    #[must_use]
    pub fn genesis_accounts(&self, balance: u64) -> Vec<GenesisAccount> {
        let mut accounts: Vec<GenesisAccount> = self
            .accounts
            .iter()
            .map(|account| GenesisAccount {
                id: account.public.id(),
                balance,
                key: Some(account.public.clone()),
            })
            .collect();
        accounts.sort_by_key(|account| account.id);
        accounts
    }
}

impl std::fmt::Debug for LoadAccounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LoadAccounts({} of {})", self.len(), self.scheme)
    }
}

fn decode(scheme: Scheme, secret: &[u8]) -> KeyPair {
    KeyPair::from_secret_bytes(scheme, secret).expect("made here, or guarded by the checksum")
}

fn account_seed(seed: &[u8; 32], index: usize) -> [u8; 32] {
    hash::hash(
        "falconet/load-account",
        &[seed, &(index as u64).to_le_bytes()],
    )
    .0
}

fn cache_path(dir: &Path, scheme: Scheme, seed: &[u8; 32]) -> PathBuf {
    let seed = hash::hash("falconet/load-seed", &[seed]);
    dir.join(format!("accounts-{scheme}-{}.keys", seed.short()))
}

fn header(scheme: Scheme, seed: &[u8; 32], count: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_LEN);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[scheme.as_byte(), 0, 0, 0]);
    out.extend_from_slice(
        &u32::try_from(count)
            .expect("at most ACCOUNTS_MAX")
            .to_le_bytes(),
    );
    out.extend_from_slice(hash::hash("falconet/load-seed", &[seed]).as_ref());
    out
}

fn encode_cache(scheme: Scheme, seed: &[u8; 32], secrets: &[Box<[u8]>]) -> Vec<u8> {
    let mut out = header(scheme, seed, secrets.len());
    for secret in secrets {
        out.extend_from_slice(secret);
    }
    out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
    out
}

/// The secrets in a cache file; none when it is absent, damaged, or of another seed.
fn read_cache(
    path: &Path,
    scheme: Scheme,
    seed: &[u8; 32],
    progress: OnProgress<'_>,
) -> Vec<Box<[u8]>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            let text = format!(
                "cannot read {}: {error}; its keys are made again",
                path.display()
            );
            progress(Progress::Note(&text));
            return Vec::new();
        }
    };
    parse_cache(&bytes, scheme, seed).unwrap_or_else(|problem| {
        let text = format!("{} {problem}; its keys are made again", path.display());
        progress(Progress::Note(&text));
        Vec::new()
    })
}

fn parse_cache(
    bytes: &[u8],
    scheme: Scheme,
    seed: &[u8; 32],
) -> Result<Vec<Box<[u8]>>, &'static str> {
    let damaged = "is damaged";
    let (content, crc) = bytes.split_last_chunk::<CRC_LEN>().ok_or(damaged)?;
    let (head, secrets) = content.split_at_checked(HEADER_LEN).ok_or(damaged)?;
    if crc32fast::hash(content).to_le_bytes() != *crc {
        return Err(damaged);
    }
    let count = u32::from_le_bytes(head[12..16].try_into().expect("four bytes")) as usize;
    if count == 0 || count > ACCOUNTS_MAX || head != header(scheme, seed, count) {
        return Err("holds other keys");
    }
    let len = secrets.len() / count;
    if len == 0 || len * count != secrets.len() {
        return Err(damaged);
    }
    // The checksum guards against accidents; one decoded key against a change of the encoding.
    KeyPair::from_secret_bytes(scheme, &secrets[..len])
        .map_err(|_| "holds keys of another kind")?;
    Ok(secrets.chunks_exact(len).map(Box::from).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::progress::silent;

    const SEED: [u8; 32] = [9; 32];

    fn ids(accounts: &LoadAccounts) -> Vec<AccountId> {
        (0..accounts.len()).map(|i| accounts.id(i)).collect()
    }

    fn generate(count: usize, dir: &Path) -> (LoadAccounts, Vec<String>, u64) {
        let notes = Mutex::new(Vec::new());
        let made = AtomicU64::new(0);
        let accounts =
            LoadAccounts::generate(Scheme::Falcon512, count, &SEED, Some(dir), &|p| match p {
                Progress::Note(text) => notes.lock().unwrap().push(text.to_owned()),
                Progress::Step { .. } => {
                    made.fetch_add(1, Ordering::Relaxed);
                }
            })
            .unwrap();
        (accounts, notes.into_inner().unwrap(), made.into_inner())
    }

    #[test]
    fn the_cache_grows_and_gives_the_same_keys() {
        let dir = tempfile::tempdir().unwrap();
        let (two, _, made) = generate(2, dir.path());
        assert_eq!(made, 2);
        let (three, notes, made) = generate(3, dir.path());
        assert_eq!((made, notes.len()), (1, 0), "two of three are cached");
        assert_eq!(ids(&three)[..2], ids(&two));
        let (again, _, made) = generate(3, dir.path());
        assert_eq!(made, 0);
        let fresh = LoadAccounts::generate(Scheme::Falcon512, 3, &SEED, None, &silent).unwrap();
        assert_eq!(ids(&again), ids(&fresh));
        assert_eq!(again.key_pair(2).public().id(), again.id(2));
    }

    #[test]
    fn a_damaged_cache_is_made_again_and_said() {
        let dir = tempfile::tempdir().unwrap();
        let (before, ..) = generate(1, dir.path());
        let path = cache_path(dir.path(), Scheme::Falcon512, &SEED);
        let mut bytes = std::fs::read(&path).unwrap();
        for at in [3, 20, HEADER_LEN + 5, bytes.len() - 1] {
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            let (after, notes, made) = generate(1, dir.path());
            assert_eq!(made, 1, "byte {at}");
            assert!(notes[0].contains("made again"), "{notes:?}");
            assert_eq!(ids(&after), ids(&before));
            bytes[at] ^= 1;
        }
        for len in [0, 3, HEADER_LEN, bytes.len() - 1] {
            assert!(
                parse_cache(&bytes[..len], Scheme::Falcon512, &SEED).is_err(),
                "{len}"
            );
        }
        assert!(parse_cache(&bytes, Scheme::Falcon512, &SEED).is_ok());
        assert_eq!(
            parse_cache(&bytes, Scheme::Falcon512, &[8; 32]).unwrap_err(),
            "holds other keys"
        );
    }

    #[test]
    fn genesis_accounts_ascend_and_carry_keys() {
        let accounts = LoadAccounts::generate(Scheme::Falcon512, 4, &SEED, None, &silent).unwrap();
        let funded = accounts.genesis_accounts(7);
        assert!(funded.is_sorted_by(|a, b| a.id < b.id));
        assert!(
            funded
                .iter()
                .all(|a| a.balance == 7 && a.key.as_ref().unwrap().id() == a.id)
        );
    }

    #[test]
    fn the_number_of_accounts_follows_the_rate() {
        assert_eq!(accounts_for_rate(0), 64);
        assert_eq!(accounts_for_rate(5_000), 128);
        assert_eq!(accounts_for_rate(50_000), 1024);
        assert_eq!(accounts_for_rate(u64::MAX / 2), ACCOUNTS_MAX);
        let none = LoadAccounts::generate(Scheme::Falcon512, 0, &SEED, None, &silent);
        assert!(matches!(none, Err(AccountsError::Count(0))));
    }
}
