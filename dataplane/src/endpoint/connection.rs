//! One connection: QUIC state, greeting, streams.

use std::{
    net::SocketAddrV6,
    sync::Arc,
    time::{Duration, Instant},
};

use quinn_proto::{Connection, ConnectionHandle, StreamEvent, Transmit};

use super::{
    admission::Place,
    core::Core,
    datagrams::{self, DatagramQueue},
    receiver::{Phase, ReadOutcome, Receiver},
    sender::{Failure, Sender},
    transport,
};
use crate::{
    Channel, CloseCode, ConnId, Payload, Remote, TargetId,
    frame::Frame,
    hello::{Hello, HelloError, KIND_HELLO, Role},
    send::ConnBudget,
};

/// How often unfinished frames are looked at.
const DEBT_CHECK_INTERVAL: Duration = Duration::from_millis(500);

/// One connection.
pub(super) struct Conn {
    pub(super) id: ConnId,
    pub(super) handle: ConnectionHandle,
    pub(super) quic: Connection,
    pub(super) addr: SocketAddrV6,
    /// The target that was dialled; `None` when the peer dialled.
    pub(super) target: Option<TargetId>,
    pub(super) state: State,
    pub(super) place: Place,
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
    pub(super) datagrams: DatagramQueue,
    /// Whether the next transmission belongs to the streams: quinn-proto sends datagrams first, so
    /// without turns a busy sender of datagrams would keep frames from leaving.
    streams_turn: bool,
    pub(super) budget: Arc<ConnBudget>,
    /// Handshake and greeting must be done by then.
    pub(super) deadline: Instant,
    debt_check: Option<Instant>,
    /// The timer registered with the endpoint.
    pub(super) timer: Option<Instant>,
    pub(super) is_dirty: bool,
    pub(super) wants_transmit: bool,
    pub(super) is_paused: bool,
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
        handle: ConnectionHandle,
        quic: Connection,
        addr: SocketAddrV6,
        target: Option<TargetId>,
        place: Place,
        deadline: Instant,
    ) -> Self {
        Conn {
            id,
            handle,
            quic,
            addr,
            target,
            state: State::Handshake,
            place,
            sender: Sender::new(),
            receiver: Receiver::default(),
            datagrams: DatagramQueue::default(),
            streams_turn: false,
            budget: Arc::new(ConnBudget::new(false)),
            deadline,
            debt_check: None,
            timer: None,
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
    fn is_mutual(&self, remote: Remote, core: &Core) -> bool {
        remote.is_validator() && (!self.initiator() || core.has_identity)
    }

    /// The channel that carries the greeting.
    fn greeting_channel(&self, remote: Remote, core: &Core) -> Channel {
        if self.is_mutual(remote, core) {
            Channel::Control
        } else {
            Channel::Client
        }
    }

    /// TLS is done: send HELLO, and give a trusted peer its windows.
    pub(super) fn greet(&mut self, remote: Remote, core: &mut Core) {
        assert_eq!(self.state, State::Handshake, "greeted twice");
        self.state = State::Greeting(remote);
        self.budget = Arc::new(ConnBudget::new(self.is_mutual(remote, core)));
        if remote.is_validator() {
            let streams = transport::validator_streams(&core.limits);
            self.quic
                .set_max_concurrent_streams(quinn_proto::Dir::Uni, streams);
            self.quic
                .set_receive_window(core.limits.validator_window_bytes().into());
        }
        let hello = Hello {
            chain_id: core.chain_id,
            role: if self.initiator() && !core.has_identity {
                Role::Client
            } else {
                Role::Validator
            },
        };
        let channel = self.greeting_channel(remote, core);
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
    pub(super) fn flush(&mut self, core: &mut Core) -> Result<(), Failure> {
        match self.state {
            State::Greeting(_) => self.sender.flush(&mut self.quic, &self.budget, core),
            State::Open(_) => {
                self.sender.flush(&mut self.quic, &self.budget, core)?;
                self.datagrams.flush(&mut self.quic, &self.budget, core);
                Ok(())
            }
            State::Handshake | State::Closed => Ok(()),
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
        loop {
            let refilled = !self.datagrams.is_empty() && !self.streams_turn;
            if refilled {
                self.datagrams.flush(&mut self.quic, &self.budget, core);
            }
            self.streams_turn = refilled;
            let transmit = self.quic.poll_transmit(now, segments_max, buf);
            if transmit.is_some() || refilled || self.datagrams.is_empty() {
                return transmit;
            }
            // The streams had nothing to send on their turn.
        }
    }

    /// Reads the datagrams that came.
    pub(super) fn read_datagrams(&mut self, core: &mut Core) -> Result<(), Failure> {
        match self.state {
            State::Open(remote) => {
                let is_mutual = self.is_mutual(remote, core);
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
            State::Greeting(remote) => Phase::Greeting(self.greeting_channel(remote, core)),
            State::Open(remote) => Phase::Open {
                validator: self.is_mutual(remote, core),
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
        let deadline = match self.state {
            State::Handshake | State::Greeting(_) => Some(self.deadline),
            State::Open(_) => self.debt_check,
            State::Closed => None,
        };
        [self.quic.poll_timeout(), deadline]
            .into_iter()
            .flatten()
            .min()
    }
}
