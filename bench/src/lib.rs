//! Load generator, local networks of validators, and benchmarks over them.
//!
//! | module | what |
//! |---|---|
//! | [`run`] | a benchmark from the first key to the report |
//! | [`cluster`] | a network of validators on this machine: files, processes, answers |
//! | [`load`] | the open-loop generator |
//! | [`schedule`] | when each transaction is meant to be sent |
//! | [`supply`] | where transactions come from: pre-signed transfers, opaque payloads |
//! | [`accounts`] | the accounts that transfers come from |
//! | [`report`], [`hgrm`] | what came out, as JSON, text and percentile table |
//! | [`machine`], [`process`], [`http`] | what the machine, a process, a validator says of itself |
//! | [`progress`] | how long work tells what it is doing |
//!
//! How to measure, and what the figures mean: `docs/benchmarks.md`.

pub mod accounts;
pub mod cluster;
#[cfg(feature = "peers")]
pub mod crypto;
mod files;
pub mod hgrm;
pub mod http;
pub mod load;
pub mod machine;
pub mod process;
pub mod progress;
pub mod report;
pub mod run;
pub mod schedule;
pub mod supply;
