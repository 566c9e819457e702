//! The validator: everything put together.
//!
//! The only crate that knows all others. It owns threads, queues, timers, configuration, metrics
//! and the HTTP API, and no rule of the protocol.
//!
//! ```text
//!            ┌────────── control plane: one tokio thread: HTTP API, signals ──────────┐
//!            │                                                                        │
//!  peers ──▶ STOQ ──▶ inbound ──▶ verify ──▶ core ──▶ log ──▶ STOQ ──▶ peers, clients
//!  clients                                    ▲        ├────▶ execute ──▶ state, receipts
//!                                             └────────┼─────────┘
//!                                                      └────▶ history ──▶ peers, clients
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`config`], [`logging`], [`chain`] | what is known before anything starts |
//! | [`node`] | starting, running, stopping; recovery |
//! | [`pipeline`] | what the stages hand to each other, and the bounds of their queues |
//! | [`peers`], [`inbound`], [`outbound`] | between the transport and the stages |
//! | [`verify`], [`room`], [`door`], [`verdicts`] | signatures, and what comes before them |
//! | [`core`], [`busy`] | HotStuff and mempool in one loop; how busy the machine is |
//! | [`byzantine`] | test networks only: a validator that breaks the protocol |
//! | [`log`] | group commit: record, fsync, send |
//! | [`execute`], [`clients`] | the ledger and its receipts |
//! | [`history`] | what is read back from disk: headers, batches, proofs |
//! | [`shelf`] | evidence that is not in a block yet |
//! | [`snapshots`], [`catchup`] | the state at checkpoints, for peers and from peers |
//! | [`http`], [`status`], [`metrics`] | what people and programs see |
//! | `yielding` | threads that let others go first |
//! | [`notify`] | what the service manager hears |

pub mod busy;
pub mod byzantine;
pub mod catchup;
pub mod chain;
pub mod clients;
pub mod clock;
pub mod config;
pub mod core;
pub mod door;
pub mod epochs;
mod execute;
mod filter;
#[cfg(test)]
mod fixtures;
mod handover;
pub mod history;
pub mod http;
pub mod inbound;
pub mod log;
pub mod logging;
pub mod metrics;
mod neighbours;
pub mod node;
pub mod notify;
#[cfg(feature = "otel")]
pub mod otel;
pub mod outbound;
pub mod peers;
pub mod pipeline;
mod preflight;
mod privileges;
#[cfg(test)]
mod recorded;
pub mod room;
pub mod shelf;
pub mod snapshots;
pub mod status;
pub mod trace;
pub mod verdicts;
pub mod verify;
mod yielding;

pub use node::{Node, RunError, run, run_as};
