//! The kinds of packets that the filter tells apart, as frames.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::str::FromStr;

use falconet_ebpf::Prefix;
use falconet_ebpf::live::udp_frame;

use crate::cluster::STRANGER;

/// Source port of junk.
const PORT: u16 = 9;
/// Where the parts of a frame begin: next header and payload length of IPv6, what follows its
/// header, and the length of UDP.
const NEXT_HEADER_AT: usize = 20;
const PAYLOAD_LENGTH_AT: usize = 18;
const PAYLOAD_AT: usize = 54;
const UDP_LENGTH_AT: usize = 58;
/// Length of a first packet, bytes (RFC 9000, section 14.1).
const INITIAL_BYTES: usize = 1200;
/// Length of a packet of an established connection, bytes: that of an acknowledgement with some
/// data.
const SHORT_BYTES: usize = 100;

macro_rules! kinds {
    ($($kind:ident $name:literal $what:literal;)*) => {
        /// What a flood is made of.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum FloodKind {
            $(#[doc = $what] $kind,)*
        }

        impl FloodKind {
            /// All of them.
            pub const ALL: &[FloodKind] = &[$(FloodKind::$kind),*];

            /// Its name on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(FloodKind::$kind => $name,)* }
            }
        }
    };
}

kinds! {
    Mixed "mixed" "Five kinds of malformed packets in turn, sent through a socket.";
    Short "short" "Too short for QUIC.";
    Version "version" "A version that nobody speaks.";
    ConnectionId "connection-id" "A connection id longer than 20 bytes.";
    Truncated "truncated" "The frame ends before the packet does.";
    UdpLength "udp-length" "The UDP length contradicts that of the packet.";
    Fragment "fragment" "First fragments.";
    Extension "extension" "Behind an extension header.";
    SmallInitial "small-initial" "First packets below 1200 bytes.";
    Blocked "blocked" "Well-formed packets from a prefix on the block list.";
    Packets "packets" "Packets of connections that do not exist, from one source.";
    ForgedPackets "forged-packets" "The same, each from another prefix.";
    Initials "initials" "A client's true first packet, again and again, from one source.";
    ForgedInitials "forged-initials" "The same, each from another prefix.";
}

impl fmt::Display for FloodKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for FloodKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|kind| kind.name() == name);
        found.copied().ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|kind| kind.name()).collect();
            format!("no kind of flood; choose one of: {}", names.join(", "))
        })
    }
}

impl FloodKind {
    /// Whether each frame has another source prefix, so that nothing on the way can join them.
    #[must_use]
    pub fn is_forged(self) -> bool {
        !matches!(
            self,
            Self::Mixed | Self::Blocked | Self::Packets | Self::Initials
        )
    }

    /// Whether it needs a true first packet of a client.
    #[must_use]
    pub fn needs_initial(self) -> bool {
        matches!(self, Self::Initials | Self::ForgedInitials)
    }

    /// The prefix that must be on the block list for this kind to be what it says.
    #[must_use]
    pub fn blocked(self) -> Option<Prefix> {
        (self == Self::Blocked).then(|| Prefix::new(self.source(), 64))
    }

    fn source(self) -> Ipv6Addr {
        match self {
            Self::Blocked => Ipv6Addr::new(0xfdfa, 0x1c, 0, 0xb10c, 0, 0, 0, 1),
            // Where the generator puts a number and its complement.
            _ if self.is_forged() => Ipv6Addr::new(0xfdfa, 0x1c, 0, 0, 0xffff, 0xffff, 0, 1),
            _ => STRANGER,
        }
    }

    /// The frame; `initial` is the datagram of a client's first packet.
    ///
    /// # Panics
    /// For [`FloodKind::Mixed`], which is no single frame.
    #[must_use]
    pub fn frame(self, macs: [[u8; 6]; 2], to: SocketAddrV6, initial: &[u8]) -> Vec<u8> {
        let from = SocketAddrV6::new(self.source(), PORT, 0, 0);
        let datagram = match self {
            Self::Mixed => panic!("several frames"),
            Self::Initials | Self::ForgedInitials => initial.to_vec(),
            Self::Version => long([0x1a, 0x2a, 0x3a, 0x4a], 8, INITIAL_BYTES),
            Self::ConnectionId => long([0, 0, 0, 1], 21, INITIAL_BYTES),
            Self::SmallInitial => long([0, 0, 0, 1], 8, INITIAL_BYTES / 2),
            Self::Short => short(20),
            _ => short(SHORT_BYTES),
        };
        let mut frame = udp_frame(macs, from, to, &datagram);
        match self {
            Self::Truncated => frame.truncate(frame.len() - SHORT_BYTES / 2),
            Self::UdpLength => frame[UDP_LENGTH_AT] ^= 1,
            // Offset 0, more fragments, an identification.
            Self::Fragment => extend(&mut frame, 44, [0, 0, 0, 1, 0, 0, 0, 7]),
            // Destination options, padded.
            Self::Extension => extend(&mut frame, 60, [0, 0, 1, 4, 0, 0, 0, 0]),
            _ => {}
        }
        frame
    }
}

/// A packet of an established connection.
fn short(bytes: usize) -> Vec<u8> {
    let mut packet = vec![0x5a; bytes];
    packet[0] = 0x40;
    packet
}

/// A first packet that nobody can decrypt.
fn long(version: [u8; 4], cid_bytes: u8, bytes: usize) -> Vec<u8> {
    let mut packet = vec![0xc0];
    packet.extend(version);
    packet.push(cid_bytes);
    packet.resize(packet.len() + usize::from(cid_bytes), 7);
    // No connection id of its own, no token, and the rest as the packet.
    packet.extend([0, 0]);
    let length = (bytes - packet.len() - 2) as u16;
    packet.extend((0x4000 | length).to_be_bytes());
    packet.resize(bytes, 0x5a);
    packet
}

/// Puts an extension header of 8 bytes before UDP.
fn extend(frame: &mut Vec<u8>, kind: u8, mut header: [u8; 8]) {
    header[0] = std::mem::replace(&mut frame[NEXT_HEADER_AT], kind);
    frame.splice(PAYLOAD_AT..PAYLOAD_AT, header);
    let length = (frame.len() - PAYLOAD_AT) as u16;
    frame[PAYLOAD_LENGTH_AT..PAYLOAD_LENGTH_AT + 2].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use falconet_ebpf::parse::parse;
    use falconet_ebpf::{Cause, FilterConfig};

    use super::*;

    #[test]
    fn each_kind_is_what_its_name_says() {
        let to = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 26600, 0, 0);
        let config = FilterConfig::new(to.port());
        let initial = long([0, 0, 0, 1], 8, INITIAL_BYTES);
        for kind in FloodKind::ALL {
            let expected = match kind {
                FloodKind::Mixed => continue,
                FloodKind::Short => Some(Cause::QuicShort),
                FloodKind::Version => Some(Cause::QuicVersion),
                FloodKind::ConnectionId => Some(Cause::QuicConnectionId),
                FloodKind::Truncated => Some(Cause::Truncated),
                FloodKind::UdpLength => Some(Cause::UdpLength),
                FloodKind::Fragment => Some(Cause::Fragment),
                FloodKind::Extension => Some(Cause::Extension),
                // The lists and the budgets decide.
                _ => None,
            };
            let parsed = parse(&kind.frame([[2; 6], [4; 6]], to, &initial), &config);
            assert_eq!(parsed.err(), expected, "{kind}");
            let starts = parsed.is_ok_and(|packet| packet.starts);
            assert_eq!(
                starts,
                kind.needs_initial() || *kind == FloodKind::SmallInitial
            );
            let small = parsed.is_ok_and(|packet| packet.small_initial);
            assert_eq!(small, *kind == FloodKind::SmallInitial);
            let from = parsed.map(|packet| Prefix::new(packet.source, 64)).ok();
            assert!(kind.blocked().is_none_or(|prefix| from == Some(prefix)));
        }
    }

    #[test]
    fn names_are_read_back() {
        for kind in FloodKind::ALL {
            assert_eq!(kind.name().parse(), Ok(*kind));
        }
        assert!("nothing".parse::<FloodKind>().is_err());
    }
}
