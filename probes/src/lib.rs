//! Static probes (USDT) at the boundaries of the validator's stages, out of one table.
//!
//! The table in [`table`] yields a function a probe, the constant [`PROBES`] and, through
//! [`markdown`], `docs/probes.md`. Provider: `falconet`. See them in a running validator:
//!
//! ```text
//! bpftrace -l "usdt:$(command -v falconet):*"
//! bpftrace -p PID -e 'usdt:FILE:falconet:batch_stored { @[arg0] = count(); }'
//! ```
//!
//! **Cost when nobody watches:** a call, a `nop` and a return. The functions are never inlined:
//! each probe then has exactly one site, with its arguments in the registers of the calling
//! convention, whatever the optimiser does to the callers. There is no semaphore, because
//! tracers that attach by path do not set it and would count nothing. So arguments are always
//! evaluated: pass only what is at hand.
//!
//! **Stable ids:** a batch is (lane, seq) and the first eight bytes of its hash, a block (height,
//! round) and the first eight bytes of its id, a transaction the first eight bytes of its id, a
//! frame the address of its payload while it is held, a connection its number in this process.
//! All but the last two are the same on every validator.

mod macros;
mod markdown;
mod table;

pub use markdown::markdown;
pub use table::*;

/// The provider's name.
pub const PROVIDER: &str = "falconet";

/// In place of a validator's index: a client, or every validator.
pub const NOBODY: u64 = u64::MAX;

/// One probe, as documentation and tools see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Name within the provider.
    pub name: &'static str,
    /// The stage that fires it, which is the thread's name too (`verify-0` for `verify`).
    pub stage: &'static str,
    /// When it fires.
    pub help: &'static str,
    /// Arguments: name and meaning, in order.
    pub args: &'static [(&'static str, &'static str)],
}

/// The first eight bytes of a hash, as a number whose hexadecimal form reads like the hash.
#[must_use]
#[inline]
pub fn id(hash: &[u8; 32]) -> u64 {
    let first: &[u8; 8] = hash.first_chunk().expect("32 bytes have a first eight");
    u64::from_be_bytes(*first)
}

/// Queues that [`queue_full`] and [`queue_depth`] name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Queue {
    /// Consensus messages in front of `verify`.
    Urgent = 0,
    /// Submissions and batches in front of `verify`.
    Bulk = 1,
    /// In front of `core`.
    Core = 2,
    /// Turns in front of `log`.
    Turns = 3,
    /// Blocks in front of `execute`.
    Blocks = 4,
    /// Requests in front of `history`.
    History = 5,
    /// Events of the transport in front of `inbound`.
    Events = 6,
    /// Frames to one connection.
    Send = 7,
}

impl Queue {
    /// All, in the order of their numbers.
    pub const ALL: [Queue; 8] = [
        Queue::Urgent,
        Queue::Bulk,
        Queue::Core,
        Queue::Turns,
        Queue::Blocks,
        Queue::History,
        Queue::Events,
        Queue::Send,
    ];

    /// The name in documentation and tools.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Queue::Urgent => "urgent",
            Queue::Bulk => "bulk",
            Queue::Core => "core",
            Queue::Turns => "turns",
            Queue::Blocks => "blocks",
            Queue::History => "history",
            Queue::Events => "events",
            Queue::Send => "send",
        }
    }
}

/// Why a validator gave up on a round, in [`timed_out`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum TimeoutCause {
    /// No proposal arrived.
    NoProposal = 0,
    /// A proposal arrived that it could not vote for: data or state missing, or against a rule.
    NotVotable = 1,
    /// It voted, and saw no quorum of votes.
    NoQuorum = 2,
}

impl TimeoutCause {
    /// All, in the order of their numbers.
    pub const ALL: [TimeoutCause; 3] = [
        TimeoutCause::NoProposal,
        TimeoutCause::NotVotable,
        TimeoutCause::NoQuorum,
    ];

    /// The name in documentation and tools.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            TimeoutCause::NoProposal => "no proposal",
            TimeoutCause::NotVotable => "proposal not votable",
            TimeoutCause::NoQuorum => "no quorum of votes",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_positions() {
        for (i, queue) in Queue::ALL.into_iter().enumerate() {
            assert_eq!(queue as usize, i);
        }
        for (i, cause) in TimeoutCause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, i);
        }
    }

    #[test]
    fn an_id_reads_like_the_hash() {
        let mut hash = [0; 32];
        hash[..9].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(format!("{:016x}", id(&hash)), "0102030405060708");
    }

    #[test]
    fn names_are_unique_and_arguments_few() {
        for (i, probe) in PROBES.iter().enumerate() {
            assert!(
                probe.args.len() <= 6,
                "{}: beyond the registers",
                probe.name
            );
            assert!(!probe.help.is_empty(), "{}", probe.name);
            assert!(PROBES[..i].iter().all(|other| other.name != probe.name));
        }
    }
}
