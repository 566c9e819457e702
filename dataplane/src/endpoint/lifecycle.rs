//! The life of connections: accepted or dialled, known, open, ended.

use std::{
    net::{SocketAddr, SocketAddrV6},
    time::{Duration, Instant},
};

use bytes::Bytes;
use quinn_proto::{ConnectionError, Incoming, TransportErrorCode};

use super::{
    EVENTS_WAITING_MAX, Endpoint, TimerKey,
    admission::{Dialled, Place, Refusal, Verdict},
    connection::{Conn, Origin, State},
    dial::Target,
    path::Path,
    sender::Failure,
};
use crate::{
    CloseCode, CloseReason, ConnId, Event, PeerTarget, Remote, TargetId, close::REASON_BYTES_MAX,
    send::Command, stats::Count, tls,
};

impl Endpoint {
    /// A peer wants to connect.
    pub(super) fn accept(
        &mut self,
        now: Instant,
        from: SocketAddrV6,
        incoming: Incoming,
        received: usize,
        mut buf: Vec<u8>,
    ) {
        let stats = self.core.stats.clone();
        let acceptor = match &self.acceptor {
            Some(acceptor) if !self.is_shut_down && self.core.events.len() < EVENTS_WAITING_MAX => {
                acceptor
            }
            _ => {
                self.quic.ignore(incoming);
                return;
            }
        };
        let guess = self.paths.guess(from.ip(), self.recipe.policy());
        let config = self.recipe.server(acceptor, &guess);
        let is_proved = incoming.remote_address_validated();
        let own_key = acceptor.key;
        let validated = incoming.remote_address_validated() || !incoming.may_retry();
        let verdict = self
            .admission()
            .handshake(from.ip(), validated, &self.core.limits);
        match verdict {
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
                        let origin = Origin::Accepted { own_key };
                        let path = Path::new(guess, self.recipe.policy());
                        let mut conn =
                            Conn::new(id, (handle, quic), from, origin, place, path, deadline);
                        if !is_proved {
                            conn.limit_amplification(received);
                        }
                        self.insert(conn);
                    }
                    Err(error) => {
                        self.admission().release(place);
                        stats.handshakes_failed.inc();
                        if let Some(transmit) = error.response {
                            self.respond(transmit, buf);
                        }
                    }
                }
            }
        }
    }

    /// This thread's part; handles spread targets evenly.
    fn targets_max(&self) -> usize {
        self.core.limits.targets_max.div_ceil(self.seat.threads)
    }

    fn next_conn_id(&mut self) -> ConnId {
        let id = ConnId(self.next_conn);
        self.next_conn += self.seat.threads as u64;
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

    pub(super) fn add_target(&mut self, now: Instant, id: TargetId, peer: PeerTarget) {
        let failed = |reason: String| Event::DialFailed {
            target: id,
            addr: peer.addr,
            reason: CloseReason::Transport(reason),
            retry_in: None,
        };
        if self.is_shut_down || self.targets.len() >= self.targets_max() {
            let event = failed("no room for another target".into());
            self.core.events.push_back(event);
            return;
        }
        let crypto = match self.dialler.crypto(&peer.key) {
            Ok(crypto) => crypto,
            Err(error) => {
                let event = failed(error.to_string());
                self.core.events.push_back(event);
                return;
            }
        };
        let peer_dials_first = self.peer_dials_first(&peer);
        let target = Target::new(id, peer, crypto, now);
        assert!(self.targets.insert(id, target).is_none(), "{id:?} reused");
        if peer_dials_first {
            self.dial_later(now, id);
        } else {
            self.dial(now, id);
        }
    }

    /// Begins an attempt to reach a target.
    pub(super) fn dial(&mut self, now: Instant, id: TargetId) {
        let Some(target) = self.targets.get_mut(&id) else {
            return;
        };
        target.dial_at = None;
        let (crypto, addr) = (target.crypto.clone(), target.peer.addr);
        if self.put_off(now, id) {
            return;
        }
        let own_key = self.dialler.key();
        let guess = self.paths.guess(addr.ip(), self.recipe.policy());
        let config = self.recipe.client(crypto, own_key.is_some(), &guess);
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
                    target.is_put_off = false;
                }
                let place = Place::Dialled;
                self.insert(Conn::new(
                    conn_id,
                    (handle, quic),
                    addr,
                    Origin::Dialled {
                        target: id,
                        own_key,
                    },
                    place,
                    Path::new(guess, self.recipe.policy()),
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
        let is_reachable = reason.code() == Some(CloseCode::Superseded);
        if is_reachable {
            let target = self.targets.get_mut(&id).expect("looked up above");
            target.is_put_off = true;
        } else if let Some(suppressed) = self.core.log.permit(now, "dial failed", &self.core.stats)
        {
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
    fn target_ended(&mut self, now: Instant, id: TargetId) -> Option<Duration> {
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

    /// TLS is done: decide who the peer is.
    pub(super) fn on_handshake_done(
        &mut self,
        _now: Instant,
        conn: &mut Conn,
    ) -> Result<(), Failure> {
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
                    // A resumed session did not ask the trusted set, so it is asked here.
                    Some(key) if !self.core.trusted.contains(&key.id()) => {
                        return Err((CloseCode::Untrusted, "the key is not trusted".into()));
                    }
                    Some(key) => Remote::Validator(key.id()),
                    None => {
                        return Err((CloseCode::Untrusted, "the key cannot be read".into()));
                    }
                },
            }
        };
        self.admission()
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
    pub(super) fn on_open(&mut self, now: Instant, conn: &mut Conn) -> Result<(), Failure> {
        let State::Open(remote) = conn.state else {
            unreachable!("opened by the greeting");
        };
        if let (Remote::Validator(key), Some(own_key)) = (remote, conn.origin.own_key()) {
            // The set may have changed since the handshake.
            let verdict = if !conn.initiator() && !self.core.trusted.contains(&key) {
                Err((CloseCode::Untrusted, "the key is not trusted".into()))
            } else {
                self.bind(now, conn, key, own_key)
            };
            if let Err(failure) = verdict {
                // Never announced as connected, so not to be announced as closed either.
                conn.state = State::Greeting(remote);
                return Err(failure);
            }
        }
        if let Some(target) = conn.target.and_then(|id| self.targets.get_mut(&id)) {
            target.open_since = Some(now);
        }
        // Says how large a datagram may be before anyone can ask.
        conn.datagrams
            .flush(now, &mut conn.quic, &conn.budget, &mut self.core);
        conn.path.open(now, &mut conn.quic, &self.core);
        conn.check_path(now, &self.core);
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
    pub(super) fn on_lost(&mut self, now: Instant, conn: &mut Conn, error: ConnectionError) {
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
    pub(super) fn fail(&mut self, now: Instant, conn: &mut Conn, code: CloseCode, reason: String) {
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
        if matches!(before, State::Open(_)) {
            self.paths.remember(conn.addr.ip(), &conn.path);
            conn.path.close(stats);
        }
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
                if let Some(bound) = conn.bound.take() {
                    let dialled = Dialled::by_us(conn.initiator());
                    self.admission().unbind_key(bound, dialled, conn.id);
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
    pub(super) fn close(&mut self, now: Instant, id: ConnId, code: CloseCode, reason: &str) {
        let thread = id.thread(self.seat.threads);
        if thread != self.seat.index {
            let reason = reason.to_owned();
            let command = Command::Close {
                conn: id,
                code,
                reason,
            };
            self.elsewhere.push_back((thread, command));
            return;
        }
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
    pub(super) fn check_trusted(&mut self, now: Instant) {
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

    pub(super) fn shut_down(&mut self, now: Instant) {
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
