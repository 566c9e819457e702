//! The backend over AF_XDP: packets travel between the device's queues and our memory, past the
//! kernel's network stack.
//!
//! ```text
//!             ┌─ XDP program: UDP over IPv6 to our port ─▶ receive ring ─▶ decode ─┐
//!  device ────┤                                                                    ├─▶ endpoint
//!             └─ everything else ─▶ kernel ─▶ bound UDP socket ─▶ recvmmsg ────────┘
//!
//!  endpoint ──┬─ next hop known and on this device ─▶ encode ─▶ transmit ring ─▶ device
//!             └─ otherwise ─▶ UDP socket (the kernel resolves the neighbour) ─▶ any device
//! ```
//!
//! The bound socket reserves the port, lets the kernel answer for it as usual, and carries what
//! the rings do not: loopback, other devices, fragments, packets before a neighbour is known. So
//! nothing is lost when the direct way does not exist, or not yet, or no longer.
//!
//! A received datagram is copied once, from its frame into a buffer of the pool, and its frame
//! goes back to the kernel at once: frames are never pinned by what a consumer keeps. One socket
//! serves one queue, so there is one for each receive queue of the device. Needs Linux 5.9.

mod neighbour;
mod netlink;
mod packet;
mod probe;
mod queue;
mod rings;
mod steer;
mod umem;

use std::{
    fmt::Write as _,
    fs, io,
    net::{IpAddr, SocketAddr, SocketAddrV6},
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use quinn_proto::Transmit;

use self::{
    neighbour::{Hop, Neighbours},
    packet::{Addresses, IP_UDP_BYTES, LINK_BYTES},
    probe::{Device, QUEUES_MAX},
    queue::Queue,
    steer::{Hook, Steering},
};
use super::{Backend, Received, Taken, mmsg::Mmsg, slot::SEGMENTS_MAX, socket::Socket};
use crate::{DeviceName, IoOptions, Stats, pool::Pool, stats::Count};

/// Packets taken from one queue before the next gets its turn.
const RECEIVE_BATCH: usize = 64;

/// While packets come from the rings, or while spinning, the socket is looked at once in so many
/// turns: a look costs a system call.
const SOCKET_INTERVAL: u32 = 16;

/// The same for the kernel's notifications about routes and neighbours.
const MONITOR_INTERVAL: u32 = 256;

/// Sleep while the device takes no more; its completions wake nobody.
const BLOCKED_WAIT: Duration = Duration::from_millis(1);

/// Longest sleep, so that the kernel's count of drops is seen.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Size of the transmission buffer, bytes: the largest batch of segments.
const STAGING_BYTES: usize = 65_536;

/// The backend.
pub(super) struct Xdp {
    /// Dropped first: no packet is directed to a socket that closes.
    steering: Steering,
    queues: Vec<Queue>,
    device: Device,
    neighbours: Neighbours,
    socket: Mmsg,
    /// The same socket, for polling.
    socket_fd: OwnedFd,
    addr: SocketAddrV6,
    pool: Pool,
    slab: Option<BytesMut>,
    /// The transmission being written.
    staging: Vec<u8>,
    /// Descriptors to poll, in the order queues, monitor, socket, waker.
    poll: Vec<libc::pollfd>,
    turn: u32,
    socket_is_ready: bool,
    is_blocked: bool,
    /// The device refused to send; everything goes through the socket.
    is_broken: bool,
    error: Option<io::Error>,
    drops_seen: u64,
    drops_read: Instant,
    queues_of_device: u32,
    stats: Arc<Stats>,
}

impl Xdp {
    /// Opens a socket for each queue of the device. On failure the UDP socket is given back with
    /// the reason.
    pub(super) fn new(
        socket: Socket,
        options: &IoOptions,
        stats: Arc<Stats>,
    ) -> Result<Self, (Socket, String)> {
        match Self::try_new(&socket, options, stats) {
            Ok(xdp) => Ok(xdp),
            Err(reason) => Err((socket, reason)),
        }
    }

    fn try_new(socket: &Socket, options: &IoOptions, stats: Arc<Stats>) -> Result<Self, String> {
        if options.threads > 1 {
            return Err(format!(
                "{} network threads are configured, and AF_XDP serves one: a device's queue has \
                 one socket; set their number to 1",
                options.threads
            ));
        }
        let addr = socket.addr;
        let name = match options.device {
            Some(name) => name,
            None => probe::device_for(*addr.ip())?,
        };
        let device = probe::device(name)?;
        check_forwarding(name, &addr)?;
        let frame_bytes = umem::frame_bytes_for(device.mtu + LINK_BYTES).ok_or_else(|| {
            format!(
                "the MTU of {name} is {}, more than a frame of AF_XDP holds; \
                 `ip link set {name} mtu {}`",
                device.mtu,
                umem::FRAME_BYTES_MAX - umem::HEADROOM_BYTES - LINK_BYTES
            )
        })?;
        let features = probe::features(&device);
        let is_native_missing = features.is_some_and(|features| !features.has_native());
        let may_zero_copy = features.is_none_or(|features| features.has_zero_copy());
        let neighbours = Neighbours::new(&device)
            .map_err(|error| format!("reading the kernel's neighbour table failed: {error}"))?;
        let (mut steering, why_not_native) = Steering::attach(
            &device,
            &addr,
            frame_bytes - umem::HEADROOM_BYTES,
            is_native_missing,
        )?;
        // Zero-copy needs the driver to run the program.
        let may_zero_copy = may_zero_copy && steering.hook() == Hook::Native;
        let queues_of_device = probe::queues(&device);
        let queues = (0..queues_of_device.min(QUEUES_MAX))
            .map(|id| {
                let busy_poll_us = options.busy_poll_us;
                let queue = Queue::open(&device, id, frame_bytes, may_zero_copy, busy_poll_us)?;
                steering.register(id, queue.fd())?;
                Ok(queue)
            })
            .collect::<Result<Vec<_>, String>>()?;
        let duplicate = || {
            let copied = socket.fd.try_clone();
            copied.map_err(|error| format!("dup of the UDP socket failed: {error}"))
        };
        let xdp = Xdp {
            steering,
            queues,
            device,
            neighbours,
            socket: Mmsg::new(
                Socket {
                    fd: duplicate()?,
                    addr,
                },
                true,
                options,
                stats.clone(),
            ),
            socket_fd: duplicate()?,
            addr,
            pool: Pool::new(options.pool_bytes_max, stats.clone()),
            slab: None,
            staging: Vec::with_capacity(STAGING_BYTES),
            poll: Vec::with_capacity(QUEUES_MAX as usize + 3),
            turn: 0,
            socket_is_ready: true,
            is_blocked: false,
            is_broken: false,
            error: None,
            drops_seen: 0,
            drops_read: Instant::now(),
            queues_of_device,
            stats,
        };
        xdp.log(may_zero_copy, why_not_native);
        Ok(xdp)
    }

    /// Says what was achieved and why not better.
    fn log(&self, may_zero_copy: bool, why_not_native: Option<String>) {
        if let Some(reason) = why_not_native {
            tracing::warn!(reason, "XDP runs in the network stack, not in the driver");
        }
        if !self.is_zero_copy() {
            let reason = if may_zero_copy {
                "the driver refused zero-copy on these queues"
            } else {
                "the driver does not offer zero-copy AF_XDP"
            };
            tracing::info!(device = %self.device.name, reason, "packets are copied by the kernel");
        }
        if self.queues_of_device > QUEUES_MAX {
            tracing::warn!(
                queues = self.queues_of_device,
                served = QUEUES_MAX,
                "packets on the other queues come through the UDP socket; \
                 `ethtool -L` reduces the number of queues"
            );
        }
    }

    fn is_zero_copy(&self) -> bool {
        self.queues.iter().all(Queue::is_zero_copy)
    }

    /// Takes packets from all rings.
    fn receive_rings(&mut self, sink: &mut dyn FnMut(Received)) -> Taken {
        let Xdp {
            queues,
            pool,
            slab,
            addr,
            device,
            stats,
            ..
        } = self;
        let mut taken = Taken::Nothing;
        for queue in queues {
            let count = queue.receive(RECEIVE_BATCH, |packet| {
                match take(packet, addr, device, pool, slab, stats) {
                    Some(received) => {
                        stats.ring_datagrams_in.inc();
                        sink(received);
                    }
                    None => stats.packets_refused.inc(),
                }
            });
            if count == 0 && queue.wants_receive_call() {
                stats.syscalls_receive.inc();
                queue.call_receive();
            }
            taken = join(
                taken,
                match count {
                    0 => Taken::Nothing,
                    RECEIVE_BATCH => Taken::Some,
                    _ => Taken::All,
                },
            );
        }
        taken
    }

    /// Sends what is staged through the kernel.
    fn transmit_by_socket(&mut self, transmit: &Transmit) {
        let segment = transmit.segment_size.unwrap_or(transmit.size).max(1);
        let batch = segment * self.socket.segments_max();
        for part in self.staging[..transmit.size].chunks(batch) {
            if self.socket.transmit_buffer().is_none()
                && let Err(error) = self.socket.flush()
            {
                self.error = Some(error);
            }
            let Some(buf) = self.socket.transmit_buffer() else {
                // The kernel's send buffer is full: to QUIC this is loss on the way.
                let datagrams = part.len().div_ceil(segment);
                self.stats.datagrams_send_failed.add(datagrams as u64);
                continue;
            };
            buf.extend_from_slice(part);
            self.socket.transmit(&Transmit {
                size: part.len(),
                segment_size: (part.len() > segment).then_some(segment),
                ..*transmit
            });
        }
    }

    /// Puts what is staged into frames, of which there are enough.
    fn transmit_by_ring(&mut self, transmit: &Transmit, to: &SocketAddrV6, hop: Hop) {
        let source = match transmit.src_ip {
            Some(IpAddr::V6(ip)) => ip,
            _ if !self.addr.ip().is_unspecified() => *self.addr.ip(),
            _ => hop.source,
        };
        let addresses = Addresses {
            source_mac: self.device.mac,
            destination_mac: hop.mac,
            source,
            source_port: self.addr.port(),
            destination: *to.ip(),
            destination_port: to.port(),
        };
        let segment = transmit.segment_size.unwrap_or(transmit.size).max(1);
        let queue = &mut self.queues[0];
        for payload in self.staging[..transmit.size].chunks(segment) {
            if payload.len() + IP_UDP_BYTES > self.device.mtu as usize {
                // An MTU probe that is too long; the kernel would answer EMSGSIZE.
                self.stats.datagrams_send_failed.inc();
                continue;
            }
            queue.push(|frame| packet::encode(frame, &addresses, transmit.ecn, payload));
            self.stats.ring_datagrams_out.inc();
            self.stats.datagrams_out.inc();
            self.stats.bytes_out.add(payload.len() as u64);
        }
    }

    /// Counts what the kernel dropped on the way into the rings.
    fn read_drops(&mut self, now: Instant) {
        if now.saturating_duration_since(self.drops_read) < SLEEP_MAX {
            return;
        }
        self.drops_read = now;
        let total = self.queues.iter().map(|queue| queue.drops().total()).sum();
        let new = u64::saturating_sub(total, self.drops_seen);
        self.drops_seen = total;
        self.stats.packets_dropped.add(new);
    }

    /// Whether one more transmission fits, whichever way it goes.
    fn has_room(&mut self) -> bool {
        let has_frames = self.is_broken || self.queues[0].room(SEGMENTS_MAX) >= SEGMENTS_MAX;
        has_frames && self.socket.transmit_buffer().is_some()
    }

    fn update_neighbours(&mut self) -> io::Result<()> {
        self.stats.syscalls_wait.inc();
        self.neighbours.update()
    }

    /// Polls everything; returns whether the socket and the monitor are ready.
    fn poll(&mut self, waker: BorrowedFd<'_>, timeout: Duration) -> io::Result<(bool, bool)> {
        let interest = |fd: i32| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        self.poll.clear();
        let queues = self.queues.iter().map(|queue| queue.fd().as_raw_fd());
        self.poll.extend(queues.map(&interest));
        let monitor = self.poll.len();
        self.poll.extend([
            interest(self.neighbours.fd().as_raw_fd()),
            interest(self.socket_fd.as_raw_fd()),
            interest(waker.as_raw_fd()),
        ]);
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        self.stats.syscalls_wait.inc();
        // SAFETY: the pointer and the count describe `poll`, and `timeout` lives through the
        // call; without a signal mask that pointer may be null.
        let result = unsafe {
            libc::ppoll(
                self.poll.as_mut_ptr(),
                self.poll.len() as libc::nfds_t,
                &raw const timeout,
                std::ptr::null(),
            )
        };
        if result < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::Interrupted => Ok((false, false)),
                _ => Err(error),
            };
        }
        let is_ready = |i: usize| self.poll[i].revents != 0;
        Ok((is_ready(monitor + 1), is_ready(monitor)))
    }
}

impl Backend for Xdp {
    fn receive(&mut self, sink: &mut dyn FnMut(Received)) -> io::Result<Taken> {
        self.turn = self.turn.wrapping_add(1);
        let mut taken = self.receive_rings(sink);
        if self.socket_is_ready || self.turn.is_multiple_of(SOCKET_INTERVAL) {
            let by_socket = self.socket.receive(sink)?;
            self.socket_is_ready = by_socket == Taken::Some;
            taken = join(taken, by_socket);
        }
        if self.turn.is_multiple_of(MONITOR_INTERVAL) {
            self.update_neighbours()?;
            self.read_drops(Instant::now());
        }
        Ok(taken)
    }

    fn transmit_buffer(&mut self) -> Option<&mut Vec<u8>> {
        if !self.has_room() {
            self.is_blocked = true;
            return None;
        }
        self.staging.clear();
        Some(&mut self.staging)
    }

    fn transmit(&mut self, transmit: &Transmit) {
        let SocketAddr::V6(to) = transmit.destination else {
            unreachable!("only IPv6 addresses are ever dialled or received from");
        };
        assert!(
            transmit.size <= self.staging.len(),
            "the transmission is not in the buffer"
        );
        let hop = if self.is_broken {
            None
        } else {
            self.neighbours.hop(&to, Instant::now())
        };
        match hop {
            Some(hop) => self.transmit_by_ring(transmit, &to, hop),
            None => self.transmit_by_socket(transmit),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()?;
        let is_taken = match self.queues[0].flush(&self.stats) {
            Ok(is_taken) => is_taken,
            Err(error) => {
                if !self.is_broken {
                    tracing::warn!(
                          %error,
                          device = %self.device.name,
                          "the device no longer sends from AF_XDP; using the UDP socket"
                    );
                }
                self.is_broken = true;
                true
            }
        };
        self.is_blocked = !is_taken || !self.has_room();
        self.error.take().map_or(Ok(()), Err)
    }

    fn wait(&mut self, waker: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<()> {
        self.flush()?;
        let longest = if self.is_blocked {
            BLOCKED_WAIT
        } else {
            SLEEP_MAX
        };
        let timeout = timeout.map_or(longest, |timeout| timeout.min(longest));
        let (socket_is_ready, monitor_is_ready) = self.poll(waker, timeout)?;
        self.socket_is_ready |= socket_is_ready;
        if monitor_is_ready {
            self.update_neighbours()?;
        }
        self.read_drops(Instant::now());
        Ok(())
    }

    fn segments_max(&self) -> usize {
        SEGMENTS_MAX
    }

    fn local_addr(&self) -> SocketAddrV6 {
        self.addr
    }

    fn describe(&self) -> String {
        let mut text = format!("AF_XDP on {}, queue", self.device.name);
        for (i, queue) in self.queues.iter().enumerate() {
            let separator = if i == 0 { ' ' } else { ',' };
            let _ = write!(text, "{separator}{}", queue.id());
        }
        text.push_str(if self.is_zero_copy() {
            ", zero-copy"
        } else {
            ", copy mode"
        });
        text.push_str(match self.steering.hook() {
            Hook::Native => ", native XDP",
            Hook::Generic => ", generic XDP",
        });
        if self.steering.is_filtered() {
            text.push_str(", behind the filter");
        }
        if self.queues.iter().all(Queue::is_busy_polling) {
            text.push_str(", busy polling");
        }
        let _ = write!(text, "; other packets by {}", self.socket.describe());
        text
    }
}

/// What two looks together found.
fn join(a: Taken, b: Taken) -> Taken {
    match (a, b) {
        (Taken::Some, _) | (_, Taken::Some) => Taken::Some,
        (Taken::Nothing, Taken::Nothing) => Taken::Nothing,
        _ => Taken::All,
    }
}

/// Turns a packet into what the endpoint takes; `None` when it is malformed or not for us.
fn take(
    packet: &[u8],
    addr: &SocketAddrV6,
    device: &Device,
    pool: &mut Pool,
    slab: &mut Option<BytesMut>,
    stats: &Stats,
) -> Option<Received> {
    let datagram = packet::decode(packet).ok()?;
    let is_any = addr.ip().is_unspecified();
    let is_ours = datagram.to.port() == addr.port() && (is_any || datagram.to.ip() == addr.ip());
    if !is_ours || datagram.from.ip().is_multicast() || datagram.from.ip().is_unspecified() {
        return None;
    }
    let mut from = datagram.from;
    if from.ip().is_unicast_link_local() {
        from.set_scope_id(device.index);
    }
    pool.refill(slab);
    stats
        .payload_bytes_copied
        .add(datagram.payload.len() as u64);
    let data = match slab {
        Some(slab) => {
            slab.extend_from_slice(datagram.payload);
            slab.split()
        }
        None => {
            stats.pool_exhausted.inc();
            BytesMut::from(datagram.payload)
        }
    };
    Some(Received {
        from,
        local_ip: is_any.then_some(*datagram.to.ip()),
        ecn: datagram.ecn,
        data,
    })
}

/// The program takes packets before they are routed: with `[::]` on a router it would take what
/// is only passing through.
fn check_forwarding(device: DeviceName, addr: &SocketAddrV6) -> Result<(), String> {
    if !addr.ip().is_unspecified() {
        return Ok(());
    }
    let path = format!("/proc/sys/net/ipv6/conf/{device}/forwarding");
    match fs::read_to_string(path) {
        Ok(value) if value.trim() != "0" => Err(format!(
            "{device} forwards packets, and with [::] those to port {} would be taken too: \
             listen on one address",
            addr.port()
        )),
        _ => Ok(()),
    }
}
