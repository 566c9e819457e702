//! Many runs: one seed after another over all cores, the failing ones shrunk and written down.
//!
//! A [`Plan`] and a seed are a run. A failing run is shrunk by taking its faults away one at a
//! time for as long as it still fails in the same way; what is left is written to a file together
//! with the command that repeats it.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use falconet_hotstuff::Misbehaviour;
use falconet_sync::SnapshotRootUnchecked;

use crate::actors::Named;

use super::actor::Actor;
use super::checkers::Violation;
use super::mutator::{Mutator, StaleLeader};
use super::rng::Rng;
use super::scenario::Scenario;
use super::world::{Builder, Outcome, World};

/// What kind of run a seed makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// Random faults, sizes, weights, silent validators and twins.
    #[default]
    Random,
    /// No faults: a quiet network.
    Calm,
    /// As `Random`, but every run has twins, and they go on when they notice each other.
    Twins,
    /// As `Random`, and validators come, go and change their keys, over several epochs.
    Epochs,
    /// Little history is kept, and somebody sleeps for longer: pruning, snapshots, catching up.
    Snapshots,
}

impl Kind {
    /// All kinds with their names.
    pub const ALL: [(&'static str, Self); 5] = [
        ("random", Self::Random),
        ("calm", Self::Calm),
        ("sustained-twins", Self::Twins),
        ("epochs", Self::Epochs),
        ("snapshots", Self::Snapshots),
    ];
}

/// What a Byzantine validator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActorKind {
    /// Small lies, see [`Mutator`].
    Mutator,
    /// See [`StaleLeader`].
    StaleLeader,
    /// One of the actors that can also stand in a real validator's process.
    Named(falconet_adversary::Kind),
}

impl ActorKind {
    /// All kinds.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let named = falconet_adversary::Kind::ALL.map(Self::Named);
        [Self::Mutator, Self::StaleLeader]
            .into_iter()
            .chain(named)
            .collect()
    }

    /// Its name, for `--nodes-byzantine K:KIND`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mutator => "mutator",
            Self::StaleLeader => "stale-leader",
            Self::Named(kind) => kind.name(),
        }
    }

    fn make(self, rng: &mut Rng) -> Box<dyn Actor> {
        match self {
            Self::Mutator => Box::new(Mutator::new(rng.between(20, 400))),
            Self::StaleLeader => Box::new(StaleLeader::default()),
            Self::Named(kind) => Box::new(Named::new(kind)),
        }
    }
}

/// Byzantine validators in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Byzantine {
    /// How many.
    pub count: usize,
    /// What they do; `None` for something chosen by the seed, for each.
    pub kind: Option<ActorKind>,
}

/// What to run for each seed.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Validators; `None` for 4 or 7, by the seed.
    pub validators: Option<usize>,
    /// The kind of run.
    pub kind: Kind,
    /// Byzantine validators.
    pub byzantine: Option<Byzantine>,
    /// A rule that every core breaks: to see that somebody notices.
    pub flaw: Option<Misbehaviour>,
    /// Parts of snapshots are believed as they come: likewise.
    pub unchecked_snapshots: bool,
    /// Only the faults of these numbers happen, of those that the seed brings.
    pub only_faults: Option<Vec<usize>>,
}

impl Plan {
    /// The scenario of a seed.
    #[must_use]
    pub fn scenario(&self, seed: u64) -> Scenario {
        let mut rng = Rng::new(seed ^ 0x5eed);
        let n = self
            .validators
            .unwrap_or(if rng.chance(250) { 7 } else { 4 });
        let mut scenario = match self.kind {
            Kind::Calm => Scenario::calm(seed, n),
            Kind::Epochs => {
                let faulty = self.byzantine.is_some();
                Scenario::epochs_from_seed(seed, self.validators, faulty)
            }
            Kind::Snapshots => {
                let faulty = self.byzantine.is_some();
                Scenario::snapshots_from_seed(seed, self.validators, faulty)
            }
            _ if self.byzantine.is_some() => Scenario::honest_from_seed(seed, n),
            Kind::Random => match self.validators {
                None => Scenario::from_seed(seed),
                Some(n) => Scenario::sized_from_seed(seed, n),
            },
            Kind::Twins => Scenario::with_twins_from_seed(seed, n),
        };
        if let Some(keep) = &self.only_faults {
            let mut number = 0..;
            let mut kept = |_: &_| keep.contains(&number.next().expect("endless"));
            scenario.faults.retain(&mut kept);
        }
        scenario
    }

    /// The world of a seed.
    #[must_use]
    pub fn builder(&self, seed: u64) -> Builder {
        let scenario = self.scenario(seed);
        let n = scenario.n;
        let mut builder = World::builder(scenario);
        if let Some(byzantine) = &self.byzantine {
            let mut rng = Rng::new(seed ^ 0xbad);
            let first = rng.index(n);
            for i in 0..byzantine.count.min(n) {
                let all = ActorKind::all();
                let kind = byzantine.kind.unwrap_or_else(|| all[rng.index(all.len())]);
                let actor = kind.make(&mut rng);
                builder = builder.boxed_actor((first + i) % n, actor);
            }
        }
        let (flaw, twins) = (self.flaw, self.kind == Kind::Twins);
        builder.setup(move |_, core| {
            if twins {
                core.misbehave(Misbehaviour::Twin);
            }
            if let Some(flaw) = flaw {
                core.misbehave(flaw);
            }
        })
    }

    fn unchecked(&self) -> Option<SnapshotRootUnchecked> {
        self.unchecked_snapshots.then(SnapshotRootUnchecked::begin)
    }

    /// Options of `falconet sim` that repeat the plan, seed aside.
    #[must_use]
    pub fn options(&self) -> String {
        let mut text = String::new();
        if let Some(n) = self.validators {
            let _ = write!(text, " --validators {n}");
        }
        if let Some((name, _)) = Kind::ALL.iter().find(|(_, kind)| *kind == self.kind)
            && self.kind != Kind::Random
        {
            let _ = write!(text, " --scenario {name}");
        }
        if let Some(byzantine) = &self.byzantine {
            let _ = write!(text, " --nodes-byzantine {}", byzantine.count);
            if let Some(kind) = byzantine.kind {
                let _ = write!(text, ":{}", kind.name());
            }
        }
        if let Some(faults) = &self.only_faults {
            let numbers: Vec<_> = faults.iter().map(ToString::to_string).collect();
            let _ = write!(text, " --only-faults {}", numbers.join(","));
        }
        text
    }
}

thread_local! {
    /// `Some` while a panic of this thread is caught: what it said.
    static CAUGHT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs a world; a broken assertion of a core is a violation like any other.
pub fn run_caught(world: &mut World) -> Result<Outcome, Violation> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let quiet = CAUGHT.with_borrow_mut(|caught| {
                let inside = caught.is_some();
                if inside {
                    *caught = Some(info.to_string());
                }
                inside
            });
            if !quiet {
                before(info);
            }
        }));
    });
    CAUGHT.set(Some(String::new()));
    let result = panic::catch_unwind(AssertUnwindSafe(|| world.run_on()));
    let said = CAUGHT.take().unwrap_or_default();
    result.unwrap_or_else(|_| Err(format!("a core stopped: {said}")))
}

/// Runs a seed of a plan.
pub fn run(plan: &Plan, seed: u64) -> Result<Outcome, Violation> {
    let _off = plan.unchecked();
    run_caught(&mut plan.builder(seed).build())
}

/// A failing run with as few faults as it needs.
#[derive(Debug, Clone)]
pub struct Shrunk {
    /// The plan, reduced to the faults that matter.
    pub plan: Plan,
    /// Faults that the seed brings, and those that are left.
    pub faults: (usize, usize),
    /// What fails.
    pub violation: Violation,
    /// The run's log.
    pub log: String,
    /// Runs that it took.
    pub runs: u64,
}

/// Takes faults away, one at a time, while the run still fails in the same way. `None` when it
/// does not fail at all.
#[must_use]
pub fn shrink(plan: &Plan, seed: u64) -> Option<Shrunk> {
    let way = |violation: &str| -> String {
        let first = violation.lines().next().unwrap_or_default();
        first.chars().filter(|c| !c.is_ascii_hexdigit()).collect()
    };
    let first = run(plan, seed).err()?;
    let mut runs = 1;
    let all = plan.scenario(seed).faults.len();
    let mut plan = plan.clone();
    let mut keep = plan
        .only_faults
        .clone()
        .unwrap_or_else(|| (0..all).collect());
    loop {
        let before = keep.len();
        for at in (0..keep.len()).rev() {
            let mut fewer = keep.clone();
            fewer.remove(at);
            plan.only_faults = Some(fewer.clone());
            runs += 1;
            if run(&plan, seed).is_err_and(|again| way(&again) == way(&first)) {
                keep = fewer;
            }
        }
        if keep.len() == before {
            break;
        }
    }
    plan.only_faults = Some(keep.clone());
    let _off = plan.unchecked();
    let mut world = plan.builder(seed).keep_log().build();
    let violation = run_caught(&mut world).err()?;
    Some(Shrunk {
        faults: (all, keep.len()),
        log: world.told().to_owned(),
        plan,
        violation,
        runs,
    })
}

impl Shrunk {
    /// What a failing seed's file says.
    #[must_use]
    pub fn report(&self, seed: u64) -> String {
        let scenario = self.plan.scenario(seed);
        let mut text = format!(
            "seed {seed} fails: {}\n\nrepeat: falconet sim --seed {seed}{} --tell\n\n",
            self.violation,
            self.plan.options(),
        );
        let (all, left) = self.faults;
        let _ = writeln!(text, "{left} of {all} faults are needed:");
        for (at, fault) in &scenario.faults {
            let _ = writeln!(text, "  {at} us: {fault:?}");
        }
        let _ = writeln!(text, "\nscenario: {scenario:#?}\n\nlog of the shrunk run:");
        text.push_str(&self.log);
        text
    }
}

/// A long run.
#[derive(Debug, Clone)]
pub struct Campaign {
    /// What each seed runs.
    pub plan: Plan,
    /// First seed.
    pub first: u64,
    /// Number of seeds.
    pub seeds: u64,
    /// Threads.
    pub jobs: usize,
    /// Every seed runs twice, and the logs must be equal.
    pub replay: bool,
    /// Where failing seeds are written to.
    pub failures: Option<PathBuf>,
}

/// How far a campaign is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Seeds run.
    pub done: u64,
    /// Seeds to run.
    pub seeds: u64,
    /// Seeds that failed.
    pub failed: u64,
    /// Since the beginning.
    pub elapsed: Duration,
}

impl Progress {
    /// Seeds an hour, all threads together.
    #[must_use]
    pub fn seeds_per_hour(&self) -> f64 {
        self.done as f64 * 3_600.0 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// What a campaign came to.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Outcomes of the seeds that held.
    pub outcomes: Vec<Outcome>,
    /// Seeds that failed, with what failed.
    pub failures: Vec<(u64, Violation)>,
    /// Files written.
    pub files: Vec<PathBuf>,
    /// The seed that took longest, and how long.
    pub slowest: Option<(u64, Duration)>,
    /// How long it took.
    pub elapsed: Duration,
}

impl Report {
    /// A number of each outcome, at a per mille rank of all of them.
    #[must_use]
    pub fn rank(&self, per_mille: usize, of: impl Fn(&Outcome) -> u64) -> u64 {
        let mut all: Vec<u64> = self.outcomes.iter().map(of).collect();
        all.sort_unstable();
        match all.len() {
            0 => 0,
            len => all[((len - 1) * per_mille).div_ceil(1_000).min(len - 1)],
        }
    }

    /// Sum over all outcomes.
    #[must_use]
    pub fn sum(&self, of: impl Fn(&Outcome) -> u64) -> u64 {
        self.outcomes.iter().map(of).sum()
    }
}

impl Campaign {
    /// Runs all seeds and calls `progress` after each.
    ///
    /// # Errors
    /// A failing seed's file cannot be written.
    pub fn run(&self, mut progress: impl FnMut(&Progress)) -> std::io::Result<Report> {
        let started = Instant::now();
        let next = AtomicU64::new(self.first);
        let end = self.first + self.seeds;
        let (results, done) = mpsc::channel();
        let mut report = Report::default();
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                let results = results.clone();
                let next = &next;
                scope.spawn(move || {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= end {
                            return;
                        }
                        let begun = Instant::now();
                        let result = self.seed(seed);
                        let took = begun.elapsed();
                        // Nobody listens any more when a file could not be written.
                        if results.send((seed, took, result)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(results);
            let mut count = 0;
            while let Ok((seed, took, result)) = done.recv() {
                count += 1;
                if report.slowest.is_none_or(|(_, slowest)| took > slowest) {
                    report.slowest = Some((seed, took));
                }
                match result {
                    Ok(outcome) => report.outcomes.push(outcome),
                    Err((violation, text)) => {
                        if let (Some(dir), Some(text)) = (&self.failures, text) {
                            report.files.push(write(dir, seed, &text)?);
                        }
                        report.failures.push((seed, violation));
                    }
                }
                progress(&Progress {
                    done: count,
                    seeds: self.seeds,
                    failed: report.failures.len() as u64,
                    elapsed: started.elapsed(),
                });
            }
            Ok::<(), std::io::Error>(())
        })?;
        report.failures.sort_by_key(|(seed, _)| *seed);
        report.elapsed = started.elapsed();
        Ok(report)
    }

    fn seed(&self, seed: u64) -> Result<Outcome, (Violation, Option<String>)> {
        let outcome = run(&self.plan, seed);
        let result = match outcome {
            Ok(first) if self.replay => match run(&self.plan, seed) {
                Ok(second) if first == second => Ok(first),
                other => Err(format!("not repeatable: {first:?}, then {other:?}")),
            },
            other => other,
        };
        result.map_err(|violation| {
            let shrunk = self
                .failures
                .as_ref()
                .and_then(|_| shrink(&self.plan, seed));
            let text = shrunk.map(|shrunk| shrunk.report(seed));
            (violation, text)
        })
    }
}

fn write(dir: &Path, seed: u64, text: &str) -> std::io::Result<PathBuf> {
    std::fs::create_dir_all(dir)?;
    let path = dir.join(format!("seed-{seed}.txt"));
    std::fs::write(&path, text)?;
    Ok(path)
}
