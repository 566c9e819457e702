//! One connection: QUIC state, greeting, streams.

use std::{
    net::SocketAddrV6,
    sync::Arc,
    time::{Duration, Instant},
};

use falconet_crypto::hash::Digest;
use quinn_proto::{Connection, ConnectionHandle, StreamEvent, Transmit};

use super::{
    admission::Place,
    core::Core,
    datagrams::{self, DatagramQueue},
    path::Path,
    receiver::{Phase, ReadOutcome, Receiver},
    sender::{Failure, Sender},
    transport,
};
use crate::{
    Channel, CloseCode, ConnId, Payload, Remote, TargetId,
    frame::Frame,
    hello::{Hello, HelloError, KIND_HELLO, Role},
    send::ConnBudget,
    stats::Count,
};

/// How often unfinished frames are looked at.
const DEBT_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// How often the transport is asked for lost packets, which costs a copy of its statistics.
const LOSS_CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// One connection.
pub(super) struct Conn {
    pub(super) id: ConnId,
    pub(super) handle: ConnectionHandle,
    pub(super) quic: Connection,
    pub(super) addr: SocketAddrV6,
    /// The target that was dialled; `None` when the peer dialled.
    pub(super) target: Option<TargetId>,
    pub(super) origin: Origin,
    /// Whether this side proved a key.
    proves_identity: bool,
    pub(super) state: State,
    pub(super) place: Place,
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    pub(super) datagrams: DatagramQueue,
    pub(super) path: Path,
    /// What may be sent while the peer's address is unproved.
    unvalidated: Option<AddressBudget>,
    /// Under what name the admission table knows the pair of keys.
    pub(super) bound: Option<Digest>,
    /// Whether the next transmission belongs to the streams: quinn-proto sends datagrams first, so
    /// without turns a busy sender of datagrams would keep frames from leaving.
    streams_turn: bool,
    pub(super) budget: Arc<ConnBudget>,
    /// Handshake and greeting must be done by then.
    pub(super) deadline: Instant,
    debt_check: Option<Instant>,
    /// When lost packets are looked at again, and how many were known then.
    loss_check: (Option<Instant>, u64),
    /// The timer registered with the endpoint.
    pub(super) timer: Option<Instant>,
    /// Packets and bytes sent since the traffic keys were last updated from here.
    key_packets: u64,
    key_bytes: u64,
    pub(super) is_dirty: bool,
    pub(super) wants_transmit: bool,
    pub(super) is_paused: bool,
}

/// Bytes received from and sent to an address that may be forged (RFC 9000, section 8.1).
///
/// quinn-proto keeps this account too, but lets a datagram go whenever one byte of the budget is
/// left, so up to a datagram more than three times what came. Here the limit is exact.
#[derive(Debug)]
struct AddressBudget {
    received: u64,
    sent: u64,
}

/// Bytes sent for each byte received while the peer's address is unproved, at most.
const AMPLIFICATION_MAX: u64 = 3;

impl AddressBudget {
    fn left(&self) -> u64 {
        (AMPLIFICATION_MAX * self.received).saturating_sub(self.sent)
    }
}

/// How a connection came to be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    /// The peer dialled; whoever accepts proves a key.
    Accepted {
        /// Identifier of that key.
        own_key: Digest,
    },
    /// This side dialled.
    Dialled {
        target: TargetId,
        /// Identifier of the key that this side proves, if any.
        own_key: Option<Digest>,
    },
}

impl Origin {
    /// Identifier of the key that this side proved.
    pub(super) fn own_key(self) -> Option<Digest> {
        match self {
            Self::Accepted { own_key } => Some(own_key),
            Self::Dialled { own_key, .. } => own_key,
        }
    }
}

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// TLS is not done.
    Handshake,
    /// TLS is done; HELLO is sent, the peer's is awaited.
    Greeting(Remote),
    /// Frames flow.
    Open(Remote),
    /// Closed by either side; QUIC may still answer late packets.
    Closed,
}

impl Conn {
    pub(super) fn new(
        id: ConnId,
        (handle, quic): (ConnectionHandle, Connection),
        addr: SocketAddrV6,
        origin: Origin,
        place: Place,
        path: Path,
        deadline: Instant,
    ) -> Self {
        let target = match origin {
            Origin::Accepted { .. } => None,
            Origin::Dialled { target, .. } => Some(target),
        };
        Conn {
            id,
            handle,
            quic,
            addr,
            target,
            origin,
            proves_identity: origin.own_key().is_some(),
            state: State::Handshake,
            place,
            sender: Sender::new(),
            receiver: Receiver::default(),
            datagrams: DatagramQueue::default(),
            path,
            unvalidated: None,
            bound: None,
            streams_turn: false,
            budget: Arc::new(ConnBudget::new(false)),
            deadline,
            debt_check: None,
            loss_check: (None, 0),
            timer: None,
            key_packets: 0,
            key_bytes: 0,
            is_dirty: false,
            wants_transmit: false,
            is_paused: false,
        }
    }

    /// Whether this side dialled.
    pub(super) fn initiator(&self) -> bool {
        self.target.is_some()
    }

    /// Whether both sides proved keys, given who the peer is.
    fn is_mutual(&self, remote: Remote) -> bool {
        remote.is_validator() && self.proves_identity
    }

    /// The channel that carries the greeting.
    fn greeting_channel(&self, remote: Remote) -> Channel {
        if self.is_mutual(remote) {
            Channel::Control
        } else {
            Channel::Client
        }
    }

    /// TLS is done: send HELLO, and give a trusted peer its windows.
    pub(super) fn greet(&mut self, remote: Remote, core: &mut Core) {
        assert_eq!(self.state, State::Handshake, "greeted twice");
        // A finished handshake proves the address.
        self.unvalidated = None;
        self.state = State::Greeting(remote);
        self.budget = Arc::new(ConnBudget::new(self.is_mutual(remote)));
        if remote.is_validator() {
            let streams = transport::validator_streams(&core.limits);
            self.quic
                .set_max_concurrent_streams(quinn_proto::Dir::Uni, streams);
            self.quic
                .set_receive_window(core.limits.validator_window_bytes().into());
        }
        let hello = Hello {
            chain_id: core.chain_id,
            role: if self.proves_identity {
                Role::Validator
            } else {
                Role::Client
            },
        };
        let channel = self.greeting_channel(remote);
        self.sender
            .push_hello(channel, KIND_HELLO, Payload::from(hello.encode().to_vec()));
    }

    /// The peer's first frame came.
    pub(super) fn check_hello(&mut self, frame: &Frame, core: &Core) -> Result<(), Failure> {
        let State::Greeting(remote) = self.state else {
            unreachable!("a greeting is only read while one is awaited");
        };
        let proved = if remote.is_validator() {
            Role::Validator
        } else {
            Role::Client
        };
        match Hello::check(frame.kind, &frame.payload, proved, core.chain_id) {
            Ok(_) => {
                self.state = State::Open(remote);
                Ok(())
            }
            Err(error) => {
                let code = match error {
                    HelloError::Chain { .. } => CloseCode::WrongChain,
                    HelloError::Version(_) => CloseCode::WrongVersion,
                    _ => CloseCode::BadHello,
                };
                Err((code, error.to_string()))
            }
        }
    }

    /// Carries out what QUIC says about a stream.
    pub(super) fn on_stream_event(
        &mut self,
        now: Instant,
        event: StreamEvent,
    ) -> Result<(), Failure> {
        match event {
            StreamEvent::Opened { .. } => self.receiver.accept(now, &mut self.quic),
            StreamEvent::Readable { id } => self.receiver.readable(id),
            StreamEvent::Finished { id } | StreamEvent::Stopped { id, .. } => {
                return self.sender.stream_ended(id);
            }
            // Every turn flushes.
            StreamEvent::Writable { .. } | StreamEvent::Available { .. } => {}
        }
        Ok(())
    }

    /// Writes what is queued.
    pub(super) fn flush(&mut self, now: Instant, core: &mut Core) -> Result<(), Failure> {
        match self.state {
            State::Greeting(_) => {
                let window = self.path.send_window_bytes(core);
                self.sender
                    .flush(now, &mut self.quic, window, &self.budget, core)
            }
            State::Open(_) => {
                let window = self.path.send_window_bytes(core);
                self.sender
                    .flush(now, &mut self.quic, window, &self.budget, core)?;
                self.datagrams
                    .flush(now, &mut self.quic, &self.budget, core);
                Ok(())
            }
            State::Handshake | State::Closed => Ok(()),
        }
    }

    /// The peer dialled with a first datagram of `received` bytes and has not proved its address.
    pub(super) fn limit_amplification(&mut self, received: usize) {
        let received = received as u64;
        self.unvalidated = Some(AddressBudget { received, sent: 0 });
    }

    /// A datagram for this connection came.
    pub(super) fn received(&mut self, bytes: usize) {
        if let Some(budget) = &mut self.unvalidated {
            budget.received += bytes as u64;
        }
    }

    /// The next transmission, of at most `segments_max` datagrams.
    pub(super) fn poll_transmit(
        &mut self,
        now: Instant,
        segments_max: usize,
        buf: &mut Vec<u8>,
        core: &mut Core,
    ) -> Option<Transmit> {
        let mut segments_max = segments_max.min(self.path.segments_max());
        if let Some(budget) = &self.unvalidated {
            let datagrams = budget.left() / u64::from(self.quic.current_mtu());
            if datagrams == 0 {
                // The peer sends again when nothing comes, which adds to the budget.
                return None;
            }
            segments_max = segments_max.min(usize::try_from(datagrams).unwrap_or(usize::MAX));
        }
        loop {
            let refilled = !self.datagrams.is_empty() && !self.streams_turn;
            if refilled {
                self.datagrams
                    .flush(now, &mut self.quic, &self.budget, core);
            }
            self.streams_turn = refilled;
            let transmit = self.quic.poll_transmit(now, segments_max, buf);
            if transmit.is_some() || refilled || self.datagrams.is_empty() {
                return transmit;
            }
            // The streams had nothing to send on their turn.
        }
    }

    /// Accounts for a transmission. Traffic keys are replaced long before their limits
    /// (RFC 9001, section 6.6), so that a key that leaks opens little.
    pub(super) fn sent(&mut self, transmit: &Transmit, core: &Core) {
        let segment = transmit.segment_size.unwrap_or(transmit.size).max(1);
        if let Some(budget) = &mut self.unvalidated {
            budget.sent += transmit.size as u64;
        }
        self.key_packets += transmit.size.div_ceil(segment) as u64;
        self.key_bytes += transmit.size as u64;
        let is_due = self.key_packets >= core.limits.key_update_packets
            || self.key_bytes >= core.limits.key_update_bytes;
        if is_due && matches!(self.state, State::Open(_)) {
            // quinn-proto does nothing while an update is still under way; the next one comes.
            self.quic.force_key_update();
            (self.key_packets, self.key_bytes) = (0, 0);
            core.stats.key_updates.inc();
        }
    }

    /// Looks at the path, when it is time to.
    pub(super) fn check_path(&mut self, now: Instant, core: &Core) {
        if let Some(info) = self.path.check(now, &mut self.quic, core) {
            self.budget.set_path(info);
        }
    }

    /// Reads the datagrams that came.
    pub(super) fn read_datagrams(&mut self, core: &mut Core) -> Result<(), Failure> {
        match self.state {
            State::Open(remote) => {
                let is_mutual = self.is_mutual(remote);
                datagrams::receive(self.id, is_mutual, &mut self.quic, core)
            }
            // Until the greeting is done they wait, and QUIC drops the oldest beyond its buffer.
            State::Handshake | State::Greeting(_) | State::Closed => Ok(()),
        }
    }

    /// Reads what came.
    pub(super) fn read(&mut self, now: Instant, core: &mut Core) -> Result<ReadOutcome, Failure> {
        let phase = match self.state {
            State::Handshake | State::Closed => return Ok(ReadOutcome::default()),
            State::Greeting(remote) => Phase::Greeting(self.greeting_channel(remote)),
            State::Open(remote) => Phase::Open {
                validator: self.is_mutual(remote),
            },
        };
        let outcome = self
            .receiver
            .read(now, self.id, phase, &mut self.quic, core)?;
        if self.receiver.oldest_debt().is_some() {
            self.debt_check.get_or_insert(now + DEBT_CHECK_INTERVAL);
        }
        Ok(outcome)
    }

    /// Fires the probe for packets that were lost since it fired last.
    pub(super) fn note_losses(&mut self, now: Instant) {
        if self.loss_check.0.is_some_and(|at| now < at) {
            return;
        }
        let path = self.quic.stats().path;
        let lost = path.lost_packets - self.loss_check.1;
        self.loss_check = (Some(now + LOSS_CHECK_INTERVAL), path.lost_packets);
        if lost > 0 {
            let rtt_us = path.rtt.as_micros() as u64;
            falconet_probes::packets_lost(self.id.0, lost, rtt_us, path.cwnd);
        }
    }

    /// Looks at the time limits of this connection.
    pub(super) fn check_limits(&mut self, now: Instant, core: &Core) -> Result<(), Failure> {
        if matches!(self.state, State::Handshake | State::Greeting(_)) && now >= self.deadline {
            return Err((
                CloseCode::HandshakeTimeout,
                "handshake or greeting not finished in time".into(),
            ));
        }
        if self.debt_check.is_some_and(|at| now >= at) {
            let debt = self.receiver.oldest_debt();
            self.debt_check = debt.map(|_| now + DEBT_CHECK_INTERVAL);
            if matches!(self.state, State::Open(_))
                && debt.is_some_and(|since| {
                    now.saturating_duration_since(since) >= core.limits.frame_timeout
                })
            {
                return Err((
                    CloseCode::FrameTimeout,
                    "a frame was begun and not completed in time".into(),
                ));
            }
        }
        Ok(())
    }

    /// When this connection must be looked at, if nothing happens before.
    pub(super) fn next_timeout(&mut self) -> Option<Instant> {
        let own = match self.state {
            State::Handshake | State::Greeting(_) => [Some(self.deadline), None, None],
            State::Open(_) => [
                self.debt_check,
                self.sender.held_until(),
                self.datagrams.held_until(),
            ],
            State::Closed => [None; 3],
        };
        let quic = self.quic.poll_timeout();
        own.into_iter().chain([quic]).flatten().min()
    }
}
