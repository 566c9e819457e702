//! Catch-up by snapshot: a pure state machine that gets a verified state from peers that may lie.
//!
//! A node that was away for longer than history is kept cannot execute what it missed. It takes
//! the state at a height from its peers instead, and goes on with blocks from there:
//!
//! ```text
//!  behind? ──▶ ask peers what they have ──▶ no peer has my next block ──▶ manifest ──▶ chunks ──▶ done
//!                (rules Z3, Z4)               (weight F1 says so)           (QC)       (tree root)
//! ```
//!
//! Nothing in here knows a clock, a socket or a disk: the validator and the simulator run the same
//! code, each with a shell of its own. Nothing that a peer sends is believed: the manifest is
//! certified by a quorum, and each chunk is judged by the manifest when it arrives. Rules Z1 to Z9
//! of `docs/protocol.md`.
//!
//! | module | what |
//! |---|---|
//! | [`catchup`] | when this node is behind, who is asked what; over several epochs |
//! | [`download`] | which snapshot, from whom, in which parts |
//! | [`installing`] | what goes into the log before the new state takes the old one's place |
//! | [`serving`] | what a node has to offer, and what proves it |
//! | [`keeping`] | which snapshots and how much history a node keeps for others |

mod asking;
pub mod catchup;
pub mod download;
mod hedging;
pub mod installing;
pub mod keeping;
pub mod limits;
mod manifest;
mod misbehaviour;
mod ranges;
pub mod serving;
mod sources;
mod target;
#[cfg(test)]
mod tests;

pub use catchup::{Catchup, Knowledge};
pub use download::{
    Config, Download, Effect, Input, Resume, Status, check_manifest, head_of, judge,
};
pub use misbehaviour::SnapshotRootUnchecked;
pub use serving::Archive;
