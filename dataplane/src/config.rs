//! Configuration of an endpoint: who it is, whom it trusts, and every limit that it enforces.

use std::{fmt, io, net::SocketAddrV6, path::Path, str::FromStr, sync::Arc, time::Duration};

use falconet_crypto::{falcon::KeyPair, falcon::PublicKey, hash::Digest};
use thiserror::Error;

use crate::{BindError, Channel, PathPolicy, tls::TrustedKeys};

/// Called by each network thread after its set-up, see [`StoqConfig::after_setup`].
pub type AfterSetup = Arc<dyn Fn() -> io::Result<()> + Send + Sync>;

/// What to bind and how.
pub struct StoqConfig {
    /// UDP address to listen on; port 0 lets the kernel choose. IPv6 only.
    pub bind: SocketAddrV6,
    /// The key that this endpoint proves. Without one it dials anonymously and accepts nobody.
    pub identity: Option<Arc<KeyPair>>,
    /// The chain served; peers of another chain are refused in the greeting.
    pub chain_id: Digest,
    /// Keys that may connect with a proof of identity. Replaceable at run time.
    pub trusted: TrustedKeys,
    /// Everything that a peer can make this endpoint hold, and for how long.
    pub limits: Limits,
    /// How datagrams enter and leave.
    pub io: IoOptions,
    /// Secret from which stateless-reset tokens and connection identifiers are derived. With the
    /// same secret after a restart, peers learn at once that their connections are gone; without
    /// one they find out by idle time-out.
    pub reset_secret: Option<[u8; 32]>,
    /// Whether peers may send QUIC datagrams (RFC 9221), and this endpoint to them. An application
    /// without a use for them is spared a way in.
    pub datagrams: bool,
    /// Whether Bulk frames that come in several packets are handed on as they came, as
    /// [`Event::FramePieces`](crate::Event::FramePieces), instead of being copied together.
    pub bulk_in_pieces: bool,
    /// What the TLS configurations of this endpoint share.
    pub(crate) tls: crate::tls::Shared,
    /// Called by a network thread after events were queued; for consumers that wait on
    /// something other than the event receiver. Must not block.
    pub notify: Option<Arc<dyn Fn() + Send + Sync>>,
    /// Called by each network thread in itself, when its sockets and rings are there and before it
    /// reads anything from them: the place to drop privileges, which belong to threads. An error
    /// fails the binding.
    pub after_setup: Option<AfterSetup>,
}

impl StoqConfig {
    /// A configuration with default limits and no identity.
    pub fn new(bind: SocketAddrV6, chain_id: Digest) -> Self {
        StoqConfig {
            bind,
            identity: None,
            chain_id,
            trusted: TrustedKeys::default(),
            limits: Limits::default(),
            io: IoOptions::default(),
            reset_secret: None,
            datagrams: false,
            bulk_in_pieces: false,
            tls: crate::tls::Shared::default(),
            notify: None,
            after_setup: None,
        }
    }
}

impl StoqConfig {
    /// Appends the secrets of every TLS session to a file in the NSS key log format, so that a
    /// packet analyser can decrypt a capture. Dangerous: whoever has the file can read and forge
    /// everything on those connections. For debugging, never for production.
    pub fn danger_log_keys_to(&mut self, path: &Path) -> io::Result<()> {
        self.tls.danger_log_keys_to(path)
    }
}

/// Someone to connect to.
#[derive(Clone, Debug)]
pub struct PeerTarget {
    /// UDP address.
    pub addr: SocketAddrV6,
    /// The key that the peer must prove.
    pub key: PublicKey,
    /// Whether to dial again, with back-off, whenever the connection fails or ends. Of two sides that
    /// both mean to stay connected, the one with the higher key identifier dials a redial delay
    /// later, if the other has not by then.
    pub persistent: bool,
}

/// Which way datagrams travel between the kernel and the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Backend {
    /// The best that this kernel permits, with a log line that says which and why not better.
    #[default]
    Auto,
    /// io_uring with multishot receive, or failure to bind when the kernel refuses it.
    IoUring,
    /// `recvmmsg` and `sendmmsg` with segmentation offload where the kernel has it.
    Mmsg,
    /// `recvmmsg` and `sendmmsg`, one datagram for each buffer.
    Plain,
    /// AF_XDP: past the kernel's network stack, on one device. Where that is impossible, as
    /// `Auto`, with a log line that says why. Needs CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW.
    Xdp,
}

/// Name of a network device, at most 15 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceName([u8; libc::IFNAMSIZ]);

/// Why a text is no name of a network device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a network device has a name of 1 to 15 bytes without '/' and white space")]
pub struct InvalidDeviceName;

impl DeviceName {
    /// The name.
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0);
        let end = end.expect("a name is shorter than its array");
        str::from_utf8(&self.0[..end]).expect("made from a string")
    }

    /// The name and the zero byte that ends it.
    pub(crate) fn with_nul(&self) -> &[u8] {
        &self.0[..=self.as_str().len()]
    }
}

impl FromStr for DeviceName {
    type Err = InvalidDeviceName;

    /// The kernel's rule (`dev_valid_name`).
    fn from_str(name: &str) -> Result<Self, InvalidDeviceName> {
        let is_refused = |c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace();
        if name.is_empty()
            || name.len() >= libc::IFNAMSIZ
            || [".", ".."].contains(&name)
            || name.contains(is_refused)
        {
            return Err(InvalidDeviceName);
        }
        let mut bytes = [0; libc::IFNAMSIZ];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Ok(DeviceName(bytes))
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// What the network thread does when nothing is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Spin {
    /// Sleeps in the kernel at once. The right choice when cores are shared.
    Never,
    /// Polls for up to `max`, less when polling did not pay lately, then sleeps.
    Adaptive {
        /// Longest time spent polling.
        max: Duration,
    },
    /// Never sleeps: a core for the lowest latency.
    Always,
}

/// How datagrams enter and leave.
#[derive(Clone, Copy, Debug)]
pub struct IoOptions {
    /// Network threads, 1 to 64. Each has its own socket on the same port, its own ring and its own
    /// connections; see `docs/stoq.md`, "Several threads".
    pub threads: usize,
    /// The I/O backend.
    pub backend: Backend,
    /// The network device of [`Backend::Xdp`]; without one, the device that has the address
    /// bound, or for `[::]` that of the default route.
    pub device: Option<DeviceName>,
    /// With [`Backend::Xdp`]: how long one call may poll the device's queue instead of waiting
    /// for interrupts, microseconds (`SO_BUSY_POLL`); 0 leaves interrupts on.
    pub busy_poll_us: u32,
    /// What to do when idle.
    pub spin: Spin,
    /// How long Bulk frames up to 16 KiB and datagram messages may wait for others, so that fewer
    /// packets carry them; they leave earlier when a packet is full. At most
    /// [`FLUSH_AFTER_MAX`]. `None`, the default: at once when nothing else waits. Control and
    /// Client frames are never held.
    pub flush_after: Option<Duration>,
    /// Kernel receive and send buffer wished for, bytes; the kernel may grant less.
    pub socket_buffer_bytes: usize,
    /// Memory for receive buffers of all threads, bytes. Beyond it received bytes are copied out one datagram
    /// at a time, so that what peers pin stays within this sum and the QUIC windows.
    pub pool_bytes_max: usize,
    /// How connections are tuned to their paths.
    pub paths: PathPolicy,
    /// Largest UDP payload tried by path MTU discovery off loopback, bytes.
    pub mtu_max: u16,
    /// Largest UDP payload tried by path MTU discovery on loopback, bytes.
    pub mtu_max_loopback: u16,
}

impl Default for IoOptions {
    fn default() -> Self {
        IoOptions {
            threads: 1,
            backend: Backend::Auto,
            device: None,
            busy_poll_us: 0,
            spin: Spin::Never,
            flush_after: None,
            socket_buffer_bytes: 8 << 20,
            pool_bytes_max: 32 << 20,
            paths: PathPolicy::default(),
            mtu_max: MTU_JUMBO,
            mtu_max_loopback: MTU_LOOPBACK,
        }
    }
}

/// Longest [`IoOptions::flush_after`].
pub const FLUSH_AFTER_MAX: Duration = Duration::from_millis(100);

/// UDP payload of an Ethernet jumbo frame: 9000 less the IPv6 and UDP headers.
pub const MTU_JUMBO: u16 = 9000 - 48;

/// UDP payload on Linux loopback: 65536 less the IPv6 and UDP headers.
pub const MTU_LOOPBACK: u16 = (65_536 - 48u32) as u16;

/// Everything that a peer can make an endpoint hold. Each limit has a counter in
/// [`Stats`](crate::Stats).
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections of trusted peers, the reserved places.
    pub validators_max: usize,
    /// Connections of anonymous clients.
    pub anonymous_max: usize,
    /// Connections of anonymous clients from one /64 address prefix.
    pub anonymous_per_prefix_max: usize,
    /// Incoming handshakes in progress.
    pub handshakes_max: usize,
    /// Incoming handshakes in progress from one /64 address prefix.
    pub handshakes_per_prefix_max: usize,
    /// From this many incoming handshakes in progress, source addresses are validated by a
    /// stateless retry first.
    pub handshakes_before_retry: usize,
    /// Time for a handshake and greeting.
    pub handshake_timeout: Duration,
    /// Idle time-out that this endpoint asks for when it dials with an identity.
    pub idle_timeout_validator: Duration,
    /// Idle time-out that this endpoint asks for when it dials anonymously, and grants.
    pub idle_timeout_client: Duration,
    /// Interval of keep-alive packets on connections dialled with an identity.
    pub keep_alive_validator: Duration,
    /// Interval of keep-alive packets on connections dialled anonymously.
    pub keep_alive_client: Duration,
    /// How long a connection identifier is used before another one replaces it. At least ten
    /// seconds: quinn-proto announces a lost identifier again with the limit of the present, which
    /// is malformed once that identifier itself is retired, and costs the connection.
    pub connection_id_lifetime: Duration,
    /// Packets sent on one connection before its traffic keys are updated.
    pub key_update_packets: u64,
    /// Bytes sent on one connection before its traffic keys are updated.
    pub key_update_bytes: u64,
    /// Longest time between the first and the last byte of a frame.
    pub frame_timeout: Duration,
    /// Longest payload of a Control frame, bytes.
    pub control_frame_bytes_max: u32,
    /// Longest payload of a Bulk frame, bytes.
    pub bulk_frame_bytes_max: u32,
    /// Longest payload of a Client frame, bytes.
    pub client_frame_bytes_max: u32,
    /// Longest payload of a Client frame that is sent, bytes: the peer decides what it takes.
    pub client_frame_sent_bytes_max: u32,
    /// Bulk streams that a trusted peer may have open at a time.
    pub bulk_streams_max: u32,
    /// Flow-control window of one stream, bytes.
    pub stream_window_bytes: u32,
    /// Flow-control window of an anonymous connection, bytes. That of a trusted one follows from
    /// `bulk_streams_max` and `stream_window_bytes`, so that Bulk can never block Control.
    pub anonymous_window_bytes: u32,
    /// Bytes sent and not yet acknowledged on one connection.
    pub send_window_bytes: u64,
    /// Part of `send_window_bytes` that Bulk may not use.
    pub send_window_reserve_bytes: u64,
    /// Bytes that may wait in the send queue of one connection's Control channel.
    pub control_queue_bytes_max: usize,
    /// Bytes that may wait in the send queue of one connection's Bulk channel.
    pub bulk_queue_bytes_max: usize,
    /// Bytes that may wait in the send queue of one connection's Client channel.
    pub client_queue_bytes_max: usize,
    /// Bytes that may wait for transmission in one connection's datagrams.
    pub datagram_queue_bytes_max: usize,
    /// Commands from handles that may wait for one network thread.
    pub commands_max: usize,
    /// Frames that may wait for the consumer.
    pub event_frames_max: usize,
    /// Payload bytes that may wait for the consumer.
    pub event_bytes_max: usize,
    /// Dialling targets.
    pub targets_max: usize,
    /// First delay before a persistent target is dialled again.
    pub redial_delay_min: Duration,
    /// Longest delay before a persistent target is dialled again.
    pub redial_delay_max: Duration,
    /// A payload shorter than this is copied out of its receive buffer, so that a kept small
    /// message does not keep a large buffer, bytes.
    pub copy_below_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            validators_max: 512,
            anonymous_max: 1024,
            anonymous_per_prefix_max: 256,
            handshakes_max: 256,
            handshakes_per_prefix_max: 128,
            handshakes_before_retry: 64,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout_validator: Duration::from_secs(10),
            idle_timeout_client: Duration::from_secs(30),
            keep_alive_validator: Duration::from_secs(3),
            keep_alive_client: Duration::from_secs(10),
            connection_id_lifetime: Duration::from_secs(600),
            key_update_packets: 1 << 20,
            key_update_bytes: 16 << 30,
            frame_timeout: Duration::from_secs(10),
            control_frame_bytes_max: 1 << 20,
            bulk_frame_bytes_max: 4 << 20,
            client_frame_bytes_max: 256 << 10,
            client_frame_sent_bytes_max: 256 << 10,
            bulk_streams_max: 8,
            stream_window_bytes: 2 << 20,
            anonymous_window_bytes: 512 << 10,
            send_window_bytes: 24 << 20,
            send_window_reserve_bytes: 4 << 20,
            control_queue_bytes_max: 8 << 20,
            bulk_queue_bytes_max: 32 << 20,
            client_queue_bytes_max: 4 << 20,
            datagram_queue_bytes_max: 4 << 20,
            commands_max: 1 << 16,
            event_frames_max: 1 << 14,
            event_bytes_max: 64 << 20,
            targets_max: 1024,
            redial_delay_min: Duration::from_millis(50),
            redial_delay_max: Duration::from_secs(1),
            copy_below_bytes: 2048,
        }
    }
}

impl Limits {
    /// Longest payload of a frame that may be sent on `channel`, bytes.
    pub fn frame_sent_bytes_max(&self, channel: Channel) -> u32 {
        match channel {
            Channel::Client => self.client_frame_sent_bytes_max,
            Channel::Control | Channel::Bulk => self.frame_bytes_max(channel),
        }
    }

    /// Longest payload of a frame on `channel` that is taken, bytes.
    pub fn frame_bytes_max(&self, channel: Channel) -> u32 {
        match channel {
            Channel::Control => self.control_frame_bytes_max,
            Channel::Bulk => self.bulk_frame_bytes_max,
            Channel::Client => self.client_frame_bytes_max,
        }
    }

    /// Bytes that may wait in the send queue of `channel`.
    pub fn queue_bytes_max(&self, channel: Channel) -> usize {
        match channel {
            Channel::Control => self.control_queue_bytes_max,
            Channel::Bulk => self.bulk_queue_bytes_max,
            Channel::Client => self.client_queue_bytes_max,
        }
    }

    /// Limits that would make the endpoint useless are refused at once.
    pub(crate) fn check(&self) -> Result<(), BindError> {
        let at_least = |name, value: u64, least: u64, problem| {
            if value < least {
                Err(BindError::Limit {
                    name,
                    value,
                    problem,
                })
            } else {
                Ok(())
            }
        };
        at_least(
            "event_frames_max",
            self.event_frames_max as u64,
            8,
            "channels share it in quarters; at least 8",
        )?;
        at_least(
            "event_bytes_max",
            self.event_bytes_max as u64,
            64,
            "channels share it in quarters; at least 64",
        )?;
        at_least(
            "send_window_bytes",
            self.send_window_bytes,
            self.send_window_reserve_bytes + 1,
            "must exceed send_window_reserve_bytes",
        )?;
        at_least(
            "bulk_streams_max",
            self.bulk_streams_max.into(),
            1,
            "Bulk needs a stream",
        )?;
        at_least(
            "stream_window_bytes",
            self.stream_window_bytes.into(),
            4096,
            "a stream needs a window of some packets",
        )?;
        at_least(
            "anonymous_window_bytes",
            self.anonymous_window_bytes.into(),
            4096,
            "a connection needs a window of some packets",
        )?;
        at_least(
            "connection_id_lifetime",
            self.connection_id_lifetime.as_secs(),
            10,
            "seconds; identifiers must outlive the repair of losses",
        )?;
        at_least(
            "key_update_packets",
            self.key_update_packets,
            1,
            "at least 1",
        )?;
        at_least(
            "idle_timeout_validator",
            self.idle_timeout_validator.as_millis() as u64,
            2 * self.keep_alive_validator.as_millis() as u64,
            "must be at least twice keep_alive_validator",
        )?;
        at_least(
            "idle_timeout_client",
            self.idle_timeout_client.as_millis() as u64,
            2 * self.keep_alive_client.as_millis() as u64,
            "must be at least twice keep_alive_client",
        )
    }

    /// Flow-control window of a connection with a trusted peer, bytes: enough for every stream
    /// that may exist, so that only stream windows ever bind.
    pub(crate) fn validator_window_bytes(&self) -> u32 {
        let streams = self.bulk_streams_max + ORDERED_CHANNELS;
        self.stream_window_bytes.saturating_mul(streams)
    }
}

/// Long-lived streams in each direction: Control and Client.
pub(crate) const ORDERED_CHANNELS: u32 = 2;
