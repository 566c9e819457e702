//! Sending datagrams through a handle. Messages are encoded on the calling thread, packet by
//! packet, so that the network thread has little to do for each.

use bytes::{Bytes, BytesMut};

use super::StoqHandle;
use crate::{
    ConnId, KIND_APPLICATION_MIN, SendError,
    datagram::{self, MESSAGE_BYTES_MAX, MESSAGE_HEADER_BYTES},
    send::{Command, ConnBudget, DatagramSize},
    stats::Count,
};

impl StoqHandle {
    /// Longest payload of one message in a datagram of this connection at present, bytes. It grows
    /// when a larger MTU is found and may shrink again. `None` when the connection has ended, or
    /// one of the sides takes no datagrams.
    pub fn datagram_payload_bytes_max(&self, conn: ConnId) -> Option<usize> {
        payload_bytes_max(&*self.0.registry.get(conn).ok()?).ok()
    }

    /// Queues one message as, or in, a QUIC datagram (RFC 9221): unreliable and unordered. It
    /// leaves at once when the connection is idle; while it is busy, messages that wait share
    /// packets. A message that was taken is lost when the network, or the receiver for lack of
    /// room, drops it.
    pub fn send_datagram(
        &self,
        conn: ConnId,
        kind: u8,
        payload: impl AsRef<[u8]>,
    ) -> Result<(), SendError> {
        self.send_datagrams(conn, [(kind, payload)]).map(|_| ())
    }

    /// As [`send_datagram`](Self::send_datagram) for many messages, which is cheaper for each.
    /// Returns how many were taken: all, or those before the first that was not, for want of room
    /// or because it breaks a rule. An error when not even the first was taken.
    pub fn send_datagrams<P: AsRef<[u8]>>(
        &self,
        conn: ConnId,
        messages: impl IntoIterator<Item = (u8, P)>,
    ) -> Result<usize, SendError> {
        let (taken, stopped) = match self.0.registry.get(conn) {
            Ok(budget) => self.pack(conn, &budget, messages),
            Err(error) => (0, Some(error)),
        };
        self.0.stats.messages_out.add(taken as u64);
        match stopped {
            Some(error) if taken == 0 => {
                self.count_refusal(error);
                Err(error)
            }
            _ => Ok(taken),
        }
    }

    /// Packs messages into datagrams and queues these. Returns how many messages were taken, and
    /// why not all.
    fn pack<P: AsRef<[u8]>>(
        &self,
        conn: ConnId,
        budget: &ConnBudget,
        messages: impl IntoIterator<Item = (u8, P)>,
    ) -> (usize, Option<SendError>) {
        let payload_max = match payload_bytes_max(budget) {
            Ok(max) => max,
            Err(error) => return (0, Some(error)),
        };
        let datagram_max = payload_max + MESSAGE_HEADER_BYTES;
        let (mut taken, mut packed) = (0, 0);
        let mut datagram = BytesMut::new();
        let mut stopped = None;
        for (kind, payload) in messages {
            let payload = payload.as_ref();
            if let Err(error) = check(kind, payload.len(), payload_max) {
                stopped = Some(error);
                break;
            }
            let len = MESSAGE_HEADER_BYTES + payload.len();
            if packed > 0 && datagram.len() + len > datagram_max {
                if let Err(error) = self.queue(conn, budget, datagram.split().freeze()) {
                    return (taken, Some(error));
                }
                taken += std::mem::take(&mut packed);
                // More than one datagram of them: the next will be full as well.
                datagram.reserve(datagram_max);
            }
            datagram::encode(&mut datagram, kind, payload);
            packed += 1;
        }
        if packed > 0 {
            match self.queue(conn, budget, datagram.freeze()) {
                Ok(()) => taken += packed,
                Err(error) => stopped = Some(error),
            }
        }
        (taken, stopped)
    }

    fn queue(&self, conn: ConnId, budget: &ConnBudget, messages: Bytes) -> Result<(), SendError> {
        let len = messages.len();
        budget.take_datagram(len, self.0.limits.datagram_queue_bytes_max)?;
        let thread = conn.thread(self.threads());
        self.command(thread, Command::Datagram { conn, messages })
            .inspect_err(|_| budget.give_back_datagram(len))
    }
}

fn payload_bytes_max(budget: &ConnBudget) -> Result<usize, SendError> {
    match budget.datagram_size() {
        DatagramSize::Unsupported => Err(SendError::DatagramsUnsupported),
        DatagramSize::UpTo(bytes) => Ok(bytes
            .saturating_sub(MESSAGE_HEADER_BYTES)
            .min(MESSAGE_BYTES_MAX)),
    }
}

fn check(kind: u8, len: usize, max: usize) -> Result<(), SendError> {
    if kind < KIND_APPLICATION_MIN {
        Err(SendError::ReservedKind(kind))
    } else if len > max {
        Err(SendError::TooLong { len, max })
    } else {
        Ok(())
    }
}
