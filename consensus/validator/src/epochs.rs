//! The epochs that this node knows, from genesis to the current one, and the proofs that lead from
//! each to the next; also of epochs beyond the current one, for a node that fell behind.
//!
//! Each proof is a file of its own, `epochs/<epoch>.proof` in the data directory, written before
//! anything of the epoch that it leads to leaves this node or reaches the log. So whatever the log
//! holds of an epoch, its validators are known at the next start. A crash before that leaves an
//! epoch that is over and executed; the proof is then made again from the log.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use falconet_crypto::falcon::Verifier;
use falconet_epochs::{Chronicle, Timeline};
use falconet_store::{Reader, StoreError};
use falconet_sync::Archive;
use falconet_types::batch::Batch;
use falconet_types::block::{Header, SignedHeader};
use falconet_types::certificate::Qc;
use falconet_types::epoch::{EpochInfo, EpochProof, EpochProofError, EpochStart};
use falconet_types::genesis::{ApplicationKind, Genesis, Params};
use falconet_types::proof::id_of;
use falconet_types::receipt::StateRoots;
use falconet_types::signing::Verified;
use falconet_types::wire::{Wire, WireError};
use falconet_types::{BlockId, ChainId, Digest, Epoch, Height, PublicKey, Seq, ValidatorIndex};
use parking_lot::{Mutex, RwLock};

pub use falconet_epochs::{Ending, ProveError};

/// Why the epochs on disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EpochsError {
    /// A file cannot be read or written.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file is no proof.
    #[error(
        "{path} is no proof of an epoch: {source}; delete it and all later ones, they are made again or fetched"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: WireError,
    },
    /// A proof does not lead on.
    #[error(
        "{path} does not prove the end of its epoch: {source}; delete it and all later ones, they are made again or fetched"
    )]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: EpochProofError,
    },
    /// Genesis has no valid set.
    #[error("genesis validators: {0}")]
    Genesis(#[from] falconet_types::validators::SetError),
}

/// See the module.
pub struct Epochs {
    dir: PathBuf,
    chain: ChainId,
    params: Params,
    genesis: EpochInfo,
    known: RwLock<Timeline>,
    /// Held while a file is written: the log's thread and that of catching up both do.
    writing: Mutex<()>,
}

impl Epochs {
    /// Reads the proofs in `<data>/epochs` and checks each with the validators that the one before
    /// it has proven.
    pub fn open(data: &Path, genesis: &Genesis) -> Result<Self, EpochsError> {
        let dir = data.join("epochs");
        let first = EpochInfo::genesis(genesis)?;
        let mut current = Arc::new(first.clone());
        let mut known = Timeline::new(first.clone());
        let chain = genesis.chain_id();
        let mut verifier = Verifier::new();
        loop {
            let path = path_of(&dir, current.start.epoch);
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(source) => {
                    let what = "read";
                    return Err(EpochsError::Io { what, path, source });
                }
            };
            let proof = EpochProof::from_bytes(&bytes).map_err(|source| EpochsError::Damaged {
                path: path.clone(),
                source,
            })?;
            let next = proof.verify(chain, &genesis.params, &current, &mut verifier);
            current = Arc::new(next.map_err(|source| EpochsError::Wrong { path, source })?);
            known.push(EpochInfo::clone(&current));
        }
        Ok(Self {
            dir,
            chain,
            params: genesis.params.clone(),
            genesis: first,
            known: RwLock::new(known),
            writing: Mutex::new(()),
        })
    }

    /// The epoch that this node is in.
    #[must_use]
    pub fn current(&self) -> Arc<EpochInfo> {
        Arc::clone(self.known.read().current())
    }

    /// The newest epoch that is known: the current one, or a later one.
    #[must_use]
    pub fn newest_known(&self) -> Arc<EpochInfo> {
        Arc::clone(self.known.read().newest_known())
    }

    /// The newest epoch that is known and has validators other than `me`.
    #[must_use]
    pub fn newest_with_others(&self, me: &PublicKey) -> Arc<EpochInfo> {
        Arc::clone(self.known.read().newest_with_others(me))
    }

    /// An epoch with its validators, if it is the current one or among the newest.
    #[must_use]
    pub fn info(&self, epoch: Epoch) -> Option<Arc<EpochInfo>> {
        self.known.read().info(epoch).map(Arc::clone)
    }

    /// The log ends at this height: the node is in the epoch that this belongs to, whichever others
    /// are known.
    pub fn settle(&self, committed: Height) -> Result<(), EpochsError> {
        let epoch = self.known.read().epoch_at(committed);
        let info = match self.info(epoch) {
            Some(info) => info,
            None => Arc::new(self.walk_to(epoch)?),
        };
        self.known.write().settle(info);
        Ok(())
    }

    /// An epoch that is no longer in memory, from the proofs on disk, which were verified when they
    /// were read first.
    fn walk_to(&self, epoch: Epoch) -> Result<EpochInfo, EpochsError> {
        let mut info = self.genesis.clone();
        while info.start.epoch < epoch {
            let path = path_of(&self.dir, info.start.epoch);
            let bytes = fs::read(&path).map_err(|source| EpochsError::Io {
                what: "read",
                path: path.clone(),
                source,
            })?;
            let proof = EpochProof::from_bytes(&bytes).map_err(|source| EpochsError::Damaged {
                path: path.clone(),
                source,
            })?;
            let next = proof.check_links(self.chain, &self.params, &info);
            info = next.map_err(|source| EpochsError::Wrong { path, source })?;
        }
        Ok(info)
    }

    /// Takes a proof that the newest known epoch is over, which its validators signed, although this
    /// node is not there yet. False, and without effect, for any other.
    pub fn learn(&self, proof: &Verified<EpochProof>) -> Result<bool, EpochsError> {
        let newest = self.newest_known();
        if proof.epoch() != newest.start.epoch {
            return Ok(false);
        }
        let next = proof.check_links(self.chain, &self.params, &newest);
        let next = next.map_err(|source| EpochsError::Wrong {
            path: path_of(&self.dir, proof.epoch()),
            source,
        })?;
        self.persist(proof)?;
        let mut known = self.known.write();
        // The core thread may have gone over meanwhile.
        if known.newest_known().start.epoch != proof.epoch() {
            return Ok(false);
        }
        known.learn(next);
        Ok(true)
    }

    /// The newest epochs that are known, oldest first.
    #[must_use]
    pub fn newest(&self) -> Vec<Arc<EpochInfo>> {
        self.known.read().newest().to_vec()
    }

    /// Where an epoch starts.
    #[must_use]
    pub fn start(&self, epoch: Epoch) -> Option<EpochStart> {
        self.known.read().start(epoch)
    }

    /// True for the block at the last height of its epoch, from which the next set is computed.
    #[must_use]
    pub fn ends_epoch(&self, header: &Header) -> bool {
        self.known.read().ends_epoch(&self.params, header)
    }

    /// True for that block and all above it in the same epoch.
    #[must_use]
    pub fn is_past_end(&self, header: &Header) -> bool {
        self.known.read().is_past_end(&self.params, header)
    }

    /// True if `header`, of the current epoch, names a state that no block of the epoch may follow:
    /// the first such block is the epoch's last one.
    #[must_use]
    pub fn is_over(&self, header: &Header) -> bool {
        self.known.read().is_over(&self.params, header)
    }

    /// Puts the proof together that `last` ended the current epoch; with the next epoch. The log
    /// holds the block and what commits it.
    pub fn prove(
        &self,
        reader: &Reader,
        last: &SignedHeader,
        ending: &Ending,
    ) -> Result<(EpochProof, EpochInfo), ProveError<StoreError>> {
        let current = self.current();
        falconet_epochs::prove(
            self.chain,
            &self.params,
            &current,
            &Log(reader),
            last,
            ending,
        )
    }

    /// Transactions of epochs that are over which the node with this key is to see to, see
    /// [`falconet_epochs::unsettled`].
    pub fn unsettled(
        &self,
        reader: &Reader,
        key: &PublicKey,
        application: ApplicationKind,
    ) -> Result<Vec<Bytes>, StoreError> {
        let settled = |tx: &Bytes| Ok(reader.tx_location(&id_of(tx, application))?.is_some());
        falconet_epochs::unsettled(&self.known.read(), &Log(reader), key, settled)
    }

    /// The next epoch begins. Its proof becomes durable with [`Epochs::persist`], before anything
    /// else of the epoch.
    pub fn begin(&self, next: EpochInfo) {
        let epoch = next.start.epoch;
        if !self.known.write().push(next) {
            tracing::error!(
                %epoch,
                "validators signed another end of the epoch before than the one that was executed \
                 here: more than a third of their weight is faulty"
            );
            // What was shown of later epochs followed from that.
            let mut later = epoch;
            while fs::remove_file(path_of(&self.dir, later)).is_ok() {
                later = later.next();
            }
        }
    }

    /// Makes a proof durable.
    pub fn persist(&self, proof: &EpochProof) -> Result<(), EpochsError> {
        let _writing = self.writing.lock();
        let path = path_of(&self.dir, proof.epoch());
        falconet_store::replace(&path, &proof.to_bytes()).map_err(|source| EpochsError::Io {
            what: "write",
            path,
            source,
        })
    }

    /// The proof that the current epoch is over, if this node was shown it.
    #[must_use]
    pub fn shown(&self) -> Option<EpochProof> {
        let current = self.current().start.epoch;
        (self.newest_known().start.epoch > current)
            .then(|| self.proof(current))
            .flatten()
    }

    /// The proof that an epoch is over, from disk.
    #[must_use]
    pub fn proof(&self, epoch: Epoch) -> Option<EpochProof> {
        if epoch >= self.newest_known().start.epoch {
            return None;
        }
        let bytes = fs::read(path_of(&self.dir, epoch)).ok()?;
        EpochProof::from_bytes(&bytes).ok()
    }
}

/// The store as the rules of epochs read it.
pub struct Log<'a>(pub &'a Reader);

impl Chronicle for Log<'_> {
    type Error = StoreError;

    fn header(&self, id: &BlockId) -> Result<Option<SignedHeader>, StoreError> {
        self.0.header(id)
    }
    fn header_at(&self, height: Height) -> Result<Option<SignedHeader>, StoreError> {
        self.0.header_at(height)
    }
    fn commit_proof(&self, height: Height) -> Result<Option<(SignedHeader, Qc)>, StoreError> {
        let proof = self.0.commit_proof(height)?;
        Ok(proof.map(|proof| (proof.child, proof.committed.child_qc)))
    }
    fn batch(&self, hash: &Digest) -> Result<Option<Batch>, StoreError> {
        self.0.batch(hash)
    }
    fn lane_above(
        &self,
        epoch: Epoch,
        lane: ValidatorIndex,
        above: Seq,
    ) -> Result<Vec<Batch>, StoreError> {
        let tips = self.0.lane_above(epoch, lane, above);
        let batches = tips.iter().map(|tip| self.0.batch(&tip.hash));
        batches.filter_map(Result::transpose).collect()
    }
    fn roots_at(&self, height: Height) -> Result<Option<StateRoots>, StoreError> {
        let row = self.0.block_row(height)?;
        Ok(row.map(|row| StateRoots {
            receipts: row.receipts_root,
            accounts: row.accounts_root,
            validators: row.validators_root,
            results: row.results,
        }))
    }
    fn registry_root_at(&self, height: Height) -> Result<Option<Digest>, StoreError> {
        Ok(self.0.block_row(height)?.and_then(|row| row.registry_root))
    }
}

impl Archive for Log<'_> {
    fn last_committed(&self) -> Option<Height> {
        self.0.heights().map(|(_, last)| last)
    }
    fn has_batch_at(
        &self,
        epoch: Epoch,
        lane: ValidatorIndex,
        seq: Seq,
    ) -> Result<bool, StoreError> {
        Ok(self.0.batch_hash_at(epoch, lane, seq).is_some())
    }
}

fn path_of(dir: &Path, epoch: Epoch) -> PathBuf {
    dir.join(format!("{:010}.proof", epoch.0))
}
