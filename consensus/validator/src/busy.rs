//! How busy the machine is: all of its processors, whoever uses them.
//!
//! Of its own threads a validator knows what they use and not what is left for them; the kernel's
//! count of idle time knows both. Where it cannot be read, the machine counts as busy.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// How often the kernel is asked, microseconds.
const SAMPLE_US: u64 = 200_000;
/// Samples over which the answer is averaged: a second.
const SAMPLES: u64 = 5;
/// Of `/proc/stat` only the first line is of interest.
const LINE_BYTES_MAX: usize = 256;

/// Reads `/proc/stat` now and then.
#[derive(Debug)]
pub struct BusyMeter {
    stat: Option<File>,
    due_us: u64,
    before: Option<Ticks>,
    /// Per mille.
    busy: u64,
}

/// Processor time since the start of the machine, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticks {
    idle: u64,
    total: u64,
}

impl Default for BusyMeter {
    fn default() -> Self {
        Self {
            // An error leaves the machine busy for ever.
            stat: File::open("/proc/stat").ok(),
            due_us: 0,
            before: None,
            busy: 1_000,
        }
    }
}

impl BusyMeter {
    /// The busy part of the machine's time in the last second or so, per mille.
    pub fn look(&mut self, now_us: u64) -> u64 {
        if now_us >= self.due_us {
            self.due_us = now_us + SAMPLE_US;
            if let Some(now) = self.read() {
                if let Some(sample) = self.before.and_then(|before| now.busy_since(before)) {
                    self.busy = (self.busy * (SAMPLES - 1) + sample) / SAMPLES;
                }
                self.before = Some(now);
            }
        }
        self.busy
    }

    fn read(&self) -> Option<Ticks> {
        let mut line = [0; LINE_BYTES_MAX];
        let len = self.stat.as_ref()?.read_at(&mut line, 0).ok()?;
        Ticks::parse(&String::from_utf8_lossy(&line[..len]))
    }
}

impl Ticks {
    /// The first line: `cpu user nice system idle iowait irq softirq steal …`, see proc_stat(5).
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.lines().next()?.split_ascii_whitespace();
        (fields.next()? == "cpu").then_some(())?;
        // Guests are contained in user time.
        let ticks: Vec<u64> = fields.take(8).map_while(|f| f.parse().ok()).collect();
        let idle = ticks.get(3)? + ticks.get(4)?;
        Some(Self {
            idle,
            total: ticks.iter().sum(),
        })
    }

    fn busy_since(self, before: Self) -> Option<u64> {
        let total = self.total.checked_sub(before.total)?;
        // The kernel's counts of idle time may go backwards a little.
        let idle = self.idle.saturating_sub(before.idle).min(total);
        ((total - idle) * 1_000).checked_div(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_line_is_read() {
        let before = Ticks::parse("cpu  100 0 50 800 50 0 0 0 7 0\ncpu0 1 2 3 4\n");
        assert_eq!(
            before,
            Some(Ticks {
                idle: 850,
                total: 1_000
            })
        );
        let after = Ticks::parse("cpu  190 0 50 805 55 0 0 0 7 0").expect("a line");
        assert_eq!(after.busy_since(before.expect("a line")), Some(900));
        assert_eq!(after.busy_since(after), None, "no time has passed");
        for bad in ["", "cpu", "cpu 1 2 3", "intr 1 2 3 4 5 6"] {
            assert_eq!(Ticks::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn this_machine_answers() {
        let mut meter = BusyMeter::default();
        assert_eq!(meter.look(0), 1_000, "unknown counts as busy");
        assert!(meter.before.is_some(), "/proc/stat is read");
        assert!(meter.look(SAMPLE_US) <= 1_000);
    }

    #[test]
    fn what_cannot_be_read_counts_as_busy() {
        let mut meter = BusyMeter {
            stat: None,
            ..BusyMeter::default()
        };
        assert_eq!([0, 1, 2].map(|s| meter.look(s * SAMPLE_US)), [1_000; 3]);
    }
}
