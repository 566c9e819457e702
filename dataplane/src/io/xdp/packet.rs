//! Ethernet, IPv6 and UDP headers as AF_XDP needs them: it carries whole packets, and no offload
//! computes a checksum.
//!
//! Rules: RFC 8200 (IPv6; the UDP checksum is mandatory, section 8.1), RFC 768, RFC 1071
//! (checksum). Only packets without extension headers are ours; the XDP program leaves all others
//! to the kernel.

use std::net::{Ipv6Addr, SocketAddrV6};

use quinn_proto::EcnCodepoint;

/// A hardware address.
pub(super) type Mac = [u8; 6];

const ETHERNET_BYTES: usize = 14;
const IPV6_BYTES: usize = 40;
const UDP_BYTES: usize = 8;

/// What precedes a UDP payload, bytes.
pub(super) const HEADERS_BYTES: usize = ETHERNET_BYTES + IPV6_BYTES + UDP_BYTES;

/// IPv6 and UDP headers, which count against the device's MTU, bytes.
pub(super) const IP_UDP_BYTES: usize = IPV6_BYTES + UDP_BYTES;

/// Ethernet header, and a VLAN tag that a device may leave in place: what a frame carries beside
/// the MTU, bytes.
pub(super) const LINK_BYTES: u32 = ETHERNET_BYTES as u32 + 4;

/// EtherType of IPv6.
pub(super) const ETHERTYPE_IPV6: u16 = 0x86dd;

/// The protocol number of UDP.
pub(super) const PROTOCOL_UDP: u8 = 17;

/// RFC 1700 and the kernel's default.
const HOP_LIMIT: u8 = 64;

/// From where to where a packet travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) source_mac: Mac,
    pub(super) destination_mac: Mac,
    pub(super) source: Ipv6Addr,
    pub(super) source_port: u16,
    pub(super) destination: Ipv6Addr,
    pub(super) destination_port: u16,
}

/// A datagram in a packet that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Datagram<'a> {
    /// The sender; scope 0.
    pub(super) from: SocketAddrV6,
    /// The address and port that it was sent to; scope 0.
    pub(super) to: SocketAddrV6,
    pub(super) ecn: Option<EcnCodepoint>,
    pub(super) payload: &'a [u8],
}

/// Why a packet is none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    /// Not IPv6 with UDP directly behind it.
    Protocol,
    /// Shorter than its headers say, or lengths that contradict each other.
    Length,
    /// The UDP checksum is zero or wrong.
    Checksum,
}

/// Writes a packet; returns its length, bytes. `frame` must have room for the headers and the
/// payload.
pub(super) fn encode(
    frame: &mut [u8],
    addresses: &Addresses,
    ecn: Option<EcnCodepoint>,
    payload: &[u8],
) -> usize {
    let udp_len = u16::try_from(UDP_BYTES + payload.len()).expect("a datagram fits its length");
    let total = HEADERS_BYTES + payload.len();
    let packet = &mut frame[..total];
    packet[0..6].copy_from_slice(&addresses.destination_mac);
    packet[6..12].copy_from_slice(&addresses.source_mac);
    packet[12..14].copy_from_slice(&ETHERTYPE_IPV6.to_be_bytes());
    // Version 6, traffic class (of which the low two bits are ECN), flow label 0.
    let class = ecn.map_or(0, |ecn| ecn as u32);
    packet[14..18].copy_from_slice(&(6 << 28 | class << 20).to_be_bytes());
    packet[18..20].copy_from_slice(&udp_len.to_be_bytes());
    packet[20] = PROTOCOL_UDP;
    packet[21] = HOP_LIMIT;
    packet[22..38].copy_from_slice(&addresses.source.octets());
    packet[38..54].copy_from_slice(&addresses.destination.octets());
    packet[54..56].copy_from_slice(&addresses.source_port.to_be_bytes());
    packet[56..58].copy_from_slice(&addresses.destination_port.to_be_bytes());
    packet[58..60].copy_from_slice(&udp_len.to_be_bytes());
    packet[60..62].fill(0);
    packet[HEADERS_BYTES..].copy_from_slice(payload);
    let pseudo = pseudo_header_sum(&packet[22..54], udp_len);
    let checksum = match !fold(pseudo + sum(&packet[54..])) {
        // Zero would mean "none"; its other representation is sent (RFC 768).
        0 => 0xffff,
        checksum => checksum,
    };
    packet[60..62].copy_from_slice(&checksum.to_be_bytes());
    total
}

/// Reads a packet. Bytes behind the datagram are padding and ignored.
pub(super) fn decode(packet: &[u8]) -> Result<Datagram<'_>, Malformed> {
    let (headers, behind) = packet
        .split_first_chunk::<HEADERS_BYTES>()
        .ok_or(Malformed::Length)?;
    let u16_at = |at: usize| u16::from_be_bytes([headers[at], headers[at + 1]]);
    if u16_at(12) != ETHERTYPE_IPV6 || headers[14] >> 4 != 6 || headers[20] != PROTOCOL_UDP {
        return Err(Malformed::Protocol);
    }
    let udp_len = u16_at(58);
    let payload_len = usize::from(udp_len)
        .checked_sub(UDP_BYTES)
        .ok_or(Malformed::Length)?;
    // With UDP directly behind IPv6 both lengths say the same.
    if u16_at(18) != udp_len {
        return Err(Malformed::Length);
    }
    let payload = behind.get(..payload_len).ok_or(Malformed::Length)?;
    let checksum = u16_at(60);
    let pseudo = pseudo_header_sum(&headers[22..54], udp_len);
    // A sender on this machine leaves the rest to a device that never sees the packet (veth,
    // CHECKSUM_PARTIAL): the field then holds the sum of the pseudo header.
    let is_partial = checksum == fold(pseudo);
    if checksum == 0 || !is_partial && fold(pseudo + sum(&headers[54..]) + sum(payload)) != 0xffff {
        return Err(Malformed::Checksum);
    }
    let class = headers[14] << 4 | headers[15] >> 4;
    let address = |at: usize, port| {
        let octets: [u8; 16] = headers[at..at + 16].try_into().expect("sixteen bytes");
        SocketAddrV6::new(octets.into(), port, 0, 0)
    };
    Ok(Datagram {
        from: address(22, u16_at(54)),
        to: address(38, u16_at(56)),
        ecn: EcnCodepoint::from_bits(class & 0b11),
        payload,
    })
}

/// Sum of the pseudo header (RFC 8200, section 8.1): both addresses, length, protocol.
fn pseudo_header_sum(addresses: &[u8], udp_len: u16) -> u64 {
    sum(addresses) + u64::from(udp_len) + u64::from(PROTOCOL_UDP)
}

/// Sum of big-endian 16-bit words, not folded; an odd byte is the high half of a word (RFC 1071).
/// The sums of consecutive slices may be added as long as all but the last have even lengths.
fn sum(bytes: &[u8]) -> u64 {
    // Words of 32 bits: 2^32 of them fit the accumulator. Their halves are joined by `fold`.
    let (words, rest) = bytes.as_chunks::<4>();
    let mut total: u64 = words
        .iter()
        .map(|word| u64::from(u32::from_be_bytes(*word)))
        .sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    total += u64::from(u32::from_be_bytes(last));
    total
}

/// Folds a sum to 16 bits with end-around carry.
fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addresses() -> impl Strategy<Value = Addresses> {
        (
            any::<[u8; 6]>(),
            any::<[u8; 6]>(),
            any::<[u8; 16]>(),
            any::<u16>(),
            any::<[u8; 16]>(),
            any::<u16>(),
        )
            .prop_map(|(m, n, source, source_port, destination, port)| Addresses {
                source_mac: m,
                destination_mac: n,
                source: source.into(),
                source_port,
                destination: destination.into(),
                destination_port: port,
            })
    }

    fn ecn() -> impl Strategy<Value = Option<EcnCodepoint>> {
        (0u8..4).prop_map(EcnCodepoint::from_bits)
    }

    /// The checksum as RFC 8200 and RFC 1071 write it: one 16-bit word after the other.
    fn reference_checksum(source: Ipv6Addr, destination: Ipv6Addr, udp: &[u8]) -> u16 {
        let mut bytes = Vec::new();
        bytes.extend(source.octets());
        bytes.extend(destination.octets());
        bytes.extend((udp.len() as u32).to_be_bytes());
        bytes.extend([0, 0, 0, 17]);
        bytes.extend(udp);
        bytes.extend(vec![0; bytes.len() % 2]);
        let mut sum = 0u16;
        for word in bytes.chunks(2) {
            let (next, carry) = sum.overflowing_add(u16::from_be_bytes([word[0], word[1]]));
            sum = next + u16::from(carry);
        }
        !sum
    }

    proptest! {
        #[test]
        fn what_is_written_can_be_read(
            addresses in addresses(),
            ecn in ecn(),
            payload in proptest::collection::vec(any::<u8>(), 0..1500),
            padding in 0usize..40,
        ) {
            let mut frame = vec![0xaa; HEADERS_BYTES + payload.len() + padding];
            let len = encode(&mut frame, &addresses, ecn, &payload);
            prop_assert_eq!(len, HEADERS_BYTES + payload.len());
            for packet in [&frame[..len], &frame[..]] {
                let datagram = decode(packet).unwrap();
                prop_assert_eq!(*datagram.from.ip(), addresses.source);
                prop_assert_eq!(datagram.from.port(), addresses.source_port);
                prop_assert_eq!(*datagram.to.ip(), addresses.destination);
                prop_assert_eq!(datagram.to.port(), addresses.destination_port);
                prop_assert_eq!(datagram.ecn, ecn);
                prop_assert_eq!(datagram.payload, &payload[..]);
            }
        }

        #[test]
        fn the_checksum_is_the_reference(
            addresses in addresses(),
            payload in proptest::collection::vec(any::<u8>(), 0..1500),
        ) {
            let mut frame = vec![0; HEADERS_BYTES + payload.len()];
            encode(&mut frame, &addresses, None, &payload);
            let written = u16::from_be_bytes([frame[60], frame[61]]);
            frame[60..62].fill(0);
            let expected =
                reference_checksum(addresses.source, addresses.destination, &frame[54..]);
            prop_assert_eq!(written, if expected == 0 { 0xffff } else { expected });
        }

        #[test]
        fn one_changed_bit_is_noticed_or_harmless(
            addresses in addresses(),
            payload in proptest::collection::vec(any::<u8>(), 1..300),
            at in any::<prop::sample::Index>(),
            bit in 0u32..8,
        ) {
            let mut frame = vec![0; HEADERS_BYTES + payload.len()];
            encode(&mut frame, &addresses, None, &payload);
            let at = at.index(frame.len());
            frame[at] ^= 1 << bit;
            // Covered by neither checksum nor parser: hardware addresses, traffic class, flow
            // label, hop limit.
            let is_uncovered = at < 12 || (14..18).contains(&at) || at == 21;
            match decode(&frame) {
                Ok(datagram) if is_uncovered => prop_assert_eq!(datagram.payload, &payload[..]),
                // The price of accepting partial checksums: one value more in 65,536.
                Ok(_) => {
                    let udp_len = u16::from_be_bytes([frame[58], frame[59]]);
                    let partial = fold(pseudo_header_sum(&frame[22..54], udp_len));
                    prop_assert_eq!([frame[60], frame[61]], partial.to_be_bytes(), "byte {}", at);
                }
                Err(_) => prop_assert!(!is_uncovered || at == 14, "byte {}", at),
            }
        }

        /// Anything may come from the wire; with a plausible beginning the depths are reached.
        #[test]
        fn random_bytes_never_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
            plausible in any::<bool>(),
            udp_len in 0u16..200,
        ) {
            if plausible && bytes.len() >= HEADERS_BYTES {
                bytes[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
                bytes[18..20].copy_from_slice(&udp_len.to_be_bytes());
                bytes[20] = PROTOCOL_UDP;
                bytes[58..60].copy_from_slice(&udp_len.to_be_bytes());
                let partial = fold(pseudo_header_sum(&bytes[22..54], udp_len));
                bytes[60..62].copy_from_slice(&partial.to_be_bytes());
                let fits = (UDP_BYTES..=bytes.len() - 54).contains(&usize::from(udp_len));
                let expected = fits && partial != 0;
                prop_assert_eq!(decode(&bytes).is_ok(), expected);
            }
            if let Ok(datagram) = decode(&bytes) {
                prop_assert!(datagram.payload.len() + HEADERS_BYTES <= bytes.len());
            }
        }

        #[test]
        fn any_truncation_is_noticed(
            addresses in addresses(),
            payload in proptest::collection::vec(any::<u8>(), 0..100),
        ) {
            let mut frame = vec![0; HEADERS_BYTES + payload.len()];
            let len = encode(&mut frame, &addresses, None, &payload);
            for short in 0..len {
                prop_assert_eq!(decode(&frame[..short]), Err(Malformed::Length));
            }
        }
    }

    #[test]
    fn other_protocols_and_a_missing_checksum_are_refused() {
        let addresses = Addresses {
            source_mac: [2; 6],
            destination_mac: [4; 6],
            source: Ipv6Addr::LOCALHOST,
            source_port: 1,
            destination: Ipv6Addr::LOCALHOST,
            destination_port: 2,
        };
        let mut good = vec![0; HEADERS_BYTES + 4];
        encode(&mut good, &addresses, None, b"abcd");
        for (at, value, expected) in [
            (12, 0x08, Malformed::Protocol),
            (14, 0x40, Malformed::Protocol),
            (20, 6, Malformed::Protocol),
            (20, 44, Malformed::Protocol),
            (19, 11, Malformed::Length),
            (61, good[61] ^ 1, Malformed::Checksum),
        ] {
            let mut bad = good.clone();
            bad[at] = value;
            assert_eq!(decode(&bad), Err(expected), "byte {at} = {value}");
        }
        let mut none = good.clone();
        none[60..62].fill(0);
        assert_eq!(decode(&none), Err(Malformed::Checksum));
        // What veth leaves: the pseudo header's sum.
        let mut partial = good;
        let sum = fold(pseudo_header_sum(&partial[22..54], 12));
        partial[60..62].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(decode(&partial).unwrap().payload, b"abcd");
    }
}
