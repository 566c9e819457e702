//! One AF_XDP socket on one receive queue of a device, with its memory and its four rings.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    rc::Rc,
    time::Duration,
};

use super::{
    probe::Device,
    rings::{Consumer, Layout, Mapping, Producer},
    umem::{Frame, Loan, Umem},
};
use crate::{Stats, stats::Count};

/// Packets that may wait for us, and frames that the kernel has to put them into.
pub(super) const RECEIVE_FRAMES: u32 = 4096;

/// Packets that may wait for the device.
pub(super) const TRANSMIT_FRAMES: u32 = 2048;

/// How often binding to a queue in use is tried again. The kernel frees a closed socket's queue
/// about 2 s after the close, and a node that restarts must not fail for that.
const BIND_RETRIES_MAX: u32 = 80;

/// Delay between two tries.
const BIND_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Packets that the kernel sends in one call in copy mode (`TX_BATCH_SIZE`).
const KICK_BATCH: u32 = 32;

/// Packets that one busy poll may process.
const BUSY_POLL_BUDGET: i32 = 64;

/// A bound socket.
pub(super) struct Queue {
    // Closed before the memory is unmapped: the fields drop in this order.
    fd: OwnedFd,
    fill: Producer<u64>,
    receive: Consumer<libc::xdp_desc>,
    transmit: Producer<libc::xdp_desc>,
    completion: Consumer<u64>,
    umem: Umem,
    /// Frames for packets to send.
    free: Vec<Frame>,
    id: u32,
    is_zero_copy: bool,
    is_busy_polling: bool,
}

/// Packets that the kernel dropped before they reached us, since the socket was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Drops {
    pub(super) ring_full: u64,
    pub(super) no_frame: u64,
    pub(super) too_long: u64,
}

impl Drops {
    pub(super) fn total(self) -> u64 {
        self.ring_full + self.no_frame + self.too_long
    }
}

impl Queue {
    /// Opens and binds: zero-copy where `may_zero_copy`, else with copies.
    pub(super) fn open(
        device: &Device,
        id: u32,
        frame_bytes: u32,
        may_zero_copy: bool,
        busy_poll_us: u32,
    ) -> Result<Self, String> {
        let failed = |call: &'static str| move |error: io::Error| explain(call, &error);
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(explain("socket(AF_XDP)", &io::Error::last_os_error()));
        }
        // SAFETY: `fd` was just opened and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let (mut umem, mut frames) = Umem::new(RECEIVE_FRAMES + TRANSMIT_FRAMES, frame_bytes)
            .map_err(failed("allocating packet memory"))?;
        register(&fd, &umem).map_err(failed("registering packet memory"))?;
        for (option, size) in [
            (libc::XDP_UMEM_FILL_RING, RECEIVE_FRAMES),
            (libc::XDP_UMEM_COMPLETION_RING, TRANSMIT_FRAMES),
            (libc::XDP_RX_RING, RECEIVE_FRAMES),
            (libc::XDP_TX_RING, TRANSMIT_FRAMES),
        ] {
            set(&fd, libc::SOL_XDP, option, &size).map_err(failed("making a ring"))?;
        }
        let offsets: libc::xdp_mmap_offsets =
            get(&fd, libc::XDP_MMAP_OFFSETS).map_err(failed("getsockopt(XDP_MMAP_OFFSETS)"))?;
        let map = |ring: &libc::xdp_ring_offset, size: u32, entry_bytes: usize, page: i64| {
            let layout = layout(ring);
            let len = layout.entries + size as usize * entry_bytes;
            let memory = Mapping::ring(fd.as_fd(), len, page).map_err(failed("mmap of a ring"))?;
            Ok::<_, String>((Rc::new(memory), layout, size))
        };
        const ADDRESS_BYTES: usize = size_of::<u64>();
        const DESCRIPTOR_BYTES: usize = size_of::<libc::xdp_desc>();
        let (memory, at, size) = map(
            &offsets.fr,
            RECEIVE_FRAMES,
            ADDRESS_BYTES,
            libc::XDP_UMEM_PGOFF_FILL_RING as i64,
        )?;
        let mut fill = Producer::new(memory, at, size);
        let (memory, at, size) = map(
            &offsets.cr,
            TRANSMIT_FRAMES,
            ADDRESS_BYTES,
            libc::XDP_UMEM_PGOFF_COMPLETION_RING as i64,
        )?;
        let completion = Consumer::new(memory, at, size);
        let (memory, at, size) = map(
            &offsets.rx,
            RECEIVE_FRAMES,
            DESCRIPTOR_BYTES,
            libc::XDP_PGOFF_RX_RING,
        )?;
        let receive = Consumer::new(memory, at, size);
        let (memory, at, size) = map(
            &offsets.tx,
            TRANSMIT_FRAMES,
            DESCRIPTOR_BYTES,
            libc::XDP_PGOFF_TX_RING,
        )?;
        let transmit = Producer::new(memory, at, size);
        for frame in frames.drain(..RECEIVE_FRAMES as usize) {
            fill.push(umem.lend(frame, Loan::Receive));
        }
        fill.publish();
        let is_zero_copy = bind(&fd, device, id, may_zero_copy)?;
        Ok(Queue {
            is_busy_polling: busy_poll_us > 0 && prefer_busy_poll(&fd, busy_poll_us),
            fd,
            fill,
            receive,
            transmit,
            completion,
            umem,
            free: frames,
            id,
            is_zero_copy,
        })
    }

    /// Hands up to `max` received packets to `sink`; returns how many.
    pub(super) fn receive(&mut self, max: usize, mut sink: impl FnMut(&[u8])) -> usize {
        let mut count = 0;
        while count < max
            && let Some(descriptor) = self.receive.pop()
        {
            let frame = self.umem.take_back(descriptor.addr, Loan::Receive);
            sink(self.umem.packet(&frame, descriptor.addr, descriptor.len));
            // There is room: the fill ring holds every frame that was ever put there.
            self.fill.push(self.umem.lend(frame, Loan::Receive));
            count += 1;
        }
        if count > 0 {
            self.receive.release();
            self.fill.publish();
        }
        count
    }

    /// Whether the kernel wants a call before it fills the receive ring further.
    pub(super) fn wants_receive_call(&self) -> bool {
        self.is_busy_polling || self.fill.needs_wakeup()
    }

    /// That call.
    pub(super) fn call_receive(&self) {
        // SAFETY: a null buffer of length 0; the call only drives the device's queue. Its result
        // says nothing that the ring does not.
        unsafe {
            libc::recv(
                self.fd.as_raw_fd(),
                std::ptr::null_mut(),
                0,
                libc::MSG_DONTWAIT,
            )
        };
    }

    /// Packets that can be queued for sending now.
    pub(super) fn room(&mut self, wanted: usize) -> usize {
        if self.free.len() < wanted {
            self.reap();
        }
        // The ring is as large as the number of frames for it, so frames decide.
        self.free.len()
    }

    /// Queues one packet, which `write` puts into the frame; it returns the packet's length.
    /// There must be room.
    pub(super) fn push(&mut self, write: impl FnOnce(&mut [u8]) -> usize) {
        let mut frame = self.free.pop().expect("the caller asked for room");
        let len = write(self.umem.bytes_mut(&mut frame));
        assert!(
            len <= self.umem.frame_bytes() as usize,
            "beyond the frame: {len}"
        );
        self.transmit.push(libc::xdp_desc {
            addr: self.umem.lend(frame, Loan::Transmit),
            len: len as u32,
            options: 0,
        });
    }

    /// Hands what is queued to the kernel. `Ok(false)` when it takes no more for now.
    pub(super) fn flush(&mut self, stats: &Stats) -> io::Result<bool> {
        self.transmit.publish();
        // Each call sends a batch; one more finds the ring empty.
        let calls_max = self.transmit.pending().div_ceil(KICK_BATCH) + 1;
        for _ in 0..calls_max {
            if self.transmit.pending() == 0 || !self.transmit.needs_wakeup() {
                break;
            }
            stats.syscalls_send.inc();
            // SAFETY: a null buffer of length 0; the call only drives the transmit ring.
            let result =
                unsafe { libc::send(self.fd.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT) };
            if result < 0 {
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    // More in the ring than one call takes; a signal.
                    Some(libc::EAGAIN | libc::EINTR) => {}
                    // The device's queue is full.
                    Some(libc::EBUSY | libc::ENOBUFS) => break,
                    _ => return Err(error),
                }
            }
            self.reap();
        }
        Ok(self.transmit.pending() == 0 || !self.transmit.needs_wakeup())
    }

    /// Takes frames back that were sent.
    fn reap(&mut self) {
        let before = self.free.len();
        while let Some(address) = self.completion.pop() {
            self.free.push(self.umem.take_back(address, Loan::Transmit));
        }
        if self.free.len() > before {
            self.completion.release();
        }
    }

    /// Packets that the kernel dropped.
    pub(super) fn drops(&self) -> Drops {
        get::<libc::xdp_statistics>(&self.fd, libc::XDP_STATISTICS).map_or_else(
            |_| Drops::default(),
            |s| Drops {
                ring_full: s.rx_ring_full,
                no_frame: s.rx_fill_ring_empty_descs,
                too_long: s.rx_dropped,
            },
        )
    }

    /// The queue's number.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// Whether device and memory share packets without a copy.
    pub(super) fn is_zero_copy(&self) -> bool {
        self.is_zero_copy
    }

    /// Whether the kernel busy-polls the device for us.
    pub(super) fn is_busy_polling(&self) -> bool {
        self.is_busy_polling
    }

    /// What to poll.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Binds; returns whether it became zero-copy.
fn bind(fd: &OwnedFd, device: &Device, queue: u32, may_zero_copy: bool) -> Result<bool, String> {
    if may_zero_copy {
        match bind_patiently(fd, device, queue, libc::XDP_ZEROCOPY) {
            Ok(()) => return Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                return Err(explain_busy(device, queue));
            }
            Err(error) => {
                tracing::info!(device = %device.name, queue, %error, "zero-copy refused");
            }
        }
    }
    match bind_patiently(fd, device, queue, libc::XDP_COPY) {
        Ok(()) => Ok(false),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Err(explain_busy(device, queue)),
        Err(error) => Err(explain("bind(AF_XDP)", &error)),
    }
}

fn bind_patiently(fd: &OwnedFd, device: &Device, queue: u32, mode: u16) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: mode | libc::XDP_USE_NEED_WAKEUP,
        sxdp_ifindex: device.index,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    for tries in 0.. {
        // SAFETY: the pointer and the length describe `address`.
        let result = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_xdp>() as u32,
            )
        };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EBUSY) || tries == BIND_RETRIES_MAX {
            return Err(error);
        }
        if tries == 0 {
            tracing::info!(device = %device.name, queue, "the queue is still in use; waiting");
        }
        std::thread::sleep(BIND_RETRY_DELAY);
    }
    unreachable!("the loop ends by returning")
}

fn register(fd: &OwnedFd, umem: &Umem) -> io::Result<()> {
    let request = libc::xdp_umem_reg_v1 {
        addr: umem.address(),
        len: umem.len(),
        chunk_size: umem.frame_bytes(),
        headroom: 0,
    };
    set(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &request)
}

/// Lets this thread's calls process the device's packets instead of interrupts.
fn prefer_busy_poll(fd: &OwnedFd, us: u32) -> bool {
    let us = i32::try_from(us).unwrap_or(i32::MAX);
    let result = set(fd, libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL, &1i32)
        .and_then(|()| set(fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL, &us))
        .and_then(|()| {
            set(
                fd,
                libc::SOL_SOCKET,
                libc::SO_BUSY_POLL_BUDGET,
                &BUSY_POLL_BUDGET,
            )
        });
    if let Err(error) = &result {
        tracing::warn!(%error, "busy polling refused (it needs CAP_NET_ADMIN and Linux 5.11)");
    }
    result.is_ok()
}

fn layout(ring: &libc::xdp_ring_offset) -> Layout {
    let at = |offset| usize::try_from(offset).expect("an offset fits memory");
    Layout {
        producer: at(ring.producer),
        consumer: at(ring.consumer),
        flags: at(ring.flags),
        entries: at(ring.desc),
    }
}

fn set<T>(fd: &OwnedFd, level: i32, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which the callers chose to be what the
    // option expects; addresses inside it (of the packet memory) outlive the socket.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as u32,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Reads an option of level SOL_XDP into a structure of integers.
fn get<T: Copy>(fd: &OwnedFd, option: i32) -> io::Result<T> {
    let mut len = size_of::<T>() as u32;
    // SAFETY: `T` is one of the kernel's structures of integers, for which zero is a value.
    let mut value: T = unsafe { std::mem::zeroed() };
    // SAFETY: the pointers are valid for writes, and `len` holds the size of `value`.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_XDP,
            option,
            (&raw mut value).cast(),
            &raw mut len,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if len as usize != size_of::<T>() {
        return Err(io::Error::other("the kernel is older than Linux 5.9"));
    }
    Ok(value)
}

fn explain(call: &str, error: &io::Error) -> String {
    let remedy = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "; AF_XDP needs CAP_NET_RAW (or root)",
        Some(libc::ENOBUFS | libc::ENOMEM) => {
            "; the packet memory exceeds the limit of locked memory: grant CAP_IPC_LOCK or raise \
             the limit (`ulimit -l`, LimitMEMLOCK= in systemd) to 64 MiB for each queue"
        }
        Some(libc::EAFNOSUPPORT) => "; this kernel has no AF_XDP (CONFIG_XDP_SOCKETS)",
        Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT) => "; the driver does not support AF_XDP",
        _ => "",
    };
    format!("{call} failed: {error}{remedy}")
}

fn explain_busy(device: &Device, queue: u32) -> String {
    let name = device.name;
    format!(
        "queue {queue} of {name} belongs to another AF_XDP socket: `ss --xdp -p` names its \
         process; stop it, or use another device"
    )
}
