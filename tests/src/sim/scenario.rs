//! What happens in a run: size, faults, load. All of it from a seed, or written down by a test.

use falconet_types::genesis::{HISTORY_HEIGHTS_FLOOR, Params};

use super::keys::NODES_MAX;
use super::network::{Loss, Profile};
use super::rng::Rng;

/// Where a node dies inside a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashPoint {
    /// Records appended, not synced; nothing sent.
    BeforeSync,
    /// The sync fails: the store is poisoned and the process ends. Of what was to be synced, some
    /// is on disk and the rest is lost.
    SyncFails,
    /// Records synced, nothing sent.
    AfterSync,
    /// Records synced, some of the messages sent.
    WhileSending,
    /// After so many more effects.
    Soon(u64),
    /// Right after the node's effect of this number since the beginning of the run: a record
    /// appended (and found on disk afterwards), a sync, a message handed out.
    Effect(u64),
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
    /// The partition ends.
    Heal,
    /// What the first of each pair sends to the second is lost; nobody is told. Replaces what was
    /// deaf before; none for an end.
    Deaf(Vec<(usize, usize)>),
    /// Chosen messages are lost; replaces what was chosen before.
    Lose(Vec<Loss>),
    /// The network gets better or worse.
    Network(Profile),
    /// The way from the first node to the second takes so many microseconds more.
    SlowLink(usize, usize, u64),
    /// A node takes so many microseconds for each thing that it handles.
    SlowCpu(usize, u64),
    /// A node's sync takes so long, microseconds: least and most.
    SlowDisk(usize, (u64, u64)),
    /// A node's wall clock jumps, milliseconds.
    ClockJump(usize, i64),
    /// All wall clocks are right again. A clock that is off by more than the allowed drift counts
    /// as a fault of its node.
    ClocksRight,
    /// A node stands still for a while, microseconds.
    Stall(usize, u64),
    /// The owner of a node bonds stake to its key: more of it, or to one that waits to join.
    Bond(usize, u64),
    /// The owner of a node takes stake out; all of it for 0, or where too little would be left.
    Unbond(usize, u64),
    /// The validator that the first node is gets the key of the second one.
    Rotate(usize, usize),
}

/// A run.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The seed that made it.
    pub seed: u64,
    /// Validators.
    pub n: usize,
    /// Weight of each.
    pub weights: Vec<u64>,
    /// Nodes with keys of their own that are no validators of genesis: the nodes `n`, `n + 1`, ….
    /// They start when a fault says so, or when calm begins, and follow until they have stake.
    pub joiners: usize,
    /// Validators that never start; weigh less than a third.
    pub silent: Vec<usize>,
    /// Validators that run twice with one key; together with the silent and the Byzantine ones
    /// they weigh less than a third. Their second selves are the last nodes.
    pub twins: Vec<usize>,
    /// Validators that an [`super::Actor`] speaks for. Set by [`super::Builder::actor`].
    pub byzantine: Vec<usize>,
    /// Parameters of genesis.
    pub params: Params,
    /// What happens when, microseconds, ascending; all before `calm_us`.
    pub faults: Vec<(u64, Fault)>,
    /// From here on nothing goes wrong any more: everything heals, everybody restarts.
    pub calm_us: u64,
    /// By then everything must have been put right.
    pub end_us: u64,
    /// Time that a sync takes, microseconds: least and most.
    pub sync_us: (u64, u64),
    /// Time that a block takes to execute, microseconds: least and most.
    pub execute_us: (u64, u64),
    /// Clients send transactions.
    pub clients: bool,
}

/// Which validators a random run makes faulty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Faulty {
    None,
    /// Some silent, some twins, in some runs.
    Some,
    /// As many twins as possible.
    Twins,
}

/// Time after the last fault within which everything must be in order again, microseconds.
const RECOVERY_US: u64 = 10_000_000;

/// Heights that are kept where old history goes, least and most: so few that runs of seconds prune.
const HISTORY_HEIGHTS: (u64, u64) = (32, 96);
/// In so many of a thousand random runs, and of those with epochs, old history goes.
const PRUNING_RUNS: (u64, u64) = (60, 250);

/// The same for a run with epochs: whoever slept takes them one at a time.
const EPOCHS_RECOVERY_US: u64 = 20_000_000;

/// The same where old history goes: whoever weighs so much that the others are no F1 believes that a
/// block is gone only after the patience of rule Z3.
const SNAPSHOTS_RECOVERY_US: u64 = falconet_sync::limits::PATIENCE_US + EPOCHS_RECOVERY_US;

impl Scenario {
    /// The run of a seed: size, weights, faulty validators, faults and load are random.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let n = if rng.chance(250) { 7 } else { 4 };
        let mut scenario = Self::random(seed, n, Faulty::Some, rng);
        let mut rng = Rng::new(seed ^ 0x0b5e);
        if rng.chance(PRUNING_RUNS.0) && scenario.twins.is_empty() {
            scenario.shorten(&mut rng);
        }
        scenario
    }

    /// As [`Scenario::from_seed`], with so many validators.
    #[must_use]
    pub fn sized_from_seed(seed: u64, n: usize) -> Self {
        Self::random(seed, n, Faulty::Some, Rng::new(seed))
    }

    /// The run of a seed with so many validators, all of whom keep to the rules: room for
    /// Byzantine ones that the caller adds.
    #[must_use]
    pub fn honest_from_seed(seed: u64, n: usize) -> Self {
        Self::random(seed, n, Faulty::None, Rng::new(seed))
    }

    /// The run of a seed with as many twins as n validators bear.
    #[must_use]
    pub fn with_twins_from_seed(seed: u64, n: usize) -> Self {
        Self::random(seed, n, Faulty::Twins, Rng::new(seed))
    }

    /// The run of a seed in which validators come and go, over several epochs. With `faulty`, a
    /// validator that the caller makes Byzantine is in it, so nobody leaves; without, everything
    /// down to one validator happens.
    #[must_use]
    pub fn epochs_from_seed(seed: u64, n: Option<usize>, faulty: bool) -> Self {
        let mut rng = Rng::new(seed ^ 0x000e_90c4);
        let sizes: &[usize] = if faulty {
            &[4, 4, 7]
        } else {
            &[1, 2, 3, 4, 4, 4]
        };
        let n = n.unwrap_or(sizes[rng.index(sizes.len())]);
        let mut scenario = Self::random(seed, n, Faulty::None, Rng::new(seed));
        let joiners = rng.between(1, 3) as usize;
        scenario = scenario.with_epochs(rng.between(16, 40), joiners);
        scenario.params.block_interval_ms_idle = rng.between(20, 60);
        scenario.calm_us = rng.between(2_000_000, 6_000_000);
        scenario.end_us = scenario.calm_us + EPOCHS_RECOVERY_US;
        scenario.plan(&mut rng);
        scenario.plan_changes(&mut rng, faulty);
        if rng.chance(PRUNING_RUNS.1) {
            scenario.shorten(&mut rng);
        }
        scenario
    }

    /// The run of a seed in which little history is kept and somebody sleeps for longer than that:
    /// every run prunes, and most need a snapshot. Without `faulty`, most have epochs, too.
    #[must_use]
    pub fn snapshots_from_seed(seed: u64, n: Option<usize>, faulty: bool) -> Self {
        let mut rng = Rng::new(seed ^ 0x5a45);
        let mut scenario = if rng.chance(500) {
            Self::epochs_from_seed(seed, n, faulty)
        } else {
            let n = n.unwrap_or(if rng.chance(250) { 7 } else { 4 });
            Self::random(seed, n, Faulty::None, Rng::new(seed))
        };
        scenario.shorten(&mut rng);
        scenario
    }

    /// Little history, blocks at a pace at which a snapshot of seconds ago is still of use, and
    /// nodes that sleep for long.
    fn shorten(&mut self, rng: &mut Rng) {
        let heights = rng.between(HISTORY_HEIGHTS.0, HISTORY_HEIGHTS.1);
        self.params.history_heights_min = heights;
        self.params.history_heights_floor = Some(heights);
        self.params.block_interval_ms_min = rng.between(10, 20);
        self.params.block_interval_ms_idle = rng.between(20, 40);
        if self.has_epochs() {
            self.params.epoch_heights = rng.between(24, 64);
        }
        // Blocks must go on while somebody sleeps, or nothing is pruned. And nobody gives a place to
        // a key whose node may begin with a snapshot in that very epoch: it must not sign then (rule
        // Z8), and the chain would wait for it.
        let share = rng.below(1_000);
        self.faults.retain(|(_, fault)| match fault {
            Fault::Rotate(..) => false,
            Fault::Bond(..) | Fault::Unbond(..) | Fault::Restart(_) | Fault::Heal => true,
            _ => rng.chance(share),
        });
        self.calm_us = self.calm_us.max(rng.between(3_000_000, 7_000_000));
        self.end_us = self.calm_us + SNAPSHOTS_RECOVERY_US;
        let end = self.calm_us;
        for _ in 0..rng.between(1, 2) {
            let node = rng.index(self.own_keys());
            let at = rng.below(end / 4);
            let back = at + rng.between(end / 2, end);
            self.faults
                .push((at, Fault::Crash(node, CrashPoint::AfterSync)));
            if back < end {
                self.faults.push((back, Fault::Restart(Some(node))));
                // It is hurt again while it catches up.
                for _ in 0..rng.below(3) {
                    let at = back + rng.below(2_500_000);
                    self.faults
                        .push((at, Fault::Crash(node, CrashPoint::Soon(rng.below(60)))));
                    self.faults
                        .push((at + rng.below(500_000), Fault::Restart(Some(node))));
                }
            }
        }
        self.faults.retain(|(at, _)| *at < end);
        self.faults.sort_by_key(|(at, _)| *at);
    }

    /// Who bonds, leaves and changes keys when.
    fn plan_changes(&mut self, rng: &mut Rng, faulty: bool) {
        let end = self.calm_us;
        let unit = super::keys::STAKE_UNIT;
        let mut changes = Vec::new();
        let later = |rng: &mut Rng| rng.below(end);
        for joiner in self.n..self.own_keys() {
            let start = later(rng);
            changes.push((start, Fault::Restart(Some(joiner))));
            let at = later(rng);
            if rng.chance(300) {
                // It takes the place of a validator of genesis.
                changes.push((at, Fault::Rotate(rng.index(self.n), joiner)));
            } else {
                changes.push((at, Fault::Bond(joiner, rng.between(1, 4) * unit)));
            }
        }
        for _ in 0..rng.below(6) {
            let (at, node) = (later(rng), rng.index(self.own_keys()));
            let amount = rng.between(1, 3) * unit;
            changes.push(match rng.below(3) {
                _ if faulty => (at, Fault::Bond(node, amount)),
                0 => (at, Fault::Bond(node, amount)),
                1 => (at, Fault::Unbond(node, amount)),
                _ => (at, Fault::Unbond(node, 0)),
            });
        }
        self.faults.extend(changes);
        self.faults.sort_by_key(|(at, _)| *at);
    }

    fn random(seed: u64, n: usize, faulty: Faulty, mut rng: Rng) -> Self {
        let rng = &mut rng;
        let calm_us = rng.between(1_500_000, 5_000_000);
        let mut weights = vec![1; n];
        if faulty == Faulty::Some && rng.chance(250) {
            weights.fill_with(|| rng.between(1, 5));
        }
        let (mut silent, mut twins) = (Vec::new(), Vec::new());
        let bearable = n.saturating_sub(1) / 3;
        let some = faulty == Faulty::Some && rng.chance(400);
        if bearable > 0 && (some || faulty == Faulty::Twins) {
            let total: u64 = weights.iter().sum();
            let first = rng.index(n);
            let mut weight = 0;
            let least = if some { 1 } else { bearable as u64 };
            // Small validators may be silent in any number.
            let equal = weights.iter().all(|other| *other == weights[0]);
            let most = if equal || !some { bearable } else { n - 1 };
            for i in 0..rng.between(least, most as u64) as usize {
                let validator = (first + i) % n;
                weight += weights[validator];
                if weight * 3 >= total {
                    break;
                }
                if i >= bearable || (some && rng.chance(500)) {
                    silent.push(validator);
                } else {
                    twins.push(validator);
                }
            }
        }
        let mut scenario = Self {
            weights,
            silent,
            twins,
            calm_us,
            end_us: calm_us + RECOVERY_US,
            sync_us: (50, rng.between(100, 20_000)),
            execute_us: (10, rng.between(20, 10_000)),
            params: Params {
                block_interval_ms_min: rng.between(0, 20),
                batch_bytes_target: rng.between(1_000, 100_000),
                batch_interval_ms: rng.between(1, 20),
                optimistic_proposals: seed % 2 == 1,
                commit_votes: seed % 4 >= 2,
                leader_reputation: seed % 8 >= 4,
                ..Self::params()
            },
            ..Self::scripted(seed, n)
        };
        scenario.plan(rng);
        scenario
    }

    fn params() -> Params {
        Params {
            round_timeout_ms: 200,
            round_timeout_ms_max: 1_500,
            block_interval_ms_min: 5,
            block_interval_ms_idle: 80,
            clock_drift_ms_max: 500,
            batch_bytes_target: 10_000,
            batch_interval_ms: 5,
            ..Params::default()
        }
    }

    /// A run in which nothing happens until the test adds something ([`Scenario::at`]). Calm
    /// begins after three seconds.
    #[must_use]
    pub fn scripted(seed: u64, n: usize) -> Self {
        let calm_us = 3_000_000;
        Self {
            seed,
            n,
            weights: vec![1; n],
            joiners: 0,
            silent: Vec::new(),
            twins: Vec::new(),
            byzantine: Vec::new(),
            params: Self::params(),
            faults: Vec::new(),
            calm_us,
            end_us: calm_us + RECOVERY_US,
            sync_us: (50, 1_000),
            execute_us: (10, 500),
            clients: true,
        }
    }

    /// A run without faults, of the parameters and the load of a seed.
    #[must_use]
    pub fn calm(seed: u64, n: usize) -> Self {
        let mut scenario = Self::honest_from_seed(seed, n);
        scenario.faults.clear();
        scenario
    }

    /// Adds something that happens.
    #[must_use]
    pub fn at(mut self, us: u64, fault: Fault) -> Self {
        assert!(
            us < self.calm_us,
            "nothing goes wrong after {}",
            self.calm_us
        );
        self.faults.push((us, fault));
        self.faults.sort_by_key(|(at, _)| *at);
        self
    }

    /// Changes when calm begins, microseconds.
    #[must_use]
    pub fn calm_at(mut self, us: u64) -> Self {
        self.calm_us = us;
        self.end_us = us + RECOVERY_US;
        self
    }

    /// Validators that never start.
    #[must_use]
    pub fn with_silent(mut self, validators: &[usize]) -> Self {
        self.silent = validators.to_vec();
        self
    }

    /// Epochs of so many heights, and nodes that may join.
    #[must_use]
    pub fn with_epochs(mut self, heights: u64, joiners: usize) -> Self {
        assert!(self.n + joiners <= NODES_MAX && self.twins.is_empty());
        self.params.epoch_heights = heights;
        self.joiners = joiners;
        self
    }

    /// Validators that run twice.
    #[must_use]
    pub fn with_twins(mut self, validators: &[usize]) -> Self {
        self.twins = validators.to_vec();
        self
    }

    /// Weights of the validators.
    #[must_use]
    pub fn with_weights(mut self, weights: &[u64]) -> Self {
        assert_eq!(weights.len(), self.n);
        self.weights = weights.to_vec();
        self
    }

    /// Changes parameters of genesis.
    #[must_use]
    pub fn with_params(mut self, change: impl FnOnce(&mut Params)) -> Self {
        change(&mut self.params);
        self
    }

    /// No transactions.
    #[must_use]
    pub fn without_clients(mut self) -> Self {
        self.clients = false;
        self
    }

    /// Nodes, twins counted twice.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.own_keys() + self.twins.len()
    }

    /// Nodes with keys of their own: validators of genesis, and those that may join.
    #[must_use]
    pub fn own_keys(&self) -> usize {
        self.n + self.joiners
    }

    /// True for a node that does not start with the others.
    #[must_use]
    pub fn joins_later(&self, node: usize) -> bool {
        (self.n..self.own_keys()).contains(&node)
    }

    /// Keeps so few heights that a run of seconds prunes.
    #[must_use]
    pub fn with_history(mut self, heights: u64) -> Self {
        self.params.history_heights_min = heights;
        self.params.history_heights_floor = Some(heights);
        self
    }

    /// True when old history goes.
    #[must_use]
    pub fn prunes(&self) -> bool {
        self.params.history_heights() < HISTORY_HEIGHTS_FLOOR
    }

    /// True when validators come and go.
    #[must_use]
    pub fn has_epochs(&self) -> bool {
        self.params.epoch_heights > 0
    }

    /// The validator that a node is.
    #[must_use]
    pub fn validator_of(&self, node: usize) -> usize {
        match node.checked_sub(self.own_keys()) {
            None => node,
            Some(twin) => self.twins[twin],
        }
    }

    /// True for a node that keeps to the rules and has its key for itself.
    #[must_use]
    pub fn correct(&self, node: usize) -> bool {
        let validator = self.validator_of(node);
        !self.silent.contains(&validator) && !self.faulty(validator)
    }

    /// True for a validator that may sign what no correct one does.
    #[must_use]
    pub fn faulty(&self, validator: usize) -> bool {
        self.twins.contains(&validator) || self.byzantine.contains(&validator)
    }

    /// Swarm testing (Groce et al., 2012): each kind of fault is on in some runs only, and then at
    /// a rate of its own.
    fn plan(&mut self, rng: &mut Rng) {
        let n = self.nodes();
        let end = self.calm_us;
        let mut faults = Vec::new();
        // Times a kind of fault happens; 0 in so many of a thousand runs.
        let often = |rng: &mut Rng, on: u64, most: u64| {
            if rng.chance(on) {
                rng.between(1, most)
            } else {
                0
            }
        };
        for _ in 0..often(rng, 700, 3) {
            faults.push((rng.below(end), Fault::Network(Profile::random(rng))));
        }
        for _ in 0..often(rng, 600, 8) {
            let at = rng.below(end);
            let node = rng.index(n);
            let points = [
                CrashPoint::BeforeSync,
                CrashPoint::SyncFails,
                CrashPoint::AfterSync,
                CrashPoint::WhileSending,
            ];
            faults.push((at, Fault::Crash(node, points[rng.index(points.len())])));
            let back = at + rng.between(1_000, 1_500_000);
            faults.push((back, Fault::Restart(Some(node))));
        }
        for _ in 0..often(rng, 200, 2) {
            let at = rng.below(end);
            faults.push((at, Fault::CrashAll));
            faults.push((at + rng.below(500_000), Fault::Restart(None)));
        }
        for _ in 0..often(rng, 500, 3) {
            let at = rng.below(end);
            let groups = (0..n).map(|_| rng.below(2) as u8).collect();
            faults.push((at, Fault::Partition(groups)));
            faults.push((at + rng.between(10_000, 1_500_000), Fault::Heal));
        }
        for _ in 0..often(rng, 300, 4) {
            let at = rng.below(end);
            let share = rng.below(500);
            let all = (0..n).flat_map(|a| (0..n).map(move |b| (a, b)));
            let deaf = all.filter(|(a, b)| a != b && rng.chance(share)).collect();
            faults.push((at, Fault::Deaf(deaf)));
            let back = at + rng.between(10_000, 1_500_000);
            faults.push((back, Fault::Deaf(Vec::new())));
        }
        for _ in 0..often(rng, 200, 2) {
            let at = rng.below(end);
            let loss = Loss {
                from: rng.chance(500).then(|| rng.index(n)),
                to: rng.chance(500).then(|| rng.index(n)),
                kinds: vec![rng.between(16, 27) as u8],
                per_mille: rng.between(100, 1_000),
            };
            faults.push((at, Fault::Lose(vec![loss])));
            let back = at + rng.between(10_000, 1_500_000);
            faults.push((back, Fault::Lose(Vec::new())));
        }
        for _ in 0..often(rng, 200, 3) {
            let (from, to) = (rng.index(n), rng.index(n));
            let us = rng.below(400_000);
            faults.push((rng.below(end), Fault::SlowLink(from, to, us)));
        }
        for _ in 0..often(rng, 150, 2) {
            let (node, us) = (rng.index(n), rng.below(3_000));
            faults.push((rng.below(end), Fault::SlowCpu(node, us)));
        }
        for _ in 0..often(rng, 200, 3) {
            let (node, us) = (rng.index(n), rng.below(400_000));
            faults.push((rng.below(end), Fault::SlowDisk(node, (us / 4, us))));
        }
        for _ in 0..often(rng, 300, 4) {
            let jump = rng.below(4_000) as i64 - 2_000;
            let at = rng.below(end);
            let node = rng.index(n);
            faults.push((at, Fault::ClockJump(node, jump)));
            if rng.chance(500) {
                let back = at + rng.below(1_000_000);
                faults.push((back, Fault::ClockJump(node, -jump)));
            }
        }
        for _ in 0..often(rng, 300, 3) {
            let at = rng.below(end);
            faults.push((at, Fault::Stall(rng.index(n), rng.below(1_500_000))));
        }
        // Twins do harm when each talks to another part of the network.
        if !self.twins.is_empty() {
            for _ in 0..rng.between(2, 6) {
                let at = rng.below(end);
                let mut groups: Vec<u8> = (0..n).map(|_| rng.below(2) as u8).collect();
                for (k, twin) in self.twins.iter().enumerate() {
                    groups[self.n + self.joiners + k] = 1 - groups[*twin];
                }
                faults.push((at, Fault::Partition(groups)));
            }
        }
        faults.retain(|(at, _)| *at < end);
        faults.sort_by_key(|(at, _)| *at);
        self.faults = faults;
    }
}
