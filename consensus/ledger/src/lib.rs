//! The deterministic ledger: what a chain of Falconet executes.
//!
//! An [`Application`] takes committed blocks in height order and yields, for each, receipts, the
//! accounts that it wrote and a state commitment that later headers name. There are two: the
//! [`Ledger`] (accounts, signed transfers) and [`Opaque`] (orders bytes, executes nothing).
//!
//! Equal blocks give equal results on every node: there is no clock, no random source, no
//! floating point and no iteration over a hash map in here. Time is the block's.
//!
//! | module | what |
//! |---|---|
//! | [`application`] | the trait, blocks in, results out |
//! | [`account`] | one account and its encodings |
//! | [`replay`] | the nonce window |
//! | [`registry`] | validators, stake, epochs |
//! | `staking` | the rules of stake |
//! | [`rules`] | which transaction may take effect, in which order rules are asked |
//! | `table` | all accounts, in buckets |
//! | `tree` | the Merkle tree over the buckets |
//! | [`proof`] | proofs about accounts |
//! | `execute` | one block against the table |
//! | [`ledger`] | the application that puts these together |
//! | [`snapshot`] | parts of the accounts, proven against their root |
//! | [`view`] | what the door may ask while blocks execute |
//! | [`opaque`] | the application without execution |
//!
//! What a transaction must fulfil is listed in [`rules`]; byte layouts, those under the state
//! commitment too, are in `docs/wire-format.md`.

pub mod account;
pub mod application;
mod execute;
pub mod ledger;
pub mod opaque;
pub mod proof;
pub mod registry;
pub mod replay;
pub mod rules;
pub mod snapshot;
mod staking;
mod table;
mod tree;
pub mod view;

pub use account::Account;
pub use application::{Application, Block, BlockResult, Verdict, Verdicts};
pub use ledger::{Ledger, RestoreError};
pub use opaque::Opaque;
pub use proof::AccountProof;
pub use registry::{Registry, RegistryError};
pub use replay::NonceWindow;
pub use staking::{REPORTS_PER_LANE_MAX, STAKE_TXS_PER_LANE_MAX};
pub use view::View;
