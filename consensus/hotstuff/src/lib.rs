//! Sans-IO pipelined HotStuff core: 2-chain HotStuff with timeout certificates (Jolteon, arXiv
//! 2106.10362), votes broadcast to all, certificates elided from proposals. The numbered rules
//! stand in `docs/protocol.md`.
//!
//! The core has no clock, socket, disk, thread or random source. The shell calls
//!
//! ```text
//! HotStuff::new(config, signer: Box<dyn Signer>, recovered: Recovered) -> Result<Self, RecoverError>
//! handle(&mut self, now: Now, input: Input, payload: &dyn Payload, out: &mut Vec<Effect>)
//! next_deadline_us(&self) -> Option<u64>     // call handle(Input::Tick) at that monotonic time
//! status(&self) -> Status
//! ```
//!
//! and carries out the effects in order. All inputs that one loop turn handles share one fsync:
//! nothing that leaves the node may leave before all records of this and earlier turns are
//! durable. That is why the core counts its own vote at once.
//!
//! Records are appended in the order in which they are given. A log that ends anywhere, also inside
//! a turn, can be recovered from.
//!
//! The first call of `handle` after [`Recovered`] also arms the timers; send `Input::PeerUp` for
//! each connection, then messages.

mod api;
mod certificates;
mod chain;
mod commit_votes;
mod core;
mod epochs;
#[cfg(feature = "misbehave")]
mod exploring;
mod giving_up;
mod leading;
mod limits;
mod misbehaviour;
mod patience;
mod proposals;
mod pulls;
mod recovery;
mod reputation;
mod rules;
mod safety;
mod serving;
mod sync;
mod tally;
mod tree;
mod voting;

#[cfg(test)]
mod tests;

pub use api::{
    Alarm, CommitProof, Committed, Config, Counters, Effect, Evidence, Input, NextEpoch, Payload,
    Progress, Record, RecoverError, Recovered, Status,
};
pub use core::HotStuff;
#[cfg(feature = "misbehave")]
pub use exploring::Snapshot;
#[cfg(feature = "misbehave")]
pub use misbehaviour::Misbehaviour;
pub use reputation::past_rounds;
pub use safety::SafetyRecord;
