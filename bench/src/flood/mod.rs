//! Junk for a validator's door, for measuring what honest clients get meanwhile, on networks of
//! one's own: malformed packets through a socket, or frames of one kind at the rate of the kernel.

mod kind;

use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use falconet_crypto::falcon::PublicKey;
use falconet_dataplane::{PeerTarget, Stoq, StoqConfig};
use falconet_ebpf::FilterError;
use falconet_ebpf::live::{FRAMES_MAX, Generator, receive_offload};
use falconet_types::ChainId;

use crate::cluster::{Namespaces, STRANGER};
pub use kind::FloodKind;

/// Packets sent through a socket between two looks at the clock.
const BURST: u64 = 32;
/// Longest payload of those, bytes: that of an honest first packet.
const BYTES_MAX: usize = 1200;
/// Pause between two calls of the generator, which itself takes some 20 ms without work.
const PAUSE: Duration = Duration::from_millis(5);
/// Of what was missed, no more than the packets of this time are made up for.
const CATCH_UP_MAX: Duration = Duration::from_millis(100);
/// A flood ends after this long, whoever forgot it.
const TIME_MAX: Duration = Duration::from_secs(600);
/// How long a client's first packet may take to come.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no flood.
#[derive(Debug, thiserror::Error)]
pub enum FloodError {
    /// A socket or a thread.
    #[error("flood: {0}")]
    Io(#[from] io::Error),
    /// The generator.
    #[error("flood: {0}; --flood-kind mixed needs no generator")]
    Generator(#[from] FilterError),
    /// No first packet of a client.
    #[error("flood: no first packet of a client was made: {0}")]
    Initial(String),
}

/// Which validator is flooded.
#[derive(Clone, Debug)]
pub struct FloodTarget {
    /// Its index.
    pub index: usize,
    /// Its STOQ address.
    pub addr: SocketAddrV6,
    /// Its key, and its chain: a client knows them.
    pub key: PublicKey,
    /// See `key`.
    pub chain: ChainId,
}

/// A flood that runs until it is finished or dropped.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<(), FloodError>>>,
    began: Instant,
}

impl Flood {
    /// Begins to send malformed packets through a socket, `rate` a second, from an address of this
    /// machine, in a thread of its own.
    pub fn mixed(source: Ipv6Addr, target: SocketAddrV6, rate: u64) -> Result<Self, FloodError> {
        let socket = UdpSocket::bind((source, 0))?;
        socket.connect(target)?;
        Self::run(move |stop, sent| {
            send(&socket, rate.max(1), stop, sent);
            Ok(())
        })
    }

    /// Begins to send packets of a kind, `rate` a second to each of the targets, from the hub into
    /// the cables of the validators. Their devices get generic receive offload, without which
    /// frames of the generator arrive only where XDP is attached.
    pub fn start(
        namespaces: &Namespaces,
        targets: &[FloodTarget],
        kind: FloodKind,
        rate: u64,
    ) -> Result<Self, FloodError> {
        let mut streams = Vec::with_capacity(targets.len());
        for target in targets {
            let index = target.index;
            let device = namespaces.device(index);
            namespaces.within(index, || receive_offload(&device, true))??;
            if kind == FloodKind::Mixed {
                return Self::mixed(STRANGER, target.addr, rate);
            }
            let initial = match kind.needs_initial() {
                true => first_datagram(target)?,
                false => Vec::new(),
            };
            // The bridge passes any source; this one is nobody's.
            let macs = [[0x02, 0xfa, 0x1c, 0, 0xff, 0xff], namespaces.mac(index)];
            let frame = kind.frame(macs, target.addr, &initial);
            let port = namespaces.port(index);
            let generator = match kind.is_forged() {
                true => Generator::forging(&port)?,
                false => Generator::new(&port)?,
            };
            streams.push((generator, frame));
        }
        Self::run(move |stop, sent| {
            let began = Instant::now();
            let mut last = began;
            while !stop.load(Ordering::Relaxed) && began.elapsed() < TIME_MAX {
                std::thread::sleep(PAUSE);
                let now = Instant::now();
                let due = rate as f64 * (now - last).min(CATCH_UP_MAX).as_secs_f64();
                last = now;
                let count = (due as u32).min(FRAMES_MAX);
                for (generator, frame) in &mut streams {
                    generator.send(frame, count)?;
                    sent.fetch_add(count.into(), Ordering::Relaxed);
                }
            }
            Ok(())
        })
    }

    fn run(
        work: impl FnOnce(&AtomicBool, &AtomicU64) -> Result<(), FloodError> + Send + 'static,
    ) -> Result<Self, FloodError> {
        let (stop, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (asked, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = std::thread::Builder::new()
            .name("flood".into())
            .spawn(move || work(&asked, &count))?;
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

    /// Ends it; what [`Flood::sent`] says, or why it ended early.
    pub fn finish(mut self) -> Result<(u64, f64), FloodError> {
        let sent = self.sent();
        self.end().unwrap_or(Ok(()))?;
        Ok(sent)
    }

    fn end(&mut self) -> Option<Result<(), FloodError>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take()?;
        let result = thread.join();
        Some(result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Whoever wants to know how it ended finishes it.
            let _ = thread.join();
        }
    }
}

/// The first datagram of a client that dials the validator, caught on the way.
fn first_datagram(target: &FloodTarget) -> Result<Vec<u8>, FloodError> {
    let trap = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0))?;
    trap.set_read_timeout(Some(PATIENCE))?;
    let SocketAddr::V6(addr) = trap.local_addr()? else {
        unreachable!("bound to IPv6");
    };
    let failed = |error: &dyn std::fmt::Display| FloodError::Initial(error.to_string());
    let here = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 0, 0, 0);
    let (stoq, _events) =
        Stoq::bind(StoqConfig::new(here, target.chain)).map_err(|error| failed(&error))?;
    let dialled = stoq.handle().connect(PeerTarget {
        addr,
        key: target.key.clone(),
        persistent: false,
    });
    dialled.map_err(|error| failed(&error))?;
    let mut datagram = vec![0; falconet_ebpf::live::FRAME_BYTES_MAX];
    let bytes = trap.recv(&mut datagram).map_err(|error| failed(&error))?;
    datagram.truncate(bytes);
    stoq.shutdown();
    Ok(datagram)
}

fn send(socket: &UdpSocket, rate: u64, stop: &AtomicBool, sent: &AtomicU64) {
    let interval = Duration::from_secs(1).mul_f64(BURST as f64 / rate as f64);
    let mut random = fastrand::Rng::with_seed(0x9e37_79b9_7f4a_7c15);
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
fn junk<'a>(random: &mut fastrand::Rng, buffer: &'a mut [u8; BYTES_MAX]) -> &'a [u8] {
    random.fill(buffer);
    let version_1 = 1u32.to_be_bytes();
    match random.u8(..5) {
        // Too short for any header.
        0 => &buffer[..1 + random.usize(..20)],
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

#[cfg(test)]
mod tests {
    use falconet_crypto::falcon::{KeyPair, Scheme};
    use falconet_crypto::hash::hash;
    use falconet_ebpf::FilterConfig;
    use falconet_ebpf::parse::parse;

    use super::*;

    #[test]
    fn junk_arrives_and_stops() {
        let socket = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        let SocketAddr::V6(at) = socket.local_addr().unwrap() else {
            panic!("bound to IPv6");
        };
        let flood = Flood::mixed(Ipv6Addr::LOCALHOST, at, 100_000).unwrap();
        let mut buffer = [0; 2048];
        let mut lens = std::collections::BTreeSet::new();
        while lens.len() < 5 {
            lens.insert(socket.recv(&mut buffer).unwrap());
        }
        assert!(lens.iter().all(|len| *len <= BYTES_MAX));
        assert!(flood.finish().unwrap().0 >= 5);
    }

    #[test]
    fn a_first_datagram_is_a_clients_initial() {
        let key = KeyPair::generate(Scheme::Falcon1024);
        let target = FloodTarget {
            index: 0,
            addr: SocketAddrV6::new(Ipv6Addr::LOCALHOST, 1, 0, 0),
            key: key.public().clone(),
            chain: hash("flood", &[]),
        };
        let datagram = first_datagram(&target).unwrap();
        let frame = FloodKind::Initials.frame([[0; 6]; 2], target.addr, &datagram);
        let packet = parse(&frame, &FilterConfig::new(1)).unwrap();
        assert!(packet.starts && !packet.small_initial);
    }
}
