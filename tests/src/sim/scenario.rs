//! What happens in a run, all of it from the seed: size, network, faults, load.

use falconet_types::genesis::Params;

use super::network::Profile;
use super::rng::Rng;

/// Where a node dies inside a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPoint {
    /// Records appended, not synced; nothing sent.
    BeforeSync,
    /// Records synced, nothing sent.
    AfterSync,
    /// Records synced, some of the messages sent.
    WhileSending,
}

/// Something that goes wrong, or right again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A node dies at the next such point.
    Crash(usize, CrashPoint),
    /// Every node dies at once.
    CrashAll,
    /// A node starts again (every node that is down, except silent ones, if `None`).
    Restart(Option<usize>),
    /// Nodes reach only others of their group.
    Partition(Vec<u8>),
    /// Everybody reaches everybody.
    Heal,
    /// The network gets better or worse.
    Network(Profile),
    /// A node's wall clock jumps, milliseconds.
    ClockJump(usize, i64),
    /// All wall clocks are right again. A clock that is off by more than the allowed drift counts
    /// as a fault of its node.
    ClocksRight,
    /// A node stands still for a while, microseconds.
    Stall(usize, u64),
}

/// A run.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The seed that made it.
    pub seed: u64,
    /// Validators.
    pub n: usize,
    /// Validators that never start; weigh less than a third.
    pub silent: Vec<usize>,
    /// Validators that run twice with one key; together with the silent ones they weigh less than
    /// a third. Their second selves are the nodes `n`, `n + 1`, ….
    pub twins: Vec<usize>,
    /// Parameters of genesis.
    pub params: Params,
    /// What happens when, microseconds, ascending.
    pub faults: Vec<(u64, Fault)>,
    /// From here on nothing goes wrong any more.
    pub calm_us: u64,
    /// By then everything must have been put right.
    pub end_us: u64,
    /// Time that a sync takes, microseconds: least and most.
    pub sync_us: (u64, u64),
    /// Time that a block takes to execute, microseconds: least and most.
    pub execute_us: (u64, u64),
}

/// Time after the last fault within which everything must be in order again, microseconds.
const RECOVERY_US: u64 = 10_000_000;

impl Scenario {
    /// The run of a seed.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let n = if rng.chance(250) { 7 } else { 4 };
        let calm_us = rng.between(1_500_000, 5_000_000);
        let (mut silent, mut twins) = (Vec::new(), Vec::new());
        if rng.chance(400) {
            let first = rng.index(n);
            for i in 0..rng.between(1, (n as u64 - 1) / 3) as usize {
                let faulty = (first + i) % n;
                if rng.chance(500) {
                    silent.push(faulty);
                } else {
                    twins.push(faulty);
                }
            }
        }
        let mut scenario = Self {
            seed,
            n,
            silent,
            twins,
            params: Params {
                round_timeout_ms: 200,
                round_timeout_ms_max: 1_500,
                block_interval_ms_min: rng.between(0, 20),
                block_interval_ms_idle: 80,
                clock_drift_ms_max: 500,
                batch_bytes_target: rng.between(1_000, 100_000),
                batch_interval_ms: rng.between(1, 20),
                ..Params::default()
            },
            faults: Vec::new(),
            calm_us,
            end_us: calm_us + RECOVERY_US,
            sync_us: (50, rng.between(100, 20_000)),
            execute_us: (10, rng.between(20, 10_000)),
        };
        scenario.plan(&mut rng);
        scenario
    }

    /// A run without faults.
    #[must_use]
    pub fn calm(seed: u64, n: usize) -> Self {
        let mut scenario = Self::from_seed(seed);
        scenario.n = n;
        scenario.silent.clear();
        scenario.twins.clear();
        scenario.faults.clear();
        scenario
    }

    /// Nodes, twins counted twice.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.n + self.twins.len()
    }

    /// The validator that a node is.
    #[must_use]
    pub fn validator_of(&self, node: usize) -> usize {
        if node < self.n {
            node
        } else {
            self.twins[node - self.n]
        }
    }

    /// True for a node that keeps to the rules and has its key for itself.
    #[must_use]
    pub fn correct(&self, node: usize) -> bool {
        let validator = self.validator_of(node);
        !self.silent.contains(&validator) && !self.twins.contains(&validator)
    }

    fn plan(&mut self, rng: &mut Rng) {
        let n = self.nodes();
        let mut faults = Vec::new();
        // Swarm testing: each kind of fault is on in some runs only, and then often.
        if rng.chance(700) {
            for _ in 0..rng.between(1, 3) {
                let at = rng.below(self.calm_us);
                faults.push((at, Fault::Network(Profile::random(rng))));
            }
        }
        if rng.chance(600) {
            for _ in 0..rng.between(1, 8) {
                let at = rng.below(self.calm_us);
                let node = rng.index(n);
                let points = [
                    CrashPoint::BeforeSync,
                    CrashPoint::AfterSync,
                    CrashPoint::WhileSending,
                ];
                faults.push((at, Fault::Crash(node, points[rng.index(3)])));
                let back = at + rng.between(1_000, 1_500_000);
                faults.push((back, Fault::Restart(Some(node))));
            }
        }
        if rng.chance(200) {
            let at = rng.below(self.calm_us);
            faults.push((at, Fault::CrashAll));
            faults.push((at + rng.below(500_000), Fault::Restart(None)));
        }
        if rng.chance(500) {
            for _ in 0..rng.between(1, 3) {
                let at = rng.below(self.calm_us);
                let groups = (0..n).map(|_| rng.below(2) as u8).collect();
                faults.push((at, Fault::Partition(groups)));
                faults.push((at + rng.between(10_000, 1_500_000), Fault::Heal));
            }
        }
        if rng.chance(300) {
            for _ in 0..rng.between(1, 4) {
                let jump = rng.below(4_000_000) as i64 - 2_000_000;
                let at = rng.below(self.calm_us);
                let node = rng.index(n);
                faults.push((at, Fault::ClockJump(node, jump / 1_000)));
                if rng.chance(500) {
                    let back = at + rng.below(1_000_000);
                    faults.push((back, Fault::ClockJump(node, -jump / 1_000)));
                }
            }
        }
        if rng.chance(300) {
            for _ in 0..rng.between(1, 3) {
                let at = rng.below(self.calm_us);
                faults.push((at, Fault::Stall(rng.index(n), rng.below(1_500_000))));
            }
        }
        // Twins do harm when each talks to another part of the network.
        if !self.twins.is_empty() {
            for _ in 0..rng.between(2, 6) {
                let at = rng.below(self.calm_us);
                let mut groups: Vec<u8> = (0..n).map(|_| rng.below(2) as u8).collect();
                for (k, twin) in self.twins.iter().enumerate() {
                    groups[self.n + k] = 1 - groups[*twin];
                }
                faults.push((at, Fault::Partition(groups)));
            }
        }
        faults.retain(|(at, _)| *at < self.calm_us);
        faults.push((self.calm_us, Fault::Network(Profile::CALM)));
        faults.push((self.calm_us, Fault::Heal));
        faults.push((self.calm_us, Fault::ClocksRight));
        faults.push((self.calm_us, Fault::Restart(None)));
        faults.sort_by_key(|(at, _)| *at);
        self.faults = faults;
    }
}
