//! Packets between honest and nonsense: a well-formed one, spoilt in none to four places.

use std::net::Ipv6Addr;

use fastrand::Rng;

use crate::support::{Frame, HERE, PORT, handshake, initial, short};

pub fn frame(random: &mut Rng) -> Vec<u8> {
    let bytes = pick(random, &[29, 40, 64, 100, 1199, 1200, 1201, 1452]);
    let datagram = match random.usize(..5) {
        0 => initial(bytes),
        1 => handshake(bytes),
        2 => short(bytes),
        3 => long(random),
        _ => (0..random.usize(..80)).map(|_| random.u8(..)).collect(),
    };
    let mut frame = Frame::new(datagram);
    frame.source = Ipv6Addr::from_bits((0xfd00 << 112) | u128::from(random.u64(..)) & 3);
    frame.destination = if one_in(random, 8) {
        Ipv6Addr::LOCALHOST
    } else {
        HERE
    };
    if one_in(random, 8) {
        frame.port = pick(random, &[0, 22, 53, PORT.swap_bytes(), PORT + 1]);
    }
    if one_in(random, 20) {
        frame.source_port = 0;
    }
    if one_in(random, 6) {
        for _ in 0..pick(random, &[1, 1, 2, 3, 8, 9, 10]) {
            let kind = pick(random, &[0, 43, 44, 51, 60, 58, 6, 50]);
            frame.extensions.push((kind, extension(random, kind)));
        }
    }
    for _ in 0..pick(random, &[0, 0, 0, 0, 1, 2, 3]) {
        let at = frame.ethernet.len() - 2;
        let tag = pick(random, &[[0x81, 0], [0x88, 0xa8]]);
        frame.ethernet.splice(at..at, [tag[0], tag[1], 0, 5]);
    }
    let mut bytes = frame.bytes();
    if one_in(random, 3) {
        for _ in 0..1 + random.usize(..3) {
            // Headers more often than payload.
            let at = if one_in(random, 4) {
                random.usize(..bytes.len())
            } else {
                random.usize(..100)
            };
            if let Some(byte) = bytes.get_mut(at) {
                *byte = match random.usize(..3) {
                    0 => random.u8(..),
                    1 => byte.wrapping_add(1),
                    _ => *byte ^ (1 << random.usize(..8)),
                };
            }
        }
    }
    if one_in(random, 8) {
        bytes.truncate(14 + random.usize(..bytes.len() - 13));
    } else if one_in(random, 8) {
        let extra = random.usize(..64);
        bytes.resize(bytes.len() + extra, 0);
    }
    bytes.truncate(falconet_ebpf::dry::FRAME_BYTES_MAX);
    bytes
}

fn extension(random: &mut Rng, kind: u8) -> Vec<u8> {
    let units = if one_in(random, 10) {
        random.usize(..100)
    } else {
        random.usize(..3)
    };
    let mut header = vec![
        0;
        if kind == 51 {
            (units + 2) * 4
        } else {
            (units + 1) * 8
        }
    ];
    if kind == 44 {
        header.resize(8, 0);
        if one_in(random, 2) {
            header[pick(random, &[2, 3])] = random.u8(..);
        }
    } else {
        header[1] = units as u8;
    }
    header
}

/// A long header with every field about right.
fn long(random: &mut Rng) -> Vec<u8> {
    let mut packet = vec![0x80 | (random.u8(..) & 0x7f)];
    let version = pick(
        random,
        &[
            1,
            1,
            1,
            1,
            1,
            1,
            0,
            2,
            0x0100_0000,
            0x6b33_43cf,
            0xff00_001d,
        ],
    );
    packet.extend(u32::to_be_bytes(version));
    for cid_bytes in [
        pick(random, &[8, 8, 8, 0, 7, 9, 20, 21]),
        pick(random, &[0, 4, 8, 20, 21]),
    ] {
        packet.push(cid_bytes);
        packet.extend((0..cid_bytes).map(|_| random.u8(..)));
    }
    let token_bytes = pick(random, &[0, 1, 63, 64, 300]);
    number(random, &mut packet, token_bytes);
    packet.extend((0..token_bytes + pick(random, &[0, 0, 0, 1])).map(|_| 0x33));
    let length = pick(random, &[0, 19, 20, 21, 1150, 1200]);
    number(random, &mut packet, length);
    packet.extend((0..(length + 2).saturating_sub(random.usize(..5) as u64)).map(|_| 0x44));
    packet
}

/// A variable-length integer, in a form as short as possible or longer.
fn number(random: &mut Rng, packet: &mut Vec<u8>, value: u64) {
    match random.usize(..4) {
        0 if value < 64 => packet.push(value as u8),
        0 | 1 => packet.extend((0x4000 | value as u16).to_be_bytes()),
        2 => packet.extend((0x8000_0000 | value as u32).to_be_bytes()),
        _ => packet.extend((0xc000_0000_0000_0000 | value).to_be_bytes()),
    }
}

fn one_in(random: &mut Rng, n: usize) -> bool {
    random.usize(..n) == 0
}

fn pick<T: Copy>(random: &mut Rng, from: &[T]) -> T {
    from[random.usize(..from.len())]
}
