//! Tests of the vocabulary through its public interface.

mod certificates;
mod chain;
mod conformance;
mod encodings;
mod epochs;
mod evidence;
mod generate;
mod genesis;
mod proofs;
mod snapshots;
mod trails;
