//! Client of a Falconet validator over STOQ: submits transactions, many in a frame, and receives
//! what came of them.
//!
//! * [`Client`]: blocking, one validator. Start here; `examples/transfer.rs` is a whole program.
//! * [`Hub`]: non-blocking, many validators over one socket; made for load generators.
//! * [`Pool`]: all validators; a transaction goes to its sender's home, and elsewhere when that is
//!   silent.
//! * [`Credit`]: how much to offer a validator under overload; for users of a [`Hub`].
//! * [`Wallet`]: a key that makes signed transactions with ascending nonces.
//!
//! The connection is QUIC with a post-quantum key exchange. The validator proves its FALCON key,
//! which the caller must know (genesis lists it); the client stays anonymous: what it may do
//! follows from the signatures of its transactions alone.
//!
//! No asynchronous runtime is needed: one thread for the network belongs to each [`Hub`].

mod client;
mod credit;
mod error;
mod frames;
mod hub;
mod members;
mod patience;
mod pool;
mod wallet;

pub use falconet_dataplane::{CloseCode, CloseReason};

pub use client::{CONNECT_TIMEOUT_DEFAULT, Client, ClientConfig, EVENTS_KEPT_MAX, Fate};
pub use credit::{Credit, GROWTH_PER_ROUND, Offer, SHRINK, WINDOW_MIN};
pub use error::ClientError;
pub use frames::{FRAME_BYTES_MAX, Filling, frames};
pub use hub::{ClientEvent, Hub, Link};
pub use members::{Changed, Members};
pub use patience::{LOOK_INTERVAL, Longest, Patience, SILENCE_MAX, SILENCE_MIN};
pub use pool::{FAIL_OVER_AFTER_DEFAULT, Pool, PoolConfig};
pub use wallet::{FEE_DEFAULT, VALIDITY_DEFAULT, Wallet};
