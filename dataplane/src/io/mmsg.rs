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
    Backend, Received, Taken,
    cmsg::{self, CONTROL_BYTES, Control},
    slot::{SEGMENTS_MAX, SendSlot, deliver, deliver_copied, empty_header, empty_iovec},
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

/// Longest sleep, seconds; far beyond any timer, and safe for the kernel's arithmetic.
const MAX_SLEEP_S: u64 = 1 << 20;

/// Where one received message goes, and the kernel's view of it.
struct ReceiveSlot {
    slab: Option<BytesMut>,
    name: libc::sockaddr_in6,
    control: Control,
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
    /// The last look found nothing, and the thread has not slept since: it polls, for one message
    /// at a time.
    is_polling: bool,
    has_gso: bool,
    has_gro: bool,
}

impl Mmsg {
    pub(super) fn new(
        socket: Socket,
        offload: bool,
        options: &IoOptions,
        stats: Arc<Stats>,
    ) -> Self {
        Mmsg {
            has_gro: offload && socket::enable_gro(&socket.fd),
            has_gso: offload && socket::has_gso(&socket.fd),
            pool: Pool::new(options.pool_bytes_max, stats.clone()),
            receive: Box::new(std::array::from_fn(|_| ReceiveSlot {
                slab: None,
                name: cmsg::empty_sockaddr(),
                control: Control::default(),
                iov: empty_iovec(),
            })),
            receive_headers: Box::new([empty_mmsghdr(); RECEIVE_BATCH]),
            spare: Box::new([0; WINDOW_BYTES]),
            send: Box::new(std::array::from_fn(|_| SendSlot::new())),
            send_headers: Box::new([empty_mmsghdr(); SEND_BATCH]),
            sent: 0,
            queued: 0,
            is_blocked: false,
            is_polling: false,
            socket,
            stats,
        }
    }

    /// Points the kernel's structures at free windows; returns how many messages fit.
    fn prepare_receive(&mut self) -> usize {
        if self.is_polling && self.receive[0].slab.is_some() {
            // As it was prepared before: the kernel found nothing and touched nothing.
            return 1;
        }
        let mut batch = 0;
        for slot in self.receive.iter_mut() {
            self.pool.refill(&mut slot.slab);
            if slot.slab.is_none() {
                break;
            }
            batch += 1;
        }
        if batch == 0 {
            // The first slot uses the spare buffer.
            self.stats.pool_exhausted.inc();
            batch = 1;
        }
        let slots = self.receive.iter_mut().zip(&mut *self.receive_headers);
        for (slot, header) in slots.take(batch) {
            let base = match &mut slot.slab {
                Some(slab) => slab.spare_capacity_mut().as_mut_ptr().cast(),
                None => self.spare.as_mut_ptr(),
            };
            slot.iov = libc::iovec {
                iov_base: base.cast(),
                iov_len: WINDOW_BYTES,
            };
            let header = &mut header.msg_hdr;
            header.msg_name = (&raw mut slot.name).cast();
            header.msg_namelen = size_of::<libc::sockaddr_in6>() as u32;
            header.msg_iov = &raw mut slot.iov;
            header.msg_iovlen = 1;
            header.msg_control = slot.control.as_mut_ptr().cast();
            header.msg_controllen = CONTROL_BYTES;
            header.msg_flags = 0;
        }
        batch
    }

    /// Hands on what the kernel put into slot `i`.
    fn take(&mut self, i: usize, sink: &mut dyn FnMut(Received)) {
        let header = &self.receive_headers[i];
        let len = header.msg_len as usize;
        assert!(len <= WINDOW_BYTES, "the kernel wrote beyond the window");
        let slot = &mut self.receive[i];
        let control_len = header.msg_hdr.msg_controllen.min(CONTROL_BYTES);
        let meta = cmsg::decode(&cmsg::control_bytes(&slot.control)[..control_len]);
        let from = cmsg::address(&slot.name);
        let is_whole = header.msg_hdr.msg_flags & libc::MSG_TRUNC == 0
            && i32::from(slot.name.sin6_family) == libc::AF_INET6;
        match &mut slot.slab {
            Some(slab) => {
                assert!(slab.is_empty(), "a window holds something already");
                // SAFETY: the kernel initialised `len` bytes at the start of the spare capacity,
                // which is at least WINDOW_BYTES, and the slab is empty.
                unsafe { slab.set_len(len) };
                let data = slab.split();
                if is_whole {
                    deliver(from, meta, data, sink);
                }
            }
            None if is_whole => deliver_copied(from, meta, &self.spare[..len], &self.stats, sink),
            None => {}
        }
    }
}

impl Backend for Mmsg {
    fn receive(&mut self, sink: &mut dyn FnMut(Received)) -> io::Result<Taken> {
        let batch = self.prepare_receive();
        self.stats.syscalls_receive.inc();
        let fd = self.socket.fd.as_raw_fd();
        // Not through the C library: its functions are cancellation points, which costs a polling
        // thread a tenth of its time.
        // SAFETY: `prepare_receive` set the first `batch` headers: names, control buffers and
        // iovecs are fields of boxed slots that live as long as `self`; each iovec covers
        // WINDOW_BYTES of a slab's spare capacity (Pool::refill guarantees that much) or of the
        // spare buffer. A single message has a call of its own, which costs less.
        let result = unsafe {
            let headers = self.receive_headers.as_mut_ptr();
            if batch == 1 {
                let header = &raw mut (*headers).msg_hdr;
                libc::syscall(libc::SYS_recvmsg, fd, header, libc::MSG_DONTWAIT)
            } else {
                libc::syscall(
                    libc::SYS_recvmmsg,
                    fd,
                    headers,
                    batch as libc::c_uint,
                    libc::MSG_DONTWAIT,
                    ptr::null_mut::<libc::timespec>(),
                )
            }
        };
        let Ok(mut count) = usize::try_from(result) else {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {
                    self.is_polling = true;
                    Ok(Taken::Nothing)
                }
                _ => Err(error),
            };
        };
        if batch == 1 {
            // The length of the message that came, which may be empty.
            self.receive_headers[0].msg_len = count as u32;
            count = 1;
        }
        for i in 0..count {
            self.take(i, sink);
        }
        let was_polling = std::mem::take(&mut self.is_polling);
        Ok(match count {
            0 => Taken::Nothing,
            // What else came is there when the thread looks again, or ends its sleep at once.
            _ if count < batch || was_polling => Taken::All,
            _ => Taken::Some,
        })
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
        self.send[self.queued].set(transmit);
        self.queued += 1;
    }

    fn flush(&mut self) -> io::Result<()> {
        self.is_blocked = false;
        while self.sent < self.queued {
            for i in self.sent..self.queued {
                self.send[i].point(&mut self.send_headers[i].msg_hdr);
            }
            self.stats.syscalls_send.inc();
            let (fd, flags) = (self.socket.fd.as_raw_fd(), libc::MSG_DONTWAIT);
            let waiting = self.queued - self.sent;
            let headers = self.send_headers[self.sent..].as_mut_ptr();
            // SAFETY: headers `sent..queued` were just pointed at boxed slots; each iovec covers
            // the bytes that `SendSlot::set` found in its buffer. Calls as for receiving.
            let result = unsafe {
                if waiting == 1 {
                    let header = &raw const (*headers).msg_hdr;
                    // A datagram is sent whole or not at all.
                    libc::syscall(libc::SYS_sendmsg, fd, header, flags).min(1)
                } else {
                    libc::syscall(libc::SYS_sendmmsg, fd, headers, waiting, flags)
                }
            };
            if let Ok(count) = usize::try_from(result) {
                assert!(count > 0, "a transmission has bytes");
                for slot in &self.send[self.sent..self.sent + count] {
                    slot.count_sent(&self.stats);
                }
                self.sent += count;
                continue;
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => {
                    self.is_blocked = true;
                    return Ok(());
                }
                _ => {
                    if self.send[self.sent].count_refused(&error, &self.stats) {
                        self.has_gso = false;
                    }
                    self.sent += 1;
                }
            }
        }
        self.sent = 0;
        self.queued = 0;
        Ok(())
    }

    fn wait(&mut self, waker: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<()> {
        self.is_polling = false;
        if !self.is_blocked {
            self.flush()?;
        }
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

fn empty_mmsghdr() -> libc::mmsghdr {
    libc::mmsghdr {
        msg_hdr: empty_header(),
        msg_len: 0,
    }
}
