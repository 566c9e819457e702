//! Why a benchmark over a network cannot be carried out.

use std::io;
use std::path::PathBuf;

use super::PAYLOAD_BYTES_MAX;
use crate::accounts::AccountsError;
use crate::cluster::{ClusterError, TestnetError};
use crate::http::HttpError;
use crate::load::LoadError;
use crate::supply::opaque;
use crate::supply::presigned::PresignedError;

/// Why a benchmark cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The network's files.
    #[error(transparent)]
    Testnet(#[from] TestnetError),
    /// The network's processes.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The transfers.
    #[error(transparent)]
    Presigned(#[from] PresignedError),
    /// The load accounts.
    #[error(transparent)]
    Accounts(#[from] AccountsError),
    /// The load.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A validator's answers.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// Payloads of a size that does not exist.
    #[error(
        "payloads of {0} bytes asked for; choose {min} to {PAYLOAD_BYTES_MAX}",
        min = opaque::PAYLOAD_BYTES_MIN
    )]
    Payload(usize),
    /// Nobody would be left.
    #[error("{crash} of {validators} validators are to be killed; leave some")]
    Crash {
        /// How many are to be killed.
        crash: usize,
        /// Of how many.
        validators: usize,
    },
    /// Nobody would be left.
    #[error("{byzantine} of {validators} validators are to be Byzantine; leave some")]
    Byzantine {
        /// How many are to be Byzantine.
        byzantine: usize,
        /// Of how many.
        validators: usize,
    },
    /// Nothing would be measured.
    #[error("a rate of 0 or a duration of 0 measures nothing; give --rate and --duration")]
    Nothing,
    /// The directory is in use.
    #[error("{} is used by another benchmark right now; wait for it, or give --dir", .0.display())]
    InUse(PathBuf),
    /// The directory holds something else.
    #[error("{} holds a network of another kind; give an empty --dir, or none", .0.display())]
    OtherNetwork(PathBuf),
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
