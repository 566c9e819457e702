//! How many datagrams a second the backends receive from the same generator: AF_XDP beside
//! `recvmmsg`, in turns, between two network namespaces joined by veth. Needs root.
//!
//! `cargo run --release -p falconet-dataplane --example receive_rate`
//!
//! The rate is that of receiver and generator together, each with a core of its own; on a busy
//! machine trust the receiver's CPU time for each datagram, which says what it could take.
//!
//! With an address to listen on it counts what somebody else sends, on a real device:
//!
//! `… --example receive_rate -- --listen [2001:db8::1]:4433 --device eth0 --seconds 5`

#[path = "../../tests/netns/mod.rs"]
mod netns;

use std::{
    net::SocketAddrV6,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::Duration,
};

use falconet_dataplane::{Backend, DeviceName, IoOptions, measure::Receiver};
use falconet_ebpf::{
    PlainVerdict, PlainXdp,
    live::{Generator, udp_frame},
};
use netns::{Pair, at};

type Error = Box<dyn std::error::Error + Send + Sync>;

const PORT: u16 = 4433;

/// Frames of one call of the generator, which sends nothing for some 20 ms between two calls.
const FRAMES: u32 = 1 << 19;

/// How long a receiver waits for the first datagram.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is compared; the first is what the others are divided by.
const BACKENDS: [(&str, Backend); 3] = [
    ("recvmmsg", Backend::Plain),
    ("recvmmsg with GRO", Backend::Mmsg),
    ("AF_XDP", Backend::Xdp),
];

struct Arguments {
    seconds: f64,
    rounds: usize,
    sizes: Vec<usize>,
    listen: Option<SocketAddrV6>,
    device: Option<DeviceName>,
    busy_poll_us: u32,
    /// Where the generator runs, and where the receiver.
    cores: [usize; 2],
    /// Only this backend, for profiles.
    only: Option<String>,
}

fn main() -> Result<(), Error> {
    let arguments = arguments()?;
    if cfg!(debug_assertions) {
        println!("warning: a debug build; use --release");
    }
    match arguments.listen {
        Some(addr) => {
            for (name, backend) in BACKENDS {
                count(name, addr, &options(&arguments, backend), &arguments)?;
            }
            Ok(())
        }
        None => compare(&arguments),
    }
}

fn compare(arguments: &Arguments) -> Result<(), Error> {
    for size in &arguments.sizes {
        let pair = Pair::new(1500)?;
        for _ in 0..arguments.rounds {
            let mut results = Vec::new();
            for (name, backend) in BACKENDS {
                if arguments.only.as_deref().is_none_or(|only| only == name) {
                    results.push(round(&pair, name, backend, *size, arguments)?);
                }
            }
            let [plain, gro, xdp] = results[..] else {
                continue;
            };
            println!(
                "{size} B: AF_XDP receives {:.2} times what recvmmsg does, {:.2} times with GRO; \
                 by CPU time {:.2} and {:.2} times",
                xdp.rate / plain.rate,
                xdp.rate / gro.rate,
                plain.cpu_ns / xdp.cpu_ns,
                gro.cpu_ns / xdp.cpu_ns,
            );
        }
    }
    Ok(())
}

/// What one round found.
#[derive(Clone, Copy)]
struct Outcome {
    /// Datagrams a second.
    rate: f64,
    /// CPU time of the receiver's thread for each, nanoseconds.
    cpu_ns: f64,
}

/// One backend against the generator.
fn round(
    pair: &Pair,
    name: &str,
    backend: Backend,
    size: usize,
    arguments: &Arguments,
) -> Result<Outcome, Error> {
    let macs = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
    pair.a.ip("link set eth0 address 02:00:00:00:00:01");
    pair.b.ip("link set eth0 address 02:00:00:00:00:02");
    let is_done = AtomicBool::new(false);
    let (ready, is_ready) = mpsc::channel();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let rate = pair.b.enter(|| {
                pin(arguments.cores[1])?;
                // AF_XDP attaches a program of its own.
                let _pass = match backend {
                    Backend::Xdp => None,
                    _ => Some(PlainXdp::attach("eth0", PlainVerdict::Pass)?),
                };
                let options = options(arguments, backend);
                let mut receiver = Receiver::open(at(2, PORT), &options)?;
                let is_right =
                    (backend == Backend::Xdp) == receiver.backend().starts_with("AF_XDP");
                if !is_right {
                    return Err(format!("AF_XDP fell back to {}", receiver.backend()).into());
                }
                let _ = ready.send(());
                let time = Duration::from_secs_f64(arguments.seconds);
                let before = thread_cpu();
                let received = receiver.receive(time, PATIENCE)?;
                let cpu = thread_cpu().saturating_sub(before);
                let cpu_ns = cpu.as_nanos() as f64 / received.datagrams as f64;
                let stats = receiver.stats();
                println!(
                    "{size} B, {name}: {:.3} M/s, {cpu_ns:.0} ns of CPU time each ({}; refused {}, dropped before the ring {})",
                    received.rate() / 1e6,
                    receiver.backend(),
                    stats.packets_refused,
                    stats.packets_dropped,
                );
                Ok::<_, Error>(Outcome {
                    rate: received.rate(),
                    cpu_ns,
                })
            });
            is_done.store(true, Ordering::Relaxed);
            drop(ready);
            rate
        });
        // An error when the receiver failed, which it reports itself.
        if is_ready.recv().is_ok() {
            pair.a.enter(|| {
                pin(arguments.cores[0])?;
                let datagram: Vec<u8> = (0..size).map(|i| i as u8).collect();
                let frame = udp_frame(macs, at(1, 1), at(2, PORT), &datagram);
                let mut generator = Generator::new("eth0")?;
                while !is_done.load(Ordering::Relaxed) {
                    generator.send(&frame, FRAMES)?;
                }
                Ok::<_, Error>(())
            })?;
        }
        receiver.join().expect("the receiver does not panic")
    })
}

fn count(
    name: &str,
    addr: SocketAddrV6,
    options: &IoOptions,
    arguments: &Arguments,
) -> Result<(), Error> {
    let mut receiver = Receiver::open(addr, options)?;
    println!("{name}: {}, waiting on {addr}", receiver.backend());
    let time = Duration::from_secs_f64(arguments.seconds);
    let received = receiver.receive(time, PATIENCE)?;
    println!(
        "{name}: {:.3} M/s, {:.2} Gbit/s of payload",
        received.rate() / 1e6,
        received.bytes as f64 * 8e-9 / received.time.as_secs_f64(),
    );
    Ok(())
}

fn options(arguments: &Arguments, backend: Backend) -> IoOptions {
    IoOptions {
        backend,
        device: arguments.device,
        busy_poll_us: arguments.busy_poll_us,
        ..IoOptions::default()
    }
}

/// CPU time that this thread has used, in the kernel and outside.
fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Keeps this thread on one core. What the kernel does for a packet before the socket it does
/// where the generator runs.
fn pin(core: usize) -> Result<(), Error> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    rustix::thread::sched_setaffinity(None, &set)
        .map_err(|error| format!("cannot run on core {core}: {error}"))?;
    Ok(())
}

fn arguments() -> Result<Arguments, Error> {
    let mut parsed = Arguments {
        seconds: 1.0,
        rounds: 2,
        sizes: vec![64, 1400],
        listen: None,
        device: None,
        busy_poll_us: 0,
        cores: [0, 1],
        only: None,
    };
    let mut all = std::env::args().skip(1);
    while let Some(name) = all.next() {
        let value = all.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--seconds" => parsed.seconds = value.parse()?,
            "--rounds" => parsed.rounds = value.parse()?,
            "--size" => parsed.sizes = vec![value.parse()?],
            "--listen" => parsed.listen = Some(value.parse()?),
            "--device" => parsed.device = Some(value.parse()?),
            "--only" => parsed.only = Some(value),
            "--generator-core" => parsed.cores[0] = value.parse()?,
            "--receiver-core" => parsed.cores[1] = value.parse()?,
            "--busy-poll-us" => parsed.busy_poll_us = value.parse()?,
            _ => return Err(format!("unknown option {name}").into()),
        }
    }
    Ok(parsed)
}
