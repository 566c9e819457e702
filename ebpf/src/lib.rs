//! The door of a node: a BPF program that decides about every packet before the network stack
//! spends anything on it.
//!
//! ```text
//!  device ──▶ filter ─┬─▶ pass: what is not ours, untouched; what is ours and within budget
//!                     ├─▶ redirect: to an AF_XDP socket, when one is registered
//!                     └─▶ drop, counted under its cause, now and then sampled
//! ```
//!
//! - `src/bpf/` holds the programs in C: one source for XDP and tc. They are compiled by
//!   `make bpf`; the small object is part of the repository, so that a build needs no clang.
//! - [`Filter`] loads, attaches, steers and reads them.
//! - [`Steer`] feeds AF_XDP sockets on a device without filter.
//! - [`live`] sends packets at the rate of the kernel, for floods and measurements.
//! - [`parse`] is the parser again in Rust, against which the programs are tested.
//! - [`Cause`] is the one list of verdicts.
//!
//! What is left behind: a filter attached with a pin directory keeps filtering until it is
//! detached, whatever happens to the process; one without ends with the process.
//!
//! Architecture invariant: nothing here knows STOQ or consensus.

mod abi;
mod attach;
mod blocklist;
mod causes;
mod config;
mod counters;
mod device;
pub mod dry;
mod error;
mod filter;
mod lists;
pub mod live;
pub mod parse;
mod pins;
mod plain;
mod samples;
mod steer;
mod sys;
mod tables;

pub use attach::{Attach, Attachment, Mode};
pub use blocklist::{Block, Prefix, PrefixError};
pub use causes::{CAUSES, Cause, Fate, header, table};
pub use config::{Budgets, FilterConfig, Limits, Owner, Rate};
pub use counters::Counters;
pub use error::FilterError;
pub use filter::{Filter, Status};
pub use lists::Allowed;
pub use pins::{BPFFS, PIN_ROOT, is_bpffs, mount_bpffs, private_bpffs};
pub use plain::{PlainVerdict, PlainXdp};
pub use samples::{Sample, Samples};
pub use steer::Steer;

/// The compiled programs, made by `make bpf` from `src/bpf/filter.bpf.c`.
pub const OBJECT: &[u8] = include_bytes_aligned!("../filter.bpf.o");

/// The compiled programs of `src/bpf/plain.bpf.c`.
const PLAIN: &[u8] = include_bytes_aligned!("../plain.bpf.o");

/// Addresses that the allow list holds at most.
pub const ALLOWED_MAX: usize = 1024;
/// Prefixes that the block list holds at most.
pub const BLOCKED_MAX: usize = 16384;
/// AF_XDP sockets that can be registered at most: queues times threads.
pub const XSK_MAX: u32 = 1024;

/// As `include_bytes!`, aligned for the reader of ELF files.
macro_rules! include_bytes_aligned {
    ($path:literal) => {{
        #[repr(C, align(8))]
        struct Aligned<T: ?Sized>(T);
        const ALIGNED: &Aligned<[u8]> = &Aligned(*include_bytes!($path));
        &ALIGNED.0
    }};
}
use include_bytes_aligned;
