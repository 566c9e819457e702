//! One transmission on its way to the kernel, in the form that `sendmsg` wants.

use std::{io, net::SocketAddr, ptr};

use bytes::BytesMut;
use quinn_proto::Transmit;

use super::{
    Received,
    cmsg::{self, Control, Meta},
};
use crate::{Stats, stats::Count};

/// Size of a transmission buffer, bytes.
const SEND_BUFFER_BYTES: usize = 65_536;

/// Datagrams in one transmission with segmentation offload.
pub(super) const SEGMENTS_MAX: usize = 44;

/// One transmission. Boxed by its owner: the kernel is given addresses of its fields.
pub(super) struct SendSlot {
    pub(super) buf: Vec<u8>,
    pub(super) segments: usize,
    name: libc::sockaddr_in6,
    control: Control,
    control_len: usize,
    len: usize,
    iov: libc::iovec,
}

impl SendSlot {
    pub(super) fn new() -> Self {
        SendSlot {
            buf: Vec::with_capacity(SEND_BUFFER_BYTES),
            segments: 0,
            name: cmsg::empty_sockaddr(),
            control: Control::default(),
            control_len: 0,
            len: 0,
            iov: empty_iovec(),
        }
    }

    /// Length of the transmission, bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Takes over what was written into `buf`.
    pub(super) fn set(&mut self, transmit: &Transmit) {
        let SocketAddr::V6(to) = transmit.destination else {
            unreachable!("only IPv6 addresses are ever dialled or received from");
        };
        assert!(
            transmit.size <= self.buf.len(),
            "the transmission is not in the buffer"
        );
        self.name = cmsg::sockaddr(&to);
        self.segments = transmit
            .segment_size
            .map_or(1, |segment| transmit.size.div_ceil(segment));
        self.control_len = cmsg::encode(transmit, &mut self.control);
        self.len = transmit.size;
    }

    /// Points `header` at this slot. Valid until the slot moves or is set again.
    pub(super) fn point(&mut self, header: &mut libc::msghdr) {
        self.iov = libc::iovec {
            iov_base: self.buf.as_mut_ptr().cast(),
            iov_len: self.len,
        };
        header.msg_name = (&raw mut self.name).cast();
        header.msg_namelen = size_of::<libc::sockaddr_in6>() as u32;
        header.msg_iov = &raw mut self.iov;
        header.msg_iovlen = 1;
        header.msg_control = if self.control_len > 0 {
            self.control.as_mut_ptr().cast()
        } else {
            ptr::null_mut()
        };
        header.msg_controllen = self.control_len;
        header.msg_flags = 0;
    }

    /// The kernel took it.
    pub(super) fn count_sent(&self, stats: &Stats) {
        stats.datagrams_out.add(self.segments as u64);
        stats.bytes_out.add(self.len as u64);
    }

    /// The kernel refused it for good: too long for the path (an MTU probe), unreachable,
    /// filtered. To QUIC all of these look like loss. Returns whether the device refused
    /// segmentation offload: some cannot compute checksums for segments and answer EIO, others
    /// EINVAL.
    pub(super) fn count_refused(&self, error: &io::Error, stats: &Stats) -> bool {
        stats.datagrams_send_failed.add(self.segments as u64);
        let is_offload = self.segments > 1
            && matches!(error.raw_os_error(), Some(libc::EIO) | Some(libc::EINVAL));
        if is_offload {
            tracing::warn!(%error, "the device refuses segmentation offload; going on without");
        }
        is_offload
    }
}

/// Cuts a reception into its datagrams.
pub(super) fn deliver(
    from: std::net::SocketAddrV6,
    meta: Meta,
    mut data: BytesMut,
    sink: &mut dyn FnMut(Received),
) {
    let segment = meta.segment_bytes.unwrap_or(data.len()).max(1);
    while !data.is_empty() {
        let datagram = if data.len() > segment {
            data.split_to(segment)
        } else {
            std::mem::take(&mut data)
        };
        sink(Received {
            from,
            local_ip: meta.local_ip,
            ecn: meta.ecn,
            data: datagram,
        });
    }
}

/// The same for bytes that must not stay where they are.
pub(super) fn deliver_copied(
    from: std::net::SocketAddrV6,
    meta: Meta,
    data: &[u8],
    stats: &Stats,
    sink: &mut dyn FnMut(Received),
) {
    stats.payload_bytes_copied.add(data.len() as u64);
    let segment = meta.segment_bytes.unwrap_or(data.len()).max(1);
    for datagram in data.chunks(segment) {
        sink(Received {
            from,
            local_ip: meta.local_ip,
            ecn: meta.ecn,
            data: BytesMut::from(datagram),
        });
    }
}

pub(super) fn empty_iovec() -> libc::iovec {
    libc::iovec {
        iov_base: ptr::null_mut(),
        iov_len: 0,
    }
}

pub(super) fn empty_header() -> libc::msghdr {
    // SAFETY: every field is an integer or a pointer, for which zero is a value.
    unsafe { std::mem::zeroed() }
}
