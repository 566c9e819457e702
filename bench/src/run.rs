//! A load on a local network, from the first key to the report.
//!
//! `falconet bench cluster` is [`bench_cluster`]. `falconet testnet` puts the same parts together
//! for a network that lives on: [`Testnet`], [`Running`], [`supply_for`], [`Load`], [`measure`].

mod error;
mod network;
mod transactions;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use falconet_crypto::falcon::Scheme;
use falconet_types::genesis::Params;

use crate::cluster::{Exit, Running, StartOptions, Testnet, check_roots};
use crate::costs::{Costs, Counts};
use crate::environment::{Environment, NoiseMeter};
use crate::load::{BusyPolicy, LiveSnapshot, Load, LoadOutcome, LoadSpec};
use crate::memory::MemoryMeter;
use crate::process::{ProcessStats, ThreadTimes};
use crate::progress::{OnProgress, Progress};
use crate::report::{Byzantine, Report, Subject, Usage};
use crate::supply::opaque;
use crate::supply::presigned::FIRST_NONCE;
use crate::surge::{Surge, SurgeReport};

pub use error::BenchError;
use network::bench_network;
use transactions::supply_for_targets;
pub use transactions::{Amount, LoadKind, LoadSupply, first_nonce, supply_for};

/// How often the display is renewed and the processes are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);
/// How long validators may take to end.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// Largest opaque payload: what validators accept.
pub const PAYLOAD_BYTES_MAX: usize = 16 << 10;

/// A benchmark over a network of its own.
#[derive(Debug, Clone)]
pub struct ClusterBench {
    /// The falconet program.
    pub exe: PathBuf,
    /// Number of validators.
    pub validators: usize,
    /// What is sent.
    pub load: LoadKind,
    /// Transactions a second.
    pub rate: u64,
    /// Time at the start that is not measured.
    pub warmup: Duration,
    /// Time that is measured.
    pub duration: Duration,
    /// What the rate is multiplied with in the middle third of the measured time.
    pub surge: Option<f64>,
    /// Validators, the last ones, that are killed at the start of the measured time.
    pub crash: usize,
    /// They are killed at the start of the load, so that what is measured is life without them.
    pub crash_early: bool,
    /// Validators, the last ones, that break the protocol. Load and checks keep to the others.
    pub byzantine: Option<Byzantine>,
    /// What to do when a validator is busy.
    pub busy: BusyPolicy,
    /// Size of opaque payloads, bytes.
    pub payload_bytes: usize,
    /// Directory of the network; without one, a directory in the cache, whose genesis and
    /// pre-signed transfers serve again.
    pub dir: Option<PathBuf>,
    /// Genesis parameters.
    pub params: Params,
    /// How validators are started.
    pub start: StartOptions,
}

impl ClusterBench {
    /// Four validators, FALCON-1024, 1,000 tx/s for 20 s.
    #[must_use]
    pub fn new(exe: impl Into<PathBuf>) -> Self {
        Self {
            exe: exe.into(),
            validators: 4,
            load: LoadKind::Transfers(Scheme::Falcon1024),
            rate: 1_000,
            warmup: LoadSpec::WARMUP,
            duration: Duration::from_secs(20),
            surge: None,
            crash: 0,
            crash_early: false,
            byzantine: None,
            busy: BusyPolicy::default(),
            payload_bytes: opaque::PAYLOAD_BYTES,
            dir: None,
            params: Params::default(),
            start: StartOptions::default(),
        }
    }

    /// Transactions a second at most.
    fn rate_max(&self) -> u64 {
        (self.rate as f64 * self.surge.unwrap_or(1.0).max(1.0)) as u64
    }

    fn surge(&self) -> Option<Surge> {
        let factor = self.surge?;
        Some(Surge::middle_third(factor, self.warmup, self.duration))
    }

    /// Validators that keep to the protocol: the first ones.
    fn correct(&self) -> usize {
        self.validators
            - self
                .byzantine
                .as_ref()
                .map_or(0, |byzantine| byzantine.count)
    }

    fn transactions(&self) -> u64 {
        let surge = self.surge().map_or(0.0, |surge| {
            (surge.factor - 1.0).max(0.0) * (surge.to - surge.from).as_secs_f64()
        });
        let seconds = (self.warmup + self.duration).as_secs_f64() + surge;
        // The transaction that is due at the very end is not sent; one more costs nothing.
        (self.rate as f64 * seconds).ceil() as u64 + 1
    }
}

/// What the caller wants of a load that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Go on.
    Continue,
    /// End the measured time now.
    Stop,
}

/// What happened while a load ran.
#[derive(Debug)]
pub enum Watch<'a> {
    /// The latest figures, several times a second.
    Live(&'a LiveSnapshot),
    /// A validator ended.
    Exit(&'a Exit),
}

/// Makes or reuses a network, runs the load, stops the network, and reports. `watch` is called
/// several times a second while the load runs.
pub fn bench_cluster(
    spec: &ClusterBench,
    progress: OnProgress<'_>,
    watch: &mut dyn FnMut(Watch<'_>) -> Wish,
) -> Result<(Report, LoadOutcome), BenchError> {
    if spec.rate == 0 || spec.duration.is_zero() {
        return Err(BenchError::Nothing);
    }
    if spec.crash >= spec.validators {
        return Err(BenchError::Crash {
            crash: spec.crash,
            validators: spec.validators,
        });
    }
    if let Some(Byzantine { count, .. }) = spec.byzantine
        && count >= spec.validators
    {
        return Err(BenchError::Byzantine {
            byzantine: count,
            validators: spec.validators,
        });
    }
    if !(opaque::PAYLOAD_BYTES_MIN..=PAYLOAD_BYTES_MAX).contains(&spec.payload_bytes) {
        return Err(BenchError::Payload(spec.payload_bytes));
    }
    let (testnet, _lock) = bench_network(spec, progress)?;
    let count = spec.transactions();
    let correct = spec.correct();
    let supply = supply_for_targets(
        &testnet,
        correct,
        FIRST_NONCE,
        Amount::Exactly(count),
        spec.payload_bytes,
        progress,
    )?;
    let mut start = spec.start.clone();
    if let Some(Byzantine { kind, .. }) = &spec.byzantine {
        let danger = || ["--danger-byzantine".to_owned(), kind.clone()];
        for index in correct..spec.validators {
            start.args.entry(index).or_default().extend(danger());
        }
    }
    let mut running = Running::start(&testnet, &spec.exe, start, |_, line| {
        tracing::info!("{line}");
    })?;
    let load = LoadSpec {
        surge: spec.surge(),
        warmup: spec.warmup,
        duration: Some(spec.duration),
        busy: spec.busy,
        ..LoadSpec::new(
            testnet.targets().into_iter().take(correct).collect(),
            testnet.chain_id(),
            spec.rate,
        )
    };
    let transaction_bytes = supply.transaction_bytes;
    let load = Load::start(load, supply.supply)?;
    let faults = Faults {
        crash_after: match spec.crash_early {
            true => Duration::ZERO,
            false => spec.warmup,
        },
        crash: spec.crash,
        byzantine: spec.byzantine.clone(),
    };
    let mut measured = measure_with(
        &testnet,
        &mut running,
        load,
        transaction_bytes,
        &faults,
        watch,
    )?;
    if let Some(surge) = spec.surge() {
        let end = spec.warmup + spec.duration;
        let (report, outcome) = &mut measured;
        let seen = outcome.surge.as_ref().expect("the load had the surge too");
        let span = (spec.warmup, end);
        let read = SurgeReport::of(&surge, spec.rate, span, &outcome.intervals, seen);
        report.surge = Some(read);
    }
    let stopped = running.stop(STOP_GRACE);
    for index in stopped.killed {
        progress(Progress::Note(&format!(
            "validator {index} did not end by itself and was killed"
        )));
    }
    Ok(measured)
}

/// What is wrong with the last validators while a load runs.
#[derive(Debug, Clone, Default)]
struct Faults {
    /// When some are killed, from the start of the load.
    crash_after: Duration,
    /// How many.
    crash: usize,
    /// These break the protocol from the start.
    byzantine: Option<Byzantine>,
}

/// Watches a load until it ends, asks the validators, and reports. The network runs on.
pub fn measure(
    testnet: &Testnet,
    running: &mut Running,
    load: Load,
    transaction_bytes: usize,
    watch: &mut dyn FnMut(Watch<'_>) -> Wish,
) -> Result<(Report, LoadOutcome), BenchError> {
    let none = Faults::default();
    measure_with(testnet, running, load, transaction_bytes, &none, watch)
}

fn measure_with(
    testnet: &Testnet,
    running: &mut Running,
    load: Load,
    transaction_bytes: usize,
    faults: &Faults,
    watch: &mut dyn FnMut(Watch<'_>) -> Wish,
) -> Result<(Report, LoadOutcome), BenchError> {
    let live = load.live();
    let counts = |running: &Running| {
        let mut sum = Counts::default();
        for node in running.nodes() {
            sum.add(&node.metrics().ok()?);
        }
        Some(sum)
    };
    let (noise, counts_before) = (NoiseMeter::start(), counts(running));
    let began = Instant::now();
    let stats = |running: &Running| -> Vec<Option<ProcessStats>> {
        (0..running.len())
            .map(|index| running.process_stats(index))
            .collect()
    };
    let threads = |running: &Running| -> Vec<ThreadTimes> {
        (0..running.len())
            .map(|index| running.thread_times(index))
            .collect()
    };
    let (before, own_before) = (stats(running), ProcessStats::own());
    let threads_before = threads(running);
    let (mut after, mut own_after) = (before.clone(), own_before);
    let mut threads_after = threads_before.clone();
    let mut seconds = 0.0;
    let mut died = Vec::new();
    let mut memory = MemoryMeter::new(running.len());
    let mut crashed = Vec::new();
    let byzantine = faults.byzantine.as_ref().map_or(0, |some| some.count);
    let correct = running.len() - byzantine;
    while !load.is_finished() {
        std::thread::sleep(WATCH_INTERVAL);
        let snapshot = live.snapshot();
        let crash_due = snapshot.elapsed_s >= faults.crash_after.as_secs_f64();
        if crashed.len() < faults.crash && crash_due {
            crashed.extend(running.len() - faults.crash..running.len());
            crashed.iter().for_each(|index| running.kill(*index));
        }
        let mut wish = watch(Watch::Live(&snapshot));
        for exit in running.exits() {
            if exit.index >= correct {
                continue; // whatever became of it
            }
            died.push(exit.index);
            if watch(Watch::Exit(&exit)) == Wish::Stop {
                wish = Wish::Stop;
            }
        }
        if wish == Wish::Stop {
            load.stop();
        }
        (after, own_after) = (stats(running), ProcessStats::own());
        threads_after = threads(running);
        seconds = began.elapsed().as_secs_f64();
        let rss = after
            .iter()
            .map(|stats| stats.as_ref().map(ProcessStats::rss_mib));
        memory.look(seconds, rss);
    }
    let outcome = load.join()?;
    let cpu_s = before.iter().zip(&after).filter_map(|(before, after)| {
        let spent = after.as_ref()?.cpu.saturating_sub(before.as_ref()?.cpu);
        Some(spent.as_secs_f64())
    });
    let mut by_thread = ThreadTimes::default();
    for (before, after) in threads_before.iter().zip(&threads_after) {
        by_thread.add_since(after, before);
    }
    // A validator that died does not answer; then nothing is said about costs.
    let costs = counts_before
        .zip(counts(running))
        .and_then(|(before, after)| {
            let committed = outcome.counters.committed;
            Costs::of(&after.since(&before), committed, cpu_s.sum(), &by_thread)
        });
    let statuses: Vec<_> = running
        .nodes()
        .iter()
        .filter_map(|node| node.status().ok())
        .collect();
    let usage = before
        .iter()
        .zip(&after)
        .map(|(before, after)| Some(Usage::between(before.as_ref()?, after.as_ref()?, seconds)))
        .collect();
    let own = own_before.zip(own_after);
    let subject = Subject {
        validators: running.len(),
        scheme: LoadKind::of(testnet).to_string(),
        transaction_bytes,
        params: testnet.genesis().params.changes(),
        fsync: !statuses.is_empty() && statuses.iter().all(|status| status.fsync),
        roots: check_roots(&running.nodes()[..correct]),
        usage,
        generator_cpu_cores: own.map_or(0.0, |(b, a)| Usage::between(&b, &a, seconds).cpu_cores),
        died,
        crashed,
        byzantine: faults.byzantine.clone(),
        memory: memory.finish(),
        costs,
        noise: noise.stop(),
    };
    Ok((
        Report::new(subject, &outcome, Environment::detect()),
        outcome,
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::progress::silent;

    pub(super) fn opaque_bench(dir: &Path) -> ClusterBench {
        ClusterBench {
            validators: 1,
            load: LoadKind::Opaque,
            dir: Some(dir.to_owned()),
            ..ClusterBench::new("/nonexistent/falconet")
        }
    }

    #[test]
    fn nonsense_is_refused_before_anything_is_made() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("net");
        let good = opaque_bench(&dir);
        let mut watch = |_: Watch<'_>| Wish::Continue;
        for bad in [
            ClusterBench {
                rate: 0,
                ..good.clone()
            },
            ClusterBench {
                duration: Duration::ZERO,
                ..good.clone()
            },
            ClusterBench {
                payload_bytes: 8,
                ..good.clone()
            },
            ClusterBench {
                byzantine: Some(Byzantine {
                    kind: "flooder".into(),
                    count: 1,
                }),
                ..good.clone()
            },
        ] {
            assert!(bench_cluster(&bad, &silent, &mut watch).is_err());
            assert!(!dir.exists());
        }
        let error = bench_cluster(&good, &silent, &mut watch).unwrap_err();
        assert!(
            error.to_string().contains("/nonexistent/falconet"),
            "{error}"
        );
    }
}
