//! Transfers that are signed before they are needed, because a FALCON signature costs many times
//! its verification.
//!
//! **Files.** Transfers are kept in segments: every account signs the same number of consecutive
//! nonces in a segment, and the segment's first nonce names its file. [`Presigned::prepare`]
//! makes the files that are missing; a file that is damaged or belongs to another chain is made
//! again. Beyond the last file the supply signs ahead in memory, on one thread of low priority,
//! so that a load can run for ever, as fast as that thread signs.
//!
//! **Nonces are used up by a chain, not by a run.** On a chain that starts from genesis the first
//! nonce is [`FIRST_NONCE`], and the same files serve run after run as long as the genesis stays
//! the same and the validators' data is wiped (that is what `falconet bench cluster` does). On a
//! chain that lives on, start above the highest nonce that the accounts used
//! ([`crate::http::next_nonce`]); files below are then dead and [`Presigned::prepare`] removes
//! them. A new genesis is a new chain id: its transfers are others, and so are its files.
//!
//! **Senders and validators.** Account `i` sends through validator `i mod n`, so a sender's
//! nonces pass through one lane in order. Only a fail-over or a retry reorders them, within what
//! the nonce window forgives; see [`crate::accounts::accounts_for_rate`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use falconet_crypto::hash::{self, Digest};
use falconet_types::ChainId;
use falconet_types::transaction::{Body, Transaction};
use falconet_types::wire::Wire as _;
use rayon::prelude::*;

use super::segment::{ID_LEN, Segment, SegmentKey};
use super::{Ahead, Supply};
use crate::accounts::LoadAccounts;
use crate::files;
use crate::progress::{OnProgress, Progress};

/// First nonce of an account on a fresh chain.
pub const FIRST_NONCE: u64 = 1;
/// Load transfers never expire: a file may be replayed long after it was made.
const NEVER: u64 = u64::MAX;
/// Size that a segment aims at, bytes. Segments also pass through memory, three at a time.
const SEGMENT_BYTES: usize = 8 << 20;
/// Largest number of transfers that can be prepared: 140 GB on disk.
pub const PREPARE_TXS_MAX: u64 = 100_000_000;
const FILE_MODE: u32 = 0o600;

/// Why transfers cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PresignedError {
    /// More than anybody has disk for.
    #[error(
        "{0} pre-signed transfers asked for, at most {PREPARE_TXS_MAX} are made; lower --rate or --duration"
    )]
    TooMany(u64),
    /// A file cannot be written.
    #[error("cannot write pre-signed transfers to {}: {source}; free space there or set FALCONET_CACHE", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The signing thread cannot be started.
    #[error("cannot start the signing thread: {0}; raise the limit on processes (ulimit -u)")]
    Thread(#[source] io::Error),
}

/// What is signed.
#[derive(Debug, Clone)]
pub struct TransferPlan {
    /// The chain.
    pub chain_id: ChainId,
    /// Fee of each transfer: at least the chain's minimum.
    pub fee: u64,
    /// Amount of each transfer.
    pub amount: u64,
    /// Validators that the senders are spread over.
    pub targets: usize,
    /// First nonce to use.
    pub first_nonce: u64,
    /// Directory of the files.
    pub dir: PathBuf,
}

/// Signed transfers of a set of accounts, on disk and beyond.
pub struct Presigned {
    accounts: Arc<LoadAccounts>,
    plan: TransferPlan,
    nonces_per_segment: u32,
    record_len: usize,
    rest: Digest,
}

/// What [`Presigned::prepare`] did, in transfers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Prepared {
    /// Found on disk, whole.
    pub reused: u64,
    /// Signed now.
    pub signed: u64,
}

impl Presigned {
    /// Describes a supply; nothing is signed yet.
    #[must_use]
    pub fn new(accounts: Arc<LoadAccounts>, plan: TransferPlan) -> Self {
        assert!(plan.targets > 0, "a load needs a validator");
        let sample = transfer(&accounts, &plan, 0, FIRST_NONCE).to_bytes().len();
        let record_len = ID_LEN + sample + accounts.scheme().signature_len();
        let nonces = (SEGMENT_BYTES / (record_len * accounts.len())).max(1);
        let nonces_per_segment = u32::try_from(nonces).expect("a segment is small");
        let mut ids = Vec::with_capacity(32 * accounts.len());
        for index in 0..accounts.len() {
            ids.extend_from_slice(accounts.id(index).as_ref());
        }
        let rest = hash::hash(
            "falconet/load-plan",
            &[
                &plan.fee.to_le_bytes(),
                &plan.amount.to_le_bytes(),
                &NEVER.to_le_bytes(),
                &ids,
            ],
        );
        Self {
            accounts,
            plan,
            nonces_per_segment,
            record_len,
            rest,
        }
    }

    /// Bytes of one transfer.
    #[must_use]
    pub fn transaction_bytes(&self) -> usize {
        self.record_len - ID_LEN
    }

    /// Makes sure that at least `count` transfers lie on disk, signing on all cores what is
    /// missing.
    pub fn prepare(
        &self,
        count: u64,
        progress: OnProgress<'_>,
    ) -> Result<Prepared, PresignedError> {
        if count > PREPARE_TXS_MAX {
            return Err(PresignedError::TooMany(count));
        }
        self.remove_used();
        let per_segment = self.key(self.first_segment()).len() as u64;
        let segments = count.div_ceil(per_segment);
        let mut prepared = Prepared::default();
        let mut missing = Vec::new();
        for number in (0..segments).map(|n| self.first_segment() + n) {
            match self.read(number, progress) {
                Some(_) => prepared.reused += per_segment,
                None => missing.push(number),
            }
            let done = prepared.reused / per_segment + missing.len() as u64;
            progress(Progress::Step {
                what: "checking transfers",
                done,
                total: segments,
            });
        }
        let total = missing.len() as u64 * per_segment;
        let signed = AtomicU64::new(0);
        for number in missing {
            let key = self.key(number);
            let segment = self.sign(&key, &|| {
                let nonces = u64::from(self.nonces_per_segment);
                let done = signed.fetch_add(nonces, Ordering::Relaxed) + nonces;
                progress(Progress::Step {
                    what: "signing transfers",
                    done,
                    total,
                });
            });
            let path = self.path(number);
            files::replace(&path, &segment.encode(&key), FILE_MODE)
                .map_err(|source| PresignedError::Write { path, source })?;
            prepared.signed += per_segment;
        }
        Ok(prepared)
    }

    /// The transfers, from the first nonce on. Without a limit there is no end, and signing ahead
    /// takes its share of the processor while the load runs; with one, nothing is made beyond the
    /// segment that reaches it.
    pub fn supply(self, limit: Option<u64>) -> Result<impl Supply, PresignedError> {
        self.ahead(limit)
    }

    fn ahead(self, limit: Option<u64>) -> Result<Ahead<Segment>, PresignedError> {
        let mut number = self.first_segment();
        let per_segment = self.key(number).len() as u64;
        let end = limit.map(|limit| number + limit.div_ceil(per_segment));
        // One thread: the others belong to the validators.
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .thread_name(|_| "sign-ahead".into())
            .start_handler(|_| super::be_nice())
            .build()
            .map_err(|error| PresignedError::Thread(io::Error::other(error)))?;
        let ahead = Ahead::start("transfer-supply", move || {
            if end.is_some_and(|end| number >= end) {
                return None;
            }
            let segment = self
                .read(number, &|progress| {
                    if let Progress::Note(text) = progress {
                        tracing::warn!("{text}");
                    }
                })
                .unwrap_or_else(|| pool.install(|| self.sign(&self.key(number), &|| {})));
            number += 1;
            Some(segment)
        })
        .map_err(PresignedError::Thread)?;
        Ok(ahead.warm())
    }

    /// Number of the segment that the plan starts with: the first whose nonces are all unused.
    fn first_segment(&self) -> u64 {
        let skipped = self.plan.first_nonce.saturating_sub(FIRST_NONCE);
        skipped.div_ceil(u64::from(self.nonces_per_segment))
    }

    fn key(&self, number: u64) -> SegmentKey {
        let nonces = u64::from(self.nonces_per_segment);
        SegmentKey {
            chain_id: self.plan.chain_id,
            scheme: self.accounts.scheme(),
            accounts: u32::try_from(self.accounts.len()).expect("at most ACCOUNTS_MAX"),
            nonces: self.nonces_per_segment,
            record_len: u32::try_from(self.record_len).expect("a transaction is small"),
            first_nonce: FIRST_NONCE + number * nonces,
            rest: self.rest,
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        self.plan.dir.join(format!("transfers-{number:08}.txs"))
    }

    /// The segment on disk, if it is there and whole; why not otherwise is said.
    fn read(&self, number: u64, progress: OnProgress<'_>) -> Option<Segment> {
        let path = self.path(number);
        let problem = match fs::read(&path) {
            Ok(file) => {
                let key = self.key(number);
                match Segment::parse(&key, Bytes::from(file), self.plan.targets) {
                    Ok(segment) => return Some(segment),
                    Err(error) => error.to_string(),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => format!("cannot be read ({error})"),
        };
        let text = format!(
            "{} {problem}; its transfers are signed again",
            path.display()
        );
        progress(Progress::Note(&text));
        None
    }

    /// Removes files whose nonces the chain has used.
    fn remove_used(&self) {
        let first = self.first_segment();
        let Ok(entries) = fs::read_dir(&self.plan.dir) else {
            return;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            if number_of(&path).is_some_and(|number| number < first) {
                // A file that stays wastes space and does no harm.
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Signs a segment on the threads of the current pool; `each` is called after each account.
    fn sign(&self, key: &SegmentKey, each: &(dyn Fn() + Sync)) -> Segment {
        let by_account: Vec<Vec<u8>> = (0..self.accounts.len())
            .into_par_iter()
            .map(|index| {
                let pair = self.accounts.key_pair(index);
                let mut records = Vec::with_capacity(self.record_len * key.nonces as usize);
                for nonce in key.first_nonce..key.first_nonce + u64::from(key.nonces) {
                    let tx = transfer(&self.accounts, &self.plan, index, nonce).sign(&pair);
                    records.extend_from_slice(tx.id().as_ref());
                    records.extend_from_slice(tx.bytes());
                }
                each();
                records
            })
            .collect();
        let mut records = Vec::with_capacity(self.record_len * key.len());
        for nonce in 0..key.nonces as usize {
            let at = nonce * self.record_len;
            for account in &by_account {
                records.extend_from_slice(&account[at..at + self.record_len]);
            }
        }
        Segment::new(key, records.into(), self.plan.targets)
    }
}

/// Each account pays the next one, so that balances stay level.
fn transfer(accounts: &LoadAccounts, plan: &TransferPlan, index: usize, nonce: u64) -> Transaction {
    Transaction {
        scheme: accounts.scheme(),
        chain_id: plan.chain_id,
        sender: accounts.id(index),
        nonce,
        valid_until_ms: NEVER,
        fee: plan.fee,
        body: Body::Transfer {
            to: accounts.id((index + 1) % accounts.len()),
            amount: plan.amount,
        },
    }
}

fn number_of(path: &Path) -> Option<u64> {
    path.file_name()?
        .to_str()?
        .strip_prefix("transfers-")?
        .strip_suffix(".txs")?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use falconet_crypto::falcon::{PreparedKey, Scheme, verify};
    use falconet_types::transaction::SignedTransaction;

    use super::*;
    use crate::progress::silent;

    fn accounts() -> Arc<LoadAccounts> {
        Arc::new(LoadAccounts::generate(Scheme::Falcon512, 3, &[5; 32], None, &silent).unwrap())
    }

    /// Two nonces a segment, so that a test signs little.
    fn presigned(
        accounts: &Arc<LoadAccounts>,
        dir: &Path,
        chain: u8,
        first_nonce: u64,
    ) -> Presigned {
        let plan = TransferPlan {
            chain_id: Digest([chain; 32]),
            fee: 1,
            amount: 2,
            targets: 2,
            first_nonce,
            dir: dir.to_owned(),
        };
        let mut presigned = Presigned::new(accounts.clone(), plan);
        presigned.nonces_per_segment = 2;
        presigned
    }

    fn prepare(presigned: &Presigned, count: u64) -> (Prepared, Vec<String>) {
        let notes = Mutex::new(Vec::new());
        let prepared = presigned
            .prepare(count, &|progress| {
                if let Progress::Note(text) = progress {
                    notes.lock().unwrap().push(text.to_owned());
                }
            })
            .unwrap();
        (prepared, notes.into_inner().unwrap())
    }

    fn take(supply: &mut impl Supply, count: usize) -> Vec<super::super::SupplyTx> {
        let mut txs = Vec::new();
        while txs.len() < count {
            match supply.next() {
                Some(tx) => txs.push(tx),
                None => std::thread::yield_now(),
            }
        }
        txs
    }

    #[test]
    fn prepared_transfers_are_reused_then_signed_on_beyond_the_files() {
        let (accounts, dir) = (accounts(), tempfile::tempdir().unwrap());
        let first = presigned(&accounts, dir.path(), 1, FIRST_NONCE);
        assert_eq!(
            prepare(&first, 7).0,
            Prepared {
                reused: 0,
                signed: 12
            }
        );
        let again = presigned(&accounts, dir.path(), 1, FIRST_NONCE);
        assert_eq!(
            prepare(&again, 13).0,
            Prepared {
                reused: 12,
                signed: 6
            }
        );

        // 18 on disk, six beyond.
        let txs = take(&mut again.supply(None).unwrap(), 24);
        let mut last: HashMap<Digest, u64> = HashMap::new();
        for tx in &txs {
            let parsed = SignedTransaction::parse(tx.bytes.clone()).unwrap();
            assert_eq!(parsed.id(), tx.id);
            let before = last.insert(parsed.sender, parsed.nonce).unwrap_or(0);
            assert_eq!(
                parsed.nonce,
                before + 1,
                "nonces of a sender ascend without a gap"
            );
            let sender = (0..3).find(|i| accounts.id(*i) == parsed.sender).unwrap();
            assert_eq!(tx.home, sender % 2);
            let key = PreparedKey::from_public(accounts.key_pair(sender).public());
            assert!(verify(&key, &parsed.message(), parsed.signature()));
        }
        assert_eq!(last.len(), 3, "the senders take turns");
    }

    #[test]
    fn damaged_and_foreign_files_are_signed_again_and_said() {
        let (accounts, dir) = (accounts(), tempfile::tempdir().unwrap());
        let ours = presigned(&accounts, dir.path(), 1, FIRST_NONCE);
        prepare(&ours, 12);
        let mut bytes = fs::read(ours.path(1)).unwrap();
        bytes[500] ^= 1;
        fs::write(ours.path(1), bytes).unwrap();
        let (prepared, notes) = prepare(&ours, 12);
        assert_eq!(
            prepared,
            Prepared {
                reused: 6,
                signed: 6
            }
        );
        assert!(
            notes.len() == 1 && notes[0].contains("is damaged"),
            "{notes:?}"
        );
        assert_eq!(
            prepare(&ours, 12),
            (
                Prepared {
                    reused: 12,
                    signed: 0
                },
                vec![]
            )
        );

        let theirs = presigned(&accounts, dir.path(), 2, FIRST_NONCE);
        let (prepared, notes) = prepare(&theirs, 6);
        assert_eq!(
            prepared,
            Prepared {
                reused: 0,
                signed: 6
            }
        );
        assert!(notes[0].contains("another chain"), "{notes:?}");
        let tx = take(&mut theirs.supply(None).unwrap(), 1).remove(0);
        assert_eq!(
            SignedTransaction::parse(tx.bytes).unwrap().chain_id,
            Digest([2; 32])
        );
    }

    #[test]
    fn a_chain_that_lives_on_starts_above_its_used_nonces() {
        let (accounts, dir) = (accounts(), tempfile::tempdir().unwrap());
        prepare(&presigned(&accounts, dir.path(), 1, FIRST_NONCE), 18);
        // Nonces up to 3 are used; segments hold 1-2, 3-4, 5-6.
        let later = presigned(&accounts, dir.path(), 1, 4);
        assert_eq!(
            prepare(&later, 6).0,
            Prepared {
                reused: 6,
                signed: 0
            }
        );
        assert!(
            !later.path(0).exists() && !later.path(1).exists(),
            "used files are removed"
        );
        let tx = take(&mut later.supply(None).unwrap(), 1).remove(0);
        assert_eq!(SignedTransaction::parse(tx.bytes).unwrap().nonce, 5);
    }

    #[test]
    fn a_limited_supply_ends_with_its_segment() {
        let (accounts, dir) = (accounts(), tempfile::tempdir().unwrap());
        let plan = presigned(&accounts, dir.path(), 1, FIRST_NONCE);
        prepare(&plan, 6);
        let ahead = plan.ahead(Some(7)).unwrap();
        // Ends only when the thread has ended.
        let segments = ahead.current.into_iter().chain(ahead.chunks.iter());
        assert_eq!(
            segments.count(),
            2,
            "six transfers each, one on disk, one made"
        );
    }

    #[test]
    fn an_absurd_count_is_refused() {
        let (accounts, dir) = (accounts(), tempfile::tempdir().unwrap());
        let plan = presigned(&accounts, dir.path(), 1, FIRST_NONCE);
        let error = plan.prepare(PREPARE_TXS_MAX + 1, &silent).unwrap_err();
        assert!(matches!(error, PresignedError::TooMany(_)), "{error}");
    }
}
