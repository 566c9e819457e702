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
//! longest   = least × STRETCH_MAX × crowd
//! load      = min(1, rate × longest / worth)
//! interval  = least + (longest − least) × load
//! ```
//!
//! with the rate in bytes a second as a [`Meter`] sees it, and `crowd` 1 for up to four validators.
//! An idle node so waits for nothing, one that is busy makes batches and blocks that are worth it,
//! and there is no threshold in between at which latency jumps. What is worth it are 2 MiB for a
//! block: some 1,500 transfers, beside whose verification and execution the signatures of a round
//! are a tenth.
//!
//! **Many validators.** Each makes batches and votes, and each handles those of all others, which
//! costs about an eighth of an own one. What an interval costs a node so grows with the number of
//! validators,
//!
//! ```text
//! crowd(n) = (8 + n − 1) / (8 + 4 − 1)          at least 1
//! ```
//!
//! while the payload that comes together in it, in all lanes, does not. So above four validators
//! the longest intervals are `crowd(n)` times as long; and a batch is worth its costs when all
//! lanes together have as much as four lanes would need, because what counts is how much payload
//! each node gets for all the batches that it handles. At n = 13 intervals grow to 1.8 times those
//! of n = 4.
//!
//! Watermarks grow with n² too. They carry the same whatever the rate is, so on a busy machine
//! their interval stretches by n / 4, whatever the load.
//!
//! A machine with time to spare may as well sign: the load counts in proportion to how busy the
//! machine is, from nothing at [`BUSY_FROM`] to all of it at [`BUSY_TO`]. The feedback is negative
//! (longer intervals make the machine less busy) and slow beside the interval, so it settles where
//! what is spared is spent on latency. Who does not know counts as busy.
//!
//! **The window.** What is sealed and not executed yet is bounded by a window: what is executed in
//! the time allowed at the best rate of the last seconds, as in BBR,
//!
//! ```text
//! allowed = max(INTAKE_LATENCY_US, 2 × least latency, while the window was mostly empty)
//! window  = max(best rate × allowed, some batches)
//! ```
//!
//! Time counts from sealing to *execution*, so that whatever is the bottleneck, disk, network,
//! signatures or ledger, is seen by the same sensor. The best rate and not the present one, so
//! that a stall (a slow sync, a round that times out) does not turn away what can be made up for
//! after it; on long paths the second term leaves room for what is on its way. The queue before
//! sealing is in proportion, so the time that an accepted transaction takes is bounded under any
//! load: what does not fit is refused at the door.
//!
//! **When the machine becomes slower**, because somebody else uses it, the best rate is too high
//! until it is forgotten, which is why it is that of a second or two only. Two more rules look at
//! age and not at the rate. When batches take longer than twice the time allowed, the lane is
//! *crowded*: what is otherwise let in at any rate, so that a burst after a calm finds room, would
//! take seconds, and is cut to an eighth until they are quick again. And while the oldest batch
//! waits for five times the time allowed, nothing is admitted at all: nobody knows a rate then.

use falconet_types::time::Now;

use crate::limits::{
    BEST_RATE_WINDOW_US, BLOCK_STRETCH_MAX, BUSY_FROM, BUSY_TO, CROWD_FROM, CROWDED_PART,
    CROWDED_TIMES, INTAKE_AGE_TIMES, INTAKE_LATENCY_US, LEAST_LATENCY_WINDOW_US, METER_STEP_US,
    METER_WINDOW_US, OWN_COSTS_PEERS, PENDING_BYTES_MAX, PENDING_BYTES_MIN, RATE_SAMPLE_US,
    SEAL_STRETCH_MAX, WATERMARK_INTERVAL_PEER_US, WATERMARK_INTERVAL_US, WATERMARK_INTERVAL_US_MAX,
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

/// The interval under load; `busy` is the busy part of the machine's time, per mille. See the
/// module's text for the law.
fn interval_us(least_us: u64, longest_us: u64, bytes_per_s: u64, worth: u64, busy: u64) -> u64 {
    let gathered = u128::from(bytes_per_s) * u128::from(longest_us) / 1_000_000;
    let worth = u128::from(worth.max(1));
    let counts = u128::from(busy.clamp(BUSY_FROM, BUSY_TO) - BUSY_FROM);
    let more = u128::from(longest_us - least_us) * gathered.min(worth) / worth * counts
        / u128::from(BUSY_TO - BUSY_FROM);
    least_us + u64::try_from(more).expect("at most the difference")
}

/// A number of validators, as the intervals see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Crowd(u64);

impl Crowd {
    pub(crate) fn of(validators: usize) -> Self {
        Self((validators as u64).max(CROWD_FROM))
    }

    /// The longest interval, which is `stretch` times the least among few validators.
    fn longest_us(self, least_us: u64, stretch: u64) -> u64 {
        let costs = |n: u64| OWN_COSTS_PEERS + n - 1;
        least_us
            .saturating_mul(stretch)
            .saturating_mul(costs(self.0))
            / costs(CROWD_FROM)
    }

    /// The least time between two batches of a lane that fills at this rate.
    pub(crate) fn batch_interval_us(
        self,
        least_us: u64,
        bytes_per_s: u64,
        target_bytes: u64,
        busy: u64,
    ) -> u64 {
        let longest_us = self.longest_us(least_us, SEAL_STRETCH_MAX);
        let worth = target_bytes * CROWD_FROM / self.0;
        interval_us(least_us, longest_us, bytes_per_s, worth, busy)
    }

    /// The least time between two blocks while all lanes together grow at this rate.
    pub(crate) fn block_interval_us(
        self,
        least_us: u64,
        bytes_per_s: u64,
        worth: u64,
        busy: u64,
    ) -> u64 {
        let longest_us = self.longest_us(least_us, BLOCK_STRETCH_MAX);
        interval_us(least_us, longest_us, bytes_per_s, worth, busy)
    }

    /// The least time between two watermarks.
    pub(crate) fn watermark_interval_us(self, validators: usize, busy: u64) -> u64 {
        let least_us = WATERMARK_INTERVAL_US + WATERMARK_INTERVAL_PEER_US * validators as u64;
        let longest_us = (least_us * self.0 / CROWD_FROM)
            .min(WATERMARK_INTERVAL_US_MAX)
            .max(least_us);
        interval_us(least_us, longest_us, u64::MAX, 1, busy)
    }
}

/// The best of the values seen in the last one to two windows of time.
#[derive(Debug)]
struct Extreme {
    better: fn(u64, u64) -> u64,
    window_us: u64,
    now: Option<u64>,
    before: Option<u64>,
    since_us: u64,
}

impl Extreme {
    fn new(window_us: u64, better: fn(u64, u64) -> u64) -> Self {
        Self {
            better,
            window_us,
            now: None,
            before: None,
            since_us: 0,
        }
    }

    fn see(&mut self, now: Now, value: u64) {
        if now.mono_us.saturating_sub(self.since_us) >= self.window_us {
            // What was seen before a silence longer than the window is too old as well.
            self.before = self.now.take();
            self.since_us = now.mono_us;
        }
        self.now = Some(self.now.map_or(value, |old| (self.better)(old, value)));
    }

    fn get(&self) -> Option<u64> {
        let (now, before) = (self.now, self.before);
        now.into_iter().chain(before).reduce(self.better)
    }
}

/// How much may be sealed and not executed yet.
#[derive(Debug)]
pub(crate) struct Window {
    bytes: u64,
    /// It never shrinks below this.
    least: u64,
    most: u64,
    /// Bytes executed since the last sample of the rate.
    sampled: u64,
    since_us: Option<u64>,
    best_rate: Extreme,
    least_latency: Extreme,
    /// Time from sealing to execution, smoothed.
    latency_us: u64,
    /// Batches take too long.
    crowded: bool,
}

impl Window {
    pub(crate) fn new(most: u64, least: u64) -> Self {
        Self {
            bytes: least.min(most),
            least: least.min(most),
            most,
            sampled: 0,
            since_us: None,
            best_rate: Extreme::new(BEST_RATE_WINDOW_US, u64::max),
            least_latency: Extreme::new(LEAST_LATENCY_WINDOW_US, u64::min),
            latency_us: LATENCY_US_DEFAULT,
            crowded: false,
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Time from sealing to execution, smoothed, microseconds.
    pub(crate) fn latency_us(&self) -> u64 {
        self.latency_us
    }

    /// How much may wait to be sealed: half a window takes half the time of a whole one. Until a
    /// rate is known, nothing speaks against the most.
    pub(crate) fn pending_bytes_max(&self) -> u64 {
        match self.best_rate.get() {
            Some(_) => {
                let least = self.least_of(PENDING_BYTES_MIN);
                (self.bytes / 2).clamp(least, PENDING_BYTES_MAX)
            }
            None => PENDING_BYTES_MAX,
        }
    }

    /// What is let in at any rate, unless it would take too long.
    fn least_of(&self, bytes: u64) -> u64 {
        bytes / if self.crowded { CROWDED_PART } else { 1 }
    }

    /// The time from sealing to execution that is allowed, microseconds.
    fn allowed_us(&self) -> u64 {
        let least_us = self.least_latency.get().unwrap_or(0);
        INTAKE_LATENCY_US.max(least_us.saturating_mul(2))
    }

    /// Whether a batch that waits to be executed for so long, microseconds, shows that nothing more
    /// should be admitted.
    pub(crate) fn is_stuck(&self, age_us: u64) -> bool {
        age_us > self.allowed_us().saturating_mul(INTAKE_AGE_TIMES)
    }

    /// A batch of `bytes` was executed, `took_us` after it was sealed; `left` are on their way.
    pub(crate) fn executed(&mut self, now: Now, took_us: u64, bytes: u64, left: u64) {
        self.latency_us = (self.latency_us * 7 + took_us) / 8;
        if left.saturating_add(bytes) <= self.bytes / 4 {
            self.least_latency.see(now, took_us);
        }
        self.sampled = self.sampled.saturating_add(bytes);
        let since_us = *self.since_us.get_or_insert(now.mono_us);
        let elapsed_us = now.mono_us.saturating_sub(since_us);
        if elapsed_us < RATE_SAMPLE_US {
            return;
        }
        let rate = self.sampled.saturating_mul(1_000_000) / elapsed_us;
        self.best_rate.see(now, rate);
        (self.sampled, self.since_us) = (0, Some(now.mono_us));
        let allowed_us = self.allowed_us();
        // It stays so until batches are clearly quicker than what an overload makes them.
        self.crowded = match self.crowded {
            true => self.latency_us > allowed_us / 4 * 3,
            false => self.latency_us > allowed_us.saturating_mul(CROWDED_TIMES),
        };
        let best = self.best_rate.get().expect("seen just now");
        let fits = u128::from(best) * u128::from(allowed_us) / 1_000_000;
        let fits = u64::try_from(fits).unwrap_or(u64::MAX);
        self.bytes = fits.clamp(self.least_of(self.least), self.most);
    }
}

#[cfg(test)]
mod tests {
    use falconet_types::validators::VALIDATORS_MAX;

    use super::*;

    fn at(us: u64) -> Now {
        Now {
            mono_us: us,
            wall_ms: us / 1_000,
        }
    }

    #[test]
    fn an_idle_interval_is_the_least_and_a_busy_one_the_longest() {
        let interval = |rate| interval_us(5_000, 40_000, rate, 1 << 20, 1_000);
        assert_eq!(interval(0), 5_000);
        assert_eq!(interval(u64::MAX), 40_000);
        // Half of what is worth it in the longest interval: half of the way.
        assert_eq!(interval((1 << 20) * 1_000 / 40 / 2), 22_500);
        let steps: Vec<u64> = (0..60).map(|i| interval(i << 19)).collect();
        assert!(steps.is_sorted());
        assert_eq!(
            interval_us(0, 0, 1 << 30, 1, 1_000),
            0,
            "nothing stretches to nothing"
        );
    }

    #[test]
    fn a_machine_with_time_to_spare_does_not_wait() {
        let interval = |busy| interval_us(5_000, 40_000, 1 << 30, 1 << 20, busy);
        assert_eq!([0, 500, BUSY_FROM].map(interval), [5_000; 3]);
        assert_eq!([BUSY_TO, 1_000].map(interval), [40_000; 2]);
        assert_eq!(interval((BUSY_FROM + BUSY_TO) / 2), 22_500);
    }

    #[test]
    fn more_validators_stretch_further_and_few_do_not() {
        let batch = |n, rate| Crowd::of(n).batch_interval_us(5_000, rate, 256 << 10, 1_000);
        let block = |n| Crowd::of(n).block_interval_us(5_000, u64::MAX, 2 << 20, 1_000);
        let marks = |n, busy| Crowd::of(n).watermark_interval_us(n, busy);
        assert_eq!([1, 4].map(|n| batch(n, u64::MAX)), [40_000; 2]);
        assert_eq!([1, 4].map(block), [30_000; 2]);
        assert_eq!((batch(13, u64::MAX), block(13)), (72_727, 54_545));
        // With the same payload in all lanes together, an interval is longer by what it costs more.
        let total = 2 << 20;
        let (few, many) = (batch(4, total / 4), batch(13, total / 13));
        assert!(few * 3 / 2 < many && many < few * 4, "{few} {many}");
        // Whoever has time says at once what it holds.
        assert_eq!([4, 13].map(|n| marks(n, BUSY_FROM)), [2_000, 4_250]);
        assert_eq!([4, 13].map(|n| marks(n, BUSY_TO)), [2_000, 13_812]);
        assert_eq!(marks(100, BUSY_TO), WATERMARK_INTERVAL_US_MAX);
        let least = marks(VALIDATORS_MAX, 0);
        assert!(marks(VALIDATORS_MAX, BUSY_TO) >= least, "{least}");
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

    const BATCH: u64 = 256 << 10;

    /// A bottleneck that executes so many bytes a second, a while after they were sealed; loaded
    /// by this window alone, as much as it lets. Stalled for half a second now and then. Latencies
    /// and the part of the time in which it had something to do, after two seconds.
    fn loaded(bytes_per_s: u64, path_us: u64, stalls: bool) -> (Window, Vec<u64>, f64) {
        let (window, batches, share) = loaded_by(&|_| bytes_per_s, path_us, stalls);
        let settled = batches
            .iter()
            .filter(|(sealed_us, _)| *sealed_us > 2_000_000);
        let mut latencies: Vec<u64> = settled.map(|(_, took_us)| *took_us).collect();
        latencies.sort_unstable();
        (window, latencies, share)
    }

    /// The same with a rate that depends on the time; when each batch was sealed, and how long it
    /// took, microseconds.
    fn loaded_by(
        bytes_per_s: &dyn Fn(u64) -> u64,
        path_us: u64,
        stalls: bool,
    ) -> (Window, Vec<(u64, u64)>, f64) {
        let mut window = Window::new(64 << 20, 2 << 20);
        let (mut now_us, mut busy_us, mut next_stall_us) = (0u64, 0u64, 3_000_000u64);
        let mut sealed = std::collections::VecDeque::new();
        let mut batches = Vec::new();
        while now_us < 30_000_000 {
            while sealed.len() as u64 * BATCH < window.bytes() {
                sealed.push_back(now_us);
            }
            let sealed_us: u64 = sealed.pop_front().expect("a window is never empty");
            let starts_us = now_us.max(sealed_us + path_us);
            let takes_us = BATCH * 1_000_000 / bytes_per_s(starts_us);
            now_us = starts_us + takes_us;
            if stalls && now_us > next_stall_us {
                now_us += 500_000;
                next_stall_us = now_us + 3_000_000;
            }
            let took_us = now_us - sealed_us;
            let left = sealed.len() as u64 * BATCH;
            window.executed(at(now_us), took_us, BATCH, left);
            if now_us > 2_000_000 {
                busy_us += takes_us;
            }
            batches.push((sealed_us, took_us));
        }
        let share = busy_us as f64 / (now_us - 2_000_000) as f64;
        (window, batches, share)
    }

    #[test]
    fn a_window_bounds_latency_and_never_leaves_the_bottleneck_idle() {
        for bytes_per_s in [8 << 20, 16 << 20, 60 << 20] {
            let (window, latencies, share) = loaded(bytes_per_s, 60_000, false);
            let worst_us = *latencies.last().expect("some");
            assert!(
                worst_us < INTAKE_LATENCY_US * 3 / 2,
                "{worst_us}: {window:?}"
            );
            assert!(share > 0.99, "{share}: {window:?}");
        }
    }

    #[test]
    fn a_stall_does_not_narrow_the_window() {
        let (window, latencies, _) = loaded(16 << 20, 60_000, true);
        let whole = (16 << 20) * INTAKE_LATENCY_US / 1_000_000;
        assert!(window.bytes() > whole * 9 / 10, "{window:?}");
        let worst_us = *latencies.last().expect("some");
        assert!(worst_us < 500_000 + INTAKE_LATENCY_US * 3 / 2, "{worst_us}");
    }

    #[test]
    fn a_bottleneck_that_became_slower_is_noticed() {
        let mut window = Window::new(64 << 20, 1 << 20);
        for (step_us, steps) in [(5_000u64, 1_000u64), (50_000, 1_000)] {
            let start_us = window.since_us.unwrap_or(0);
            for step in 1..=steps {
                window.executed(
                    at(start_us + step * step_us),
                    300_000,
                    BATCH,
                    window.bytes(),
                );
            }
        }
        let expected = BATCH * 20 * INTAKE_LATENCY_US / 1_000_000;
        let found = window.bytes();
        assert!(
            found.abs_diff(expected) < expected / 5,
            "{found} {expected}"
        );
    }

    /// The slowest of the batches that were sealed from a time on, microseconds.
    fn slowest_since(batches: &[(u64, u64)], from_us: u64) -> u64 {
        let since = batches.iter().filter(|(sealed_us, _)| *sealed_us > from_us);
        since.map(|(_, took_us)| *took_us).max().expect("some")
    }

    #[test]
    fn a_machine_that_became_slower_is_followed_within_seconds() {
        // A build starts beside it after ten seconds: half, a quarter, a twentieth of the speed.
        for (part, times) in [(2, 3), (4, 3), (20, 5)] {
            let speed = |now_us| match now_us < 10_000_000 {
                true => 24 << 20,
                false => (24 << 20) / part,
            };
            let (window, batches, share) = loaded_by(&speed, 60_000, false);
            // What was let in at the old speed has to go first.
            let old_us = INTAKE_LATENCY_US * part;
            // The best rate of one to two windows, and the sample in which it changed.
            let settled_us = 10_000_000 + old_us.max(2_500_000);
            let slowest_us = slowest_since(&batches, settled_us);
            assert!(
                slowest_us < INTAKE_LATENCY_US * times / 2,
                "1/{part}: {slowest_us}, {window:?}"
            );
            assert!(share > 0.97, "1/{part}: {share}");
            let before = |(sealed_us, _): &&(u64, u64)| (2_000_000..9_000_000).contains(sealed_us);
            let before_us = batches.iter().filter(before).map(|(_, took)| *took).max();
            assert!(before_us.expect("some") < INTAKE_LATENCY_US * 3 / 2);
        }
    }

    #[test]
    fn a_machine_that_became_quicker_is_followed() {
        let speed = |now_us| match now_us < 10_000_000 {
            true => 1 << 20,
            false => 24 << 20,
        };
        let (window, batches, _) = loaded_by(&speed, 60_000, false);
        let whole = (24 << 20) * INTAKE_LATENCY_US / 1_000_000;
        assert!(window.bytes() > whole * 9 / 10, "{window:?}");
        assert!(!window.crowded);
        assert!(slowest_since(&batches, 12_000_000) < INTAKE_LATENCY_US * 3 / 2);
    }

    #[test]
    fn a_calm_lane_has_room_for_a_burst() {
        let mut window = Window::new(64 << 20, 2 << 20);
        for step in 0..2_000 {
            window.executed(at(step * 10_000), 5_000, 1_000, 0);
        }
        assert_eq!(window.bytes(), 2 << 20);
        assert_eq!(window.pending_bytes_max(), PENDING_BYTES_MIN);
        assert!(!window.is_stuck(5 * INTAKE_LATENCY_US));
        assert!(window.is_stuck(5 * INTAKE_LATENCY_US + 1));
    }

    #[test]
    fn on_a_long_path_there_is_room_for_what_is_on_its_way() {
        // Batches of a load that the path carries without a queue, 700 ms each.
        let mut window = Window::new(64 << 20, 1 << 20);
        for step in 0..2_000 {
            window.executed(at(step * 20_000), 700_000, BATCH, BATCH);
        }
        let on_the_way = BATCH * 50 * 7 / 10;
        assert!(window.bytes() > on_the_way * 3 / 2, "{window:?}");
    }

    #[test]
    fn the_queue_before_sealing_is_in_proportion() {
        let mut window = Window::new(64 << 20, 1 << 20);
        assert_eq!(window.pending_bytes_max(), PENDING_BYTES_MAX, "unknown");
        for step in 0..1_000 {
            window.executed(at(step * 1_000), 50_000, 10, 0);
        }
        assert_eq!(window.pending_bytes_max(), PENDING_BYTES_MIN);
        for step in 1_000..2_000 {
            window.executed(at(step * 1_000), 50_000, 20 << 20, 0);
        }
        assert_eq!(window.bytes(), 64 << 20);
        assert_eq!(window.pending_bytes_max(), PENDING_BYTES_MAX);
    }
}
