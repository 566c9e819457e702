//! Addresses and ancillary data of `recvmsg` and `sendmsg`: segment size, traffic class, local
//! address.

use std::{
    mem::MaybeUninit,
    net::{Ipv6Addr, SocketAddrV6},
};

use quinn_proto::{EcnCodepoint, Transmit};

/// Room for the ancillary data of one message, bytes, aligned as `cmsghdr` demands.
pub(super) type Control = [u64; 16];

/// Length of [`Control`], bytes.
pub(super) const CONTROL_BYTES: usize = size_of::<Control>();

/// What a received message carries beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Meta {
    /// Size of each datagram in a reception that GRO joined.
    pub(super) segment_bytes: Option<usize>,
    pub(super) ecn: Option<EcnCodepoint>,
    pub(super) local_ip: Option<Ipv6Addr>,
}

/// Reads the ancillary data in `control`: a sequence of `cmsghdr` with data, as the kernel wrote
/// it. Unknown or malformed entries are skipped.
pub(super) fn decode(mut control: &[u8]) -> Meta {
    let mut meta = Meta::default();
    while let Some((header, _)) = control.split_first_chunk::<HEADER_BYTES>() {
        let [len, level_type] = [0, 8].map(|at| {
            u64::from_ne_bytes(
                header[at..at + 8]
                    .try_into()
                    .expect("eight bytes of sixteen"),
            )
        });
        let [level, kind] = level_and_type(level_type);
        let Ok(len) = usize::try_from(len) else { break };
        let Some(data) = control.get(HEADER_BYTES..len) else {
            break;
        };
        let int = data
            .first_chunk::<4>()
            .map(|bytes| i32::from_ne_bytes(*bytes));
        match (level, kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                meta.segment_bytes = int.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
            }
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                meta.ecn = int.and_then(|class| EcnCodepoint::from_bits(class as u8));
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                meta.local_ip = data.first_chunk::<16>().map(|ip| Ipv6Addr::from(*ip));
            }
            _ => {}
        }
        match control.get(len.next_multiple_of(8)..) {
            Some(rest) => control = rest,
            None => break,
        }
    }
    meta
}

/// Writes the ancillary data of a transmission; returns its length, bytes.
pub(super) fn encode(transmit: &Transmit, control: &mut Control) -> usize {
    let mut words = control.iter_mut();
    let mut used = 0;
    let mut push = |level: i32, kind: i32, data: &[u8]| {
        let len = HEADER_BYTES + data.len();
        *words.next().expect("room for all entries") = len as u64;
        *words.next().expect("room for all entries") = join_level_and_type(level, kind);
        for chunk in data.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            *words.next().expect("room for all entries") = u64::from_ne_bytes(word);
        }
        used += len.next_multiple_of(8);
    };
    if let Some(segment) = transmit.segment_size {
        let segment = u16::try_from(segment).expect("a segment fits a datagram");
        push(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
    }
    if let Some(ecn) = transmit.ecn {
        let class = ecn as libc::c_int;
        push(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &class.to_ne_bytes());
    }
    if let Some(std::net::IpAddr::V6(ip)) = transmit.src_ip {
        // struct in6_pktinfo: the address, and interface 0, which means any.
        let mut info = [0; 20];
        info[..16].copy_from_slice(&ip.octets());
        push(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
    }
    used
}

/// An address in the kernel's form.
pub(super) fn sockaddr(addr: &SocketAddrV6) -> libc::sockaddr_in6 {
    let mut raw = empty_sockaddr();
    raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
    raw.sin6_port = addr.port().to_be();
    raw.sin6_addr.s6_addr = addr.ip().octets();
    raw.sin6_scope_id = addr.scope_id();
    raw
}

/// The address behind the kernel's form. The flow label is dropped: it is no part of the path.
pub(super) fn address(raw: &libc::sockaddr_in6) -> SocketAddrV6 {
    SocketAddrV6::new(
        Ipv6Addr::from(raw.sin6_addr.s6_addr),
        u16::from_be(raw.sin6_port),
        0,
        raw.sin6_scope_id,
    )
}

/// The same from the kernel's bytes; `None` for another family.
pub(super) fn address_of_bytes(
    raw: &[u8; size_of::<libc::sockaddr_in6>()],
) -> Option<SocketAddrV6> {
    let family = u16::from_ne_bytes([raw[0], raw[1]]);
    let port = u16::from_be_bytes([raw[2], raw[3]]);
    let ip: [u8; 16] = raw[8..24].try_into().expect("sixteen bytes");
    let scope = u32::from_ne_bytes(raw[24..28].try_into().expect("four bytes"));
    (i32::from(family) == libc::AF_INET6).then(|| SocketAddrV6::new(ip.into(), port, 0, scope))
}

/// Ancillary data as bytes.
pub(super) fn control_bytes(control: &Control) -> [u8; CONTROL_BYTES] {
    let mut bytes = [0; CONTROL_BYTES];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(control) {
        chunk.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

/// All zero.
pub(super) fn empty_sockaddr() -> libc::sockaddr_in6 {
    // SAFETY: every field is an integer or an array of integers, for which zero is a value.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Length of `struct cmsghdr` on 64-bit Linux, bytes: length u64, level i32, type i32.
const HEADER_BYTES: usize = 16;

const _: () = assert!(size_of::<libc::cmsghdr>() == HEADER_BYTES);

fn level_and_type(word: u64) -> [i32; 2] {
    let bytes = word.to_ne_bytes();
    [0, 4].map(|at| i32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes of eight")))
}

fn join_level_and_type(level: i32, kind: i32) -> u64 {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&level.to_ne_bytes());
    bytes[4..].copy_from_slice(&kind.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_can_be_read() {
        let ip = Ipv6Addr::LOCALHOST;
        let transmit = Transmit {
            destination: "[::1]:1".parse().unwrap(),
            ecn: Some(EcnCodepoint::Ect0),
            size: 5000,
            segment_size: Some(1232),
            src_ip: Some(ip.into()),
        };
        let mut control = Control::default();
        let used = encode(&transmit, &mut control);
        assert_eq!(used, 24 + 24 + 40);
        let meta = decode(&control_bytes(&control)[..used]);
        assert_eq!(meta.ecn, Some(EcnCodepoint::Ect0));
        assert_eq!(meta.local_ip, Some(ip));
        assert_eq!(
            meta.segment_bytes, None,
            "the sending side has another type"
        );
    }

    #[test]
    fn the_entries_are_the_kernels() {
        let mut control = Control::default();
        let transmit = Transmit {
            destination: "[::1]:1".parse().unwrap(),
            ecn: None,
            size: 5000,
            segment_size: Some(1232),
            src_ip: None,
        };
        let used = encode(&transmit, &mut control);
        let mut expected = Vec::new();
        expected.extend_from_slice(&18u64.to_ne_bytes());
        expected.extend_from_slice(&libc::SOL_UDP.to_ne_bytes());
        expected.extend_from_slice(&libc::UDP_SEGMENT.to_ne_bytes());
        expected.extend_from_slice(&1232u64.to_ne_bytes());
        assert_eq!(control_bytes(&control)[..used], expected);
    }

    #[test]
    fn garbage_is_skipped() {
        for len in 0..CONTROL_BYTES {
            let _ = decode(&vec![0xff; len]);
            let _ = decode(&vec![0; len]);
        }
        assert_eq!(decode(&[]), Meta::default());
    }
}
