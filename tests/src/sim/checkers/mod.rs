//! What must hold, whatever happens. Independent of the code under test: each checker sees only
//! what a node sends, logs, commits and executes, and counts votes, weights and money itself.
//!
//! | checker | what it would notice |
//! |---|---|
//! | [`Agreement`] | two blocks or two states at one height; a height skipped, repeated or forgotten; a commit without a proof |
//! | [`SelfConsistency`] | a second vote, timeout or header of a round, over restarts too; a vote after a timeout; words put into another's mouth |
//! | [`Justification`] | a vote that no timeout certificate can justify |
//! | [`Locks`] | a safety record that goes back, or is locked below what it voted on |
//! | [`Availability`] | a committed batch that no correct node has on disk |
//! | [`Promises`] | an acknowledged transaction that is lost, or takes effect twice |
//! | [`Eras`] | two histories of epochs; an epoch that ends without proof; words of a node in an epoch to which it does not belong |
//! | [`Sight`] | a vote of a node that does not know the state that the block names |
//! | [`Liveness`] | rounds that go by without a block, although nothing goes wrong and nobody has anything to catch up with |
//! | [`snapshots`] | history that goes too early, snapshots of another state than the chain's |
//! | [`conservation`] | money made or lost: balances, stake, what was burned |

mod agreement;
mod clients;
mod eras;
mod liveness;
mod signing;
pub mod snapshots;
#[cfg(test)]
mod tests;

pub use agreement::{Agreement, Availability, extends_genesis};
pub use clients::{Promises, conservation};
pub use eras::Eras;
pub use liveness::{Liveness, Moment, rounds_max};
pub use signing::{Justification, Locks, SelfConsistency};
pub use snapshots::Sight;

/// A broken promise, in words.
pub type Violation = String;
/// What every check returns.
pub type Check = Result<(), Violation>;

macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}
use ensure;
