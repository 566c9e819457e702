//! What can go wrong with the store, in words that an operator can act on.

use std::io;
use std::path::{Path, PathBuf};

use falconet_types::{ChainId, Digest, Height};

/// Why the store cannot do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused a call.
    #[error("{call} {path}: {source}{remedy}")]
    Io {
        /// What was tried.
        call: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
        /// What to do, where that is known; begins with a separator.
        remedy: &'static str,
    },
    /// Another process has the directory.
    #[error(
        "data directory {0} is in use; stop the other validator or give this one a directory of its own"
    )]
    InUse(PathBuf),
    /// The directory belongs to another chain.
    #[error(
        "data directory {dir} belongs to chain {found}, the genesis file is that of chain {expected}; use the genesis file of that chain or another data directory (nothing was changed)"
    )]
    OtherChain {
        /// The directory.
        dir: PathBuf,
        /// Chain named in the directory.
        found: ChainId,
        /// Chain of the configuration.
        expected: ChainId,
    },
    /// The directory was made by a validator with another key.
    #[error(
        "data directory {dir} belongs to the validator key {found}, the configured key is {expected}; use that key or another data directory (nothing was changed)"
    )]
    OtherKey {
        /// The directory.
        dir: PathBuf,
        /// Key id named in the directory.
        found: Digest,
        /// Key id of the configuration.
        expected: Digest,
    },
    /// The directory was written by another version of the format.
    #[error(
        "{path} has format version {found}, this build reads version {expected}; run the build that wrote it, or start in another data directory and let the validator catch up from its peers"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Version found.
        found: u32,
        /// Version of this build.
        expected: u32,
    },
    /// Something that was durable is damaged or gone.
    #[error(
        "{path} is damaged at byte {offset}: {what}; restore the data directory from a copy of the stopped validator, or start with a NEW key in an empty data directory: what was lost may include votes, so this key must not sign from an empty directory"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The state database failed.
    #[error(
        "state database {path}: {source}; stop the validator, move the file away and start again: it is rebuilt from the log as far as the log reaches back"
    )]
    State {
        /// The file.
        path: PathBuf,
        /// Why.
        source: redb::Error,
    },
    /// The state database has another format.
    #[error(
        "state database {path} has format {found}, this build reads format {expected}; stop the validator, move the file away and start again: it is rebuilt from the log as far as the log reaches back"
    )]
    StateFormat {
        /// The file.
        path: PathBuf,
        /// Format found.
        found: u64,
        /// Format of this build.
        expected: u64,
    },
    /// A row of the state database is not what was written.
    #[error(
        "state database {path}: {what}; stop the validator, move the file away and start again: it is rebuilt from the log as far as the log reaches back"
    )]
    StateRow {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The state must advance one block at a time.
    #[error("the state is at height {at}, an update for height {update} does not follow it")]
    StateHeight {
        /// Height of the state.
        at: Height,
        /// Height of the update.
        update: Height,
    },
    /// A write or sync failed before; nothing can be promised any more.
    #[error(
        "the store stopped after a failure: {cause}; nothing more is written, restart the validator once the disk is healthy"
    )]
    Poisoned {
        /// The original failure.
        cause: String,
    },
}

impl StoreError {
    /// A call on a file failed; with what to do, where that is known.
    #[must_use]
    pub fn io(call: &'static str, path: &Path, source: io::Error) -> Self {
        let remedy = match source.kind() {
            io::ErrorKind::PermissionDenied => "; the validator's user must own the data directory",
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "; free space on the disk",
            io::ErrorKind::ReadOnlyFilesystem => "; mount the filesystem writable",
            _ => "",
        };
        Self::Io {
            call,
            path: path.to_owned(),
            source,
            remedy,
        }
    }

    pub(crate) fn corrupt(path: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self::Corrupt {
            path: path.to_owned(),
            offset,
            what: what.into(),
        }
    }
}
