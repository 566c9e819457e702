//! Junk for a validator's door: datagrams of the kinds that the filter knows by their headers, sent
//! at a steady rate. For measuring what honest clients get meanwhile, on networks of one's own.

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Packets sent between two looks at the clock.
const BURST: u64 = 32;
/// Longest payload, bytes: that of an honest first packet.
const BYTES_MAX: usize = 1200;

/// A flood that runs until it is dropped.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
    began: Instant,
}

impl Flood {
    /// Begins to send `rate` packets a second from an address of this machine to a validator, in
    /// a thread of its own.
    pub fn start(source: Ipv6Addr, target: SocketAddrV6, rate: u64) -> io::Result<Self> {
        let socket = UdpSocket::bind((source, 0))?;
        socket.connect(target)?;
        let (stop, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (asked, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = std::thread::Builder::new()
            .name("flood".into())
            .spawn(move || send(&socket, rate.max(1), &asked, &count))?;
        Ok(Self {
            stop,
            sent,
            thread: Some(thread),
            began: Instant::now(),
        })
    }

    /// Packets that the kernel took so far, and the rate over the whole time.
    #[must_use]
    pub fn sent(&self) -> (u64, f64) {
        let sent = self.sent.load(Ordering::Relaxed);
        (sent, sent as f64 / self.began.elapsed().as_secs_f64())
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It cannot panic; if it did, that is no reason for a second one.
            let _ = thread.join();
        }
    }
}

fn send(socket: &UdpSocket, rate: u64, stop: &AtomicBool, sent: &AtomicU64) {
    let interval = Duration::from_secs(1).mul_f64(BURST as f64 / rate as f64);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut buffer = [0; BYTES_MAX];
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..BURST {
            let junk = junk(&mut random, &mut buffer);
            // Refused by a full queue, or by the answer of a validator that is down: both are
            // packets that did not arrive.
            if socket.send(junk).is_ok() {
                sent.fetch_add(1, Ordering::Relaxed);
            }
        }
        due += interval;
        match due.checked_duration_since(Instant::now()) {
            Some(early) => std::thread::sleep(early),
            // What was missed is not made up for: that would be a burst beyond the rate.
            None => due = Instant::now(),
        }
    }
}

/// One of five kinds of packets that no honest peer sends.
fn junk<'a>(random: &mut Random, buffer: &'a mut [u8; BYTES_MAX]) -> &'a [u8] {
    for chunk in buffer.chunks_mut(8) {
        chunk.copy_from_slice(&random.next().to_le_bytes()[..chunk.len()]);
    }
    let version_1 = 1u32.to_be_bytes();
    match random.next() % 5 {
        // Too short for any header.
        0 => &buffer[..1 + random.next() as usize % 20],
        // A version that nobody speaks.
        1 => {
            buffer[0] = 0xc0;
            buffer
        }
        // An Initial below 1200 bytes (RFC 9000, section 14.1).
        2 => {
            buffer[0] = 0xc0;
            buffer[1..5].copy_from_slice(&version_1);
            buffer[5] = 8;
            &buffer[..600]
        }
        // A connection identifier longer than 20 bytes (RFC 9000, section 17.2).
        3 => {
            buffer[0] = 0xc0;
            buffer[1..5].copy_from_slice(&version_1);
            buffer[5] = 200;
            buffer
        }
        // A packet of a connection that does not exist.
        _ => {
            buffer[0] = 0x40;
            &buffer[..100]
        }
    }
}

/// Xorshift: cheap, and junk needs nothing better.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn junk_arrives_and_stops() {
        let socket = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        let SocketAddr::V6(at) = socket.local_addr().unwrap() else {
            panic!("bound to IPv6");
        };
        let flood = Flood::start(Ipv6Addr::LOCALHOST, at, 100_000).unwrap();
        let mut buffer = [0; 2048];
        let mut lens = std::collections::BTreeSet::new();
        while lens.len() < 5 {
            lens.insert(socket.recv(&mut buffer).unwrap());
        }
        assert!(lens.iter().all(|len| *len <= BYTES_MAX));
        assert!(flood.sent().0 >= 5);
        drop(flood);
    }
}
