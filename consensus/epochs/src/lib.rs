//! How a node goes from one epoch to the next (rules N4 to N8 of `docs/protocol.md`), without
//! threads, files or connections: the validator and the simulator run the same code.
//!
//! ```text
//!  core: last block committed ──┐
//!                               ├──▶ Handover::next ──▶ proof, next epoch ──▶ Handover::cross
//!  execution: EndWatch::ending ─┘        │                                       │
//!  peers: a proof that one shows ────────┘              both cores in the new set, early messages
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`timeline`] | the epochs that a node knows |
//! | [`chronicle`] | what is read back from the log: cuts, payloads, proofs |
//! | [`ending`] | what execution knows of the end of an epoch |
//! | [`reporter`] | what a node tells the chain: misbehaviour, and that it follows |
//! | [`handover`] | from one epoch to the next, and what becomes of messages that come too early |

pub mod chronicle;
pub mod ending;
#[cfg(test)]
mod fixtures;
pub mod handover;
pub mod reporter;
pub mod timeline;

pub use chronicle::{Chronicle, ProveError, cut_after, parent_cut, payload_of, prove, unsettled};
pub use ending::{Ending, ending};
pub use handover::{Handover, NextEpoch, Place};
pub use reporter::Reporter;
pub use timeline::Timeline;
