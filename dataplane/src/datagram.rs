//! Messages of a QUIC datagram (RFC 9221): several small messages share one DATAGRAM frame. See
//! `docs/stoq.md`, "Datagrams".
//!
//! ```text
//! +------+----------------+=========+------+----------------+=========+
//! | kind | length, LE u16 | payload | kind | length, LE u16 | payload | …
//! +------+----------------+=========+------+----------------+=========+
//! ```
//!
//! The encoding concatenates: two sequences of messages, one after the other, are a sequence of
//! messages. So the sending thread encodes, and the network thread joins whatever waits until a
//! packet is full.

use bytes::{BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::{KIND_APPLICATION_MIN, pool::SmallCopies};

/// Length of a message's header in a datagram, bytes.
pub const MESSAGE_HEADER_BYTES: usize = 3;

/// Longest payload of a message that the header can express, bytes. The path sets a smaller limit.
pub(crate) const MESSAGE_BYTES_MAX: usize = u16::MAX as usize;

/// The messages of one received datagram, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Messages {
    wire: Bytes,
    count: usize,
}

/// Why a datagram is not a sequence of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum MessageError {
    #[error("a datagram holds no message")]
    Empty,
    #[error("a datagram ends within a message")]
    Truncated,
    #[error("message kind {0} is reserved")]
    ReservedKind(u8),
}

impl Messages {
    /// Checks a received datagram.
    pub(crate) fn parse(wire: Bytes) -> Result<Self, MessageError> {
        let mut rest = &wire[..];
        let mut count = 0;
        while let Some((kind, payload)) = split(&mut rest)? {
            if kind < KIND_APPLICATION_MIN {
                return Err(MessageError::ReservedKind(kind));
            }
            let _ = payload;
            count += 1;
        }
        if count == 0 {
            return Err(MessageError::Empty);
        }
        Ok(Messages { wire, count })
    }

    /// How many messages there are; at least one.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Payload bytes of all messages together.
    pub fn payload_bytes(&self) -> usize {
        self.wire.len() - self.count * MESSAGE_HEADER_BYTES
    }

    /// Kind and payload of each message, in the order in which they were sent.
    pub fn iter(&self) -> impl Iterator<Item = (u8, &[u8])> {
        let mut rest = &self.wire[..];
        std::iter::from_fn(move || split(&mut rest).expect("checked by parse"))
    }

    /// As [`iter`](Self::iter), with payloads that may be kept: slices of the datagram.
    pub fn iter_bytes(&self) -> impl Iterator<Item = (u8, Bytes)> {
        self.iter()
            .map(|(kind, payload)| (kind, self.wire.slice_ref(payload)))
    }

    /// The same messages in memory of their own.
    pub(crate) fn copied(self, copies: &mut SmallCopies) -> Self {
        Messages {
            wire: copies.copy(&self.wire),
            count: self.count,
        }
    }
}

/// Appends a message.
pub(crate) fn encode(to: &mut BytesMut, kind: u8, payload: &[u8]) {
    let len = u16::try_from(payload.len()).expect("lengths are checked before queueing");
    to.put_u8(kind);
    to.put_u16_le(len);
    to.put_slice(payload);
}

/// Length of the longest prefix of whole messages of a valid sequence that fits in `max` bytes,
/// and how many messages it holds.
pub(crate) fn prefix(wire: &[u8], max: usize) -> (usize, usize) {
    let (mut rest, mut fitting) = (wire, (0, 0));
    while split(&mut rest).expect("encoded here").is_some() {
        let end = wire.len() - rest.len();
        if end > max {
            break;
        }
        fitting = (end, fitting.1 + 1);
    }
    fitting
}

/// Takes the next message from the front of `rest`.
fn split<'a>(rest: &mut &'a [u8]) -> Result<Option<(u8, &'a [u8])>, MessageError> {
    if rest.is_empty() {
        return Ok(None);
    }
    let Some((&[kind, low, high], tail)) = rest.split_first_chunk() else {
        return Err(MessageError::Truncated);
    };
    let len = usize::from(u16::from_le_bytes([low, high]));
    let (payload, tail) = tail.split_at_checked(len).ok_or(MessageError::Truncated)?;
    *rest = tail;
    Ok(Some((kind, payload)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_on_the_wire() {
        let mut wire = BytesMut::new();
        encode(&mut wire, 16, b"ab");
        encode(&mut wire, 255, b"");
        assert_eq!(wire[..], [16, 2, 0, b'a', b'b', 255, 0, 0]);
        let messages = Messages::parse(wire.freeze()).unwrap();
        assert_eq!((messages.count(), messages.payload_bytes()), (2, 2));
        let all: Vec<(u8, &[u8])> = messages.iter().collect();
        assert_eq!(all, [(16, &b"ab"[..]), (255, b"")]);
    }

    #[test]
    fn what_is_no_sequence_of_messages_is_refused() {
        let parse = |wire: &'static [u8]| Messages::parse(Bytes::from_static(wire)).unwrap_err();
        assert_eq!(parse(&[]), MessageError::Empty);
        assert_eq!(parse(&[16, 0]), MessageError::Truncated);
        assert_eq!(parse(&[16, 1, 0]), MessageError::Truncated);
        assert_eq!(parse(&[16, 0, 0, 15, 0, 0]), MessageError::ReservedKind(15));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read_as_they_were_written(wire: Vec<u8>) {
            let wire = Bytes::from(wire);
            if let Ok(messages) = Messages::parse(wire.clone()) {
                let mut again = BytesMut::new();
                for (kind, payload) in messages.iter_bytes() {
                    encode(&mut again, kind, &payload);
                }
                prop_assert_eq!(again.freeze(), wire);
            }
        }

        #[test]
        fn a_prefix_holds_as_many_whole_messages_as_fit(
            lens in prop::collection::vec(0usize..100, 1..20),
            max in 0usize..600,
        ) {
            let mut wire = BytesMut::new();
            for len in &lens {
                encode(&mut wire, 16, &vec![7; *len]);
            }
            let (end, count) = prefix(&wire, max);
            let sum = |n: usize| lens[..n].iter().map(|len| len + MESSAGE_HEADER_BYTES).sum::<usize>();
            prop_assert_eq!(end, sum(count));
            prop_assert!(end <= max);
            prop_assert!(count == lens.len() || sum(count + 1) > max);
        }
    }
}
