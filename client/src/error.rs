//! What can go wrong for a client, and what to do about it.

use std::net::SocketAddrV6;
use std::time::Duration;

use falconet_dataplane::{BindError, ConnectError};
use falconet_types::{Epoch, TxId};

use crate::frames::FRAME_BYTES_MAX;

/// An error of a client.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No local socket.
    #[error("cannot open a local UDP socket: {0}")]
    Bind(#[from] BindError),
    /// The endpoint does not take the validator as a target.
    #[error("cannot dial: {0}; drop unused connections or open another hub")]
    Dial(#[from] ConnectError),
    /// The validator cannot be reached, or is not the one that was asked for.
    #[error("cannot connect to the validator at {addr}: {reason}; {hint}")]
    Connect {
        /// Where it was looked for.
        addr: SocketAddrV6,
        /// What the transport says.
        reason: String,
        /// What to check.
        hint: &'static str,
    },
    /// The connection was lost; the client dials again by itself.
    #[error(
        "the connection to the validator was lost: {reason}; submit the same bytes again: they execute at most once"
    )]
    Disconnected {
        /// What the transport says.
        reason: String,
    },
    /// The connection is being made again.
    #[error(
        "not connected at the moment; wait for the connection (wait_connected) or use another validator"
    )]
    NotConnected,
    /// The send queue is full.
    #[error(
        "the validator does not keep up with this client; send less, wait, or use another validator"
    )]
    Overrun,
    /// Too much for one frame.
    #[error(
        "{count} transactions of {bytes} bytes do not fit one frame of at most {} transactions \
         and {FRAME_BYTES_MAX} bytes; split them (falconet_client::frames does)",
        falconet_types::message::SUBMIT_TXS_MAX
    )]
    FrameTooLarge {
        /// Transactions.
        count: usize,
        /// Bytes of the frame.
        bytes: usize,
    },
    /// Nothing to submit.
    #[error("a submission needs at least one transaction")]
    Empty,
    /// The answer did not come in time.
    #[error("no {what} within {} s; ask again later, or ask another validator", after.as_secs_f32())]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// The validator holds no proof of the transaction.
    #[error(
        "the validator has no proof of transaction {0}: it is not executed yet, or pruned; ask again in a moment, or ask another validator"
    )]
    NoProof(TxId),
    /// The genesis document has no usable validators.
    #[error("genesis validators: {0}")]
    Genesis(falconet_types::validators::SetError),
    /// The validator has no proof that the epoch is over.
    #[error(
        "the validator knows of no end of epoch {0}: it goes on, or the validator is behind; ask again in a moment, or ask another validator"
    )]
    EpochGoesOn(Epoch),
    /// The proof does not show that the epoch is over.
    #[error(
        "the proof that epoch {epoch} is over is not valid: {reason}; do not trust this validator, ask another one"
    )]
    BadEpochProof {
        /// The epoch.
        epoch: Epoch,
        /// What is wrong with it.
        reason: String,
    },
    /// The proof does not prove the transaction.
    #[error(
        "the proof of transaction {id} is not valid: {reason}; do not trust this validator, ask another one"
    )]
    BadProof {
        /// The transaction.
        id: TxId,
        /// Which check failed.
        reason: String,
    },
    /// The endpoint's thread ended.
    #[error("the network thread stopped; open a new client")]
    Stopped,
}
