//! Load generator, local networks of validators, and benchmarks over them.

pub mod accounts;
pub mod cluster;
mod files;
pub mod hgrm;
pub mod http;
pub mod load;
pub mod machine;
pub mod process;
pub mod progress;
pub mod schedule;
pub mod supply;
