//! The data-availability mempool: how transactions reach every validator before they are ordered.
//!
//! Each validator owns a *lane*, a hash chain of signed batches. It streams its batches to all
//! peers; a peer stores a batch durably and then says so in its next *watermark*, an unsigned
//! message over the authenticated channel. A leader's block carries no payload: its *cut* names,
//! for each lane, how far the block reaches. A vote for the block is at once the statement "I
//! hold this data, or know an honest node that stored it", so no availability certificate exists
//! (`docs/mempool.md` has the argument).
//!
//! ```text
//!   admit ──▶ own lane ──seal──▶ Persist, Broadcast(batch) ──▶ peers
//!                                                               │ extends the prefix? quota?
//!   Watermark ◀── Broadcast ◀── durable ◀── Persist ◀───────────┘
//!      │
//!      ├──▶ propose(parent): highest seq a lane that a quorum holds     ──▶ HotStuff
//!      └──▶ available(parent, cut): held here, or by one honest node    ──▶   core
//!                                                                              │
//!   Deliver (height order) ◀── complete? ◀── fetch what is missing ◀── Committed
//! ```
//!
//! The core is sans-IO: it reads no clock, opens nothing, starts no thread and iterates over
//! ordered containers only, so one input sequence gives one effect sequence.
//!
//! **Turns.** The shell handles inputs in turns and releases nothing of a turn (no send, no
//! delivery) before all records of this and all earlier turns are on disk. The core relies on it:
//! it emits `Persist` and, in the same call, counts the batch as held and may emit the watermark
//! or the broadcast that promises it.
//!
//! **Call order.** `admit` any number of transactions and then `handle(Input::Tick)` once: batches
//! are sealed in `handle`, never in `admit`, so that transactions which arrive together travel
//! together. Call `handle(Input::Tick)` whenever [`Mempool::next_deadline_us`] has passed.
//!
//! | module | what |
//! |---|---|
//! | `mempool` | the core: inputs in, effects out |
//! | [`limits`] | every bound, named |
//! | `lane` | one lane as this node holds it: chain, early batches, superseded branches |
//! | `own` | admission, sealing, what may stop this node from sealing |
//! | `pending` | what waits to be sealed |
//! | `pacing` | how long to wait before the next batch or block, how much may be on its way |
//! | `announce` | what this node tells its peers |
//! | `watermarks` | what peers hold, and what follows from it |
//! | `cut` | the leader's cut and the availability rule |
//! | `delivery` | committed blocks waiting for data, for their turn, for execution |
//! | `epochs` | from one epoch to the next |
//! | `fetch` | whom to ask for what, and how often |
//! | `serve` | answers to peers that ask |

mod announce;
mod api;
mod cut;
mod delivery;
mod epochs;
mod fetch;
mod lane;
pub mod limits;
mod mempool;
mod own;
mod pacing;
mod pending;
mod serve;
mod watermarks;

pub use api::{
    Config, Counters, Effect, Evicted, Evidence, Input, Intake, LaneStatus, Offered, OwnLaneState,
    Payload, RecoverError, Recovered, SignedBatchHeader, Status,
};
pub use epochs::takes_over;
pub use falconet_types::message::Admission;
pub use mempool::Mempool;

#[cfg(test)]
mod tests;
