//! The simulator.
//!
//! ```text
//!  scenario ── from a seed: size, fault profile, plan of faults, client load
//!     │
//!  world ───── virtual time, event queue, the run's log and its hash
//!     ├── node ────── HotStuff + mempool + ledger, composed as the validator composes them
//!     │     └── disk ─ durable records, and those that a crash may lose
//!     ├── actor ───── Byzantine validators, in place of nodes or in front of them
//!     ├── network ─── delay, loss, duplication, partitions
//!     ├── workload ── clients: transfers, double submissions, conflicting transfers
//!     └── checkers ── what must hold, in code of its own; called after every step
//! ```

pub mod actor;
pub mod campaign;
pub mod checkers;
pub mod disk;
pub mod keys;
pub mod mutator;
pub mod network;
pub mod node;
pub mod rng;
pub mod scenario;
pub mod share;
pub mod twins;
pub mod workload;
pub mod world;

pub use actor::{Actor, Stage};
pub use scenario::{Fault, Scenario};
pub use world::{Builder, Outcome, Pass, Passing, Sent, World};
