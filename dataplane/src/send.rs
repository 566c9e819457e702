//! The sending side as callers see it: payloads, commands, and the per-connection budgets that
//! answer `Full` at once instead of blocking.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use falconet_crypto::falcon::KeyPair;

use crate::{
    Channel, CloseCode, ConnId, Limits, PathInfo, PeerTarget, SendError, TargetId, channel,
};

/// What a frame carries: one piece, or several that follow each other on the wire without being
/// joined in memory first.
#[derive(Clone, Debug)]
pub enum Payload {
    /// One piece.
    One(Bytes),
    /// Several pieces, in order.
    Many(Vec<Bytes>),
}

impl Payload {
    /// Total length, bytes.
    pub fn len(&self) -> usize {
        match self {
            Payload::One(bytes) => bytes.len(),
            Payload::Many(pieces) => pieces.iter().map(Bytes::len).sum(),
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Payload::One(bytes)
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Payload::One(bytes.into())
    }
}

impl From<&'static [u8]> for Payload {
    fn from(bytes: &'static [u8]) -> Self {
        Payload::One(Bytes::from_static(bytes))
    }
}

impl From<Vec<Bytes>> for Payload {
    fn from(pieces: Vec<Bytes>) -> Self {
        Payload::Many(pieces)
    }
}

/// What an endpoint is asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// Dial, and for a persistent target keep dialling.
    Connect { id: TargetId, target: PeerTarget },
    /// Forget a target and close its connection.
    Disconnect { id: TargetId },
    /// Send a frame whose share of the budget is already taken.
    Send {
        conn: ConnId,
        channel: Channel,
        kind: u8,
        payload: Payload,
    },
    /// Send encoded messages whose share of the budget is already taken.
    Datagram { conn: ConnId, messages: Bytes },
    /// Close a connection.
    Close {
        conn: ConnId,
        code: CloseCode,
        reason: String,
    },
    /// Prove another key from now on.
    SetIdentity(Arc<KeyPair>),
    /// Close everything and accept nothing more.
    Shutdown,
}

/// Send budget of one connection, shared by its owner and all handles.
#[derive(Debug)]
pub(crate) struct ConnBudget {
    validator: bool,
    closed: AtomicBool,
    queued: [AtomicUsize; 3],
    queued_datagrams: AtomicUsize,
    /// Largest datagram at present, bytes; 0 while datagrams are not supported.
    datagram_bytes_max: AtomicUsize,
    path: Mutex<Option<PathInfo>>,
}

/// What a connection says about datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DatagramSize {
    /// One of the sides takes none.
    Unsupported,
    /// Bytes of messages with their headers.
    UpTo(usize),
}

impl ConnBudget {
    pub(crate) fn new(validator: bool) -> Self {
        ConnBudget {
            validator,
            closed: AtomicBool::new(false),
            queued: Default::default(),
            queued_datagrams: AtomicUsize::new(0),
            datagram_bytes_max: AtomicUsize::new(0),
            path: Mutex::new(None),
        }
    }

    /// Takes room for `len` payload bytes. An empty queue takes any frame that the channel
    /// permits, so that a limit below the frame size cannot block for ever.
    fn take(&self, channel: Channel, len: usize, max: usize) -> Result<(), SendError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(SendError::Closed);
        }
        if !self.validator && channel != Channel::Client {
            return Err(SendError::ChannelNotAllowed);
        }
        let cost = len + FRAME_COST_BYTES;
        self.queued[channel.index()]
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |queued| {
                (queued == 0 || queued + cost <= max).then_some(queued + cost)
            })
            .map_err(|_| SendError::Full)?;
        Ok(())
    }

    /// Gives back the room of a frame that was written, or dropped.
    pub(crate) fn give_back(&self, channel: Channel, len: usize) {
        let cost = len + FRAME_COST_BYTES;
        let before = self.queued[channel.index()].fetch_sub(cost, Ordering::AcqRel);
        assert!(before >= cost, "more given back than taken");
    }

    /// Takes room for a datagram of `len` bytes, as [`take`](Self::take) does for frames.
    pub(crate) fn take_datagram(&self, len: usize, max: usize) -> Result<(), SendError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(SendError::Closed);
        }
        let cost = len + FRAME_COST_BYTES;
        self.queued_datagrams
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |queued| {
                (queued == 0 || queued + cost <= max).then_some(queued + cost)
            })
            .map_err(|_| SendError::Full)?;
        Ok(())
    }

    /// Gives back the room of a datagram that was handed to QUIC, or dropped.
    pub(crate) fn give_back_datagram(&self, len: usize) {
        self.give_back_datagram_bytes(len + FRAME_COST_BYTES);
    }

    /// Gives back the room of the first `len` bytes of a datagram whose rest still waits.
    pub(crate) fn give_back_datagram_bytes(&self, len: usize) {
        let before = self.queued_datagrams.fetch_sub(len, Ordering::AcqRel);
        assert!(before >= len, "more given back than taken");
    }

    pub(crate) fn set_datagram_size(&self, size: DatagramSize) {
        let bytes = match size {
            DatagramSize::Unsupported => 0,
            DatagramSize::UpTo(bytes) => bytes,
        };
        self.datagram_bytes_max.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn set_path(&self, info: PathInfo) {
        *self.path.lock().expect("no holder of the lock panics") = Some(info);
    }

    /// What was last known of the path.
    pub(crate) fn path(&self) -> Option<PathInfo> {
        *self.path.lock().expect("no holder of the lock panics")
    }

    /// The largest datagram at present.
    pub(crate) fn datagram_size(&self) -> DatagramSize {
        match self.datagram_bytes_max.load(Ordering::Relaxed) {
            0 => DatagramSize::Unsupported,
            bytes => DatagramSize::UpTo(bytes),
        }
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }
}

/// What a queued frame costs beside its payload, bytes; so that empty frames are bounded too.
const FRAME_COST_BYTES: usize = 128;

/// Budgets of all established connections.
#[derive(Debug, Default)]
pub(crate) struct Registry(RwLock<HashMap<ConnId, Arc<ConnBudget>>>);

impl Registry {
    pub(crate) fn insert(&self, conn: ConnId, budget: Arc<ConnBudget>) {
        let mut map = self.0.write().expect("no holder of the lock panics");
        assert!(map.insert(conn, budget).is_none(), "{conn} exists twice");
    }

    pub(crate) fn remove(&self, conn: ConnId) {
        let mut map = self.0.write().expect("no holder of the lock panics");
        if let Some(budget) = map.remove(&conn) {
            budget.close();
        }
    }

    /// The budget of a connection.
    pub(crate) fn get(&self, conn: ConnId) -> Result<Arc<ConnBudget>, SendError> {
        let map = self.0.read().expect("no holder of the lock panics");
        map.get(&conn).cloned().ok_or(SendError::Closed)
    }

    /// Checks a frame against the rules and takes its room.
    pub(crate) fn take(
        &self,
        conn: ConnId,
        channel: Channel,
        kind: u8,
        len: usize,
        limits: &Limits,
    ) -> Result<Arc<ConnBudget>, SendError> {
        if kind < channel::KIND_APPLICATION_MIN {
            return Err(SendError::ReservedKind(kind));
        }
        let max = limits.frame_sent_bytes_max(channel) as usize;
        if len > max {
            return Err(SendError::TooLong { len, max });
        }
        let map = self.0.read().expect("no holder of the lock panics");
        let budget = map.get(&conn).ok_or(SendError::Closed)?;
        budget.take(channel, len, limits.queue_bytes_max(channel))?;
        Ok(budget.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(validator: bool) -> (Registry, ConnId) {
        let registry = Registry::default();
        let conn = ConnId(1);
        registry.insert(conn, Arc::new(ConnBudget::new(validator)));
        (registry, conn)
    }

    #[test]
    fn full_is_per_channel() {
        let (registry, conn) = registry(true);
        let limits = Limits {
            bulk_queue_bytes_max: 1000,
            ..Limits::default()
        };
        let bulk = |len| registry.take(conn, Channel::Bulk, 16, len, &limits);
        let budget = bulk(700).unwrap();
        assert_eq!(bulk(300).unwrap_err(), SendError::Full);
        registry
            .take(conn, Channel::Control, 16, 300, &limits)
            .unwrap();
        budget.give_back(Channel::Bulk, 700);
        bulk(5000).expect("an empty queue takes a frame above its limit");
    }

    #[test]
    fn rules_are_checked_before_queueing() {
        let (registry, conn) = registry(false);
        let limits = Limits::default();
        let take = |conn, channel, kind, len| {
            registry
                .take(conn, channel, kind, len, &limits)
                .map(|_| ())
                .unwrap_err()
        };
        assert_eq!(
            take(conn, Channel::Control, 16, 1),
            SendError::ChannelNotAllowed
        );
        assert_eq!(
            take(conn, Channel::Client, 15, 1),
            SendError::ReservedKind(15)
        );
        assert_eq!(take(ConnId(2), Channel::Client, 16, 1), SendError::Closed);
        let max = limits.client_frame_bytes_max as usize;
        assert_eq!(
            take(conn, Channel::Client, 16, max + 1),
            SendError::TooLong { len: max + 1, max }
        );
        registry.remove(conn);
        assert_eq!(take(conn, Channel::Client, 16, 1), SendError::Closed);
    }
}
