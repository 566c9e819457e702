//! A network of validators on this machine: its files, its processes, its answers.
//!
//! ```text
//! DIR/testnet.json             what this is (Manifest)
//! DIR/genesis.json
//! DIR/faucet.key               a funded account for people (ledger only)
//! DIR/load/                    keys and pre-signed transfers of the load generator
//! DIR/validator-0/
//!     validator.key falconet.toml validator.log data/
//! ```
//!
//! [`Testnet`] makes and opens such a directory, [`Running`] is the processes over it. Used by
//! `falconet testnet` and `falconet bench cluster`.

mod filters;
mod layout;
mod netns;
mod ports;
mod roots;
mod running;

pub use filters::{Filters, FiltersError};
pub use layout::{FAUCET_BALANCE, Manifest, Testnet, TestnetError, TestnetSpec, ValidatorFiles};
pub use netns::{NamespaceError, Namespaces, STRANGER};
pub use ports::{BASE_PORT, HTTP_PORT_OFFSET};
pub use roots::{RootsCheck, check_roots};
pub use running::{ClusterError, Exit, KillSwitch, Running, StartOptions, StopReport};
