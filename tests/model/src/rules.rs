//! The rules as an abstract machine: votes, locks, timeouts, commits, and as options commit votes,
//! optimistic proposals, the availability of payload, and a change of epoch.
//!
//! The network is the worst there is: every message that exists may be known to anybody at any
//! time, in any order, or never. So a certificate is a fact about who has signed, and a state is
//! what the honest validators have signed and stored. One validator in four is Byzantine: it has
//! signed whatever helps, so a quorum is two honest validators and itself.

pub mod blocks;
pub mod crowd;
pub mod flaws;
pub mod machine;
pub mod state;

pub use blocks::{Block, Blocks, Shape};
pub use crowd::Crowd;
pub use flaws::Flaw;
pub use machine::{Action, Machine, Options};
pub use state::{Node, State};
