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
//! | [`net`] | STOQ beside other transports |
//! | [`store`], [`ledger`], [`figures`] | the durable log beside other stores, execution |
//! | [`model`] | what a rate needs with n validators, computed from measured costs |
//! | [`sweep`], [`costs`] | the knee of a network, and what a transaction cost it |
//! | [`surge`], [`memory`], [`course`] | how it came through an overload, and whether memory and latency level off |
//! | [`compare`], [`html`], [`hlog`] | two reports beside each other, a report for a browser, a log of histograms |
//! | [`series`], [`environment`] | repeated measurements, and under which conditions |
//! | [`machine`], [`process`], [`http`] | what the machine, a process, a validator says of itself |
//! | [`progress`] | how long work tells what it is doing |
//!
//! How to measure, and what the figures mean: `docs/benchmarks.md`.

pub mod accounts;
pub mod cluster;
pub mod compare;
pub mod costs;
pub mod course;
#[cfg(feature = "peers")]
pub mod crypto;
pub mod environment;
pub mod figures;
mod files;
pub mod flood;
pub mod hgrm;
pub mod hlog;
pub mod html;
pub mod http;
pub mod ledger;
pub mod load;
pub mod machine;
pub mod memory;
pub mod model;
pub mod net;
pub mod process;
pub mod progress;
pub mod report;
pub mod run;
pub mod schedule;
pub mod series;
pub mod store;
pub mod supply;
pub mod surge;
pub mod sweep;
