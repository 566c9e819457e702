//! The handle through which other threads use a running endpoint.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use falconet_crypto::falcon::KeyPair;

use super::link::Link;
use crate::{
    Channel, CloseCode, ConnId, ConnectError, EventBudget, Limits, PathInfo, Payload, PeerTarget,
    SendError, Stats, StatsSnapshot, TargetId, TrustedKeys,
    send::{Command, Registry},
    stats::Count,
};

/// A cloneable reference to a running endpoint. No method blocks.
#[derive(Clone)]
pub struct StoqHandle(pub(super) Arc<Shared>);

/// What handles and the network threads share.
pub(super) struct Shared {
    /// By thread index.
    pub(super) links: Vec<Link>,
    pub(super) registry: Arc<Registry>,
    pub(super) stats: Arc<Stats>,
    pub(super) budget: Arc<EventBudget>,
    pub(super) trusted: TrustedKeys,
    pub(super) limits: Limits,
    pub(super) next_target: AtomicU64,
}

impl StoqHandle {
    /// Network threads of the endpoint.
    pub fn threads(&self) -> usize {
        self.0.links.len()
    }

    /// Begins to dial `target`. `Connected` or `DialFailed` follows as an event.
    pub fn connect(&self, target: PeerTarget) -> Result<TargetId, ConnectError> {
        let id = TargetId(self.0.next_target.fetch_add(1, Ordering::Relaxed));
        // Numbers follow each other, so targets are spread evenly.
        self.command(id.thread(self.threads()), Command::Connect { id, target })
            .map(|()| id)
            .map_err(|error| match error {
                SendError::Full => ConnectError::Full,
                _ => ConnectError::Stopped,
            })
    }

    /// Forgets a target: no more dialling, and its connection is closed.
    pub fn disconnect(&self, id: TargetId) -> Result<(), SendError> {
        self.command(id.thread(self.threads()), Command::Disconnect { id })
    }

    /// Queues one frame. `Full` means that the peer or the network thread cannot keep up; the
    /// frame was not taken. Frames of one connection on `Control` and on `Client` keep their
    /// order; on `Bulk` they may overtake each other. A frame that was taken is lost when the
    /// connection ends before it was transmitted.
    pub fn send(
        &self,
        conn: ConnId,
        channel: Channel,
        kind: u8,
        payload: impl Into<Payload>,
    ) -> Result<(), SendError> {
        let payload = payload.into();
        let len = payload.len();
        let budget = self
            .0
            .registry
            .take(conn, channel, kind, len, &self.0.limits)
            .inspect_err(|error| self.count_refusal(*error))?;
        falconet_probes::frame_queued(conn.0, u64::from(kind), len as u64);
        let command = Command::Send {
            conn,
            channel,
            kind,
            payload,
        };
        let thread = conn.thread(self.threads());
        self.command(thread, command).inspect_err(|error| {
            budget.give_back(channel, len);
            self.count_refusal(*error);
        })
    }

    /// Closes a connection; the peer is told `code` and `reason`.
    pub fn close(
        &self,
        conn: ConnId,
        code: CloseCode,
        reason: impl Into<String>,
    ) -> Result<(), SendError> {
        let reason = reason.into();
        let command = Command::Close { conn, code, reason };
        self.command(conn.thread(self.threads()), command)
    }

    /// Replaces the trusted set. Connections whose key left it are closed.
    pub fn set_trusted<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a falconet_crypto::falcon::PublicKey>,
    ) {
        self.0.trusted.replace(keys);
        self.0.links.iter().for_each(|link| link.waker.wake());
    }

    /// Proves another key from now on, to peers that dial and that are dialled. Connections keep the
    /// key that they began with, so nothing is lost; peers must trust and pin the new key for the
    /// connections to come. After `Full` some network threads may have the new key already: call it
    /// again.
    pub fn set_identity(&self, identity: Arc<KeyPair>) -> Result<(), SendError> {
        (0..self.threads())
            .try_for_each(|thread| self.command(thread, Command::SetIdentity(identity.clone())))
    }

    /// What is known of a connection's path; `None` when the connection has ended. Up to date while
    /// the connection works.
    pub fn path(&self, conn: ConnId) -> Option<PathInfo> {
        self.0.registry.get(conn).ok()?.path()
    }

    /// Reads all counters.
    pub fn stats(&self) -> StatsSnapshot {
        self.0.stats.snapshot()
    }

    /// Frames and payload bytes that wait for, or are with, the consumer.
    pub fn events_in_use(&self) -> (usize, usize) {
        self.0.budget.in_use()
    }

    pub(super) fn command(&self, thread: usize, command: Command) -> Result<(), SendError> {
        self.0.links[thread].command(command)
    }

    pub(super) fn count_refusal(&self, error: SendError) {
        match error {
            SendError::Full => {
                falconet_probes::queue_full(falconet_probes::Queue::Send as u64, 0);
                self.0.stats.send_queue_full.inc();
            }
            SendError::Closed => self.0.stats.send_after_close.inc(),
            _ => {}
        }
    }
}

impl fmt::Debug for StoqHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoqHandle")
    }
}
