//! The program as people run it: real processes, real files, real sockets.
//!
//! Nothing here asserts how fast something is. Waits are bounded so that a hang becomes a failure
//! with a diagnosis instead of a silent CI time-out.

mod bad_input;
#[cfg(feature = "danger-byzantine")]
mod byzantine;
mod catchup;
mod commits;
mod configuration;
mod crashes;
mod doctor;
mod documents;
mod epochs;
mod harness;
mod keys;
mod namespaces;
mod network;
mod offline;
#[cfg(feature = "otel")]
mod otel;
mod packaging;
mod payments;
mod privileges;
mod probes;
mod reference;
mod stake;
mod testnet;
mod tracing;
mod watching;
