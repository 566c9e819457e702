//! Pacing: how long an owner waits before the next batch and a leader before the next block, and
//! how much may be on its way.
//!
//! **Why wait at all.** A batch costs a FALCON signature at its owner, a record at every node and
//! a verification at all others; a round costs a signature of every validator. On a busy machine
//! this is taken from transactions, on an idle one a wait is all that a transaction would notice.
//!
//! **The law.** An interval starts at its least, which genesis sets, and grows in proportion to
//! the *load*: the part of a batch (or block) worth its costs that would come together in the
//! longest interval,
//!
//! ```text
//! load      = min(1, rate × least × STRETCH_MAX / worth)
//! interval  = least × (1 + (STRETCH_MAX − 1) × load)
//! ```
//!
//! with the rate in bytes a second as a [`Meter`] sees it. An idle node so waits for nothing, one
//! that is busy makes batches and blocks that are worth it, and there is no threshold in between
//! at which latency jumps. What is worth it are 2 MiB for a block: some 1,500 transfers, beside
//! whose verification and execution the signatures of a round are a tenth.
//!
//! **The window.** What is sealed and not executed yet is bounded by a window: additive increase
//! while own batches are executed within [`INTAKE_LATENCY_US_MAX`], multiplicative decrease once a
//! round trip when one took longer, as in TCP, and at once to what fits when it took much longer.
//! Time counts from sealing to *execution*, so that
//! whatever is the bottleneck, disk, network, signatures or ledger, is seen by the same sensor. As
//! the queue before sealing is in proportion to the window, the time that an accepted transaction
//! takes is bounded under any load: what does not fit is refused at the door.

use falconet_types::time::Now;

use crate::limits::{
    CONTENDED_BYTES, INTAKE_LATENCY_US_MAX, METER_STEP_US, METER_WINDOW_US, PENDING_BYTES_MAX,
};

/// Commit and execution latency assumed before the first own batch has told, microseconds.
const LATENCY_US_DEFAULT: u64 = 100_000;

/// Bytes a second, averaged over about [`METER_WINDOW_US`].
#[derive(Debug, Default)]
pub(crate) struct Meter {
    bytes_per_s: u64,
    since_us: u64,
    bytes: u64,
}

impl Meter {
    /// `bytes` more were seen.
    pub(crate) fn add(&mut self, now: Now, bytes: u64) {
        let elapsed_us = now.mono_us.saturating_sub(self.since_us);
        if elapsed_us >= METER_STEP_US {
            let sample = self.bytes.saturating_mul(1_000_000) / elapsed_us;
            let weight = elapsed_us.min(METER_WINDOW_US);
            let (old, new) = (
                u128::from(self.bytes_per_s) * u128::from(METER_WINDOW_US - weight),
                u128::from(sample) * u128::from(weight),
            );
            self.bytes_per_s =
                u64::try_from((old + new) / u128::from(METER_WINDOW_US)).unwrap_or(u64::MAX);
            (self.bytes, self.since_us) = (0, now.mono_us);
        }
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// The rate as of the last step.
    pub(crate) fn bytes_per_s(&self) -> u64 {
        self.bytes_per_s
    }
}

/// The interval under load, in the unit of `least_us`; see the module's text for the law.
pub(crate) fn interval_us(least_us: u64, stretch_max: u64, bytes_per_s: u64, worth: u64) -> u64 {
    let longest_us = least_us.saturating_mul(stretch_max);
    let gathered = u128::from(bytes_per_s) * u128::from(longest_us) / 1_000_000;
    let worth = u128::from(worth.max(1));
    let more = u128::from(longest_us - least_us) * gathered.min(worth) / worth;
    least_us + u64::try_from(more).expect("at most the difference")
}

/// How much may be sealed and not executed yet.
#[derive(Debug)]
pub(crate) struct Window {
    bytes: u64,
    /// It never shrinks below this.
    least: u64,
    most: u64,
    /// It grows by so much a round trip.
    step: u64,
    /// When it was last made smaller.
    shrunk_us: u64,
    /// Time from sealing to execution, smoothed.
    latency_us: u64,
}

impl Window {
    pub(crate) fn new(most: u64, least: u64, step: u64) -> Self {
        Self {
            bytes: most,
            least: least.min(most),
            most,
            step,
            shrunk_us: 0,
            latency_us: LATENCY_US_DEFAULT,
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Time from sealing to execution, smoothed, microseconds.
    pub(crate) fn latency_us(&self) -> u64 {
        self.latency_us
    }

    /// How much may wait to be sealed: half a window takes half the time of a whole one.
    pub(crate) fn pending_bytes_max(&self) -> u64 {
        (self.bytes / 2).clamp(CONTENDED_BYTES, PENDING_BYTES_MAX)
    }

    /// A batch of `bytes` was executed, `took_us` after it was sealed; `left` are on their way.
    pub(crate) fn executed(&mut self, now: Now, took_us: u64, bytes: u64, left: u64) {
        self.latency_us = (self.latency_us * 7 + took_us) / 8;
        if took_us <= INTAKE_LATENCY_US_MAX {
            // One step for each window of bytes: one a round trip.
            let part = u128::from(bytes) * u128::from(self.step) / u128::from(self.bytes.max(1));
            let more = u64::try_from(part).unwrap_or(u64::MAX).max(1);
            self.bytes = self.bytes.saturating_add(more).min(self.most);
        } else if now.mono_us.saturating_sub(self.shrunk_us) >= self.latency_us {
            // Once a round trip: what is under way still tells of the old window.
            self.shrunk_us = now.mono_us;
            let used = self.bytes.min(left.saturating_add(bytes).max(self.least));
            // `used / took` is the rate; what that executes in the time allowed is what fits.
            let fits = u128::from(used) * u128::from(INTAKE_LATENCY_US_MAX) / u128::from(took_us);
            let fits = u64::try_from(fits).expect("less than what is used");
            self.bytes = fits.min(used / 5 * 4).clamp(self.least, self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: u64) -> Now {
        Now {
            mono_us: us,
            wall_ms: us / 1_000,
        }
    }

    #[test]
    fn an_idle_interval_is_the_least_and_a_busy_one_the_longest() {
        let interval = |rate| interval_us(5_000, 8, rate, 1 << 20);
        assert_eq!(interval(0), 5_000);
        assert_eq!(interval(u64::MAX), 40_000);
        // Half of what is worth it in the longest interval: half of the way.
        assert_eq!(interval((1 << 20) * 1_000 / 40 / 2), 22_500);
        let steps: Vec<u64> = (0..60).map(|i| interval(i << 19)).collect();
        assert!(steps.is_sorted());
        assert_eq!(
            interval_us(0, 8, 1 << 30, 1),
            0,
            "nothing stretches to nothing"
        );
    }

    #[test]
    fn the_meter_follows_a_constant_rate_and_forgets_it_when_idle() {
        let mut meter = Meter::default();
        for ms in 0..2_000 {
            meter.add(at(ms * 1_000), 4_000);
        }
        let rate = meter.bytes_per_s();
        assert!((3_900_000..4_100_000).contains(&rate), "{rate}");
        meter.add(at(10_000_000), 100);
        assert!(meter.bytes_per_s() < 10_000, "{}", meter.bytes_per_s());
    }

    #[test]
    fn one_burst_after_silence_is_no_rate() {
        let mut meter = Meter::default();
        meter.add(at(1_000_000), 1 << 20);
        assert_eq!(meter.bytes_per_s(), 0);
    }

    /// A bottleneck that executes so many bytes a second, loaded by this window alone.
    fn settled(bytes_per_s: u64) -> (Window, u64) {
        let mut window = Window::new(64 << 20, 1 << 20, 256 << 10);
        let batch = 256 << 10;
        let (mut now_us, mut done_us) = (0, 0);
        let mut sealed = std::collections::VecDeque::new();
        let mut worst_us = 0;
        for _ in 0..20_000 {
            while sealed.len() as u64 * batch < window.bytes() {
                sealed.push_back(now_us);
            }
            let sealed_us = sealed.pop_front().expect("a window is never empty");
            done_us += batch * 1_000_000 / bytes_per_s;
            now_us = done_us;
            let took_us = now_us - sealed_us;
            let left = sealed.len() as u64 * batch;
            window.executed(at(now_us), took_us, batch, left);
            if now_us > 20_000_000 {
                worst_us = worst_us.max(took_us);
            }
        }
        (window, worst_us)
    }

    #[test]
    fn a_window_settles_where_latency_is_bounded_and_the_bottleneck_is_never_idle() {
        for bytes_per_s in [8 << 20, 16 << 20, 60 << 20] {
            let (window, worst_us) = settled(bytes_per_s);
            assert!(
                worst_us < 2 * INTAKE_LATENCY_US_MAX,
                "{bytes_per_s}: {worst_us}"
            );
            // Half of the time that is allowed is far above a round trip.
            let bytes = bytes_per_s * INTAKE_LATENCY_US_MAX / 1_000_000;
            assert!(window.bytes() > bytes / 2, "{bytes_per_s}: {window:?}");
        }
    }

    #[test]
    fn the_queue_before_sealing_is_in_proportion() {
        let mut window = Window::new(64 << 20, 1 << 20, 256 << 10);
        assert_eq!(window.pending_bytes_max(), PENDING_BYTES_MAX);
        for round in 1..100 {
            window.executed(at(round * 1_000_000), 900_000, 1 << 20, 1 << 20);
        }
        assert_eq!(
            (window.bytes(), window.pending_bytes_max()),
            (1 << 20, CONTENDED_BYTES)
        );
    }
}
