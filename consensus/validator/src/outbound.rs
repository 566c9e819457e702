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

use crate::metrics::Metrics;
use crate::peers::Peers;

/// The sending side of a validator.
#[derive(Clone)]
pub struct Outbound {
    stoq: StoqHandle,
    peers: Arc<Peers>,
    metrics: Arc<Metrics>,
}

impl Outbound {
    /// Sends over `stoq` to whoever `peers` lists.
    #[must_use]
    pub fn new(stoq: StoqHandle, peers: Arc<Peers>, metrics: Arc<Metrics>) -> Self {
        Self {
            stoq,
            peers,
            metrics,
        }
    }

    /// Sends to every connected validator.
    pub fn broadcast(&self, message: &PeerMessage) {
        let payload = message.payload();
        // The lanes are the validators' business; followers fetch what is committed.
        let lanes = matches!(message, PeerMessage::Batch(_) | PeerMessage::Watermark(_));
        for conn in self.peers.conns(!lanes) {
            self.frame(conn, channel_of(message), message.kind(), payload.clone());
        }
    }

    /// Sends to one validator, if it is connected.
    pub fn send(&self, to: ValidatorIndex, message: &PeerMessage) {
        if let Some(conn) = self.peers.conn(to) {
            self.frame(conn, channel_of(message), message.kind(), message.payload());
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
