//! The sans-IO endpoint: all of STOQ without clock, socket, disk or thread.
//!
//! The same state machine runs under the real network thread and under a virtual network in
//! tests. quinn-proto supplies QUIC; this module adds admission, greeting, channels, dialling and
//! the limits.

mod admission;
mod chunks;
mod connection;
mod core;
mod datagrams;
mod dial;
mod group;
mod hold;
mod identity;
mod lifecycle;
mod path;
mod receiver;
mod sender;
#[cfg(test)]
mod tests;
mod transport;
mod twins;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
    sync::{Arc, MutexGuard},
    time::Instant,
};

use bytes::BytesMut;
use falconet_crypto::hash::hash;
use quinn_proto::{ConnectionHandle, DatagramEvent, EcnCodepoint, Event as QuicEvent, Transmit};

use self::{
    admission::Admission,
    connection::{Conn, State},
    core::{Core, LogLimiter},
    dial::Target,
    group::{Group, Seat},
    identity::{Acceptor, Dialler, Recipe},
    path::PathMemory,
    sender::Failure,
    transport::{endpoint_config, random_secret},
};
use crate::{
    BindError, CloseCode, ConnId, Event, EventBudget, Stats, StoqConfig, TargetId,
    pool::SmallCopies,
    send::{Command, Registry},
    stats::Count,
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
    recipe: Recipe,
    paths: PathMemory,
    conns: Vec<Option<Box<Conn>>>,
    by_id: HashMap<ConnId, usize>,
    targets: HashMap<TargetId, Target>,
    seat: Seat,
    /// What other threads of the group are to do.
    elsewhere: VecDeque<(usize, Command)>,
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

/// What the endpoints of a group are made from.
struct Plan<'a> {
    config: &'a StoqConfig,
    recipe: Recipe,
    dialler: Dialler,
    acceptor: Option<Acceptor>,
    /// What identifiers and reset tokens are derived from.
    secret: [u8; 32],
    seed: Option<[u8; 32]>,
    stats: &'a Arc<Stats>,
    budget: &'a Arc<EventBudget>,
    registry: &'a Arc<Registry>,
}

impl Plan<'_> {
    fn endpoint(&self, seat: Seat) -> Endpoint {
        let config = self.config;
        let mut quic_config = endpoint_config(
            self.secret,
            config.limits.connection_id_lifetime,
            seat.index,
            seat.threads,
        );
        quic_config.rng_seed(self.seed);
        let server = self.acceptor.as_ref().map(|a| a.server.clone());
        let rng = self.seed.map_or_else(
            || std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0u8),
            |seed| u64::from_le_bytes(*seed.first_chunk().expect("a seed has 32 bytes")),
        );
        Endpoint {
            quic: quinn_proto::Endpoint::new(Arc::new(quic_config), server, true, None),
            core: Core {
                limits: config.limits.clone(),
                stats: self.stats.clone(),
                budget: self.budget.clone(),
                registry: self.registry.clone(),
                trusted: config.trusted.clone(),
                chain_id: config.chain_id,
                datagrams: config.datagrams,
                flush_after: config.io.flush_after,
                bulk_in_pieces: config.bulk_in_pieces,
                events: VecDeque::new(),
                received: (0, 0),
                copies: SmallCopies::default(),
                log: LogLimiter::default(),
            },
            dialler: self.dialler.clone(),
            acceptor: self.acceptor.clone(),
            recipe: self.recipe.clone(),
            paths: PathMemory::default(),
            conns: Vec::new(),
            by_id: HashMap::new(),
            targets: HashMap::new(),
            // Identifiers name their thread: congruent to its index modulo the number.
            next_conn: (seat.index + seat.threads) as u64,
            seat,
            elsewhere: VecDeque::new(),
            timers: BTreeSet::new(),
            dirty: VecDeque::new(),
            transmit: VecDeque::new(),
            paused: Vec::new(),
            responses: VecDeque::new(),
            trusted_generation: config.trusted.generation(),
            rng: rng | 1,
            segments_max: SEGMENTS_MAX,
            is_shut_down: false,
        }
    }
}

impl Endpoint {
    /// An endpoint as configured, alone. `seed` feeds the jitter of dialling and the random
    /// choices of QUIC; `None` draws one from the system.
    #[cfg(test)]
    pub(crate) fn new(
        config: &StoqConfig,
        stats: Arc<Stats>,
        budget: Arc<EventBudget>,
        registry: Arc<Registry>,
        seed: Option<[u8; 32]>,
    ) -> Result<Self, BindError> {
        let mut group = Self::group(config, 1, &stats, &budget, &registry, seed)?;
        Ok(group.pop().expect("a group has as many as asked for"))
    }

    /// One endpoint for each of `threads` network threads. Together they are one: they share the
    /// identity, the limits, the places and the secrets, so that it does not matter to a peer which
    /// of them serves it.
    pub(crate) fn group(
        config: &StoqConfig,
        threads: usize,
        stats: &Arc<Stats>,
        budget: &Arc<EventBudget>,
        registry: &Arc<Registry>,
        seed: Option<[u8; 32]>,
    ) -> Result<Vec<Self>, BindError> {
        config.limits.check()?;
        let recipe = Recipe::new(config, stats.clone());
        let identity = config.identity.as_ref();
        let acceptor = identity.map(|key| recipe.acceptor(key)).transpose()?;
        let dialler = recipe.dialler(config.identity.clone());
        let secret = config.reset_secret.or_else(|| {
            let identity = config.identity.as_ref()?;
            Some(hash("falconet stoq reset secret", &[identity.secret_bytes()]).0)
        });
        // Identifiers and reset tokens of all threads come from one secret, so that each thread
        // answers for the connections that any of them forgot.
        let plan = Plan {
            config,
            recipe,
            dialler,
            acceptor,
            secret: secret.unwrap_or_else(random_secret),
            seed,
            stats,
            budget,
            registry,
        };
        let group = Arc::new(Group::default());
        let seats = (0..threads).map(|index| Seat {
            group: group.clone(),
            index,
            threads,
        });
        Ok(seats.map(|seat| plan.endpoint(seat)).collect())
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
        let len = data.len();
        self.core.received.0 += 1;
        self.core.received.1 += len as u64;
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
                    conn.received(len);
                    conn.quic.handle_event(event);
                    falconet_probes::datagram_received(conn.id.0, len as u64);
                    self.mark_dirty(handle.0);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                self.accept(now, from, incoming, len, response);
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
                    if conn.next_timeout().is_none_or(|at| at > now) {
                        // What it was set for has moved on.
                        self.set_timer(slot);
                        continue;
                    }
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
                        conn.sender.push(now, channel, kind, payload);
                        self.mark_dirty(slot);
                    } else {
                        self.core.stats.send_after_close.inc();
                    }
                }
                None => self.core.stats.send_after_close.inc(),
            },
            Command::Datagram { conn, messages } => match self.by_id.get(&conn).copied() {
                Some(slot)
                    if let Some(conn) = self.conn_mut(slot)
                        && matches!(conn.state, State::Open(_)) =>
                {
                    conn.datagrams.push(now, messages);
                    self.mark_dirty(slot);
                }
                _ => self.core.stats.send_after_close.inc(),
            },
            Command::Close { conn, code, reason } => self.close(now, conn, code, &reason),
            Command::SetIdentity(identity) => {
                if let Err(error) = self.set_identity(identity) {
                    // The old one stays; only a FALCON key that TLS cannot use leads here.
                    tracing::error!(%error, "the new identity cannot be used for TLS");
                }
            }
            Command::Shutdown => self.shut_down(now),
        }
    }

    /// Carries out everything that the calls before it brought.
    pub fn advance(&mut self, now: Instant) {
        self.core.count_received();
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

    /// What another thread of the group is to do, and its index.
    pub(crate) fn poll_elsewhere(&mut self) -> Option<(usize, Command)> {
        self.elsewhere.pop_front()
    }

    fn admission(&self) -> MutexGuard<'_, Admission> {
        self.seat.group.admission()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        // Of a connection with more to send than the network took, the timer is not set yet.
        for at in 0..self.transmit.len() {
            self.set_timer(self.transmit[at]);
        }
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
            let segments = segments.clamp(1, self.segments_max);
            match conn.poll_transmit(now, segments, buf, &mut self.core) {
                Some(transmit) => {
                    conn.sent(&transmit, &self.core);
                    let bytes = transmit.size as u64;
                    let datagrams = transmit
                        .segment_size
                        .map_or(1, |size| bytes.div_ceil(size as u64));
                    falconet_probes::datagrams_sent(conn.id.0, bytes, datagrams);
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

    /// Sees to it that a connection is looked at when it next must be. Most of its deadlines move on
    /// with every packet; a timer that is too early stays and is set anew when it is due, which
    /// costs less than moving it along.
    fn set_timer(&mut self, slot: usize) {
        let Some(conn) = self.conns.get_mut(slot).and_then(Option::as_mut) else {
            return;
        };
        let next = conn.next_timeout();
        let is_soon_enough = match (conn.timer, next) {
            (Some(at), Some(next)) => at <= next,
            (at, next) => at == next,
        };
        if !is_soon_enough {
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
            self.admission().release(conn.place);
            self.by_id.remove(&conn.id);
            if let Some(at) = conn.timer {
                self.timers.remove(&(at, TimerKey::Conn(slot)));
            }
            return;
        }
        if !std::mem::replace(&mut conn.wants_transmit, true) {
            self.transmit.push_back(slot);
        }
        // Its timer is set once it has sent what it has.
        self.conns[slot] = Some(conn);
    }

    fn turn(&mut self, now: Instant, conn: &mut Conn) -> Result<(), Failure> {
        conn.check_limits(now, &self.core)?;
        conn.check_path(now, &self.core);
        while let Some(event) = conn.quic.poll() {
            match event {
                // It was ended after these packets came and before its turn: its time was up, or
                // this endpoint stops. What QUIC found in them does not begin it again.
                _ if conn.state == State::Closed => {}
                QuicEvent::Connected => self.on_handshake_done(now, conn)?,
                QuicEvent::ConnectionLost { reason } => self.on_lost(now, conn, reason),
                QuicEvent::Stream(event) => conn.on_stream_event(now, event)?,
                QuicEvent::HandshakeDataReady
                | QuicEvent::DatagramReceived
                | QuicEvent::DatagramsUnblocked => {}
            }
        }
        conn.note_losses(now);
        conn.flush(now, &mut self.core)?;
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
        conn.read_datagrams(&mut self.core)?;
        if outcome.paused && !std::mem::replace(&mut conn.is_paused, true) {
            self.paused.push(conn.handle.0);
        }
        Ok(())
    }
}
