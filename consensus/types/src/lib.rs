//! The vocabulary of Falconet: every identifier, signed message and wire format that more than
//! one room of the house speaks. Nothing here decides anything and nothing here does I/O.
//!
//! | module | what |
//! |---|---|
//! | [`ids`] | newtypes: round, height, epoch, sequence number, validator index |
//! | [`wire`] | strict little-endian reader and writer; one encoding for one value |
//! | [`signing`] | who signed what: domain-separated digests, verification of signed messages |
//! | [`validators`] | the validator set of an epoch, quorums, leader order |
//! | [`block`] | headers, cuts |
//! | [`certificate`] | votes, timeouts, QCs, TCs |
//! | [`epoch`] | how one epoch ends and the next begins; the proof of a new validator set |
//! | [`batch`] | batches of transactions, lane watermarks |
//! | [`time`] | the present, handed to sans-IO cores |
//! | [`evidence`] | two messages that prove misbehaviour |
//! | [`stake`] | transactions about validators and their stake |
//! | [`transaction`] | transactions, byte for byte |
//! | [`receipt`] | outcomes of execution and how a header commits to them |
//! | [`proof`] | proofs of committed transactions, checked offline against genesis |
//! | [`snapshot`] | snapshots of the state between nodes |
//! | [`genesis`] | the document that every node shares |
//! | [`hashing`] | tables keyed by digests |
//! | [`message`] | frames between validators, and between client and validator |
//!
//! Byte layouts are described in `docs/wire-format.md`; the protocol's rules in
//! `docs/protocol.md`.

pub mod batch;
pub mod block;
pub mod certificate;
pub mod commit_vote;
pub mod epoch;
pub mod evidence;
pub mod genesis;
pub mod hashing;
pub mod ids;
pub mod message;
pub mod proof;
pub mod receipt;
pub mod signing;
pub mod snapshot;
pub mod stake;
pub mod time;
pub mod transaction;
pub mod validators;
pub mod wire;

pub use falconet_crypto::falcon::{KeyPair, PublicKey, Scheme, Signature};
pub use falconet_crypto::hash::Digest;
pub use ids::{
    AccountId, BlockId, ChainId, Epoch, Height, Round, Seq, TxId, ValidatorId, ValidatorIndex,
};
