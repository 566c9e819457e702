//! Channels: what kind of traffic a stream carries, how urgent it is and how large its frames
//! may be.
//!
//! A QUIC stream announces its channel in its first byte. Only unidirectional streams exist in
//! STOQ; see `docs/stoq.md`, "Streams".

/// First frame kind that an application may use; smaller ones belong to STOQ itself.
pub const KIND_APPLICATION_MIN: u8 = 16;

/// What a stream carries. The channel decides order, priority, frame size and who may use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Channel {
    /// Consensus traffic between trusted peers: one long-lived ordered stream in each
    /// direction, sent before everything else.
    Control = 1,
    /// Large payloads between trusted peers, unordered, lowest priority: each large frame on a
    /// stream of its own, small ones that wait together share a stream.
    Bulk = 2,
    /// Submissions and receipts: one long-lived ordered stream in each direction. The only
    /// channel that an anonymous peer may use.
    Client = 3,
}

impl Channel {
    /// Every channel, in order of urgency.
    pub const ALL: [Channel; 3] = [Channel::Control, Channel::Client, Channel::Bulk];

    /// The first byte of a stream of this channel.
    pub const fn to_wire(self) -> u8 {
        self as u8
    }

    /// The channel that a stream's first byte announces, `None` for an unknown one.
    pub const fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Channel::Control),
            2 => Some(Channel::Bulk),
            3 => Some(Channel::Client),
            _ => None,
        }
    }

    /// Priority among the streams of one connection; larger goes first.
    pub(crate) const fn priority(self) -> i32 {
        match self {
            Channel::Control => 2,
            Channel::Client => 1,
            Channel::Bulk => 0,
        }
    }

    /// Dense index, for tables with an entry per channel.
    pub(crate) const fn index(self) -> usize {
        self as usize - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_three_bytes_name_a_channel() {
        let known: Vec<u8> = (0..=255)
            .filter(|byte| Channel::from_wire(*byte).is_some())
            .collect();
        assert_eq!(known, [1, 2, 3]);
        for channel in Channel::ALL {
            assert_eq!(Channel::from_wire(channel.to_wire()), Some(channel));
        }
    }
}
