//! Errors of binding and sending.

use std::{io, net::SocketAddrV6};

use thiserror::Error;

/// Why an endpoint could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another socket has the address.
    #[error(
        "UDP address {addr} is in use: another process (perhaps this same node) listens there; \
         stop it or choose another port"
    )]
    AddressInUse {
        /// The address asked for.
        addr: SocketAddrV6,
    },
    /// The address belongs to no interface of this machine.
    #[error("{addr} is not an address of this machine; use [::] or one that `ip -6 addr` lists")]
    AddressNotAvailable {
        /// The address asked for.
        addr: SocketAddrV6,
    },
    /// The kernel refused a system call.
    #[error("{call} failed for {addr}: {source}")]
    System {
        /// The system call.
        call: &'static str,
        /// The address asked for.
        addr: SocketAddrV6,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The demanded I/O backend does not work here.
    #[error("the I/O backend {backend} cannot be used: {reason}; backend \"auto\" takes the next")]
    Backend {
        /// The backend demanded.
        backend: &'static str,
        /// What failed and what would help.
        reason: String,
    },
    /// TLS could not be configured with the identity.
    #[error("the identity cannot be used for TLS: {0}")]
    Identity(#[from] rustls::Error),
    /// A limit makes no sense.
    #[error("limit {name} is {value}: {problem}")]
    Limit {
        /// The field of `Limits`.
        name: &'static str,
        /// Its value.
        value: u64,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// Why a frame was not taken for sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SendError {
    /// The queue is full: the peer or this endpoint cannot keep up. Try later, or drop.
    #[error("the send queue is full")]
    Full,
    /// The connection does not exist (any more), or the endpoint stopped.
    #[error("the connection is closed")]
    Closed,
    /// The payload is longer than the channel allows.
    #[error("a payload of {len} bytes exceeds the limit of {max} of its channel or datagram")]
    TooLong {
        /// Payload length, bytes.
        len: usize,
        /// The limit, bytes.
        max: usize,
    },
    /// Kinds below `KIND_APPLICATION_MIN` belong to STOQ.
    #[error("frame kind {0} is reserved")]
    ReservedKind(u8),
    /// This endpoint or the peer takes no datagrams.
    #[error("this connection carries no datagrams: both sides must enable `StoqConfig::datagrams`")]
    DatagramsUnsupported,
    /// This connection does not permit the channel.
    #[error("the channel is only for connections between trusted peers")]
    ChannelNotAllowed,
}

/// Why a target was not taken for dialling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The endpoint stopped.
    #[error("the endpoint is stopped")]
    Stopped,
    /// Commands wait for the network thread, and there is no room for one more.
    #[error("the command queue is full")]
    Full,
}
