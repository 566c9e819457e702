//! `falconet sim`

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use falconet_tests::sim::campaign::{
    self, ActorKind, Byzantine, Campaign, Kind, Plan, Progress, Report,
};
use falconet_tests::sim::twins::{self, Cast, FOUR, Leaders, SEVEN};
use falconet_tests::sim::{Outcome, Scenario};

use crate::output;

/// Between two lines of progress where no terminal can be overwritten.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// Scenarios of a sample of twins.
const TWINS_SAMPLE: u64 = 1_000;
/// Between two on a terminal.
const PROGRESS_EVERY_TERMINAL: Duration = Duration::from_millis(200);

/// Run whole validators in virtual time, with faults that a seed decides
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet sim --seed 4711                          one run, and what happened in it
  falconet sim --seed 4711 --tell                   the same, event by event
  falconet sim --seed 4711 --replay                 twice, and both must be equal to the byte
  falconet sim --seeds 10000                        many runs on all cores
  falconet sim --seeds 2000 --nodes-byzantine 1:mutator --validators 4
  falconet sim --scenario epochs --seeds 2000       histories: validators come, go, change keys
  falconet sim --scenario snapshots --seeds 2000    pruning, and who slept for too long
  falconet sim --scenario twins --depth 7           every scenario in which a twin leads
  falconet sim --scenario twins --depth 7 --leaders rotation    everybody leads in turn
  falconet sim --scenario twins --depth 4 --leaders 4           anybody leads
  falconet sim --scenario twins --validators 7 --seeds 2000

A seed and a commit are a run: the same events in the same order, wherever it runs. In a long run
every failing seed is shrunk (faults are taken away, one at a time, while it still fails) and
written to a file of its own with its log and the command that repeats it.

Scenarios: random (faults, weights, silent validators, twins: all from the seed), calm (none of
it), sustained-twins (two nodes with one key, in every run), epochs (faults, and a validator set that
changes: joins, leaves, new keys; with --nodes-byzantine also slashing), twins (bare cores: all ways
to split four validators, one of which runs twice, into groups for so many rounds; with seven
validators, of which two run twice, a sample), snapshots (little history is kept, and nodes
sleep for longer). Kinds of Byzantine validators: mutator, stale-leader,
and those of `falconet testnet --byzantine`.

Exit codes: 0 everything held, 1 something did not, 2 called wrongly.")]
pub struct Args {
    /// The seed; with --seeds the first one
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Run so many seeds, on all cores
    #[arg(long, value_name = "COUNT")]
    seeds: Option<u64>,
    /// Threads [default: one a core]
    #[arg(long, value_name = "J")]
    jobs: Option<usize>,
    /// Validators, at most 7 [default: 4 or 7, by the seed]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=7))]
    validators: Option<u8>,
    /// What kind of run
    #[arg(long, value_name = "NAME", default_value = "random", value_parser = what)]
    scenario: What,
    /// With --scenario twins: rounds in which groups and leaders are chosen
    #[arg(long, value_name = "D", default_value_t = 7)]
    depth: usize,
    /// With --scenario twins and four validators, who leads: any of the first K, of which the twin
    /// is the first; or everybody in turn, from each start (rotation)
    #[arg(long, value_name = "K|rotation", default_value = "1", value_parser = leaders)]
    leaders: Leaders,
    /// Byzantine validators, and what they do [default kind: by the seed]
    #[arg(long, value_name = "K[:KIND]", value_parser = byzantine)]
    nodes_byzantine: Option<Byzantine>,
    /// Of the seed's faults only those of these numbers (from 0), as a shrunk run's file says
    #[arg(long, value_name = "LIST", value_delimiter = ',', num_args = 0..)]
    only_faults: Option<Vec<usize>>,
    /// Print every event
    #[arg(long, conflicts_with = "seeds")]
    tell: bool,
    /// Run each seed twice: logs must be equal
    #[arg(long)]
    replay: bool,
    /// Where a long run writes failing seeds
    #[arg(long, value_name = "DIR", default_value = "sim-failures")]
    failures: PathBuf,
}

/// A scenario by name.
#[derive(Debug, Clone, Copy)]
enum What {
    /// Whole nodes.
    Nodes(Kind),
    /// Bare cores.
    Twins,
}

fn what(name: &str) -> Result<What, String> {
    if name == "twins" {
        return Ok(What::Twins);
    }
    let known = Kind::ALL.iter().find(|(known, _)| *known == name);
    known.map(|(_, kind)| What::Nodes(*kind)).ok_or_else(|| {
        let names: Vec<_> = Kind::ALL.iter().map(|(name, _)| *name).collect();
        format!("known are {}, twins", names.join(", "))
    })
}

fn leaders(text: &str) -> Result<Leaders, String> {
    match (text, text.parse()) {
        ("rotation", _) => Ok(Leaders::Rotation),
        (_, Ok(count @ 1..=4)) => Ok(Leaders::First(count)),
        _ => Err("write 1, 2, 3, 4 or rotation".into()),
    }
}

fn byzantine(text: &str) -> Result<Byzantine, String> {
    let (count, name) = match text.split_once(':') {
        Some((count, name)) => (count, Some(name)),
        None => (text, None),
    };
    let count = count
        .parse()
        .map_err(|_| format!("{count:?} is no number of validators"))?;
    let kind = match name {
        None => None,
        Some(name) => {
            let all = ActorKind::all();
            let known = all.iter().find(|kind| kind.name() == name);
            let names: Vec<_> = all.iter().map(|kind| kind.name()).collect();
            Some(*known.ok_or_else(|| format!("known kinds are {}", names.join(", ")))?)
        }
    };
    Ok(Byzantine { count, kind })
}

impl Args {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let kind = match self.scenario {
            What::Nodes(kind) => kind,
            What::Twins => return self.twins(),
        };
        let plan = Plan {
            validators: self.validators.map(usize::from),
            kind,
            byzantine: self.nodes_byzantine.clone(),
            flaw: None,
            unchecked_snapshots: false,
            only_faults: self.only_faults.clone(),
        };
        match self.seeds {
            Some(seeds) => self.many(plan, seeds),
            None => self.one(&plan),
        }
    }

    fn twins(&self) -> anyhow::Result<ExitCode> {
        let started = Instant::now();
        let broken = match self.validators {
            None | Some(4) => {
                let cast = Cast {
                    leaders: self.leaders,
                    ..FOUR
                };
                let explored = twins::explore(cast, self.depth, self.jobs(), |depth, states| {
                    let seconds = started.elapsed().as_secs();
                    eprintln!(
                        "depth {depth}: {states} states that were not seen before, {seconds} s"
                    );
                });
                output::line(format!(
                    "{:.3e} scenarios of {} rounds, by {} phases through {} states; {:.0} s",
                    explored.scenarios,
                    self.depth,
                    explored.phases,
                    explored.states.iter().sum::<usize>(),
                    started.elapsed().as_secs_f64(),
                ))?;
                explored.broken
            }
            Some(7) => {
                let runs = self.seeds.unwrap_or(TWINS_SAMPLE);
                let sampled = twins::sample(SEVEN, self.depth, self.seed, runs);
                output::line(format!(
                    "{} scenarios of {} rounds; all committed again within {} rounds after they \
                     healed; {:.0} s",
                    sampled.runs,
                    self.depth,
                    sampled.rounds_max,
                    started.elapsed().as_secs_f64(),
                ))?;
                sampled.broken
            }
            Some(n) => {
                bail!("twins are explored with 4 validators or sampled with 7, not with {n}")
            }
        };
        match broken {
            None => Ok(ExitCode::SUCCESS),
            Some(broken) => {
                output::line(format!("BROKEN: {broken:#?}"))?;
                Ok(ExitCode::FAILURE)
            }
        }
    }

    fn jobs(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.jobs.unwrap_or(cores).max(1)
    }

    fn one(&self, plan: &Plan) -> anyhow::Result<ExitCode> {
        let seed = self.seed;
        let builder = plan.builder(seed);
        let builder = if self.tell { builder.tell() } else { builder };
        let mut world = builder.build();
        let result = campaign::run_caught(&mut world);
        output::line(describe(world.scenario()))?;
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(violation) => {
                output::line(format!(
                    "seed {seed} FAILS at {} us: {violation}",
                    world.now_us()
                ))?;
                return Ok(ExitCode::FAILURE);
            }
        };
        output::line(report(seed, &outcome))?;
        if self.replay {
            let again = campaign::run(plan, seed);
            if again.as_ref() != Ok(&outcome) {
                bail!("the second run of seed {seed} came to something else: {again:?}");
            }
            output::line("the second run is equal")?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn many(&self, plan: Plan, seeds: u64) -> anyhow::Result<ExitCode> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = self.jobs();
        let campaign = Campaign {
            plan,
            first: self.seed,
            seeds,
            jobs,
            replay: self.replay,
            failures: Some(self.failures.clone()),
        };
        let terminal = std::io::stderr().is_terminal();
        let every = if terminal {
            PROGRESS_EVERY_TERMINAL
        } else {
            PROGRESS_EVERY
        };
        let mut last = Instant::now();
        let report = campaign
            .run(|progress| {
                if last.elapsed() >= every {
                    last = Instant::now();
                    show(progress, jobs.min(cores), terminal);
                }
            })
            .with_context(|| format!("writing to {}", self.failures.display()))?;
        if terminal {
            eprintln!();
        }
        output::line(summary(&report, self.seed, jobs.min(cores)))?;
        for (seed, violation) in &report.failures {
            let first = violation.lines().next().unwrap_or_default();
            output::line(format!("seed {seed} FAILS: {first}"))?;
        }
        for file in &report.files {
            output::line(format!("written: {}", file.display()))?;
        }
        Ok(if report.failures.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

fn show(progress: &Progress, cores: usize, terminal: bool) {
    let hourly = progress.seeds_per_hour();
    let line = format!(
        "{} of {} seeds, {} failed, {hourly:.0} seeds/hour, {:.0} per core",
        progress.done,
        progress.seeds,
        progress.failed,
        hourly / cores as f64,
    );
    if terminal {
        eprint!("\r{line}\x1b[K");
    } else {
        eprintln!("{line}");
    }
}

fn summary(report: &Report, first: u64, cores: usize) -> String {
    let held = report.outcomes.len() as u64;
    let done = held + report.failures.len() as u64;
    let hours = report.elapsed.as_secs_f64() / 3_600.0;
    let hourly = done as f64 / hours.max(1e-9);
    let rounds = |per_mille| report.rank(per_mille, |o| o.recovery_rounds);
    let ms = |per_mille| report.rank(per_mille, |o| o.recovery_us) / 1_000;
    let slowest = report.slowest.map_or_else(String::new, |(seed, took)| {
        format!("; slowest seed {seed}, {:.1} s", took.as_secs_f64())
    });
    format!(
        "{done} seeds from {first}: {held} held, {} failed; {:.0} s, {hourly:.0} seeds/hour, \
         {:.0} per core{slowest}\n\
         {} events, {} blocks, {} changes of epoch, {} snapshots installed, {} transactions, \
         {} crashes, {} accusations, {} messages refused\n\
         rounds to recover after the last fault: p50 {}, p99 {}, max {}; \
         until all was in order: p50 {} ms, p99 {} ms, max {} ms",
        report.failures.len(),
        report.elapsed.as_secs_f64(),
        hourly / cores as f64,
        report.sum(|o| o.events),
        report.sum(|o| o.height),
        report.sum(|o| o.epochs),
        report.sum(|o| o.snapshots),
        report.sum(|o| o.acknowledged as u64),
        report.sum(|o| o.crashes),
        report.sum(|o| o.accusations as u64),
        report.sum(|o| o.refused),
        rounds(500),
        rounds(990),
        rounds(1_000),
        ms(500),
        ms(990),
        ms(1_000),
    )
}

fn describe(scenario: &Scenario) -> String {
    let mut text = format!(
        "{} validators of weights {:?}",
        scenario.n, scenario.weights
    );
    if scenario.has_epochs() {
        text.push_str(&format!(
            "; {} more may join; epochs of {} heights",
            scenario.joiners, scenario.params.epoch_heights
        ));
    }
    for (what, who) in [
        ("silent", &scenario.silent),
        ("running twice", &scenario.twins),
        ("Byzantine", &scenario.byzantine),
    ] {
        if !who.is_empty() {
            text.push_str(&format!("; {what}: {who:?}"));
        }
    }
    text.push_str(&format!(
        "\n{} faults before {} ms:",
        scenario.faults.len(),
        scenario.calm_us / 1_000
    ));
    for (number, (at, fault)) in scenario.faults.iter().enumerate() {
        text.push_str(&format!("\n  {number:>2}  {:>5} ms  {fault:?}", at / 1_000));
    }
    text
}

fn report(seed: u64, outcome: &Outcome) -> String {
    format!(
        "seed {seed} holds: {} events, {} blocks, {} changes of epoch, {} transactions, {} crashes, \
         {} accusations, {} messages refused\n\
         recovered {} rounds after the last fault; all in order after {} ms\n\
         log {}",
        outcome.events,
        outcome.height,
        outcome.epochs,
        outcome.acknowledged,
        outcome.crashes,
        outcome.accusations,
        outcome.refused,
        outcome.recovery_rounds,
        outcome.recovery_us / 1_000,
        outcome.log,
    )
}
