//! The parser of `src/bpf/parse.h` again, in Rust and for reading. The tests run both over
//! generated packets and compare. Layouts: RFC 8200 (IPv6), RFC 768 (UDP), RFC 9000 (QUIC).

use std::net::Ipv6Addr;

use crate::{Cause, FilterConfig};

/// Extension headers that are walked through.
const EXTENSIONS_MAX: usize = 8;
/// Bytes of extension headers that are walked through.
const EXTENSION_BYTES_MAX: usize = 1024;
const VLAN_TAGS_MAX: usize = 2;
/// RFC 9000, section 17.2.
const CID_BYTES_MAX: usize = 20;
/// RFC 9000, section 7.2.
const CID_BYTES_MIN_INITIAL: usize = 8;
/// RFC 9000, section 14.1.
const INITIAL_BYTES_MIN: usize = 1200;
/// RFC 9000, section 10.3.
const DATAGRAM_BYTES_MIN: usize = 21;
/// Packet number and sample, RFC 9001, section 5.4.2.
const PROTECTED_BYTES_MIN: u64 = 20;
const RETRY_TAG_BYTES: usize = 16;

const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPES_VLAN: [u16; 2] = [0x8100, 0x88a8];
const UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// A well-formed packet of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Who sent it, or says so.
    pub source: Ipv6Addr,
    /// Whether it may start a connection: Initial or 0-RTT.
    pub starts: bool,
    /// An Initial in a datagram of less than 1200 bytes, which only a server may send.
    pub small_initial: bool,
    /// Behind a VLAN tag.
    pub tagged: bool,
}

/// What the filter finds out about a frame by itself. `Err` is the final verdict; `Ok` goes on to
/// the lists and budgets.
pub fn parse(frame: &[u8], config: &FilterConfig) -> Result<Packet, Cause> {
    let mut at = 14;
    let mut protocol = u16_at(frame, 12).ok_or(Cause::NotIpv6)?;
    let mut tags = 0;
    while tags < VLAN_TAGS_MAX && ETHERTYPES_VLAN.contains(&protocol) {
        protocol = u16_at(frame, at + 2).ok_or(Cause::NotIpv6)?;
        at += 4;
        tags += 1;
    }
    if protocol != ETHERTYPE_IPV6 {
        return Err(Cause::NotIpv6);
    }
    let ip: &[u8; 40] = array_at(frame, at).ok_or(Cause::NotOurs)?;
    let ip_bytes = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    let source = Ipv6Addr::from(<[u8; 16]>::try_from(&ip[8..24]).expect("16 bytes"));
    let destination = Ipv6Addr::from(<[u8; 16]>::try_from(&ip[24..40]).expect("16 bytes"));
    let payload_at = at + ip.len();
    let chain = walk(frame, payload_at, ip[6])?;
    let udp: &[u8; 8] = array_at(frame, chain.at).ok_or(Cause::NotOurs)?;
    let address = config.address.filter(|address| !address.is_unspecified());
    if u16::from_be_bytes([udp[2], udp[3]]) != config.port
        || address.is_some_and(|address| address != destination)
    {
        return Err(Cause::NotOurs);
    }
    if chain.fragment {
        return Err(Cause::Fragment);
    }
    if chain.extended {
        return Err(Cause::Extension);
    }
    let udp_bytes = usize::from(u16::from_be_bytes([udp[4], udp[5]]));
    if payload_at + ip_bytes > frame.len() {
        return Err(Cause::Truncated);
    }
    if udp_bytes < udp.len() || udp_bytes != ip_bytes {
        return Err(Cause::UdpLength);
    }
    if udp[..2] == [0, 0] {
        return Err(Cause::UdpSource);
    }
    let datagram = &frame[payload_at + udp.len()..payload_at + udp_bytes];
    let (starts, small_initial) = parse_quic(datagram, config)?;
    Ok(Packet {
        source,
        starts,
        small_initial,
        tagged: tags > 0,
    })
}

struct Chain {
    /// Where the UDP header begins.
    at: usize,
    extended: bool,
    fragment: bool,
}

/// Walks through the extension headers (RFC 8200, section 4) to a UDP header.
fn walk(frame: &[u8], payload_at: usize, first: u8) -> Result<Chain, Cause> {
    let is_extension = |next: u8| {
        matches!(
            next,
            HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION
        )
    };
    let mut next = first;
    let mut chain = Chain {
        at: payload_at,
        extended: false,
        fragment: false,
    };
    let mut headers = 0;
    while headers < EXTENSIONS_MAX && is_extension(next) {
        if chain.at > payload_at + EXTENSION_BYTES_MAX {
            return Err(Cause::ExtensionChain);
        }
        let header: &[u8; 8] = array_at(frame, chain.at).ok_or(Cause::NotOurs)?;
        chain.extended = true;
        chain.at += match next {
            FRAGMENT => {
                if u16::from_be_bytes([header[2], header[3]]) & 0xfff8 != 0 {
                    return Err(Cause::LaterFragment);
                }
                chain.fragment = true;
                8
            }
            AUTHENTICATION => (usize::from(header[1]) + 2) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        next = header[0];
        headers += 1;
    }
    if is_extension(next) || chain.at > payload_at + EXTENSION_BYTES_MAX {
        return Err(Cause::ExtensionChain);
    }
    if next != UDP {
        return Err(Cause::NotOurs);
    }
    Ok(chain)
}

/// Whether a datagram may start a connection, and whether it does so in too few bytes.
fn parse_quic(datagram: &[u8], config: &FilterConfig) -> Result<(bool, bool), Cause> {
    if datagram.len() < DATAGRAM_BYTES_MIN {
        return Err(Cause::QuicShort);
    }
    let first = datagram[0];
    if first & 0x80 == 0 {
        return Ok((false, false));
    }
    if datagram[1..5] != [0, 0, 0, 1] {
        return Err(Cause::QuicVersion);
    }
    let (initial, zero_rtt, retry) = match first >> 4 & 3 {
        0 => (true, false, false),
        1 => (false, true, false),
        3 => (false, false, true),
        _ => (false, false, false),
    };
    let starts = initial || zero_rtt;
    let dcid_bytes = usize::from(datagram[5]);
    let ours = dcid_bytes == usize::from(config.cid_bytes);
    if dcid_bytes > CID_BYTES_MAX || !(ours || starts && dcid_bytes >= CID_BYTES_MIN_INITIAL) {
        return Err(Cause::QuicConnectionId);
    }
    let scid_at = 6 + dcid_bytes;
    let scid_bytes = usize::from(*datagram.get(scid_at).ok_or(Cause::QuicTruncated)?);
    if scid_bytes > CID_BYTES_MAX {
        return Err(Cause::QuicConnectionId);
    }
    let rest = datagram
        .get(scid_at + 1 + scid_bytes..)
        .ok_or(Cause::QuicTruncated)?;
    if retry {
        if rest.len() < RETRY_TAG_BYTES {
            return Err(Cause::QuicTruncated);
        }
        return Ok((false, false));
    }
    let mut rest = rest;
    if initial {
        let (token_bytes, after) = varint(rest).ok_or(Cause::QuicTruncated)?;
        rest = usize::try_from(token_bytes)
            .ok()
            .and_then(|token_bytes| after.get(token_bytes..))
            .ok_or(Cause::QuicTruncated)?;
    }
    let (length, rest) = varint(rest).ok_or(Cause::QuicTruncated)?;
    if length < PROTECTED_BYTES_MIN || length > rest.len() as u64 {
        return Err(Cause::QuicTruncated);
    }
    Ok((starts, initial && datagram.len() < INITIAL_BYTES_MIN))
}

/// A variable-length integer (RFC 9000, section 16) and what follows it.
fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let first = *bytes.first()?;
    let (number, rest) = bytes.split_at_checked(1 << (first >> 6))?;
    let value = number
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte));
    Some((value & (u64::MAX >> (66 - 8 * number.len())), rest))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array_at(bytes, at).map(|two| u16::from_be_bytes(*two))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of RFC 9000, appendix A.1.
    #[test]
    fn integers_of_the_standard_are_read() {
        let examples: [(&[u8], u64); 5] = [
            (
                &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c],
                151_288_809_941_952_652,
            ),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
            (&[0x40, 0x25], 37),
        ];
        for (bytes, value) in examples {
            assert_eq!(varint(bytes), Some((value, &[][..])));
            assert_eq!(varint(&bytes[..bytes.len() - 1]), None);
        }
    }
}
