//! What decides performance and correctness of a validator on this machine, what it costs when it
//! is wrong, and how to mend it. Used by `falconet doctor` and by the validator at its start.
//!
//! ```text
//! /proc /sys, probes ──read──▶ Machine (facts) ──check──▶ Finding… ──▶ people, JSON, the node
//!                                                            └─ Fix (changes and their undo)
//! ```
//!
//! [`Machine::read`] looks and judges nothing; [`check`] judges and looks at nothing, so that every
//! machine one can think of is a value in a test. A fact that cannot be had is an `Err` with the
//! reason, and its finding says "not checked". Nothing here needs privileges.

mod checks;
mod finding;
mod fix;
mod machine;
mod read;
#[cfg(test)]
mod tests;

pub use checks::check;
pub use finding::{Finding, Report, Severity};
pub use fix::{Change, ChangeError, Fix};
pub use machine::{
    BpfFs, Cgroup, Clock, Cpu, Device, Disk, Fact, Fsync, Governor, Interrupt, Ipv6, Kernel, Limit,
    Machine, Memory, Process, Refusal, Simd, Uring, UringProbe,
};
pub use read::{ReadOptions, capability};
