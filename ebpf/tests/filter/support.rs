//! What the tests share: whether this machine can run them, and packets.

use std::net::Ipv6Addr;

use falconet_ebpf::dry::DryRun;
use falconet_ebpf::{FilterConfig, FilterError};

/// Says why the tests cannot run here; `None` when they can.
pub fn cannot() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("loading BPF programs needs root".into());
    }
    match DryRun::load(&FilterConfig::new(PORT)) {
        Err(error @ FilterError::Rights { .. }) => Some(error.to_string()),
        // Anything else that is wrong is for the tests to find.
        _ => None,
    }
}

/// Leaves the test, with the reason on standard output, when this machine cannot run it.
#[macro_export]
macro_rules! need_root {
    () => {
        if let Some(reason) = $crate::support::cannot() {
            println!("skipped: {reason}");
            return;
        }
    };
}

/// The port of the filter under test.
pub const PORT: u16 = 26600;
/// Where the packets go.
pub const HERE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
/// Where they come from.
pub const THERE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);

/// A frame under construction; every part may be spoilt before `bytes`.
#[derive(Clone, Debug)]
pub struct Frame {
    pub ethernet: Vec<u8>,
    pub source: Ipv6Addr,
    pub destination: Ipv6Addr,
    /// Extension headers with their kinds; the chain is linked when the frame is built.
    pub extensions: Vec<(u8, Vec<u8>)>,
    pub source_port: u16,
    pub port: u16,
    pub datagram: Vec<u8>,
}

impl Frame {
    pub fn new(datagram: Vec<u8>) -> Self {
        let mut ethernet = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
        ethernet.extend([0x86, 0xdd]);
        Self {
            ethernet,
            source: THERE,
            destination: HERE,
            extensions: Vec::new(),
            source_port: 50000,
            port: PORT,
            datagram,
        }
    }

    pub fn from(mut self, source: Ipv6Addr) -> Self {
        self.source = source;
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut payload = Vec::new();
        let kinds: Vec<u8> = self.extensions.iter().map(|(kind, _)| *kind).collect();
        for (i, (_, header)) in self.extensions.iter().enumerate() {
            let at = payload.len();
            payload.extend(header);
            payload[at] = kinds.get(i + 1).copied().unwrap_or(17);
        }
        let udp_bytes = (8 + self.datagram.len()) as u16;
        payload.extend(self.source_port.to_be_bytes());
        payload.extend(self.port.to_be_bytes());
        payload.extend(udp_bytes.to_be_bytes());
        payload.extend([0, 0]);
        payload.extend(&self.datagram);
        let mut frame = self.ethernet.clone();
        frame.extend([0x60, 0, 0, 0]);
        frame.extend((payload.len() as u16).to_be_bytes());
        frame.push(kinds.first().copied().unwrap_or(17));
        frame.push(64);
        frame.extend(self.source.octets());
        frame.extend(self.destination.octets());
        let udp_at = frame.len() + payload.len() - usize::from(udp_bytes);
        frame.extend(payload);
        if self.extensions.is_empty() {
            let sum = checksum(&frame[udp_at - 32..udp_at], &frame[udp_at..]);
            frame[udp_at + 6..udp_at + 8].copy_from_slice(&sum.to_be_bytes());
        }
        frame
    }
}

/// The checksum of UDP over IPv6 (RFC 8200, section 8.1).
fn checksum(addresses: &[u8], udp: &[u8]) -> u16 {
    let sum_of = |bytes: &[u8]| -> u32 {
        bytes
            .chunks(2)
            .map(|two| u32::from(u16::from_be_bytes([two[0], *two.get(1).unwrap_or(&0)])))
            .sum()
    };
    let mut sum = sum_of(addresses) + sum_of(udp) + udp.len() as u32 + 17;
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    match !(sum as u16) {
        0 => 0xffff,
        sum => sum,
    }
}

/// A client's first datagram: an Initial with an 8-byte and a 4-byte connection id and no token.
pub fn initial(bytes: usize) -> Vec<u8> {
    long(0xc0, bytes, true)
}

/// A Handshake packet to a connection of ours.
pub fn handshake(bytes: usize) -> Vec<u8> {
    long(0xe0, bytes, false)
}

fn long(first: u8, bytes: usize, token: bool) -> Vec<u8> {
    let mut packet = vec![first, 0, 0, 0, 1, 8];
    packet.extend([7; 8]);
    packet.push(4);
    packet.extend([9; 4]);
    if token {
        packet.push(0);
    }
    let length = (bytes - packet.len() - 2) as u16;
    packet.extend((0x4000 | length).to_be_bytes());
    packet.resize(bytes, 0x5a);
    packet
}

/// A packet of an established connection.
pub fn short(bytes: usize) -> Vec<u8> {
    let mut packet = vec![0x5a; bytes];
    packet[0] = 0x40;
    packet
}
