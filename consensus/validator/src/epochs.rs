//! The epochs that this node knows, from genesis to the current one, and the proofs that lead from
//! each to the next.
//!
//! Each proof is a file of its own, `epochs/<epoch>.proof` in the data directory, written before
//! anything of the epoch that it leads to leaves this node or reaches the log. So whatever the log
//! holds of an epoch, its validators are known at the next start. A crash before that leaves an
//! epoch that is over and executed; the proof is then made again from the log.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use falconet_crypto::falcon::Verifier;
use falconet_store::{Reader, StoreError};
use falconet_types::block::{Header, SignedHeader};
use falconet_types::epoch::{EpochInfo, EpochProof, EpochProofError, EpochStart, NextMembers};
use falconet_types::genesis::{Genesis, Params};
use falconet_types::validators::Member;
use falconet_types::wire::{Wire, WireError};
use falconet_types::{ChainId, Digest, Epoch, Height};
use parking_lot::RwLock;

/// Epochs whose validators are kept in memory, the newest; of older ones only where they start.
const INFOS_MAX: usize = 64;

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
    known: RwLock<Known>,
}

struct Known {
    /// Where each epoch starts, from 0.
    starts: Vec<EpochStart>,
    /// The newest epochs; the last is the current one.
    infos: Vec<Arc<EpochInfo>>,
}

/// What execution knows of the end of an epoch once its last block is executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Height of the epoch's last block.
    pub height: Height,
    /// Accounts root at the height that the last block names.
    pub accounts: Digest,
    /// Results digest at that height.
    pub results: Digest,
    /// The next validators and the root of the registry at that height.
    pub next: Option<(Vec<Member>, Digest)>,
}

impl Epochs {
    /// Reads the proofs in `<data>/epochs` and checks each with the validators that the one before
    /// it has proven.
    pub fn open(data: &Path, genesis: &Genesis) -> Result<Self, EpochsError> {
        let dir = data.join("epochs");
        let mut current = Arc::new(EpochInfo::genesis(genesis)?);
        let mut known = Known {
            starts: vec![current.start],
            infos: vec![Arc::clone(&current)],
        };
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
            known.push(Arc::clone(&current));
        }
        Ok(Self {
            dir,
            chain,
            params: genesis.params.clone(),
            known: RwLock::new(known),
        })
    }

    /// The epoch that this node is in.
    #[must_use]
    pub fn current(&self) -> Arc<EpochInfo> {
        let known = self.known.read();
        Arc::clone(known.infos.last().expect("epoch 0 is there"))
    }

    /// The newest epochs, oldest first.
    #[must_use]
    pub fn newest(&self) -> Vec<Arc<EpochInfo>> {
        self.known.read().infos.clone()
    }

    /// Where an epoch starts.
    #[must_use]
    pub fn start(&self, epoch: Epoch) -> Option<EpochStart> {
        let at = usize::try_from(epoch.0).ok()?;
        self.known.read().starts.get(at).copied()
    }

    /// True for the block at the last height of its epoch, from which the next set is computed.
    #[must_use]
    pub fn ends_epoch(&self, header: &Header) -> bool {
        let start = self.start(header.epoch);
        start.is_some_and(|start| start.end(&self.params) == Some(header.height))
    }

    /// True for that block and all above it in the same epoch.
    #[must_use]
    pub fn is_past_end(&self, header: &Header) -> bool {
        let end = self
            .start(header.epoch)
            .and_then(|start| start.end(&self.params));
        end.is_some_and(|end| header.height >= end)
    }

    /// True if `header`, of the current epoch, names a state that no block of the epoch may follow:
    /// the first such block is the epoch's last one.
    #[must_use]
    pub fn is_over(&self, header: &Header) -> bool {
        let start = self.start(header.epoch);
        start.is_some_and(|start| start.is_over(&self.params, header))
    }

    /// Puts the proof together that `last` ended the current epoch; with the next epoch. The log
    /// holds the block and what commits it.
    pub fn prove(
        &self,
        reader: &Reader,
        last: &SignedHeader,
        ending: &Ending,
    ) -> Result<(EpochProof, EpochInfo), ProveError> {
        assert_eq!(last.height, ending.height, "the end of another epoch");
        let missing = ProveError::Missing;
        let commit = reader
            .commit_proof(last.height)?
            .ok_or(missing("the commit proof"))?;
        let mut headers = vec![commit.child.header().clone()];
        while headers.last().expect("at least one").parent_id != last.id() {
            if headers.len() >= falconet_types::epoch::HEADERS_MAX {
                return Err(ProveError::Missing("a commit proof that is short enough"));
            }
            let parent = headers.last().expect("at least one").parent_id;
            let parent = reader.header(&parent)?.ok_or(missing("a header"))?;
            headers.push(parent.header().clone());
        }
        headers.push(last.header().clone());
        let before = reader.header_at(last.height.prev())?;
        headers.push(before.ok_or(missing("the parent"))?.header().clone());
        headers.reverse();
        let proof = EpochProof {
            headers,
            qc: commit.committed.child_qc,
            accounts: ending.accounts,
            results: ending.results,
            next: ending
                .next
                .clone()
                .map(|(members, registry)| NextMembers { members, registry }),
        };
        let next = proof.check_links(self.chain, &self.params, &self.current())?;
        Ok((proof, next))
    }

    /// The next epoch begins. Its proof becomes durable with [`Epochs::persist`], before anything
    /// else of the epoch.
    pub fn begin(&self, next: EpochInfo) {
        self.known.write().push(Arc::new(next));
    }

    /// Makes a proof durable.
    pub fn persist(&self, proof: &EpochProof) -> Result<(), EpochsError> {
        let path = path_of(&self.dir, proof.epoch());
        let temporary = path.with_extension("tmp");
        let write = || -> io::Result<()> {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&self.dir)?;
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(&proof.to_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            File::open(&self.dir)?.sync_all()?;
            // The directory itself may be new.
            File::open(self.dir.parent().expect("it is in the data directory"))?.sync_all()
        };
        write().map_err(|source| EpochsError::Io {
            what: "write",
            path,
            source,
        })
    }

    /// The proof that an epoch is over, from disk.
    #[must_use]
    pub fn proof(&self, epoch: Epoch) -> Option<EpochProof> {
        if epoch >= self.current().start.epoch {
            return None;
        }
        let bytes = fs::read(path_of(&self.dir, epoch)).ok()?;
        EpochProof::from_bytes(&bytes).ok()
    }
}

/// Why a proof cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    /// The log cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log lacks something.
    #[error("the log lacks {0} of the epoch's last block")]
    Missing(&'static str),
    /// The pieces do not fit.
    #[error(transparent)]
    Proof(#[from] EpochProofError),
}

impl Known {
    fn push(&mut self, info: Arc<EpochInfo>) {
        assert_eq!(
            info.start.epoch.0,
            self.starts.len() as u64,
            "epochs follow one another"
        );
        self.starts.push(info.start);
        self.infos.push(info);
        if self.infos.len() > INFOS_MAX {
            self.infos.remove(0);
        }
    }
}

fn path_of(dir: &Path, epoch: Epoch) -> PathBuf {
    dir.join(format!("{:010}.proof", epoch.0))
}
