//! What a load consists of, and how many of it are made before it begins.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use falconet_crypto::falcon::Scheme;
use falconet_types::genesis::ApplicationKind;

use super::BenchError;
use crate::cluster::{Running, Testnet};
use crate::http::next_nonce;
use crate::progress::OnProgress;
use crate::supply::presigned::{FIRST_NONCE, Presigned, PresignedError, TransferPlan};
use crate::supply::{Supply, opaque};

/// Homes of a load whose validators may change: a multiple of any small number of them.
const HOMES: usize = 840;
/// What a load transfer moves.
const TRANSFER_AMOUNT: u64 = 1;

/// What a load consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoadKind {
    /// Transfers on a ledger, signed with this scheme.
    Transfers(Scheme),
    /// Bytes that are ordered and not executed.
    Opaque,
}

impl LoadKind {
    /// The application that the chain needs.
    #[must_use]
    pub fn application(self) -> ApplicationKind {
        match self {
            Self::Transfers(_) => ApplicationKind::Ledger,
            Self::Opaque => ApplicationKind::Opaque,
        }
    }

    /// The load that fits a network.
    #[must_use]
    pub fn of(testnet: &Testnet) -> Self {
        match testnet.genesis().application {
            ApplicationKind::Ledger => Self::Transfers(testnet.scheme()),
            ApplicationKind::Opaque => Self::Opaque,
        }
    }
}

impl fmt::Display for LoadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transfers(scheme) => scheme.fmt(f),
            Self::Opaque => f.write_str("opaque"),
        }
    }
}

impl FromStr for LoadKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "opaque" => Ok(Self::Opaque),
            _ => name.parse().map(Self::Transfers).map_err(|_| {
                format!("unknown scheme {name:?}; known are falcon1024, falcon512 and opaque")
            }),
        }
    }
}

/// Transactions for a load, and how large they are.
pub struct LoadSupply {
    /// The transactions.
    pub supply: Box<dyn Supply>,
    /// Bytes of one.
    pub transaction_bytes: usize,
}

/// How many transactions a load needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// So many, all signed before the load begins.
    Exactly(u64),
    /// So many signed before the load begins, and more while it runs, as fast as one thread of
    /// low priority signs.
    AtLeast(u64),
}

impl From<u64> for Amount {
    fn from(count: u64) -> Self {
        Self::AtLeast(count)
    }
}

/// The transactions for a load on a network: for a ledger, transfers that are signed before this
/// returns, or found on disk; for an opaque chain, payloads without end.
///
/// `first_nonce` is [`FIRST_NONCE`] on a chain at genesis, and what [`first_nonce`] says on one
/// that has run before.
pub fn supply_for(
    testnet: &Testnet,
    first_nonce: u64,
    amount: impl Into<Amount>,
    payload_bytes: usize,
    progress: OnProgress<'_>,
) -> Result<LoadSupply, BenchError> {
    // Where validators come and go, homes are spread over however many there are then.
    let targets = match testnet.genesis().params.epoch_heights {
        0 => testnet.targets().len(),
        _ => HOMES,
    };
    supply_for_targets(
        testnet,
        targets,
        first_nonce,
        amount,
        payload_bytes,
        progress,
    )
}

/// The same for the first so many validators only.
pub(super) fn supply_for_targets(
    testnet: &Testnet,
    targets: usize,
    first_nonce: u64,
    amount: impl Into<Amount>,
    payload_bytes: usize,
    progress: OnProgress<'_>,
) -> Result<LoadSupply, BenchError> {
    match LoadKind::of(testnet) {
        LoadKind::Transfers(_) => {
            let accounts = Arc::new(testnet.load_accounts(progress)?);
            let plan = TransferPlan {
                chain_id: testnet.chain_id(),
                fee: testnet.genesis().params.fee_min,
                amount: TRANSFER_AMOUNT,
                targets,
                first_nonce,
                dir: testnet.load_dir(),
            };
            let presigned = Presigned::new(accounts, plan);
            let (count, limit) = match amount.into() {
                Amount::Exactly(count) => (count, Some(count)),
                Amount::AtLeast(count) => (count, None),
            };
            presigned.prepare(count, progress)?;
            let transaction_bytes = presigned.transaction_bytes();
            Ok(LoadSupply {
                supply: Box::new(presigned.supply(limit)?),
                transaction_bytes,
            })
        }
        LoadKind::Opaque => {
            // Distinguishes the payloads of runs on one chain.
            let run = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_nanos();
            let supply = opaque::supply(payload_bytes, targets, run as u64)
                .map_err(PresignedError::Thread)?;
            Ok(LoadSupply {
                supply: Box::new(supply),
                transaction_bytes: payload_bytes,
            })
        }
    }
}

/// The first nonce for a load on a network that runs, which may have run before.
pub fn first_nonce(
    testnet: &Testnet,
    running: &Running,
    progress: OnProgress<'_>,
) -> Result<u64, BenchError> {
    match LoadKind::of(testnet) {
        LoadKind::Opaque => Ok(FIRST_NONCE),
        LoadKind::Transfers(_) => {
            let accounts = testnet.load_accounts(progress)?;
            Ok(next_nonce(&running.nodes()[0], &accounts)?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_load_have_names() {
        for name in ["falcon1024", "falcon512", "opaque"] {
            assert_eq!(name.parse::<LoadKind>().unwrap().to_string(), name);
        }
        assert!("rsa".parse::<LoadKind>().unwrap_err().contains("falcon512"));
    }
}
