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
//! [`Download`] takes inputs with the present time and yields [`Effect`]s; it knows no clock, no
//! socket and no disk. The shell keeps what [`Effect::Begin`] and [`Effect::Store`] hand out, so a
//! restart resumes ([`Resume`]). Nothing that a peer sends is believed: the manifest is certified
//! by a quorum, and each chunk is judged by the manifest when it arrives. Rules Z1 to Z8 of
//! `docs/protocol.md`.

mod download;
pub mod limits;
mod ranges;
#[cfg(test)]
mod tests;

pub use download::{Config, Download, Effect, Input, Resume, Status, check_manifest, head_of};
