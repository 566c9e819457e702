//! The backend over io_uring: one multishot `recvmsg` that takes buffers from a provided ring, and
//! `sendmsg` requests submitted together, with GSO and GRO.
//!
//! The ring is used by one thread only (SINGLE_ISSUER) and runs its completions when that thread
//! asks for them (DEFER_TASKRUN), so that nothing interrupts the loop; looking for completions
//! when there are none costs no system call. Needs Linux 6.1.
//!
//! Ownership: a receive window belongs to the kernel from [`Uring::provide`] until its completion
//! is taken; a send slot from [`Backend::flush`] until its completion. Dropping the backend first
//! cancels every request and waits, so that no memory is freed under the kernel.

mod demand;
mod provided;

use std::{
    collections::VecDeque,
    io,
    net::SocketAddrV6,
    os::fd::{AsRawFd, BorrowedFd},
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, BytesMut};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue, types};
use quinn_proto::Transmit;

use self::{
    demand::Demand,
    provided::{BufferRing, GROUP, HEADER_BYTES, NAME_BYTES, RECEIVE_SLOTS, parse},
};
use super::{
    Backend, Received, Taken,
    cmsg::CONTROL_BYTES,
    refusal::{explain, lacks},
    slot::{SEGMENTS_MAX, SendSlot, deliver, deliver_copied, empty_header},
    socket::{self, Socket},
    zero_copy::{REPORT_USAGE, ZeroCopy},
};
use crate::{
    IoOptions, Stats,
    pool::{Pool, WINDOW_BYTES, has_window},
    stats::Count,
};

/// Transmissions that the kernel may hold.
const SEND_SLOTS: usize = 16;

/// Submission queue entries: all sends, the receive, the poll, and room for rearming.
const SQ_ENTRIES: u32 = 64;

/// Completion queue entries.
const CQ_ENTRIES: u32 = 512;

/// `user_data` of the receive request; sends use their slot's index.
const RECEIVE: u64 = 1 << 32;

/// `user_data` of the poll on the waker.
const WAKE: u64 = 2 << 32;

/// The socket, where it is registered.
const REGISTERED: types::Fixed = types::Fixed(0);

/// Waits for the last notifications when closing, each at most [`CLOSE_WAIT`].
const CLOSE_WAITS_MAX: usize = 20;

/// See [`CLOSE_WAITS_MAX`].
const CLOSE_WAIT: Duration = Duration::from_millis(5);

/// IORING_ENTER_GETEVENTS.
const GET_EVENTS: u32 = 1;

/// The backend. `ring` is the first field, so it is closed before the memory that it refers to is
/// freed.
pub(super) struct Uring {
    ring: IoUring,
    buffers: BufferRing,
    slabs: Vec<Option<BytesMut>>,
    pool: Pool,
    /// Template of the multishot request: sizes of the name and control areas.
    template: Box<libc::msghdr>,
    /// Slots without a window in the kernel's hands; the one used last is on top.
    spare: Vec<u16>,
    demand: Demand,
    /// Receptions not yet handed on: slot and length.
    received: VecDeque<(u16, usize)>,
    receive_is_armed: bool,
    receive_error: Option<io::Error>,
    /// The kernel is given addresses of its elements; never grown.
    send: Box<[(SendSlot, libc::msghdr)]>,
    free: Vec<usize>,
    zero_copy: ZeroCopy,
    /// Zero-copy sends whose buffers the kernel still reads.
    unnotified: usize,
    /// The slot whose buffer was given out.
    current: Option<usize>,
    waker_is_armed: bool,
    is_woken: bool,
    /// Sends in the submission queue that the kernel has not seen.
    unsubmitted: usize,
    socket: Socket,
    /// Whether the socket is registered with the ring, as file 0.
    has_registered: bool,
    stats: Arc<Stats>,
    has_gso: bool,
    has_gro: bool,
}

impl Uring {
    /// Sets the ring up in the thread that will use it. On failure the socket is given back with
    /// the reason.
    pub(super) fn new(
        socket: Socket,
        options: &IoOptions,
        stats: Arc<Stats>,
    ) -> Result<Self, (Socket, String)> {
        match Self::try_new(&socket, options, stats) {
            Ok(uring) => Ok(uring),
            Err(reason) => Err((socket, reason)),
        }
    }

    /// Works on a duplicate of the descriptor, so that the original serves the next backend when
    /// this one fails.
    fn try_new(socket: &Socket, options: &IoOptions, stats: Arc<Stats>) -> Result<Self, String> {
        let own = Socket {
            fd: socket
                .fd
                .try_clone()
                .map_err(|error| explain("dup", &error))?,
            addr: socket.addr,
        };
        let (ring, buffers, slabs, pool, has_zero_copy) = set_up(options, &stats)?;
        let spare = (0..RECEIVE_SLOTS).filter(|slot| slabs[usize::from(*slot)].is_some());
        let spare = spare.collect();
        let mut template = Box::new(empty_header());
        template.msg_namelen = NAME_BYTES as u32;
        template.msg_controllen = CONTROL_BYTES;
        let mut uring = Uring {
            ring,
            buffers,
            slabs,
            pool,
            template,
            spare,
            demand: Demand::default(),
            received: VecDeque::with_capacity(CQ_ENTRIES as usize),
            receive_is_armed: false,
            receive_error: None,
            send: (0..SEND_SLOTS)
                .map(|_| (SendSlot::new(), empty_header()))
                .collect(),
            free: (0..SEND_SLOTS).rev().collect(),
            zero_copy: ZeroCopy::new(has_zero_copy),
            unnotified: 0,
            current: None,
            waker_is_armed: false,
            is_woken: false,
            unsubmitted: 0,
            has_registered: false,
            has_gro: socket::enable_gro(&own.fd),
            has_gso: socket::has_gso(&own.fd),
            socket: own,
            stats,
        };
        // Saves looking the descriptor up for each request; without it all works as well.
        let registered = uring.ring.submitter();
        uring.has_registered = registered
            .register_files(&[uring.socket.fd.as_raw_fd()])
            .is_ok();
        // A kernel without multishot recvmsg refuses now, not under load.
        uring.probe()?;
        Ok(uring)
    }

    fn probe(&mut self) -> Result<(), String> {
        self.arm_receive();
        self.enter(0, None)
            .map_err(|error| explain("io_uring_enter", &error))?;
        self.reap();
        match self.receive_error.take() {
            None => Ok(()),
            Some(error) => Err(explain("multishot recvmsg", &error)),
        }
    }

    fn fd(&self) -> types::Fd {
        types::Fd(self.socket.fd.as_raw_fd())
    }

    /// Queues the request that receives until told otherwise.
    fn arm_receive(&mut self) {
        self.replenish();
        if self.receive_is_armed {
            return;
        }
        let template = &raw const *self.template;
        let request = if self.has_registered {
            opcode::RecvMsgMulti::new(REGISTERED, template, GROUP).build()
        } else {
            opcode::RecvMsgMulti::new(self.fd(), template, GROUP).build()
        }
        .user_data(RECEIVE);
        // SAFETY: the template is boxed and lives until all requests are cancelled in `drop`;
        // the buffers come from the registered ring.
        self.receive_is_armed = unsafe { self.push(&request) };
    }

    /// # Safety
    ///
    /// Everything that the request refers to must live until its completion.
    unsafe fn push(&mut self, request: &squeue::Entry) -> bool {
        for _ in 0..2 {
            // SAFETY: as this function demands.
            if unsafe { self.ring.submission().push(request) }.is_ok() {
                return true;
            }
            // Full: hand over what is there.
            self.stats.syscalls_send.inc();
            if self.ring.submit().is_err() {
                return false;
            }
            self.unsubmitted = 0;
        }
        false
    }

    /// Submits what is queued, runs what is deferred, and waits for `want` completions.
    fn enter(&mut self, want: usize, timeout: Option<Duration>) -> io::Result<()> {
        let result = match timeout {
            Some(timeout) => {
                let time = types::Timespec::from(timeout);
                let args = types::SubmitArgs::new().timespec(&time);
                self.ring.submitter().submit_with_args(want, &args)
            }
            None if want > 0 => self.ring.submit_and_wait(want),
            None => {
                let pending = self.ring.submission().len() as u32;
                // SAFETY: no argument is passed; queued requests were checked when pushed.
                unsafe {
                    self.ring
                        .submitter()
                        .enter::<libc::sigset_t>(pending, 0, GET_EVENTS, None)
                }
            }
        };
        match result {
            Ok(_) => {
                self.unsubmitted = 0;
                Ok(())
            }
            Err(error) => match error.raw_os_error() {
                // Time passed; a signal; completions wait to be taken first.
                Some(libc::ETIME) | Some(libc::EINTR) | Some(libc::EBUSY) | Some(libc::EAGAIN) => {
                    self.unsubmitted = self.ring.submission().len().min(self.unsubmitted);
                    Ok(())
                }
                _ => Err(error),
            },
        }
    }

    /// Takes all completions.
    fn reap(&mut self) {
        loop {
            let Some(entry) = self.ring.completion().next() else {
                return;
            };
            let (result, flags) = (entry.result(), entry.flags());
            match entry.user_data() {
                RECEIVE => {
                    self.receive_is_armed &= cqueue::more(flags);
                    match (usize::try_from(result), cqueue::buffer_select(flags)) {
                        (Ok(len), Some(slot)) => self.received.push_back((slot, len)),
                        _ => self.note_receive_error(result),
                    }
                }
                WAKE => {
                    self.waker_is_armed &= cqueue::more(flags);
                    self.is_woken = true;
                }
                slot if cqueue::notif(flags) => {
                    // The kernel reads the buffer no more.
                    self.unnotified -= 1;
                    self.zero_copy.notified(result, &self.stats);
                    self.free.push(slot as usize);
                }
                slot => self.sent(slot as usize, result, cqueue::more(flags)),
            }
        }
    }

    fn note_receive_error(&mut self, result: i32) {
        if -result == libc::ENOBUFS {
            self.demand.fell_short();
        }
        // Out of buffers, or interrupted: armed again at once.
        if !matches!(-result, 0 | libc::ENOBUFS | libc::EINTR | libc::EAGAIN) {
            self.receive_error = Some(io::Error::from_raw_os_error(-result));
        }
    }

    /// A send completed; with `notification`, the kernel reads its buffer until it says otherwise.
    fn sent(&mut self, index: usize, result: i32, notification: bool) {
        let slot = &self.send[index].0;
        if result >= 0 {
            slot.count_sent(&self.stats);
        } else {
            let error = io::Error::from_raw_os_error(-result);
            if self.zero_copy.is_for(slot.len()) && is_no_zero_copy(&error) {
                // To QUIC it is a loss; the next ones go the usual way.
                self.zero_copy.refused();
                self.stats.datagrams_send_failed.add(slot.segments as u64);
            } else if slot.count_refused(&error, &self.stats) {
                self.has_gso = false;
            }
        }
        if notification {
            self.unnotified += 1;
        } else {
            self.free.push(index);
        }
    }

    /// Gives the kernel as many windows as are in demand, and of those the ones used last: few
    /// windows used again and again stay in the processor's cache. What a slot received is
    /// processed by now, so that its slab usually begins anew.
    fn replenish(&mut self) {
        while self.demand.provided < self.demand.wanted
            && let Some(slot) = self.spare.pop()
        {
            let slab = self.slabs[usize::from(slot)]
                .as_mut()
                .expect("a slot keeps its slab unless a new one replaces it");
            self.pool.rewind(slab);
            self.buffers.provide(slot, slab);
            self.demand.provided += 1;
        }
    }

    /// Hands on one reception; its slot is to spare.
    fn take(&mut self, slot: u16, len: usize, sink: &mut dyn FnMut(Received)) {
        assert!(len <= WINDOW_BYTES, "the kernel wrote beyond the window");
        self.demand.provided -= 1;
        self.spare.push(slot);
        let slab = self.slabs[usize::from(slot)]
            .as_mut()
            .expect("a completion names a slot that was provided");
        assert!(slab.is_empty(), "a window holds something already");
        // SAFETY: the kernel initialised `len` bytes at the start of the window, which is the
        // start of the spare capacity, and the slab is empty.
        unsafe { slab.set_len(len) };
        let parsed = parse(slab);
        let next = if slab.capacity() - len >= WINDOW_BYTES {
            None
        } else {
            self.pool.take()
        };
        let can_go_on = next.is_some() || slab.capacity() - len >= WINDOW_BYTES;
        if can_go_on {
            let mut data = slab.split();
            if let Some(next) = next {
                let used = std::mem::replace(slab, next);
                self.pool.retire(used);
            }
            assert!(has_window(slab), "a slot without room is to spare");
            if let Some((from, meta, payload_len)) = parsed {
                data.advance(HEADER_BYTES);
                data.truncate(payload_len);
                deliver(from, meta, data, sink);
            }
        } else {
            // Everything is pinned: copy out, and use the same window again.
            self.stats.pool_exhausted.inc();
            if let Some((from, meta, payload_len)) = parsed {
                let payload = &slab[HEADER_BYTES..HEADER_BYTES + payload_len];
                deliver_copied(from, meta, payload, &self.stats, sink);
            }
            slab.clear();
        }
    }
}

impl Backend for Uring {
    fn receive(&mut self, sink: &mut dyn FnMut(Received)) -> io::Result<Taken> {
        self.reap();
        // Deferred work waits in the kernel only when this flag says so.
        if self.received.is_empty() && self.ring.submission().taskrun() {
            self.stats.syscalls_receive.inc();
            self.enter(0, None)?;
            self.reap();
        }
        let any = !self.received.is_empty();
        self.demand.taken(self.received.len());
        while let Some((slot, len)) = self.received.pop_front() {
            self.take(slot, len, sink);
        }
        if !self.receive_is_armed {
            self.arm_receive();
            self.enter(0, None)?;
        }
        match self.receive_error.take() {
            Some(error) => Err(error),
            None if any => Ok(Taken::Some),
            None => Ok(Taken::Nothing),
        }
    }

    fn transmit_buffer(&mut self) -> Option<&mut Vec<u8>> {
        let index = match self.current {
            Some(index) => index,
            None => *self.current.insert(self.free.pop()?),
        };
        let buf = &mut self.send[index].0.buf;
        buf.clear();
        Some(buf)
    }

    fn transmit(&mut self, transmit: &Transmit) {
        let index = self
            .current
            .take()
            .expect("a buffer was given out before it is transmitted");
        let fd = self.fd();
        let (slot, header) = &mut self.send[index];
        slot.set(transmit);
        slot.point(header);
        let header = &raw const *header;
        let request = match (self.has_registered, self.zero_copy.is_for(slot.len())) {
            (true, false) => opcode::SendMsg::new(REGISTERED, header).build(),
            (false, false) => opcode::SendMsg::new(fd, header).build(),
            (true, true) => opcode::SendMsgZc::new(REGISTERED, header)
                .ioprio(REPORT_USAGE)
                .build(),
            (false, true) => opcode::SendMsgZc::new(fd, header)
                .ioprio(REPORT_USAGE)
                .build(),
        }
        .user_data(index as u64);
        // SAFETY: the slot is in a box, is not touched until its completion puts it back on the free
        // list, and lives until all requests are cancelled in `drop`.
        if !unsafe { self.push(&request) } {
            self.stats.datagrams_send_failed.add(1);
            self.free.push(index);
        } else {
            self.unsubmitted += 1;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.replenish();
        if !self.ring.submission().is_empty() {
            self.stats.syscalls_send.inc();
            self.enter(0, None)?;
        }
        self.reap();
        Ok(())
    }

    fn wait(&mut self, waker: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<()> {
        if !self.waker_is_armed {
            let request = opcode::PollAdd::new(types::Fd(waker.as_raw_fd()), libc::POLLIN as u32)
                .multi(true)
                .build()
                .user_data(WAKE);
            // SAFETY: the request refers to a descriptor only; the kernel keeps the file alive.
            self.waker_is_armed = unsafe { self.push(&request) };
        }
        self.arm_receive();
        self.reap();
        if self.received.is_empty() && !std::mem::take(&mut self.is_woken) {
            // One system call sends what is queued and waits for what comes. A send completes as
            // it is submitted and must not end the sleep, so one completion more is awaited; should
            // the kernel's send buffer be full, the sleep lasts until it drains, which is soon.
            let sends = self.unsubmitted;
            self.stats.syscalls_wait.inc();
            self.enter(sends + 1, timeout)?;
            self.reap();
        } else {
            self.flush()?;
        }
        self.is_woken = false;
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
            "io_uring (multishot receive, provided buffers), GSO {}, GRO {}, zero-copy send {}",
            on(self.has_gso),
            on(self.has_gro),
            self.zero_copy.describe()
        )
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // Until this returns the kernel may use windows and slots.
        let cancelled = self
            .ring
            .submitter()
            .register_sync_cancel(None, types::CancelBuilder::any());
        // What a zero-copy send still transmits cannot be cancelled, only awaited.
        for _ in 0..CLOSE_WAITS_MAX {
            self.reap();
            if self.unnotified == 0 {
                break;
            }
            let _ = self.enter(1, Some(CLOSE_WAIT));
        }
        if self.unnotified > 0 {
            // Changing the memory now would change packets on their way.
            leak(std::mem::take(&mut self.send));
        }
        if self.has_registered {
            // Otherwise the port would stay in use until the kernel has torn the ring down.
            let _ = self.ring.submitter().unregister_files();
        }
        if let Err(error) = cancelled
            && error.raw_os_error() != Some(libc::ENOENT)
        {
            // Freeing the memory now could corrupt it; keeping it is the lesser evil, once in the
            // life of a process that stops.
            tracing::error!(%error, "io_uring requests cannot be cancelled; leaking their buffers");
            leak(std::mem::take(&mut self.slabs));
            leak(std::mem::take(&mut self.send));
            let template = Box::new(empty_header());
            leak(std::mem::replace(&mut self.template, template));
        }
    }
}

/// Whether a zero-copy send failed for being one.
fn is_no_zero_copy(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENOMEM | libc::ENOBUFS)
    )
}

/// Keeps a value's memory for ever.
fn leak<T>(value: T) {
    let _ = Box::leak(Box::new(value));
}

type Parts = (IoUring, BufferRing, Vec<Option<BytesMut>>, Pool, bool);

fn set_up(options: &IoOptions, stats: &Arc<Stats>) -> Result<Parts, String> {
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(CQ_ENTRIES)
        .build(SQ_ENTRIES)
        .map_err(|error| explain("io_uring_setup", &error))?;
    if !ring.params().is_feature_nodrop() || !ring.params().is_feature_ext_arg() {
        return Err(lacks("IORING_FEAT_NODROP or IORING_FEAT_EXT_ARG"));
    }
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|error| explain("io_uring_register (probe)", &error))?;
    let needed = [
        (opcode::RecvMsgMulti::CODE, "IORING_OP_RECVMSG"),
        (opcode::SendMsg::CODE, "IORING_OP_SENDMSG"),
        (opcode::PollAdd::CODE, "IORING_OP_POLL_ADD"),
    ];
    if let Some((_, name)) = needed.iter().find(|(code, _)| !probe.is_supported(*code)) {
        return Err(lacks(name));
    }
    let has_zero_copy = probe.is_supported(opcode::SendMsgZc::CODE);
    // SAFETY: field order of `Uring` closes the ring before the buffers are freed.
    let buffers = unsafe { BufferRing::register(&ring) }
        .map_err(|error| explain("registering the buffer ring", &error))?;
    let mut pool = Pool::new(options.pool_bytes_max, stats.clone());
    let slabs: Vec<Option<BytesMut>> = (0..RECEIVE_SLOTS).map(|_| pool.take()).collect();
    Ok((ring, buffers, slabs, pool, has_zero_copy))
}
