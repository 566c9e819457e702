//! Datagrams of one connection: messages that wait are joined until a packet is full; what comes
//! is checked and handed on, or dropped when the consumer has no room.
//!
//! The packing follows the load by itself. A message that comes alone leaves alone, at once; while
//! the network thread or the congestion window is busy, messages gather and leave in full packets.
//! Where the application permits a delay, the last packet waits that long to be filled.

use std::{collections::VecDeque, time::Instant};

use bytes::{Bytes, BytesMut};
use quinn_proto::{Connection, SendDatagramError};

use super::{core::Core, hold::Hold, sender::Failure};
use crate::{
    Channel, CloseCode, ConnId, Event,
    datagram::{Messages, prefix},
    send::{ConnBudget, DatagramSize},
    stats::Count,
};

/// Bytes of packed datagrams that QUIC may hold: about two transmissions. More would only delay
/// what is written to streams later, as quinn-proto sends datagrams first.
pub(super) const SEND_BUFFER_BYTES: usize = 128 << 10;

/// Bytes of received datagrams that QUIC may hold until the endpoint's next look; also what is
/// announced as the largest DATAGRAM frame, up to 65,535.
pub(super) const RECEIVE_BUFFER_BYTES: usize = 1 << 20;

/// The sending half.
#[derive(Default)]
pub(super) struct DatagramQueue {
    /// Sequences of encoded messages; the connection's budget bounds their sum.
    waiting: VecDeque<Bytes>,
    hold: Hold,
}

impl DatagramQueue {
    /// Queues encoded messages. The caller has checked kinds, lengths and budget.
    pub(super) fn push(&mut self, now: Instant, messages: Bytes) {
        assert!(!messages.is_empty(), "nothing to send");
        self.hold.pushed(now);
        self.waiting.push_back(messages);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Until when messages wait for company.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.hold.until()
    }

    /// Hands packed datagrams to QUIC while it takes them.
    pub(super) fn flush(
        &mut self,
        now: Instant,
        quic: &mut Connection,
        budget: &ConnBudget,
        core: &mut Core,
    ) {
        self.hold.release();
        // What the peer takes is not enough: quinn-proto sends only what this side takes as well.
        let max = quic.datagrams().max_size().filter(|_| core.datagrams);
        let Some(max) = max else {
            for messages in self.waiting.drain(..) {
                budget.give_back_datagram(messages.len());
                core.stats.messages_dropped_size.inc();
            }
            self.hold.end();
            budget.set_datagram_size(DatagramSize::Unsupported);
            return;
        };
        budget.set_datagram_size(DatagramSize::UpTo(max));
        while !self.waiting.is_empty() && quic.datagrams().send_buffer_space() >= max {
            let is_full = || fills(&self.waiting, max);
            if self.hold.is_on(now, core.flush_after, is_full) {
                return;
            }
            let Some(datagram) = self.pack(max, budget, core) else {
                continue;
            };
            match quic.datagrams().send(datagram, false) {
                Ok(()) => core.stats.message_datagrams_out.inc(),
                Err(SendDatagramError::Blocked(_)) => {
                    unreachable!("there was room for the largest datagram")
                }
                Err(error) => unreachable!("its size is known to be right: {error}"),
            }
        }
        if self.waiting.is_empty() {
            self.hold.end();
        }
    }

    /// Joins messages from the front of the queue into one datagram of at most `max` bytes. `None`
    /// when the first of them no longer fits the path and was dropped.
    fn pack(&mut self, max: usize, budget: &ConnBudget, core: &Core) -> Option<Bytes> {
        let first = self.waiting.pop_front().expect("something waits");
        let (first, mut used) = self.fit(first, max, budget, core)?;
        let follows = |next: Option<&Bytes>, used| next.is_some_and(|n| used + n.len() <= max);
        if !follows(self.waiting.front(), used) {
            return Some(first);
        }
        let mut joined = BytesMut::with_capacity(max);
        joined.extend_from_slice(&first);
        while follows(self.waiting.front(), used) {
            let next = self.waiting.pop_front().expect("it was looked at");
            joined.extend_from_slice(&next);
            used += next.len();
            budget.give_back_datagram(next.len());
        }
        Some(joined.freeze())
    }

    /// Cuts a sequence that has become too long for the path; the rest waits on.
    fn fit(
        &mut self,
        mut messages: Bytes,
        max: usize,
        budget: &ConnBudget,
        core: &Core,
    ) -> Option<(Bytes, usize)> {
        if messages.len() <= max {
            budget.give_back_datagram(messages.len());
            let len = messages.len();
            return Some((messages, len));
        }
        let (mut end, count) = prefix(&messages, max);
        if count == 0 {
            // The path has become narrower than this message.
            end = prefix_of_one(&messages);
            core.stats.messages_dropped_size.inc();
        }
        let head = messages.split_to(end);
        if messages.is_empty() {
            budget.give_back_datagram(head.len());
        } else {
            budget.give_back_datagram_bytes(head.len());
            self.waiting.push_front(messages);
        }
        (count > 0).then(|| {
            let len = head.len();
            (head, len)
        })
    }
}

/// Whether what waits fills a datagram of `max` bytes: the next message would not fit.
fn fills(waiting: &VecDeque<Bytes>, max: usize) -> bool {
    let mut sum = 0;
    waiting.iter().any(|messages| {
        sum += messages.len();
        sum >= max
    })
}

/// Length of the first message of a valid sequence, bytes.
fn prefix_of_one(messages: &[u8]) -> usize {
    let len = u16::from_le_bytes([messages[1], messages[2]]);
    crate::datagram::MESSAGE_HEADER_BYTES + usize::from(len)
}

/// Takes what QUIC received and hands it to the consumer.
pub(super) fn receive(
    conn: ConnId,
    is_validator: bool,
    quic: &mut Connection,
    core: &mut Core,
) -> Result<(), Failure> {
    // The shares of the event budget are those of the channels that the peer may use.
    let share = if is_validator {
        Channel::Bulk
    } else {
        Channel::Client
    };
    while let Some(wire) = quic.datagrams().recv() {
        let messages = Messages::parse(wire)
            .map_err(|error| (CloseCode::BadFrame, format!("datagram: {error}")))?;
        let (count, bytes) = (messages.count() as u64, messages.payload_bytes());
        core.stats.message_datagrams_in.inc();
        if !core.budget.has_room(share) {
            core.stats.messages_dropped_full.add(count);
            continue;
        }
        core.stats.messages_in.add(count);
        core.stats.payload_bytes_delivered.add(bytes as u64);
        let messages = if bytes < core.limits.copy_below_bytes {
            core.stats.payload_bytes_copied.add(bytes as u64);
            messages.copied(&mut core.copies)
        } else {
            messages
        };
        let lease = core.budget.lease(bytes);
        core.events.push_back(Event::Datagram {
            conn,
            messages,
            lease,
        });
    }
    Ok(())
}
