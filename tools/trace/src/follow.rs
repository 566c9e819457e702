//! Follows batches and transactions from probe to probe and keeps a histogram for each step.

use std::collections::{HashMap, VecDeque};

use hdrhistogram::Histogram;

use crate::event::Event;

/// Batches that are followed at a time; the oldest are given up.
const BATCHES_MAX: usize = 1 << 16;
/// Transactions that are followed at a time; those beyond are not.
const TXS_MAX: usize = 1 << 18;
/// Blocks between commit and execution.
const BLOCKS_MAX: usize = 4096;
/// Longest step that is told apart, nanoseconds.
const STEP_NS_MAX: u64 = 600_000_000_000;

/// Steps, in the order of the way: what moves, from where to where.
pub const STEPS: [(&str, &str); 12] = [
    ("peer's batch", "received -> taken up"),
    ("peer's batch", "taken up -> verified"),
    ("peer's batch", "verified -> stored"),
    ("peer's batch", "stored -> committed"),
    ("peer's batch", "committed -> executed"),
    ("own batch", "sealed -> stored"),
    ("own batch", "stored -> committed"),
    ("own batch", "committed -> executed"),
    ("transaction", "admitted -> sealed"),
    ("transaction", "sealed -> stored"),
    ("transaction", "stored -> committed"),
    ("transaction", "committed -> finished"),
];

#[derive(Debug, Clone, Copy, Default)]
struct Batch {
    is_own: bool,
    frame: Option<u64>,
    /// Taken up by verify, or sealed.
    start: Option<u64>,
    verified: Option<u64>,
    stored: Option<u64>,
    committed: Option<u64>,
}

/// Where everything is, and how long the steps took.
#[derive(Debug)]
pub struct Follower {
    frames: HashMap<u64, u64>,
    batches: HashMap<(u64, u64), Batch>,
    order: VecDeque<(u64, u64)>,
    blocks: HashMap<u64, Vec<(u64, u64)>>,
    txs: HashMap<u64, u64>,
    /// One a step.
    pub histograms: Vec<Histogram<u64>>,
    /// Blocks executed.
    pub blocks_executed: u64,
    /// Batches that were seen at every stage, from start to execution.
    pub batches_whole: u64,
    /// Transactions finished.
    pub txs_finished: u64,
}

impl Default for Follower {
    fn default() -> Self {
        let histogram = || Histogram::new_with_bounds(1, STEP_NS_MAX, 3).expect("sound bounds");
        Self {
            frames: HashMap::new(),
            batches: HashMap::new(),
            order: VecDeque::new(),
            blocks: HashMap::new(),
            txs: HashMap::new(),
            histograms: STEPS.map(|_| histogram()).into(),
            blocks_executed: 0,
            batches_whole: 0,
            txs_finished: 0,
        }
    }
}

impl Follower {
    /// A probe fired.
    pub fn event(&mut self, event: &Event) {
        let (now, [a, b, c, _, e, _]) = (event.time_ns, event.args);
        match event.probe {
            "frame_received" => {
                if self.frames.len() >= TXS_MAX {
                    self.frames.clear(); // frames of kinds that nobody takes up here
                }
                self.frames.insert(event.args[3], now);
            }
            "batch_received" => {
                let frame = self.frames.remove(&e);
                self.batch(a, b).start = Some(now);
                self.batch(a, b).frame = frame;
            }
            "batch_verified" => self.batch(a, b).verified = Some(now),
            "batch_sealed" => {
                let batch = self.batch(a, b);
                (batch.is_own, batch.start) = (true, Some(now));
            }
            "batch_stored" => self.batch(a, b).stored = Some(now),
            "lane_committed" => {
                for seq in c..=event.args[3].min(c.saturating_add(BATCHES_MAX as u64)) {
                    if let Some(batch) = self.batches.get_mut(&(b, seq)) {
                        batch.committed = Some(now);
                        if self.blocks.len() < BLOCKS_MAX {
                            self.blocks.entry(a).or_default().push((b, seq));
                        }
                    }
                }
            }
            "state_written" => {
                self.blocks_executed += 1;
                for id in self.blocks.remove(&a).unwrap_or_default() {
                    self.batch_executed(id, now);
                }
            }
            "tx_admitted" if b == 0 && self.txs.len() < TXS_MAX => {
                self.txs.insert(a, now);
            }
            "tx_finished" => {
                self.txs_finished += 1;
                let Some(admitted) = self.txs.remove(&a) else {
                    return;
                };
                let Some(batch) = self.batches.get(&(b, c)).copied() else {
                    return;
                };
                let at = [
                    Some(admitted),
                    batch.start,
                    batch.stored,
                    batch.committed,
                    Some(now),
                ];
                self.record(8, &at);
            }
            _ => {}
        }
    }

    fn batch(&mut self, lane: u64, seq: u64) -> &mut Batch {
        let id = (lane, seq);
        if !self.batches.contains_key(&id) {
            self.order.push_back(id);
            if self.order.len() > BATCHES_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.batches.remove(&oldest);
            }
        }
        self.batches.entry(id).or_default()
    }

    fn batch_executed(&mut self, id: (u64, u64), now: u64) {
        // Kept until it is the oldest: its transactions finish after this.
        let Some(batch) = self.batches.get(&id).copied() else {
            return;
        };
        let end = [batch.stored, batch.committed, Some(now)];
        let (first, at) = if batch.is_own {
            (5, [&[batch.start][..], &end].concat())
        } else {
            let start = [batch.frame, batch.start, batch.verified];
            (0, [&start[..], &end].concat())
        };
        // The frame may have come before anybody looked.
        let whole = at[usize::from(!batch.is_own)..].iter().all(Option::is_some);
        self.batches_whole += u64::from(whole);
        self.record(first, &at);
    }

    /// Adds the times between neighbours to the histograms from `first` on.
    fn record(&mut self, first: usize, at: &[Option<u64>]) {
        for (histogram, pair) in self.histograms[first..].iter_mut().zip(at.windows(2)) {
            if let [Some(from), Some(to)] = pair {
                histogram.saturating_record(to.saturating_sub(*from).max(1));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fire(follower: &mut Follower, time_ns: u64, probe: &'static str, args: &[u64]) {
        let mut all = [0; crate::event::ARGS_MAX];
        all[..args.len()].copy_from_slice(args);
        follower.event(&Event {
            time_ns,
            probe,
            thread: 1,
            args: all,
            comm: String::new(),
        });
    }

    #[test]
    fn a_batch_and_a_transaction_are_followed_to_their_end() {
        let mut follower = Follower::default();
        let f = &mut follower;
        fire(f, 100, "tx_admitted", &[77, 0, 1]);
        fire(f, 200, "batch_sealed", &[0, 1, 9, 1, 10]);
        fire(f, 300, "frame_received", &[1, 27, 5, 4096]);
        fire(f, 310, "batch_received", &[1, 4, 8, 1, 4096, 1]);
        fire(f, 330, "batch_verified", &[1, 4, 8, 1]);
        fire(f, 400, "batch_stored", &[0, 1, 9, 10]);
        fire(f, 400, "batch_stored", &[1, 4, 8, 10]);
        fire(f, 500, "lane_committed", &[6, 0, 1, 1]);
        fire(f, 500, "lane_committed", &[6, 1, 4, 4]);
        fire(f, 700, "state_written", &[6, 3]);
        fire(f, 750, "tx_finished", &[77, 0, 1, 6, 0, 1]);
        assert_eq!(
            (f.blocks_executed, f.batches_whole, f.txs_finished),
            (1, 2, 1)
        );
        let took: Vec<u64> = f.histograms.iter().map(Histogram::max).collect();
        assert_eq!(
            took,
            [10, 20, 70, 100, 200, 200, 100, 200, 100, 200, 100, 250]
        );
        assert!(f.histograms.iter().all(|h| h.len() == 1));
    }

    #[test]
    fn what_was_under_way_before_is_not_counted() {
        let mut follower = Follower::default();
        fire(&mut follower, 500, "lane_committed", &[6, 0, 1, u64::MAX]);
        fire(&mut follower, 600, "state_written", &[6, 3]);
        fire(&mut follower, 700, "tx_finished", &[77, 0, 1, 6, 0, 1]);
        assert!(follower.histograms.iter().all(|h| h.is_empty()));
        assert_eq!(follower.batches_whole, 0);
    }
}
