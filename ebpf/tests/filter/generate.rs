//! Packets between honest and nonsense: a well-formed one, spoilt in none to four places.

use std::net::Ipv6Addr;

use crate::support::{Frame, HERE, PORT, handshake, initial, short};

/// A generator of numbers (splitmix64), so that a seed repeats a run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

pub fn frame(random: &mut Random) -> Vec<u8> {
    let bytes = random.pick(&[29, 40, 64, 100, 1199, 1200, 1201, 1452]);
    let datagram = match random.below(5) {
        0 => initial(bytes),
        1 => handshake(bytes),
        2 => short(bytes),
        3 => long(random),
        _ => (0..random.below(80)).map(|_| random.next() as u8).collect(),
    };
    let mut frame = Frame::new(datagram);
    frame.source = Ipv6Addr::from_bits((0xfd00 << 112) | random.next() as u128 & 3);
    frame.destination = if random.one_in(8) {
        Ipv6Addr::LOCALHOST
    } else {
        HERE
    };
    if random.one_in(8) {
        frame.port = random.pick(&[0, 22, 53, PORT.swap_bytes(), PORT + 1]);
    }
    if random.one_in(20) {
        frame.source_port = 0;
    }
    if random.one_in(6) {
        for _ in 0..random.pick(&[1, 1, 2, 3, 8, 9, 10]) {
            let kind = random.pick(&[0, 43, 44, 51, 60, 58, 6, 50]);
            frame.extensions.push((kind, extension(random, kind)));
        }
    }
    for _ in 0..random.pick(&[0, 0, 0, 0, 1, 2, 3]) {
        let at = frame.ethernet.len() - 2;
        let tag = random.pick(&[[0x81, 0], [0x88, 0xa8]]);
        frame.ethernet.splice(at..at, [tag[0], tag[1], 0, 5]);
    }
    let mut bytes = frame.bytes();
    if random.one_in(3) {
        for _ in 0..1 + random.below(3) {
            // Headers more often than payload.
            let at = if random.one_in(4) {
                random.below(bytes.len())
            } else {
                random.below(100)
            };
            if let Some(byte) = bytes.get_mut(at) {
                *byte = match random.below(3) {
                    0 => random.next() as u8,
                    1 => byte.wrapping_add(1),
                    _ => *byte ^ (1 << random.below(8)),
                };
            }
        }
    }
    if random.one_in(8) {
        bytes.truncate(14 + random.below(bytes.len() - 13));
    } else if random.one_in(8) {
        let extra = random.below(64);
        bytes.resize(bytes.len() + extra, 0);
    }
    bytes.truncate(falconet_ebpf::dry::FRAME_BYTES_MAX);
    bytes
}

fn extension(random: &mut Random, kind: u8) -> Vec<u8> {
    let units = if random.one_in(10) {
        random.below(100)
    } else {
        random.below(3)
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
        if random.one_in(2) {
            header[random.pick(&[2, 3])] = random.next() as u8;
        }
    } else {
        header[1] = units as u8;
    }
    header
}

/// A long header with every field about right.
fn long(random: &mut Random) -> Vec<u8> {
    let mut packet = vec![0x80 | (random.next() as u8 & 0x7f)];
    let version = random.pick(&[
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
    ]);
    packet.extend(u32::to_be_bytes(version));
    for cid_bytes in [
        random.pick(&[8, 8, 8, 0, 7, 9, 20, 21]),
        random.pick(&[0, 4, 8, 20, 21]),
    ] {
        packet.push(cid_bytes);
        packet.extend((0..cid_bytes).map(|_| random.next() as u8));
    }
    let token_bytes = random.pick(&[0, 1, 63, 64, 300]);
    number(random, &mut packet, token_bytes);
    packet.extend((0..token_bytes + random.pick(&[0, 0, 0, 1])).map(|_| 0x33));
    let length = random.pick(&[0, 19, 20, 21, 1150, 1200]);
    number(random, &mut packet, length);
    packet.extend((0..(length + 2).saturating_sub(random.below(5) as u64)).map(|_| 0x44));
    packet
}

/// A variable-length integer, in a form as short as possible or longer.
fn number(random: &mut Random, packet: &mut Vec<u8>, value: u64) {
    match random.below(4) {
        0 if value < 64 => packet.push(value as u8),
        0 | 1 => packet.extend((0x4000 | value as u16).to_be_bytes()),
        2 => packet.extend((0x8000_0000 | value as u32).to_be_bytes()),
        _ => packet.extend((0xc000_0000_0000_0000 | value).to_be_bytes()),
    }
}
