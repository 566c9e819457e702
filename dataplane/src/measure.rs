//! How many datagrams a backend receives a second, without QUIC above it: what a machine's
//! network path can do, for benchmarks and for choosing a backend.
//!
//! `cargo run --release -p falconet-dataplane --example receive_rate`

use std::{
    io::Error,
    net::SocketAddrV6,
    os::fd::AsFd,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::event::{EventfdFlags, eventfd};

use crate::{
    BindError, IoOptions, Stats, StatsSnapshot,
    io::{self, Backend, Taken},
};

/// Longest sleep before the clock is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// A backend without an endpoint. Used by the thread that opened it.
pub struct Receiver {
    io: Box<dyn Backend>,
    stats: Arc<Stats>,
}

/// What came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Datagrams.
    pub datagrams: u64,
    /// Payload bytes.
    pub bytes: u64,
    /// From the first datagram on.
    pub time: Duration,
}

impl Received {
    /// Datagrams a second.
    pub fn rate(&self) -> f64 {
        self.datagrams as f64 / self.time.as_secs_f64()
    }
}

impl Receiver {
    /// Binds.
    pub fn open(addr: SocketAddrV6, options: &IoOptions) -> Result<Self, BindError> {
        let stats = Arc::new(Stats::default());
        // One socket, whatever the options say about threads.
        let options = IoOptions {
            threads: 1,
            ..*options
        };
        let socket = io::bind_group(addr, &options)?;
        let socket = socket.into_iter().next().expect("one for one thread");
        let io = io::open(socket, &options, stats.clone())?;
        Ok(Receiver { io, stats })
    }

    /// The backend in use, for people.
    pub fn backend(&self) -> String {
        self.io.describe()
    }

    /// The counters.
    pub fn stats(&self) -> StatsSnapshot {
        self.stats.snapshot()
    }

    /// Receives for `time`, which begins with the first datagram, and forgets what comes; gives
    /// up when none comes within `patience`.
    pub fn receive(&mut self, time: Duration, patience: Duration) -> Result<Received, Error> {
        let waker = eventfd(0, EventfdFlags::CLOEXEC)?;
        let opened = Instant::now();
        let mut first = None;
        let mut received = Received {
            datagrams: 0,
            bytes: 0,
            time,
        };
        loop {
            let taken = self.io.receive(&mut |datagram| {
                received.datagrams += 1;
                received.bytes += datagram.data.len() as u64;
            })?;
            if taken != Taken::Nothing && first.is_none() {
                first = Some(Instant::now());
                (received.datagrams, received.bytes) = (0, 0);
            }
            let (begin, limit) = first.map_or((opened, patience), |first| (first, time));
            let passed = begin.elapsed();
            if passed >= limit {
                received.time = passed;
                return Ok(received);
            }
            if taken == Taken::Nothing {
                self.io.wait(waker.as_fd(), Some(LOOK_INTERVAL))?;
            }
        }
    }
}
