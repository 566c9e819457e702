//! Deterministic simulator and adversarial tests.
//!
//! [`sim`] runs whole validators (HotStuff, mempool, ledger, a model of the disk) in one thread on
//! virtual time. Everything random comes from one seed, so a seed is a run:
//!
//! ```text
//! cargo test -p falconet-tests                                  # a few hundred seeds
//! FALCONET_SEEDS=5000 cargo test -p falconet-tests many_seeds   # more of them
//! cargo run -p falconet-tests --example seed -- 4711            # one of them, told step by step
//! ```

pub mod actors;
pub mod sim;
