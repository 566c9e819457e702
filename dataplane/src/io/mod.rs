//! I/O backends: how datagrams travel between the kernel and the endpoint.
//!
//! One small trait, so that the network thread is the same for all. The choice is made once, when
//! binding, and logged with its reason.

mod cmsg;
pub(crate) mod huge_pages;
mod mmsg;
mod refusal;
mod slot;
mod socket;
#[cfg(test)]
mod tests;
mod uring;
mod xdp;
mod zero_copy;

use std::{
    io,
    net::{Ipv6Addr, SocketAddrV6},
    os::fd::BorrowedFd,
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use quinn_proto::{EcnCodepoint, Transmit};

pub(crate) use self::socket::{Socket, bind_group};
use crate::{Backend as Choice, BindError, IoOptions, Spin, Stats};

/// One datagram that came.
pub(crate) struct Received {
    pub(crate) from: SocketAddrV6,
    pub(crate) local_ip: Option<Ipv6Addr>,
    pub(crate) ecn: Option<EcnCodepoint>,
    pub(crate) data: BytesMut,
}

/// What a look for datagrams found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Nothing had come.
    Nothing,
    /// Something, and probably that was all.
    All,
    /// Something, and there may be more.
    Some,
}

/// A bound UDP socket and the way to use it. Used by one thread.
pub(crate) trait Backend {
    /// Takes what has come.
    fn receive(&mut self, sink: &mut dyn FnMut(Received)) -> io::Result<Taken>;

    /// An empty buffer for the next transmission, `None` while the kernel takes no more.
    fn transmit_buffer(&mut self) -> Option<&mut Vec<u8>>;

    /// Queues what was written into the buffer last given out.
    fn transmit(&mut self, transmit: &Transmit);

    /// Hands everything queued to the kernel.
    fn flush(&mut self) -> io::Result<()>;

    /// Hands everything queued to the kernel, and sleeps until a datagram comes, `waker` is
    /// readable, room appears after the kernel took no more, or `timeout` passes.
    fn wait(&mut self, waker: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<()>;

    /// Datagrams that one transmission may hold now; 1 without segmentation offload.
    fn segments_max(&self) -> usize;

    /// The address bound.
    fn local_addr(&self) -> SocketAddrV6;

    /// What it is, for people.
    fn describe(&self) -> String;
}

/// Chooses the backend for a socket. To be called in the thread that will use it: io_uring serves
/// only the thread that made the ring.
pub(crate) fn open(
    mut socket: Socket,
    options: &IoOptions,
    stats: Arc<Stats>,
) -> Result<Box<dyn Backend>, BindError> {
    if options.backend == Choice::Xdp {
        match xdp::Xdp::new(socket, options, stats.clone()) {
            Ok(backend) => return Ok(Box::new(backend)),
            Err((back, reason)) => {
                tracing::warn!(reason, "AF_XDP is not available; using the next backend");
                socket = back;
            }
        }
    }
    let (offload, socket) = match options.backend {
        Choice::Plain => (false, socket),
        Choice::Mmsg => (true, socket),
        // Measured (`falconet bench net`): a round trip of 7.8 instead of 10.3 us. Data that comes
        // must not first be announced by a completion, and the sender has no waiter to call.
        Choice::Auto if options.spin != Spin::Never => {
            tracing::info!(
                "a thread that polls reads its socket itself, which is faster than waiting for \
                 io_uring's completions; using recvmmsg/sendmmsg"
            );
            (true, socket)
        }
        Choice::Auto | Choice::IoUring | Choice::Xdp => {
            match uring::Uring::new(socket, options, stats.clone()) {
                Ok(backend) => return Ok(Box::new(backend)),
                Err((_, reason)) if options.backend == Choice::IoUring => {
                    return Err(BindError::Backend {
                        backend: "io_uring",
                        reason,
                    });
                }
                Err((socket, reason)) => {
                    tracing::warn!(reason, "io_uring is not available; using recvmmsg/sendmmsg");
                    (true, socket)
                }
            }
        }
    };
    Ok(Box::new(mmsg::Mmsg::new(socket, offload, options, stats)))
}
