//! The frame that is sent again and again.

use std::net::SocketAddrV6;

/// An Ethernet frame with a UDP datagram of `payload_bytes`.
pub fn frame(
    macs: [[u8; 6]; 2],
    from: SocketAddrV6,
    to: SocketAddrV6,
    payload_bytes: usize,
) -> Vec<u8> {
    let len = (8 + payload_bytes) as u16;
    let mut udp = Vec::new();
    udp.extend(from.port().to_be_bytes());
    udp.extend(to.port().to_be_bytes());
    udp.extend(len.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend((0..payload_bytes).map(|i| i as u8));
    let mut summed = [from.ip().octets(), to.ip().octets()].concat();
    summed.extend(u32::from(len).to_be_bytes());
    summed.extend([0, 0, 0, 17]);
    summed.extend(&udp);
    let mut sum: u32 = summed
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low)))
        .sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    udp[6..8].copy_from_slice(&(!sum as u16).to_be_bytes());
    let mut frame = [macs[1], macs[0]].concat();
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend(len.to_be_bytes());
    frame.extend([17, 64]);
    frame.extend(from.ip().octets());
    frame.extend(to.ip().octets());
    frame.extend(udp);
    frame
}
