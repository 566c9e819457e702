//! STOQ: the post-quantum QUIC transport of Falconet. Usable without the rest.
//!
//! QUIC over IPv6, TLS 1.3 with X25519MLKEM768 and FALCON raw public keys, frames on three
//! prioritised [`Channel`]s, one network thread of its own. `docs/stoq.md` specifies what goes
//! over the wire.
//!
//! ```text
//!            StoqHandle (any thread)                     Receiver<Event> (the consumer)
//!                 │ commands, bounded                          ▲ events, bounded
//!  ┌──────────────▼────────────── network thread ──────────────┴──────────────┐
//!  │  endpoint: sans-IO state machine over quinn-proto                        │
//!  │     admission · greeting · channels · dialling · limits                  │
//!  │  ──────────────────────────────────────────────────────────────────────  │
//!  │  io: one backend behind a trait (io_uring, AF_XDP, recvmmsg with GSO/GRO)  │
//!  └──────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Nothing blocks: a full queue answers `Full` to the sender; a slow consumer makes the endpoint
//! stop reading, and QUIC's flow control stops the peers.
//!
//! `cargo run -p falconet-dataplane --example echo` shows it at work.

mod channel;
mod close;
mod config;
mod datagram;
pub mod endpoint;
mod error;
mod event;
pub mod frame;
pub mod hello;
mod io;
pub mod measure;
mod path;
mod pool;
mod runtime;
mod send;
mod stats;
mod steer;
pub mod tls;

pub use self::{
    channel::{Channel, KIND_APPLICATION_MIN},
    close::{CloseCode, CloseReason, REASON_BYTES_MAX},
    config::{
        AfterSetup, Backend, DeviceName, FLUSH_AFTER_MAX, InvalidDeviceName, IoOptions, Limits,
        MTU_JUMBO, MTU_LOOPBACK, PeerTarget, Spin, StoqConfig,
    },
    datagram::{MESSAGE_HEADER_BYTES, Messages},
    error::{BindError, ConnectError, SendError},
    event::{ConnId, Event, EventBudget, FrameLease, Remote, TargetId},
    path::{PathInfo, PathPolicy, PathTier},
    runtime::{Handler, Stoq, StoqHandle},
    send::Payload,
    stats::{Stats, StatsSnapshot},
    tls::TrustedKeys,
};
