//! Tests of the ledger through its public interface.

mod applications;
mod commitment;
mod model;
mod outcomes;
mod restore;
mod snapshot;
mod stake;
mod stake_model;
mod verdicts;
mod world;
