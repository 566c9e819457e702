//! What an endpoint tells its consumer, and the budget that makes a slow consumer slow down the
//! senders instead of filling the memory.

use std::{
    fmt,
    net::SocketAddrV6,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use falconet_crypto::hash::Digest;

use crate::{Channel, CloseReason, Messages};

/// Names one connection for the life of the process; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub(crate) u64);

impl ConnId {
    /// The number, for probes and logs.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }

    /// The network thread that the connection belongs to.
    pub(crate) fn thread(self, threads: usize) -> usize {
        (self.0 % threads as u64) as usize
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "conn-{}", self.0)
    }
}

/// Names one dialling target for the life of the process; its connections come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetId(pub(crate) u64);

impl TargetId {
    /// The network thread that dials it.
    pub(crate) fn thread(self, threads: usize) -> usize {
        (self.0 % threads as u64) as usize
    }
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remote {
    /// A peer that proved a key: the key that was pinned when dialling, or a key of the trusted
    /// set. The value is the key's identifier, `PublicKey::id()`.
    Validator(Digest),
    /// A client that showed no key.
    Anonymous,
}

impl Remote {
    /// Whether the peer proved a trusted key.
    pub fn is_validator(&self) -> bool {
        matches!(self, Remote::Validator(_))
    }
}

/// What happened. For one connection the order is `Connected`, any number of `Frame`,
/// `FramePieces` and `Datagram`, `Closed`.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// Handshake and greeting succeeded both ways; frames may be sent.
    Connected {
        /// The new connection.
        conn: ConnId,
        /// The target that was dialled, when this side did.
        target: Option<TargetId>,
        /// Who the peer is.
        remote: Remote,
        /// The peer's UDP address.
        addr: SocketAddrV6,
        /// Whether this side dialled.
        initiator: bool,
    },
    /// A frame arrived.
    Frame {
        /// The connection that it came from.
        conn: ConnId,
        /// The channel that it came on.
        channel: Channel,
        /// The application's frame kind, at least `KIND_APPLICATION_MIN`.
        kind: u8,
        /// The payload.
        payload: Bytes,
        /// The frame's share of the event budget; dropping it lets the peers send on.
        lease: FrameLease,
    },
    /// A Bulk frame arrived whose payload is not in one piece; only with
    /// [`StoqConfig::bulk_in_pieces`](crate::StoqConfig::bulk_in_pieces).
    FramePieces {
        /// The connection that it came from.
        conn: ConnId,
        /// The application's frame kind, at least `KIND_APPLICATION_MIN`.
        kind: u8,
        /// The payload, in order: slices of receive buffers, none of them empty. Kept long, they
        /// take these buffers out of service; copy what is to stay.
        pieces: Vec<Bytes>,
        /// The frame's share of the event budget, as for `Frame`.
        lease: FrameLease,
    },
    /// A datagram arrived, with one message or several.
    Datagram {
        /// The connection that it came from.
        conn: ConnId,
        /// What it holds.
        messages: Messages,
        /// The datagram's share of the event budget. Unlike frames, datagrams are dropped and
        /// counted while there is no room.
        lease: FrameLease,
    },
    /// A connection that was `Connected` ended.
    Closed {
        /// The connection.
        conn: ConnId,
        /// The target that was dialled, when this side did.
        target: Option<TargetId>,
        /// Why.
        reason: CloseReason,
    },
    /// An attempt to reach a target failed before it was `Connected`.
    DialFailed {
        /// The target.
        target: TargetId,
        /// Where it was looked for.
        addr: SocketAddrV6,
        /// Why.
        reason: CloseReason,
        /// When the next attempt follows; `None` when the target is not persistent.
        retry_in: Option<Duration>,
    },
}

/// Frames and bytes that may be in the consumer's hands or on their way to it. When it is used
/// up the endpoint stops reading, so that QUIC's flow control stops the senders.
///
/// Channels see different ceilings, so that clients cannot take the room of validators.
#[derive(Default)]
pub struct EventBudget {
    frames_max: usize,
    bytes_max: usize,
    frames: AtomicUsize,
    bytes: AtomicUsize,
    paused: AtomicBool,
    wake: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl EventBudget {
    /// A budget of `frames_max` frames and `bytes_max` payload bytes.
    pub(crate) fn new(frames_max: usize, bytes_max: usize) -> Arc<Self> {
        Arc::new(EventBudget {
            frames_max,
            bytes_max,
            ..EventBudget::default()
        })
    }

    /// Sets what to call when a paused endpoint may read on. Only the first call counts.
    pub(crate) fn on_room(&self, wake: Box<dyn Fn() + Send + Sync>) {
        let _ = self.wake.set(wake);
    }

    /// Whether one more frame of `channel` may be read. `Control` may use everything, `Bulk`
    /// three quarters, `Client` half.
    pub(crate) fn has_room(&self, channel: Channel) -> bool {
        let quarters = match channel {
            Channel::Control => 4,
            Channel::Bulk => 3,
            Channel::Client => 2,
        };
        self.frames.load(Ordering::Acquire) < self.frames_max / 4 * quarters
            && self.bytes.load(Ordering::Acquire) < self.bytes_max / 4 * quarters
    }

    /// Records that the endpoint stopped reading; returns whether room appeared meanwhile.
    pub(crate) fn pause(&self, channel: Channel) -> bool {
        self.paused.store(true, Ordering::SeqCst);
        self.has_room(channel)
    }

    /// Whether reading stopped and the consumer has not caught up since.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::SeqCst)
    }

    /// Takes the share of one frame.
    pub(crate) fn lease(self: &Arc<Self>, payload_len: usize) -> FrameLease {
        self.frames.fetch_add(1, Ordering::AcqRel);
        self.bytes.fetch_add(payload_len, Ordering::AcqRel);
        FrameLease {
            budget: self.clone(),
            payload_len,
        }
    }

    /// Frames and payload bytes now in the consumer's hands or queue.
    pub fn in_use(&self) -> (usize, usize) {
        (
            self.frames.load(Ordering::Acquire),
            self.bytes.load(Ordering::Acquire),
        )
    }

    fn give_back(&self, payload_len: usize) {
        let frames = self.frames.fetch_sub(1, Ordering::SeqCst) - 1;
        let bytes = self.bytes.fetch_sub(payload_len, Ordering::SeqCst) - payload_len;
        // Waking at a quarter avoids a wake-up for every frame while the consumer catches up.
        let low = frames <= self.frames_max / 4 && bytes <= self.bytes_max / 4;
        // Looked at before it is written: a write would take the cache line from the endpoint.
        if low
            && self.paused.load(Ordering::SeqCst)
            && self.paused.swap(false, Ordering::SeqCst)
            && let Some(wake) = self.wake.get()
        {
            wake();
        }
    }
}

impl fmt::Debug for EventBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventBudget")
            .field("frames", &self.frames)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// One frame's share of the event budget, given back when dropped. Keep it as long as the frame
/// waits for its turn; the payload itself may live longer.
#[derive(Debug)]
pub struct FrameLease {
    budget: Arc<EventBudget>,
    payload_len: usize,
}

impl Drop for FrameLease {
    fn drop(&mut self) {
        self.budget.give_back(self.payload_len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_run_out_before_control_does() {
        let budget = EventBudget::new(8, 1 << 20);
        let leases: Vec<FrameLease> = (0..4).map(|_| budget.lease(10)).collect();
        assert!(!budget.has_room(Channel::Client));
        assert!(budget.has_room(Channel::Bulk));
        let more: Vec<FrameLease> = (0..2).map(|_| budget.lease(10)).collect();
        assert!(!budget.has_room(Channel::Bulk));
        assert!(budget.has_room(Channel::Control));
        drop((leases, more));
        assert_eq!(budget.in_use(), (0, 0));
    }

    #[test]
    fn a_paused_reader_is_woken_once_there_is_room() {
        let budget = EventBudget::new(8, 1 << 20);
        let woken = Arc::new(AtomicUsize::new(0));
        let count = woken.clone();
        budget.on_room(Box::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        }));
        let mut leases: Vec<FrameLease> = (0..8).map(|_| budget.lease(1)).collect();
        assert!(!budget.pause(Channel::Control));
        leases.truncate(3);
        assert_eq!(woken.load(Ordering::SeqCst), 0, "still above a quarter");
        leases.clear();
        assert_eq!(woken.load(Ordering::SeqCst), 1, "one wake-up, not three");
    }
}
