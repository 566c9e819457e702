//! What the threads of a contender and the one that measures share.
//!
//! Receivers count what arrived; the measuring thread reads the counters at both ends of a
//! window. Whoever measures round trips records them into a histogram of its own and hands that
//! in at the end, so that nothing shared is written while a message is on its way.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::NetError;
use crate::process::ProcessStats;

/// Longest round trip that is recorded as such, nanoseconds.
const ROUND_TRIP_NS_MAX: u64 = 10_000_000_000;

/// Counters and flags of one run of one contender.
#[derive(Debug, Default)]
pub struct Meter {
    items: AtomicU64,
    bytes: AtomicU64,
    recording: AtomicBool,
    stop: AtomicBool,
    round_trips: Mutex<Option<Histogram<u64>>>,
}

/// What passed in the window.
#[derive(Debug, Clone)]
pub struct Window {
    /// Messages (or chunks of bulk) a second.
    pub items_per_s: f64,
    /// Payload bytes a second.
    pub bytes_per_s: f64,
    /// Cores that this process kept busy, both sides together.
    pub cpu_cores: f64,
}

impl Meter {
    /// A receiver got `items` messages with `bytes` of payload.
    pub fn arrived(&self, items: u64, bytes: u64) {
        self.items.fetch_add(items, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether the window is open.
    pub fn is_recording(&self) -> bool {
        self.recording.load(Ordering::Relaxed)
    }

    /// Whether the run is over.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Tells everybody that the run is over.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// The round trips of the window, nanoseconds.
    pub fn round_trips(&self) -> Option<Histogram<u64>> {
        self.round_trips.lock().expect("never poisoned").take()
    }

    /// Opens the window for `length`, and reads what passed in it.
    pub fn measure(&self, length: Duration) -> Result<Window, NetError> {
        let read = || {
            let counts = [&self.items, &self.bytes].map(|n| n.load(Ordering::Relaxed));
            (Instant::now(), counts, ProcessStats::own())
        };
        let (began, before, cpu_before) = read();
        self.recording.store(true, Ordering::Relaxed);
        std::thread::sleep(length);
        self.recording.store(false, Ordering::Relaxed);
        let (ended, after, cpu_after) = read();
        let seconds = (ended - began).as_secs_f64();
        let [items, bytes] = [0, 1].map(|i| (after[i] - before[i]) as f64 / seconds);
        if items == 0.0 {
            return Err(NetError::Silent);
        }
        let cpu = cpu_before
            .zip(cpu_after)
            .map_or(0.0, |(b, a)| a.cpu.saturating_sub(b.cpu).as_secs_f64());
        Ok(Window {
            items_per_s: items,
            bytes_per_s: bytes,
            cpu_cores: cpu / seconds,
        })
    }
}

/// Round trips of one client. The meter has them when this is dropped: the end of a run stops a
/// client wherever it waits, in the middle of a round trip too.
#[derive(Debug)]
pub struct RoundTrips {
    ns: Histogram<u64>,
    meter: Arc<Meter>,
}

impl RoundTrips {
    /// Nothing recorded yet.
    pub fn new(meter: Arc<Meter>) -> Self {
        let bounds = Histogram::new_with_bounds(1, ROUND_TRIP_NS_MAX, 3);
        Self {
            ns: bounds.expect("the bounds are valid"),
            meter,
        }
    }

    /// One message of `bytes` came back; it counts while the window is open.
    pub fn record(&mut self, sent: Instant, bytes: usize) {
        let ns = u64::try_from(sent.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if self.meter.is_recording() {
            self.ns.saturating_record(ns.max(1));
        }
        self.meter.arrived(1, bytes as u64);
    }
}

impl Drop for RoundTrips {
    fn drop(&mut self) {
        let mut place = self.meter.round_trips.lock().expect("never poisoned");
        *place = Some(self.ns.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_window_counts() {
        let meter = Arc::new(Meter::default());
        let mut trips = RoundTrips::new(meter.clone());
        trips.record(Instant::now(), 64);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !meter.is_recording() {
                    std::thread::yield_now();
                }
                trips.record(Instant::now(), 64);
                drop(trips);
            });
            let window = meter.measure(Duration::from_millis(50)).unwrap();
            assert!(window.items_per_s > 0.0 && window.items_per_s <= 1.0 / 0.05);
            assert!((window.bytes_per_s / window.items_per_s - 64.0).abs() < 1e-9);
        });
        assert_eq!(meter.round_trips().unwrap().len(), 1);
    }

    #[test]
    fn silence_is_an_error_not_a_zero() {
        let silent = Meter::default().measure(Duration::from_millis(1));
        assert!(matches!(silent, Err(NetError::Silent)));
    }
}
