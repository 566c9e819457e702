//! Receiving: turns the transport's events into work for the verify stage and inputs for the
//! core. One thread; it parses headers and votes, never batches or transactions.

use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, select_biased};
use falconet_dataplane::{CloseCode, ConnId, Event, FrameLease, Remote, StoqHandle};
use falconet_probes::NOBODY;
use falconet_types::message::{ClientMessage, PeerMessage, kind};
use falconet_types::signing::Verified;
use falconet_types::wire::WireError;

use crate::catchup::{CatchupInput, CatchupSender};
use crate::chain::Chain;
use crate::filter::Guard;
use crate::metrics::Metrics;
use crate::metrics::stages::{Clock, Queue};
use crate::outbound::Outbound;
use crate::peers::Peers;
use crate::peers::score::Fault;
use crate::peers::standing::Standing;
use crate::pipeline::{Arrivals, Bulk, CoreInput, HistoryRequest, ReplyTo, Unverified};

/// Close code for a frame that is no message of the protocol.
pub const CLOSE_BAD_MESSAGE: CloseCode = CloseCode::Application(CloseCode::APPLICATION_MIN);

/// Close code for a client whose prefix is banned.
pub const CLOSE_BANNED: CloseCode = CloseCode::Application(CloseCode::APPLICATION_MIN + 1);

/// Close code for a follower that found all places taken.
pub const CLOSE_NO_PLACE: CloseCode = CloseCode::Application(CloseCode::APPLICATION_MIN + 2);

/// The receiving side of a validator.
pub struct Inbound {
    /// The endpoint, to close connections of those who break the protocol.
    pub stoq: StoqHandle,
    /// Who is connected.
    pub peers: Arc<Peers>,
    /// How they stand.
    pub standing: Arc<Standing>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Consensus messages with signatures.
    pub urgent: Sender<Unverified>,
    /// Submissions and batches.
    pub bulk: Sender<Bulk>,
    /// Batches on their way to the core.
    pub arrivals: Arc<Arrivals>,
    /// The way out, for a follower to introduce itself.
    pub outbound: Outbound,
    /// Whether this node shows a key.
    pub chain: Arc<Chain>,
    /// Time.
    pub clock: crate::clock::Clock,
    /// Everything that needs no signature check.
    pub core: Sender<CoreInput>,
    /// The thread that catches up by snapshot.
    pub catchup: CatchupSender,
    /// Requests of clients for proofs, of peers for snapshots.
    pub history: Sender<HistoryRequest>,
    /// The filter before the network stack, if there is one.
    pub guard: Option<Arc<Guard>>,
    /// Where this thread's time goes.
    pub stage: Clock,
}

impl Inbound {
    /// Runs until the endpoint stops, or the other end of `stop` is dropped.
    pub fn run(self, events: &Receiver<Event>, stop: &Receiver<()>) {
        loop {
            let event = self.stage.waiting(|| {
                select_biased! {
                    recv(stop) -> _ => None,
                    recv(events) -> event => event.ok(),
                }
            });
            let Some(event) = event else { return };
            if self.event(event).is_none() {
                return; // a stage is gone: the process stops
            }
        }
    }

    /// `None` when the process stops.
    fn event(&self, event: Event) -> Option<()> {
        match event {
            Event::Connected {
                conn, remote, addr, ..
            } => match remote {
                Remote::Validator(key_id) => {
                    let index = self.peers.validator_up(conn, &key_id);
                    self.count();
                    let Some(index) = index else {
                        self.refuse(conn, "no room for nodes outside the validator set");
                        return Some(());
                    };
                    tracing::info!(validator = index.0, %addr, "connected");
                    if self.chain.is_anonymous() {
                        self.outbound.follow(conn);
                    }
                    if let Some(guard) = &self.guard {
                        guard.validator_up(conn, *addr.ip());
                    }
                    self.catchup.connection(CatchupInput::PeerUp(conn));
                    self.to_core(CoreInput::PeerUp(conn))
                }
                Remote::Anonymous => {
                    if !self.standing.client_up(conn, *addr.ip()) {
                        let reason = "this address broke the protocol; try again later";
                        // An error means that the connection is gone already.
                        let _ = self.stoq.close(conn, CLOSE_BANNED, reason);
                        return Some(());
                    }
                    self.peers.client_up(conn);
                    self.count();
                    tracing::debug!(%conn, %addr, "client connected");
                    Some(())
                }
            },
            Event::Closed { conn, reason, .. } => {
                let index = self.peers.down(conn);
                let ban = self.standing.client_down(conn, &reason);
                if let Some(guard) = &self.guard {
                    guard.down(conn);
                    ban.into_iter().for_each(|ban| guard.block(ban));
                }
                self.count();
                let Some(index) = index else {
                    return Some(());
                };
                match index.follower_slot() {
                    Some(_) => tracing::info!(follower = index.0, %reason, "disconnected"),
                    None => tracing::info!(validator = index.0, %reason, "disconnected"),
                }
                self.catchup.connection(CatchupInput::PeerDown(conn));
                self.to_core(CoreInput::PeerDown(conn))
            }
            Event::Frame {
                conn,
                kind,
                payload,
                lease,
                ..
            } => {
                let validator = self.peers.validator(conn);
                falconet_probes::frame_dispatched(
                    conn.number(),
                    validator.map_or(NOBODY, |index| index.0.into()),
                    kind.into(),
                    payload.len() as u64,
                    payload.as_ptr() as u64,
                );
                let handled = match validator {
                    Some(from) if kind < kind::SUBMIT => {
                        return match PeerMessage::parse(kind, &payload) {
                            Ok(message) if self.standing.admits(from, &message) => {
                                self.peer((from, conn), message, lease)
                            }
                            Ok(_) => Some(()),
                            // Its connection stays: votes come on it.
                            Err(error) => {
                                self.metrics.refused("malformed");
                                tracing::debug!(validator = from.0, %error, "message refused");
                                self.standing.fault(from, Fault::Malformed, 1);
                                Some(())
                            }
                        };
                    }
                    _ if kind == kind::RELAY => Ok(self.relayed(payload, lease)),
                    None if kind < kind::SUBMIT => PeerMessage::parse(kind, &payload)
                        .and_then(|message| self.follower(conn, message, lease)),
                    _ => ClientMessage::parse(kind, &payload)
                        .and_then(|m| self.client(conn, m, lease)),
                };
                match handled {
                    Ok(alive) => alive,
                    Err(error) => {
                        self.refuse(conn, &error.to_string());
                        Some(())
                    }
                }
            }
            _ => Some(()),
        }
    }

    fn peer(
        &self,
        (from, conn): (falconet_types::ValidatorIndex, ConnId),
        message: PeerMessage,
        lease: FrameLease,
    ) -> Option<()> {
        match message {
            PeerMessage::Batch(bytes) => self.to_bulk(Bulk::Batch {
                from,
                conn,
                bytes,
                lease,
                arrival: self.arrivals.note(from),
            }),
            PeerMessage::Header(_)
            | PeerMessage::Vote(_)
            | PeerMessage::CommitVote(_)
            | PeerMessage::Timeout(_)
            | PeerMessage::Qc(_)
            | PeerMessage::Tc(_)
            | PeerMessage::Snapshot(_)
            | PeerMessage::Blocks(_)
            | PeerMessage::EpochProof(_) => {
                let unverified = Unverified {
                    from,
                    conn,
                    message,
                    lease,
                };
                let sent = self.stage.send(Queue::Urgent, &self.urgent, unverified);
                sent.ok()
            }
            PeerMessage::CertRefs(_)
            | PeerMessage::GetCert(_)
            | PeerMessage::GetBlocks(_)
            | PeerMessage::GetEpochProof(_)
            | PeerMessage::Watermark(_)
            | PeerMessage::GetBatches(_) => {
                let message = Verified::trusted(message); // no signatures inside
                self.to_core(CoreInput::Peer { conn, message })
            }
            PeerMessage::Relay(tx) => self.relayed(tx, lease),
            PeerMessage::GetSnapshot(request) => {
                self.to_history(HistoryRequest::Snapshot { to: from, request });
                Some(())
            }
            PeerMessage::GetChunk(request) => {
                self.to_history(HistoryRequest::Chunk { to: from, request });
                Some(())
            }
            PeerMessage::Chunk(chunk) => {
                // One that finds no place is asked for again.
                let input = CatchupInput::Chunk { conn, chunk, lease };
                self.catchup.said(input);
                Some(())
            }
            // Validators do not follow.
            PeerMessage::Follow => Some(()),
        }
    }

    /// What a client's connection says that is no client's message: only followers may, and only
    /// ask.
    fn follower(
        &self,
        conn: ConnId,
        message: PeerMessage,
        lease: FrameLease,
    ) -> Result<Option<()>, WireError> {
        let now_us = self.clock.now().mono_us;
        if message == PeerMessage::Follow {
            let Some(index) = self.peers.follower_up(conn, now_us) else {
                let reason = "all places of followers are taken; follow another validator";
                // An error means that the connection is gone already.
                let _ = self.stoq.close(conn, CLOSE_NO_PLACE, reason);
                return Ok(Some(()));
            };
            tracing::info!(follower = index.0, "connected");
            return Ok(self.to_core(CoreInput::PeerUp(conn)));
        }
        let Some((from, admitted)) = self.peers.follower(conn, now_us) else {
            return Err(WireError::Value("frame kind"));
        };
        if !admitted {
            self.metrics.frames_throttled.inc();
            return Ok(Some(()));
        }
        match message {
            PeerMessage::CertRefs(_)
            | PeerMessage::GetCert(_)
            | PeerMessage::GetBlocks(_)
            | PeerMessage::GetEpochProof(_)
            | PeerMessage::GetBatches(_)
            | PeerMessage::GetSnapshot(_)
            | PeerMessage::GetChunk(_)
            | PeerMessage::Relay(_) => Ok(self.peer((from, conn), message, lease)),
            // Its word counts for nothing.
            _ => Ok(Some(())),
        }
    }

    /// Through the same door as every transaction; the answer is of no use to the sender.
    fn relayed(&self, tx: Bytes, lease: FrameLease) -> Option<()> {
        self.to_bulk(Bulk::Submission {
            reply: ReplyTo::Nobody,
            txs: vec![tx],
            lease: Some(lease),
        })
    }

    fn client(
        &self,
        conn: ConnId,
        message: ClientMessage,
        lease: FrameLease,
    ) -> Result<Option<()>, WireError> {
        match message {
            ClientMessage::Submit { tag, txs } => {
                let reply = ReplyTo::Stoq { conn, tag };
                Ok(self.to_bulk(Bulk::Submission {
                    reply,
                    txs,
                    lease: Some(lease),
                }))
            }
            ClientMessage::GetProof(tx_id) => {
                self.to_history(HistoryRequest::Proof { conn, tx_id });
                Ok(Some(()))
            }
            ClientMessage::GetEpochProof(epoch) => {
                self.to_history(HistoryRequest::ClientEpochProof { conn, epoch });
                Ok(Some(()))
            }
            ClientMessage::Results { .. }
            | ClientMessage::Receipts(_)
            | ClientMessage::Proof { .. }
            | ClientMessage::EpochProof { .. } => Err(WireError::Value("frame kind")),
        }
    }

    fn to_history(&self, request: HistoryRequest) {
        if self.history.try_send(request).is_err() {
            self.stage.full(Queue::History);
            self.metrics.history_requests_dropped.inc();
        }
    }

    fn to_core(&self, input: CoreInput) -> Option<()> {
        self.stage.send(Queue::Core, &self.core, input).ok()
    }

    fn to_bulk(&self, work: Bulk) -> Option<()> {
        self.stage.send(Queue::Bulk, &self.bulk, work).ok()
    }

    fn refuse(&self, conn: ConnId, reason: &str) {
        self.metrics.refused("malformed");
        tracing::debug!(%conn, reason, "connection closed");
        // An error means that the connection is gone already.
        let _ = self.stoq.close(conn, CLOSE_BAD_MESSAGE, reason);
    }

    fn count(&self) {
        let connected = self.peers.connected_count();
        self.metrics.peers_connected.set(connected as i64);
        self.metrics
            .clients_connected
            .set(self.peers.clients() as i64);
    }
}
