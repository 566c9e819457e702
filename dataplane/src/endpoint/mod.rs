//! The sans-IO endpoint: all of STOQ without clock, socket, disk or thread.
//!
//! The same state machine runs under the real network thread and under a virtual network in
//! tests. quinn-proto supplies QUIC; this module adds admission, greeting, channels, dialling and
//! the limits.

mod admission;
mod connection;
mod core;
mod dial;
mod receiver;
mod sender;
#[cfg(test)]
mod tests;
mod transport;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
    sync::Arc,
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use falconet_crypto::hash::hash;
use quinn_proto::{
    ClientConfig, ConnectionError, ConnectionHandle, DatagramEvent, EcnCodepoint,
    Event as QuicEvent, Incoming, ServerConfig, Transmit, TransportErrorCode,
};

use self::{
    admission::{Admission, Place, Refusal, Verdict},
    connection::{Conn, State},
    core::{Core, HeaderArena, LogLimiter},
    dial::Target,
    sender::Failure,
    transport::{Side, endpoint_config, is_loopback, transport_config},
};
use crate::{
    BindError, CloseCode, CloseReason, ConnId, Event, EventBudget, PeerTarget, Remote, Stats,
    StoqConfig, TargetId,
    close::REASON_BYTES_MAX,
    send::{Command, Registry},
    stats::Count,
    tls,
};

/// Responses outside a connection that may wait for transmission.
const RESPONSES_MAX: usize = 256;

/// Lifecycle events that may wait for the consumer before no more handshakes are accepted.
const EVENTS_WAITING_MAX: usize = 4096;

/// Datagrams in one transmission (UDP GSO); the kernel permits 64, 44 full packets of 1,452 bytes
/// fill its 64 KB.
const SEGMENTS_MAX: usize = 44;

/// Bytes in one transmission; the kernel permits 65,535 with all headers.
const TRANSMIT_BYTES_MAX: usize = 65_000;

/// The state machine of one endpoint.
///
/// # Call order
///
/// One turn, with one value of `now` that never goes backwards:
///
/// 1. any number of [`handle_datagram`](Self::handle_datagram), and commands from handles;
/// 2. [`handle_timeout`](Self::handle_timeout) when [`poll_timeout`](Self::poll_timeout) is due;
/// 3. [`advance`](Self::advance), which carries everything out;
/// 4. [`poll_event`](Self::poll_event) until `None`, or until the consumer has no room;
/// 5. [`poll_transmit`](Self::poll_transmit) until `None`, or until the network has no room;
/// 6. wait until [`poll_timeout`](Self::poll_timeout), a datagram, a command, or room in the
///    event budget.
pub struct Endpoint {
    quic: quinn_proto::Endpoint,
    core: Core,
    dialler: Dialler,
    acceptor: Option<Acceptor>,
    conns: Vec<Option<Box<Conn>>>,
    by_id: HashMap<ConnId, usize>,
    targets: HashMap<TargetId, Target>,
    admission: Admission,
    timers: BTreeSet<(Instant, TimerKey)>,
    dirty: VecDeque<usize>,
    transmit: VecDeque<usize>,
    paused: Vec<usize>,
    responses: VecDeque<(Transmit, Vec<u8>)>,
    next_conn: u64,
    trusted_generation: u64,
    rng: u64,
    segments_max: usize,
    is_shut_down: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum TimerKey {
    Conn(usize),
    Target(TargetId),
}

/// What is needed to dial.
struct Dialler {
    identity: Option<Arc<falconet_crypto::falcon::KeyPair>>,
    near: Arc<quinn_proto::TransportConfig>,
    far: Arc<quinn_proto::TransportConfig>,
}

/// Configurations for peers on this machine and elsewhere; they differ in the largest datagram.
struct Acceptor {
    near: Arc<ServerConfig>,
    far: Arc<ServerConfig>,
}

impl Endpoint {
    /// An endpoint as configured. `seed` feeds the jitter of dialling and the random choices of
    /// QUIC; `None` draws one from the system.
    pub(crate) fn new(
        config: &StoqConfig,
        stats: Arc<Stats>,
        budget: Arc<EventBudget>,
        registry: Arc<Registry>,
        seed: Option<[u8; 32]>,
    ) -> Result<Self, BindError> {
        check_limits(&config.limits)?;
        let transport = |side, near| transport_config(&config.limits, &config.io, side, near);
        let acceptor = match &config.identity {
            None => None,
            Some(identity) => {
                let crypto = Arc::new(tls::server_config(identity, &config.trusted)?);
                let server = |near| {
                    let mut server = ServerConfig::with_crypto(crypto.clone());
                    server.transport_config(transport(Side::Accepting, near));
                    Arc::new(server)
                };
                Some(Acceptor {
                    near: server(true),
                    far: server(false),
                })
            }
        };
        let side = if config.identity.is_some() {
            Side::DiallingAsValidator
        } else {
            Side::DiallingAsClient
        };
        let secret = config.reset_secret.or_else(|| {
            let identity = config.identity.as_ref()?;
            Some(hash("falconet stoq reset secret", &[identity.secret_bytes()]).0)
        });
        let mut quic_config = endpoint_config(secret);
        quic_config.rng_seed(seed);
        let server = acceptor.as_ref().map(|acceptor| acceptor.far.clone());
        let rng = seed.map_or_else(
            || std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0u8),
            |seed| u64::from_le_bytes(*seed.first_chunk().expect("a seed has 32 bytes")),
        );
        Ok(Endpoint {
            quic: quinn_proto::Endpoint::new(Arc::new(quic_config), server, true, None),
            core: Core {
                limits: config.limits.clone(),
                stats,
                budget,
                registry,
                trusted: config.trusted.clone(),
                chain_id: config.chain_id,
                has_identity: config.identity.is_some(),
                events: VecDeque::new(),
                headers: HeaderArena::default(),
                log: LogLimiter::default(),
            },
            dialler: Dialler {
                identity: config.identity.clone(),
                near: transport(side, true),
                far: transport(side, false),
            },
            acceptor,
            conns: Vec::new(),
            by_id: HashMap::new(),
            targets: HashMap::new(),
            admission: Admission::default(),
            timers: BTreeSet::new(),
            dirty: VecDeque::new(),
            transmit: VecDeque::new(),
            paused: Vec::new(),
            responses: VecDeque::new(),
            next_conn: 1,
            trusted_generation: config.trusted.generation(),
            rng: rng | 1,
            segments_max: SEGMENTS_MAX,
            is_shut_down: false,
        })
    }

    /// A UDP datagram came.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        from: SocketAddrV6,
        local_ip: Option<Ipv6Addr>,
        ecn: Option<EcnCodepoint>,
        data: BytesMut,
    ) {
        self.core.stats.datagrams_in.inc();
        self.core.stats.bytes_in.add(data.len() as u64);
        let mut response = Vec::new();
        let event = self.quic.handle(
            now,
            SocketAddr::V6(from),
            local_ip.map(Into::into),
            ecn,
            data,
            &mut response,
        );
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(conn) = self.conn_mut(handle.0) {
                    conn.quic.handle_event(event);
                    self.mark_dirty(handle.0);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                self.accept(now, from, incoming, response);
            }
            Some(DatagramEvent::Response(transmit)) => {
                self.core.stats.datagrams_ignored.inc();
                self.respond(transmit, response);
            }
            None => self.core.stats.datagrams_ignored.inc(),
        }
    }

    /// Time passed: does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, key)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            match key {
                TimerKey::Conn(slot) => {
                    let Some(conn) = self.conn_mut(slot) else {
                        continue;
                    };
                    conn.timer = None;
                    if conn.quic.poll_timeout().is_some_and(|at| at <= now) {
                        conn.quic.handle_timeout(now);
                    }
                    self.mark_dirty(slot);
                }
                TimerKey::Target(id) => self.dial(now, id),
            }
        }
    }

    /// Does what a handle asked for.
    pub(crate) fn handle_command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Connect { id, target } => self.add_target(now, id, target),
            Command::Disconnect { id } => {
                let Some(target) = self.targets.remove(&id) else {
                    return;
                };
                if let Some(at) = target.dial_at {
                    self.timers.remove(&(at, TimerKey::Target(id)));
                }
                if let Some(conn) = target.conn {
                    self.close(now, conn, CloseCode::Done, "no longer needed");
                }
            }
            Command::Send {
                conn,
                channel,
                kind,
                payload,
            } => match self.by_id.get(&conn).copied() {
                Some(slot) => {
                    let conn = self.conns[slot]
                        .as_mut()
                        .expect("an identifier leads to a connection");
                    if matches!(conn.state, State::Open(_)) {
                        conn.sender.push(channel, kind, payload);
                        self.mark_dirty(slot);
                    } else {
                        self.core.stats.send_after_close.inc();
                    }
                }
                None => self.core.stats.send_after_close.inc(),
            },
            Command::Close { conn, code, reason } => self.close(now, conn, code, &reason),
            Command::Shutdown => self.shut_down(now),
        }
    }

    /// Carries out everything that the calls before it brought.
    pub fn advance(&mut self, now: Instant) {
        self.check_trusted(now);
        if self.may_resume() {
            for slot in std::mem::take(&mut self.paused) {
                if let Some(conn) = self.conn_mut(slot) {
                    conn.is_paused = false;
                    self.mark_dirty(slot);
                }
            }
        }
        while let Some(slot) = self.dirty.pop_front() {
            self.drive(now, slot);
        }
    }

    /// What happened, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.core.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The next transmission: `buf`, which must be empty, receives the bytes of one or more
    /// datagrams of equal size (the last may be shorter).
    pub fn poll_transmit(&mut self, now: Instant, buf: &mut Vec<u8>) -> Option<Transmit> {
        assert!(buf.is_empty(), "quinn-proto writes from the start");
        if let Some((transmit, bytes)) = self.responses.pop_front() {
            buf.extend_from_slice(&bytes);
            self.core.stats.stateless_responses.inc();
            return Some(transmit);
        }
        while let Some(slot) = self.transmit.pop_front() {
            let Some(conn) = self.conns.get_mut(slot).and_then(Option::as_mut) else {
                continue;
            };
            let segments = TRANSMIT_BYTES_MAX / usize::from(conn.quic.current_mtu());
            match conn
                .quic
                .poll_transmit(now, segments.clamp(1, self.segments_max), buf)
            {
                Some(transmit) => {
                    // Behind the others: everyone gets a turn.
                    self.transmit.push_back(slot);
                    return Some(transmit);
                }
                None => {
                    conn.wants_transmit = false;
                    self.set_timer(slot);
                }
            }
        }
        None
    }

    /// Whether every connection is forgotten and nothing waits for transmission.
    pub fn is_drained(&self) -> bool {
        self.by_id.is_empty() && self.responses.is_empty()
    }

    /// Whether reading that stopped for a slow consumer may go on.
    pub fn may_resume(&self) -> bool {
        !self.paused.is_empty() && !self.core.budget.is_paused()
    }

    /// Sets how many datagrams one transmission may hold; 1 without segmentation offload.
    pub fn set_segments_max(&mut self, segments_max: usize) {
        self.segments_max = segments_max.clamp(1, SEGMENTS_MAX);
    }

    /// Whether something waits for transmission.
    pub fn wants_transmit(&self) -> bool {
        !self.transmit.is_empty() || !self.responses.is_empty()
    }

    fn conn_mut(&mut self, slot: usize) -> Option<&mut Conn> {
        self.conns.get_mut(slot)?.as_deref_mut()
    }

    fn mark_dirty(&mut self, slot: usize) {
        if let Some(conn) = self.conn_mut(slot)
            && !std::mem::replace(&mut conn.is_dirty, true)
        {
            self.dirty.push_back(slot);
        }
    }

    fn set_timer(&mut self, slot: usize) {
        let Some(conn) = self.conns.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        let next = conn.next_timeout();
        if next != conn.timer {
            if let Some(at) = conn.timer {
                self.timers.remove(&(at, TimerKey::Conn(slot)));
            }
            conn.timer = next;
            if let Some(at) = next {
                self.timers.insert((at, TimerKey::Conn(slot)));
            }
        }
    }

    fn respond(&mut self, transmit: Transmit, mut bytes: Vec<u8>) {
        if self.responses.len() >= RESPONSES_MAX {
            self.core.stats.stateless_responses_dropped.inc();
            return;
        }
        bytes.truncate(transmit.size);
        self.responses.push_back((transmit, bytes));
    }

    /// A peer wants to connect.
    fn accept(&mut self, now: Instant, from: SocketAddrV6, incoming: Incoming, mut buf: Vec<u8>) {
        let stats = self.core.stats.clone();
        let near = is_loopback(from.ip());
        let acceptor = match &self.acceptor {
            Some(acceptor) if !self.is_shut_down && self.core.events.len() < EVENTS_WAITING_MAX => {
                acceptor
            }
            _ => {
                self.quic.ignore(incoming);
                return;
            }
        };
        let config = if near { &acceptor.near } else { &acceptor.far }.clone();
        let validated = incoming.remote_address_validated() || !incoming.may_retry();
        match self
            .admission
            .handshake(from.ip(), validated, &self.core.limits)
        {
            Verdict::Retry => {
                stats.handshakes_retried.inc();
                let transmit = self
                    .quic
                    .retry(incoming, &mut buf)
                    .unwrap_or_else(|_| unreachable!("only what may be retried is"));
                self.respond(transmit, buf);
            }
            Verdict::Refuse(refusal) => {
                match refusal {
                    Refusal::Busy => stats.handshakes_refused_busy.inc(),
                    Refusal::Prefix => stats.handshakes_refused_prefix.inc(),
                    Refusal::Full => stats.handshakes_refused_full.inc(),
                }
                if let Some(suppressed) = self.core.log.permit(now, "refused handshake", &stats) {
                    tracing::warn!(%from, ?refusal, suppressed, "handshake refused");
                }
                let transmit = self.quic.refuse(incoming, &mut buf);
                self.respond(transmit, buf);
            }
            Verdict::Accept(place) => {
                stats.handshakes_in.inc();
                match self.quic.accept(incoming, now, &mut buf, Some(config)) {
                    Ok((handle, quic)) => {
                        let deadline = now + self.core.limits.handshake_timeout;
                        let id = self.next_conn_id();
                        let conn = Conn::new(id, handle, quic, from, None, place, deadline);
                        self.insert(conn);
                    }
                    Err(error) => {
                        self.admission.release(place);
                        stats.handshakes_failed.inc();
                        if let Some(transmit) = error.response {
                            self.respond(transmit, buf);
                        }
                    }
                }
            }
        }
    }

    fn next_conn_id(&mut self) -> ConnId {
        let id = ConnId(self.next_conn);
        self.next_conn += 1;
        id
    }

    fn insert(&mut self, conn: Conn) {
        let (slot, id) = (conn.handle.0, conn.id);
        if self.conns.len() <= slot {
            self.conns.resize_with(slot + 1, || None);
        }
        assert!(self.conns[slot].is_none(), "a connection slot is reused");
        self.conns[slot] = Some(Box::new(conn));
        self.by_id.insert(id, slot);
        self.core.stats.connections_handshaking.inc();
        self.mark_dirty(slot);
    }

    fn add_target(&mut self, now: Instant, id: TargetId, peer: PeerTarget) {
        let failed = |reason: String| Event::DialFailed {
            target: id,
            addr: peer.addr,
            reason: CloseReason::Transport(reason),
            retry_in: None,
        };
        if self.is_shut_down || self.targets.len() >= self.core.limits.targets_max {
            let event = failed("no room for another target".into());
            self.core.events.push_back(event);
            return;
        }
        let crypto = match tls::client_config(self.dialler.identity.as_ref(), &peer.key) {
            Ok(crypto) => crypto,
            Err(error) => {
                let event = failed(error.to_string());
                self.core.events.push_back(event);
                return;
            }
        };
        let mut config = ClientConfig::new(Arc::new(crypto));
        let near = is_loopback(peer.addr.ip());
        let transport = if near {
            &self.dialler.near
        } else {
            &self.dialler.far
        };
        config.transport_config(transport.clone());
        let target = Target::new(id, peer, config, now);
        assert!(self.targets.insert(id, target).is_none(), "{id:?} reused");
        self.dial(now, id);
    }

    /// Begins an attempt to reach a target.
    fn dial(&mut self, now: Instant, id: TargetId) {
        let Some(target) = self.targets.get_mut(&id) else {
            return;
        };
        target.dial_at = None;
        let (config, addr) = (target.config.clone(), target.peer.addr);
        self.core.stats.handshakes_out.inc();
        let deadline = now + self.core.limits.handshake_timeout;
        match self
            .quic
            .connect(now, config, SocketAddr::V6(addr), tls::SERVER_NAME)
        {
            Ok((handle, quic)) => {
                let conn_id = self.next_conn_id();
                if let Some(target) = self.targets.get_mut(&id) {
                    target.conn = Some(conn_id);
                }
                let place = Place::Dialled;
                self.insert(Conn::new(
                    conn_id,
                    handle,
                    quic,
                    addr,
                    Some(id),
                    place,
                    deadline,
                ));
            }
            Err(error) => {
                self.core.stats.handshakes_failed.inc();
                let reason = CloseReason::Transport(error.to_string());
                self.dial_failed(now, id, reason);
            }
        }
    }

    /// An attempt ended before the connection was open.
    fn dial_failed(&mut self, now: Instant, id: TargetId, reason: CloseReason) {
        let retry_in = self.target_ended(now, id);
        let Some(target) = self.targets.get(&id) else {
            return;
        };
        let addr = target.peer.addr;
        if let Some(suppressed) = self.core.log.permit(now, "dial failed", &self.core.stats) {
            tracing::warn!(%addr, %reason, ?retry_in, suppressed, "cannot reach a peer");
        }
        if retry_in.is_none() {
            self.targets.remove(&id);
        }
        self.core.events.push_back(Event::DialFailed {
            target: id,
            addr,
            reason,
            retry_in,
        });
    }

    /// Arranges the next attempt; returns the delay before it.
    fn target_ended(&mut self, now: Instant, id: TargetId) -> Option<std::time::Duration> {
        let jitter = self.next_random() as u8;
        let target = self.targets.get_mut(&id)?;
        let delay = target.ended(now, jitter, &self.core.limits);
        if let Some(at) = target.dial_at {
            self.timers.insert((at, TimerKey::Target(target.id)));
        }
        delay
    }

    /// xorshift64: jitter needs no better.
    fn next_random(&mut self) -> u64 {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        self.rng >> 32
    }

    /// Lets one connection act on everything that it was given.
    fn drive(&mut self, now: Instant, slot: usize) {
        let Some(mut conn) = self.conns.get_mut(slot).and_then(Option::take) else {
            return;
        };
        conn.is_dirty = false;
        if let Err((code, reason)) = self.turn(now, &mut conn) {
            self.fail(now, &mut conn, code, reason);
        }
        let mut drained = false;
        while let Some(event) = conn.quic.poll_endpoint_events() {
            drained |= event.is_drained();
            if let Some(event) = self.quic.handle_event(ConnectionHandle(slot), event) {
                conn.quic.handle_event(event);
            }
        }
        if drained {
            assert_eq!(conn.state, State::Closed, "drained before it was closed");
            self.admission.release(conn.place);
            self.by_id.remove(&conn.id);
            if let Some(at) = conn.timer {
                self.timers.remove(&(at, TimerKey::Conn(slot)));
            }
            return;
        }
        if !std::mem::replace(&mut conn.wants_transmit, true) {
            self.transmit.push_back(slot);
        }
        self.conns[slot] = Some(conn);
        self.set_timer(slot);
    }

    fn turn(&mut self, now: Instant, conn: &mut Conn) -> Result<(), Failure> {
        conn.check_limits(now, &self.core)?;
        while let Some(event) = conn.quic.poll() {
            match event {
                QuicEvent::Connected => self.on_handshake_done(now, conn)?,
                QuicEvent::ConnectionLost { reason } => self.on_lost(now, conn, reason),
                QuicEvent::Stream(event) => conn.on_stream_event(now, event)?,
                QuicEvent::HandshakeDataReady
                | QuicEvent::DatagramReceived
                | QuicEvent::DatagramsUnblocked => {}
            }
        }
        conn.flush(&mut self.core)?;
        let mut outcome = conn.read(now, &mut self.core)?;
        if let Some(frame) = outcome.greeting.take() {
            conn.check_hello(&frame, &self.core)?;
            self.on_open(now, conn)?;
            outcome = conn.read(now, &mut self.core)?;
            assert!(
                outcome.greeting.is_none(),
                "an open connection greets no more"
            );
        }
        if outcome.paused && !std::mem::replace(&mut conn.is_paused, true) {
            self.paused.push(conn.handle.0);
        }
        Ok(())
    }

    /// TLS is done: decide who the peer is.
    fn on_handshake_done(&mut self, _now: Instant, conn: &mut Conn) -> Result<(), Failure> {
        let remote = if let Some(target) = conn.target {
            match self.targets.get(&target) {
                Some(target) => Remote::Validator(target.peer.key.id()),
                None => return Err((CloseCode::Done, "no longer needed".into())),
            }
        } else {
            let identity = conn.quic.crypto_session().peer_identity();
            match identity {
                None => Remote::Anonymous,
                some => match tls::proved_key(some) {
                    Some(key) => Remote::Validator(key.id()),
                    None => {
                        return Err((CloseCode::Untrusted, "the key cannot be read".into()));
                    }
                },
            }
        };
        self.admission
            .settle(&mut conn.place, remote.is_validator(), &self.core.limits)
            .map_err(|refusal| match refusal {
                Refusal::Prefix => (
                    CloseCode::TooManyFromPrefix,
                    "too many clients from this /64 prefix".into(),
                ),
                Refusal::Full | Refusal::Busy => {
                    (CloseCode::TooManyClients, "all places are taken".into())
                }
            })?;
        conn.greet(remote, &mut self.core);
        Ok(())
    }

    /// Both greetings are done.
    fn on_open(&mut self, now: Instant, conn: &mut Conn) -> Result<(), Failure> {
        let State::Open(remote) = conn.state else {
            unreachable!("opened by the greeting");
        };
        if let (Remote::Validator(key), None) = (remote, conn.target) {
            // The set may have changed since the handshake.
            if !self.core.trusted.contains(&key) {
                // Never announced as connected, so not to be announced as closed either.
                conn.state = State::Greeting(remote);
                return Err((CloseCode::Untrusted, "the key is not trusted".into()));
            }
            if let Some(older) = self.admission.bind_key(key, conn.id) {
                self.close(
                    now,
                    older,
                    CloseCode::Superseded,
                    "replaced by a newer connection",
                );
            }
        }
        if let Some(target) = conn.target.and_then(|id| self.targets.get_mut(&id)) {
            target.open_since = Some(now);
        }
        self.core.registry.insert(conn.id, conn.budget.clone());
        let stats = &self.core.stats;
        stats.connections_handshaking.dec();
        stats.connections_opened.inc();
        match remote {
            Remote::Validator(_) => stats.connections_validators.inc(),
            Remote::Anonymous => stats.connections_anonymous.inc(),
        }
        self.core.events.push_back(Event::Connected {
            conn: conn.id,
            target: conn.target,
            remote,
            addr: conn.addr,
            initiator: conn.initiator(),
        });
        Ok(())
    }

    /// QUIC says that the connection is over.
    fn on_lost(&mut self, now: Instant, conn: &mut Conn, error: ConnectionError) {
        let reason = match error {
            ConnectionError::ApplicationClosed(close) => CloseReason::Peer {
                code: CloseCode::from_wire(close.error_code.into_inner()),
                reason: text(&close.reason),
            },
            ConnectionError::ConnectionClosed(close) if is_denied(close.error_code) => {
                CloseReason::RefusedByPeer
            }
            ConnectionError::ConnectionClosed(close) => {
                CloseReason::Transport(format!("{}: {}", close.error_code, text(&close.reason)))
            }
            ConnectionError::TransportError(error) if is_denied(error.code) => {
                CloseReason::UntrustedPeer
            }
            ConnectionError::TimedOut => CloseReason::TimedOut,
            ConnectionError::Reset => CloseReason::Reset,
            other => CloseReason::Transport(other.to_string()),
        };
        self.ended(now, conn, reason);
    }

    /// Closes a connection whose peer broke a rule.
    fn fail(&mut self, now: Instant, conn: &mut Conn, code: CloseCode, reason: String) {
        let stats = &self.core.stats;
        match code {
            CloseCode::HandshakeTimeout => stats.handshake_timeouts.inc(),
            CloseCode::BadHello => stats.refused_bad_hello.inc(),
            CloseCode::WrongChain => stats.refused_wrong_chain.inc(),
            CloseCode::WrongVersion => stats.refused_wrong_version.inc(),
            CloseCode::FrameTooLong => stats.closed_frame_too_long.inc(),
            CloseCode::BadFrame => stats.closed_bad_frame.inc(),
            CloseCode::BadStream => stats.closed_bad_stream.inc(),
            CloseCode::FrameTimeout => stats.closed_frame_timeout.inc(),
            CloseCode::TooManyClients => stats.refused_clients_full.inc(),
            CloseCode::TooManyFromPrefix => stats.refused_prefix_full.inc(),
            CloseCode::Superseded => stats.closed_superseded.inc(),
            CloseCode::Untrusted => stats.refused_untrusted.inc(),
            CloseCode::ChannelNotAllowed => stats.closed_channel_not_allowed.inc(),
            CloseCode::Done | CloseCode::Shutdown | CloseCode::Application(_) => {}
        }
        let is_peers_fault = !matches!(
            code,
            CloseCode::Done
                | CloseCode::Shutdown
                | CloseCode::Superseded
                | CloseCode::Application(_)
        );
        if is_peers_fault
            && let Some(suppressed) = self.core.log.permit(now, "closed", &self.core.stats)
        {
            tracing::warn!(peer = %conn.addr, ?code, reason, suppressed, "connection closed");
        }
        let mut words = reason.clone();
        truncate(&mut words);
        conn.quic
            .close(now, code.to_wire().into(), Bytes::from(words));
        self.ended(now, conn, CloseReason::Local { code, reason });
    }

    /// Takes a connection out of service and tells the consumer.
    fn ended(&mut self, now: Instant, conn: &mut Conn, reason: CloseReason) {
        let before = std::mem::replace(&mut conn.state, State::Closed);
        let stats = &self.core.stats;
        match before {
            State::Closed => {}
            State::Handshake | State::Greeting(_) => {
                stats.connections_handshaking.dec();
                stats.handshakes_failed.inc();
                if matches!(reason, CloseReason::UntrustedPeer) {
                    stats.refused_untrusted.inc();
                    if let Some(suppressed) = self.core.log.permit(now, "untrusted", stats) {
                        tracing::warn!(peer = %conn.addr, suppressed, "untrusted key refused");
                    }
                }
                if let Some(target) = conn.target {
                    self.dial_failed(now, target, reason);
                }
            }
            State::Open(remote) => {
                match reason {
                    CloseReason::TimedOut => stats.closed_timed_out.inc(),
                    CloseReason::Reset => stats.closed_reset.inc(),
                    CloseReason::Local { .. } => {}
                    _ => stats.closed_other.inc(),
                }
                match remote {
                    Remote::Validator(_) => stats.connections_validators.dec(),
                    Remote::Anonymous => stats.connections_anonymous.dec(),
                }
                if let (Remote::Validator(key), None) = (remote, conn.target) {
                    self.admission.unbind_key(key, conn.id);
                }
                self.core.registry.remove(conn.id);
                self.core.events.push_back(Event::Closed {
                    conn: conn.id,
                    target: conn.target,
                    reason,
                });
                if let Some(target) = conn.target
                    && self.target_ended(now, target).is_none()
                {
                    self.targets.remove(&target);
                }
            }
        }
    }

    /// Closes a connection on request.
    fn close(&mut self, now: Instant, id: ConnId, code: CloseCode, reason: &str) {
        let Some(&slot) = self.by_id.get(&id) else {
            return;
        };
        // `drive` holds the connection that it drives; that one is never closed from here.
        let mut conn = self.conns[slot]
            .take()
            .expect("an identifier leads to a connection");
        if conn.state != State::Closed {
            self.fail(now, &mut conn, code, reason.to_owned());
        }
        self.conns[slot] = Some(conn);
        self.mark_dirty(slot);
    }

    /// Closes accepted connections whose key left the trusted set.
    fn check_trusted(&mut self, now: Instant) {
        let generation = self.core.trusted.generation();
        if generation == self.trusted_generation {
            return;
        }
        self.trusted_generation = generation;
        let gone: Vec<ConnId> = self
            .conns
            .iter()
            .flatten()
            .filter(|conn| match (conn.state, conn.target) {
                (State::Greeting(Remote::Validator(key)), None)
                | (State::Open(Remote::Validator(key)), None) => !self.core.trusted.contains(&key),
                _ => false,
            })
            .map(|conn| conn.id)
            .collect();
        for id in gone {
            self.close(
                now,
                id,
                CloseCode::Untrusted,
                "the key is no longer trusted",
            );
        }
    }

    fn shut_down(&mut self, now: Instant) {
        self.is_shut_down = true;
        self.targets.clear();
        self.timers
            .retain(|(_, key)| matches!(key, TimerKey::Conn(_)));
        let all: Vec<ConnId> = self.by_id.keys().copied().collect();
        for id in all {
            self.close(now, id, CloseCode::Shutdown, "the peer stops");
        }
    }
}

fn is_denied(code: TransportErrorCode) -> bool {
    code == TransportErrorCode::crypto(tls::ALERT_ACCESS_DENIED)
}

/// A peer's words, bounded.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(REASON_BYTES_MAX)]).into_owned()
}

fn truncate(words: &mut String) {
    let mut end = words.len().min(REASON_BYTES_MAX);
    while !words.is_char_boundary(end) {
        end -= 1;
    }
    words.truncate(end);
}

/// Limits that would make the endpoint useless are refused at once.
fn check_limits(limits: &crate::Limits) -> Result<(), BindError> {
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
        limits.event_frames_max as u64,
        8,
        "channels share it in quarters; at least 8",
    )?;
    at_least(
        "event_bytes_max",
        limits.event_bytes_max as u64,
        64,
        "channels share it in quarters; at least 64",
    )?;
    at_least(
        "send_window_bytes",
        limits.send_window_bytes,
        limits.send_window_reserve_bytes + 1,
        "must exceed send_window_reserve_bytes",
    )?;
    at_least(
        "bulk_streams_max",
        limits.bulk_streams_max.into(),
        1,
        "Bulk needs a stream",
    )?;
    at_least(
        "stream_window_bytes",
        limits.stream_window_bytes.into(),
        4096,
        "a stream needs a window of some packets",
    )?;
    at_least(
        "anonymous_window_bytes",
        limits.anonymous_window_bytes.into(),
        4096,
        "a connection needs a window of some packets",
    )?;
    at_least(
        "idle_timeout_validator",
        limits.idle_timeout_validator.as_millis() as u64,
        2 * limits.keep_alive_validator.as_millis() as u64,
        "must be at least twice keep_alive_validator",
    )?;
    at_least(
        "idle_timeout_client",
        limits.idle_timeout_client.as_millis() as u64,
        2 * limits.keep_alive_client.as_millis() as u64,
        "must be at least twice keep_alive_client",
    )
}
