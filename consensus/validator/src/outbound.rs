//! Sending: which channel a message takes, and what happens when a queue is full.
//!
//! Nothing here waits. A message that finds its queue full is dropped and counted: consensus
//! messages are repeated by the pacemaker, batches are fetched by whoever misses them, and a
//! client that does not read loses receipts, which it can ask for again.

use std::sync::Arc;

use bytes::Bytes;
use falconet_dataplane::{Channel, ConnId, SendError, StoqHandle};
use falconet_types::ValidatorIndex;
use falconet_types::message::{ClientMessage, PeerMessage};

use crate::chain::Chain;
use crate::metrics::Metrics;
use crate::peers::Peers;

/// The sending side of a validator.
#[derive(Clone)]
pub struct Outbound {
    stoq: StoqHandle,
    peers: Arc<Peers>,
    /// A node that shows no key has one channel only.
    chain: Arc<Chain>,
    metrics: Arc<Metrics>,
}

impl Outbound {
    /// Sends over `stoq` to whoever `peers` lists.
    #[must_use]
    pub fn new(
        stoq: StoqHandle,
        peers: Arc<Peers>,
        chain: Arc<Chain>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            stoq,
            peers,
            chain,
            metrics,
        }
    }

    /// Sends to every connected validator, and what followers need to hear to them too: they fetch
    /// batches themselves, once these are committed.
    pub fn broadcast(&self, message: &PeerMessage) {
        let payload = message.payload();
        // The lanes are the validators' business; followers fetch what is committed.
        let lanes = matches!(message, PeerMessage::Batch(_) | PeerMessage::Watermark(_));
        let channel = self.channel(message);
        for conn in self.peers.conns(!lanes) {
            self.frame(conn, channel, message.kind(), payload.clone());
        }
        if is_for_followers(message) {
            for conn in self.peers.anonymous() {
                self.frame(conn, Channel::Client, message.kind(), payload.clone());
            }
        }
    }

    /// Sends to one validator or follower, if it is connected.
    pub fn send(&self, to: ValidatorIndex, message: &PeerMessage) {
        if let Some(conn) = self.peers.conn(to) {
            self.send_on(conn, message);
        }
    }

    /// Sends over a connection with a validator or follower.
    pub fn send_on(&self, conn: ConnId, message: &PeerMessage) {
        let channel = if self.peers.is_anonymous(conn) {
            Channel::Client
        } else {
            self.channel(message)
        };
        self.frame(conn, channel, message.kind(), message.payload());
    }

    /// A follower tells a validator that it is one.
    pub fn follow(&self, conn: ConnId) {
        let message = PeerMessage::Follow;
        self.frame(conn, Channel::Client, message.kind(), message.payload());
    }

    fn channel(&self, message: &PeerMessage) -> Channel {
        if self.chain.is_anonymous() {
            Channel::Client
        } else {
            channel_of(message)
        }
    }

    /// Sends to a client.
    pub fn client(&self, conn: ConnId, message: &ClientMessage) {
        self.frame(conn, Channel::Client, message.kind(), message.payload());
    }

    fn frame(&self, conn: ConnId, channel: Channel, kind: u8, payload: Bytes) {
        match self.stoq.send(conn, channel, kind, payload) {
            Ok(()) | Err(SendError::Closed) => {}
            Err(error) => {
                self.metrics.frames_dropped.inc();
                tracing::debug!(%conn, ?channel, kind, %error, "frame dropped");
            }
        }
    }
}

/// Proposals, votes and certificates, without which a follower would not know what is committed.
fn is_for_followers(message: &PeerMessage) -> bool {
    matches!(
        message,
        PeerMessage::Header(_)
            | PeerMessage::Vote(_)
            | PeerMessage::CommitVote(_)
            | PeerMessage::Timeout(_)
            | PeerMessage::Qc(_)
            | PeerMessage::Tc(_)
            | PeerMessage::CertRefs(_)
    )
}

/// Large messages that may overtake each other travel apart from the ordered stream of votes,
/// proposals and certificates.
fn channel_of(message: &PeerMessage) -> Channel {
    match message {
        PeerMessage::Batch(_)
        | PeerMessage::Blocks(_)
        | PeerMessage::Snapshot(_)
        | PeerMessage::Chunk(_) => Channel::Bulk,
        _ => Channel::Control,
    }
}
