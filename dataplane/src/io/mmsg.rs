//! The backend over `recvmmsg` and `sendmmsg`, with segmentation (GSO) and receive (GRO) offload
//! where the kernel has them.

use std::{
    io,
    net::SocketAddrV6,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    ptr,
    sync::Arc,
    time::Duration,
};

use bytes::BytesMut;
use quinn_proto::Transmit;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{
    Backend, Received,
    cmsg::{self, CONTROL_BYTES, Control, Meta},
    socket::{self, Socket},
};
use crate::{
    IoOptions, Stats,
    pool::{Pool, WINDOW_BYTES},
    stats::Count,
};

/// Messages in one `recvmmsg`.
const RECEIVE_BATCH: usize = 16;

/// Messages in one `sendmmsg`.
const SEND_BATCH: usize = 16;

/// Size of a transmission buffer, bytes.
const SEND_BUFFER_BYTES: usize = 65_536;

/// Datagrams in one transmission with offload.
const SEGMENTS_MAX: usize = 44;

/// Where one received message goes, and the kernel's view of it.
struct ReceiveSlot {
    slab: Option<BytesMut>,
    name: libc::sockaddr_in6,
    control: Control,
    iov: libc::iovec,
}

/// One transmission, and the kernel's view of it.
struct SendSlot {
    buf: Vec<u8>,
    segments: usize,
    name: libc::sockaddr_in6,
    control: Control,
    control_len: usize,
    iov: libc::iovec,
}

/// The backend.
pub(super) struct Mmsg {
    socket: Socket,
    stats: Arc<Stats>,
    pool: Pool,
    receive: Box<[ReceiveSlot; RECEIVE_BATCH]>,
    receive_headers: Box<[libc::mmsghdr; RECEIVE_BATCH]>,
    /// Where bytes go while the pool is exhausted; copied out at once.
    spare: Box<[u8; WINDOW_BYTES]>,
    send: Box<[SendSlot; SEND_BATCH]>,
    send_headers: Box<[libc::mmsghdr; SEND_BATCH]>,
    /// `send[sent..queued]` waits for the kernel.
    sent: usize,
    queued: usize,
    is_blocked: bool,
    has_gso: bool,
    has_gro: bool,
}

// SAFETY: the raw pointers in `iovec` and `mmsghdr` point into this value's own boxes and
// buffers, are set immediately before each system call, and are never used by another thread.
unsafe impl Send for Mmsg {}

impl Mmsg {
    pub(super) fn new(
        socket: Socket,
        offload: bool,
        options: &IoOptions,
        stats: Arc<Stats>,
    ) -> Result<Self, (&'static str, io::Error)> {
        let has_gro = offload && socket::enable_gro(&socket.fd);
        let has_gso = offload && socket::has_gso(&socket.fd);
        Ok(Mmsg {
            pool: Pool::new(options.pool_bytes_max, stats.clone()),
            receive: Box::new(std::array::from_fn(|_| ReceiveSlot {
                slab: None,
                name: cmsg::empty_sockaddr(),
                control: Control::default(),
                iov: empty_iovec(),
            })),
            receive_headers: Box::new([empty_header(); RECEIVE_BATCH]),
            spare: Box::new([0; WINDOW_BYTES]),
            send: Box::new(std::array::from_fn(|_| SendSlot {
                buf: Vec::with_capacity(SEND_BUFFER_BYTES),
                segments: 0,
                name: cmsg::empty_sockaddr(),
                control: Control::default(),
                control_len: 0,
                iov: empty_iovec(),
            })),
            send_headers: Box::new([empty_header(); SEND_BATCH]),
            sent: 0,
            queued: 0,
            is_blocked: false,
            has_gso,
            has_gro,
            socket,
            stats,
        })
    }

    /// One `recvmmsg`; returns the number of messages.
    fn receive_batch(&mut self, sink: &mut dyn FnMut(Received)) -> io::Result<usize> {
        // Without a slab for the first slot, one message goes to the spare buffer.
        let mut batch = 0;
        for slot in self.receive.iter_mut() {
            self.pool.refill(&mut slot.slab);
            if slot.slab.is_none() {
                break;
            }
            batch += 1;
        }
        let use_spare = batch == 0;
        if use_spare {
            self.stats.pool_exhausted.inc();
            batch = 1;
        }
        for (slot, header) in self.receive.iter_mut().zip(&mut *self.receive_headers) {
            let base = match &mut slot.slab {
                Some(slab) => slab.spare_capacity_mut().as_mut_ptr().cast(),
                None => self.spare.as_mut_ptr(),
            };
            slot.iov = libc::iovec {
                iov_base: base.cast(),
                iov_len: WINDOW_BYTES,
            };
            header.msg_hdr.msg_name = (&raw mut slot.name).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in6>() as u32;
            header.msg_hdr.msg_iov = &raw mut slot.iov;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = slot.control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL_BYTES;
            header.msg_hdr.msg_flags = 0;
        }
        self.stats.syscalls_receive.inc();
        // SAFETY: the first `batch` headers were just set: names, control buffers and iovecs are
        // fields of boxed slots that live as long as `self`; each iovec covers WINDOW_BYTES of a
        // slab's spare capacity (Pool::refill guarantees that much) or of the spare buffer.
        let result = unsafe {
            libc::recvmmsg(
                self.socket.fd.as_raw_fd(),
                self.receive_headers.as_mut_ptr(),
                batch as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        let Ok(count) = usize::try_from(result) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                _ => Err(error),
            };
        };
        for i in 0..count {
            let header = &self.receive_headers[i];
            let len = header.msg_len as usize;
            let slot = &mut self.receive[i];
            let control_len = header.msg_hdr.msg_controllen.min(CONTROL_BYTES);
            let meta = decode_control(&slot.control, control_len);
            let from = cmsg::address(&slot.name);
            let is_whole = header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0
                && i32::from(slot.name.sin6_family) == libc::AF_INET6;
            let data = match &mut slot.slab {
                Some(slab) => {
                    assert!(
                        slab.is_empty() && len <= WINDOW_BYTES,
                        "kernel wrote too much"
                    );
                    // SAFETY: the kernel initialised `len` bytes of the spare capacity, at its
                    // start, and the slab is empty.
                    unsafe { slab.set_len(len) };
                    slab.split()
                }
                None => {
                    self.stats.payload_bytes_copied.add(len as u64);
                    BytesMut::from(&self.spare[..len])
                }
            };
            if is_whole {
                deliver(from, meta, data, sink);
            }
        }
        Ok(count)
    }

    /// The kernel refused the transmission at `sent`; decides what becomes of it.
    fn refused(&mut self, error: &io::Error) {
        let slot = &self.send[self.sent];
        // Some devices cannot compute checksums for segments: EIO (as quinn-udp documents), and
        // EINVAL from others. QUIC sends the lost data again.
        let is_gso = slot.segments > 1
            && matches!(error.raw_os_error(), Some(libc::EIO) | Some(libc::EINVAL));
        if is_gso && self.has_gso {
            tracing::warn!(%error, "the device refuses segmentation offload; going on without");
            self.has_gso = false;
        }
        // Too long for the path (an MTU probe), unreachable, filtered: all look like loss.
        self.stats.datagrams_send_failed.add(slot.segments as u64);
        self.sent += 1;
    }
}

impl Backend for Mmsg {
    fn receive(&mut self, sink: &mut dyn FnMut(Received)) -> io::Result<bool> {
        let count = self.receive_batch(sink)?;
        Ok(count > 0)
    }

    fn transmit_buffer(&mut self) -> Option<&mut Vec<u8>> {
        if self.is_blocked || self.queued == SEND_BATCH {
            return None;
        }
        let buf = &mut self.send[self.queued].buf;
        buf.clear();
        Some(buf)
    }

    fn transmit(&mut self, transmit: &Transmit) {
        let std::net::SocketAddr::V6(to) = transmit.destination else {
            unreachable!("only IPv6 addresses are ever dialled or received from");
        };
        let slot = &mut self.send[self.queued];
        assert!(
            transmit.size <= slot.buf.len(),
            "transmission is not in the buffer"
        );
        slot.name = cmsg::sockaddr(&to);
        slot.segments = transmit
            .segment_size
            .map_or(1, |segment| transmit.size.div_ceil(segment));
        slot.control_len = cmsg::encode(transmit, &mut slot.control);
        slot.iov.iov_len = transmit.size;
        self.queued += 1;
    }

    fn flush(&mut self) -> io::Result<()> {
        self.is_blocked = false;
        while self.sent < self.queued {
            for i in self.sent..self.queued {
                let (slot, header) = (&mut self.send[i], &mut self.send_headers[i]);
                slot.iov.iov_base = slot.buf.as_mut_ptr().cast();
                header.msg_hdr.msg_name = (&raw mut slot.name).cast();
                header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in6>() as u32;
                header.msg_hdr.msg_iov = &raw mut slot.iov;
                header.msg_hdr.msg_iovlen = 1;
                header.msg_hdr.msg_control = if slot.control_len > 0 {
                    slot.control.as_mut_ptr().cast()
                } else {
                    ptr::null_mut()
                };
                header.msg_hdr.msg_controllen = slot.control_len;
                header.msg_hdr.msg_flags = 0;
            }
            self.stats.syscalls_send.inc();
            // SAFETY: headers `sent..queued` were just set to fields of boxed slots; each iovec
            // covers `transmit.size` bytes of its buffer, checked in `transmit`.
            let result = unsafe {
                libc::sendmmsg(
                    self.socket.fd.as_raw_fd(),
                    self.send_headers[self.sent..].as_mut_ptr(),
                    (self.queued - self.sent) as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                )
            };
            match usize::try_from(result) {
                Ok(count) => {
                    for slot in &self.send[self.sent..self.sent + count] {
                        self.stats.datagrams_out.add(slot.segments as u64);
                        self.stats.bytes_out.add(slot.iov.iov_len as u64);
                    }
                    self.sent += count;
                }
                Err(_) => {
                    let error = io::Error::last_os_error();
                    match error.kind() {
                        io::ErrorKind::Interrupted => {}
                        io::ErrorKind::WouldBlock => {
                            self.is_blocked = true;
                            return Ok(());
                        }
                        _ => self.refused(&error),
                    }
                }
            }
        }
        self.sent = 0;
        self.queued = 0;
        Ok(())
    }

    fn wait(&mut self, waker: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<()> {
        let mut interest = PollFlags::IN;
        if self.is_blocked {
            interest |= PollFlags::OUT;
        }
        let fd = self.socket.fd.as_fd();
        let mut fds = [
            PollFd::from_borrowed_fd(fd, interest),
            PollFd::from_borrowed_fd(waker, PollFlags::IN),
        ];
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs().min(MAX_SLEEP_S) as i64,
            tv_nsec: timeout.subsec_nanos().into(),
        });
        self.stats.syscalls_wait.inc();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if self.is_blocked {
            self.flush()?;
        }
        Ok(())
    }

    fn segments_max(&self) -> usize {
        if self.has_gso { SEGMENTS_MAX } else { 1 }
    }

    fn local_addr(&self) -> SocketAddrV6 {
        self.socket.addr
    }

    fn describe(&self) -> String {
        let on = |yes| if yes { "on" } else { "off" };
        format!(
            "recvmmsg/sendmmsg, GSO {}, GRO {}",
            on(self.has_gso),
            on(self.has_gro)
        )
    }
}

/// Longest sleep, seconds; far beyond any timer, and safe for the kernel's arithmetic.
const MAX_SLEEP_S: u64 = 1 << 20;

/// Cuts a reception into its datagrams.
fn deliver(from: SocketAddrV6, meta: Meta, mut data: BytesMut, sink: &mut dyn FnMut(Received)) {
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

fn decode_control(control: &Control, len: usize) -> Meta {
    let mut bytes = [0; CONTROL_BYTES];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(control) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    cmsg::decode(&bytes[..len])
}

fn empty_iovec() -> libc::iovec {
    libc::iovec {
        iov_base: ptr::null_mut(),
        iov_len: 0,
    }
}

fn empty_header() -> libc::mmsghdr {
    // SAFETY: every field is an integer or a pointer, for which zero is a value.
    unsafe { std::mem::zeroed() }
}
