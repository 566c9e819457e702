//! `falconet bench`

mod compare;
mod faults;
mod model;
mod net;
mod parts;

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use falconet_bench::cluster::StartOptions;
use falconet_bench::environment::Environment;
use falconet_bench::load::BusyPolicy;
use falconet_bench::load::LoadOutcome;
use falconet_bench::progress;
use falconet_bench::report::{Byzantine, Report};
use falconet_bench::run::{ClusterBench, LoadKind, Watch, Wish, bench_cluster};
use falconet_bench::sweep::{Limits, Search, Step, Sweep, why_not_held};
use falconet_bench::{hgrm, hlog, html};
use serde::Serialize;

use crate::signals::Stop;
use crate::{output, parent};

/// Measure
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Cluster(Cluster),
    Faults(faults::Faults),
    Crypto(Crypto),
    Net(net::Net),
    Store(parts::Store),
    Ledger(parts::Ledger),
    All(parts::All),
    Model(model::Model),
    Compare(compare::Compare),
}

impl Args {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Cluster(cluster) => cluster.run(),
            Command::Faults(faults) => faults.run(),
            Command::Crypto(crypto) => crypto.run(),
            Command::Net(net) => net.run(),
            Command::Store(store) => store.run(),
            Command::Ledger(ledger) => ledger.run(),
            Command::All(all) => all.run(),
            Command::Model(model) => model.run(),
            Command::Compare(compare) => compare.run(),
        }
    }
}

/// Load a fresh network of validators on this machine and report throughput and latency
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet bench cluster --rate 5000
  falconet bench cluster --validators 1 --scheme opaque --rate 50000 --json -
  falconet bench cluster --rate 2000 --duration 60s --json run.json --html run.html
  falconet bench cluster --sweep --rate 1000 --duration 10s --html sweep.html

The load is open-loop: transactions are sent when they are due, and latency counts from the moment
a transaction was due. Keys and signed transfers are kept in $FALCONET_CACHE (by default
~/.cache/falconet) and serve again. Exit code 1 when states differ, nothing was committed, or a
validator ended.")]
struct Cluster {
    /// Number of validators
    #[arg(long, value_name = "N", default_value_t = 4)]
    validators: usize,
    /// What is sent: falcon1024 or falcon512 transfers, or opaque payloads without signatures
    #[arg(long, default_value_t = LoadKind::Transfers(falconet_types::Scheme::Falcon1024))]
    scheme: LoadKind,
    /// Transactions a second, over all validators
    #[arg(long, default_value_t = 1_000)]
    rate: u64,
    /// Time that is measured
    #[arg(long, default_value = "20s", value_parser = output::parse_duration)]
    duration: Duration,
    /// Time before that, not measured
    #[arg(long, default_value = "2s", value_parser = output::parse_duration)]
    warmup: Duration,
    /// Offer so many times the rate in the middle third of the measured time, and report how the
    /// network came through it
    #[arg(long, value_name = "FACTOR", conflicts_with = "sweep")]
    surge: Option<f64>,
    /// Kill so many validators at the start of the measured time
    #[arg(long, value_name = "F", default_value_t = 0)]
    crash: usize,
    /// The last validators break the protocol: F of them (1 if not said), in the way that `falconet
    /// run --danger-byzantine` calls KIND; load and checks keep to the others. Needs a build with
    /// `--features danger-byzantine`
    #[arg(long, value_name = "KIND[:F]", value_parser = faults::byzantine, conflicts_with = "crash")]
    byzantine: Option<Byzantine>,
    /// Size of an opaque payload, bytes
    #[arg(long, value_name = "N", default_value_t = falconet_bench::supply::opaque::PAYLOAD_BYTES)]
    payload_bytes: usize,
    /// Drop transactions that a busy validator does not take, instead of offering them again
    #[arg(long)]
    drop_busy: bool,
    /// Genesis parameter, for example optimistic_proposals=true; may be given again
    #[arg(long = "param", value_name = "NAME=VALUE")]
    params: Vec<String>,
    /// Directory of the network [default: in the cache]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Write the report as JSON to this file; - is standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the latencies as a percentile table in the format of HdrHistogram
    #[arg(long, value_name = "FILE")]
    hgrm: Option<PathBuf>,
    /// Write the latencies second by second as an interval log in the format of HdrHistogram
    #[arg(long, value_name = "FILE")]
    hlog: Option<PathBuf>,
    /// Write the report as one HTML file with charts
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Double the rate until the network falls behind, then search for the highest rate that it
    /// holds; each rate runs on a fresh network
    #[arg(long, conflicts_with_all = ["hgrm", "hlog"])]
    sweep: bool,
    /// Highest rate of a sweep
    #[arg(long, value_name = "N", default_value_t = 200_000, requires = "sweep")]
    rate_max: u64,
    /// Longest 99th percentile at which a sweep calls a rate held
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = output::parse_duration, requires = "sweep")]
    p99_max: Duration,
}

impl Cluster {
    fn run(self) -> anyhow::Result<ExitCode> {
        let stop = Stop::install().context("cannot catch signals")?;
        let exe = std::env::current_exe().context("cannot find the path of this program")?;
        let bench = ClusterBench {
            validators: self.validators,
            load: self.scheme,
            rate: self.rate,
            warmup: self.warmup,
            duration: self.duration,
            surge: self.surge,
            crash: self.crash,
            byzantine: self.byzantine.clone(),
            busy: if self.drop_busy {
                BusyPolicy::Drop
            } else {
                BusyPolicy::Retry
            },
            payload_bytes: self.payload_bytes,
            dir: self.dir.clone(),
            params: output::params(&self.params)?,
            start: StartOptions {
                env: parent::to_be_followed(),
                ..StartOptions::default()
            },
            ..ClusterBench::new(exe)
        };
        if self.sweep {
            return self.sweep(&bench, &stop);
        }
        let (report, outcome) = measure(&bench, &stop)?;
        if let Some(path) = &self.hgrm {
            write(path, &hgrm::to_hgrm(&outcome.latency_us))?;
        }
        if let Some(path) = &self.hlog {
            write(path, &hlog::to_hlog(&outcome.hlog))?;
        }
        if let Some(path) = &self.html {
            write(path, &html::cluster(&report))?;
        }
        present(self.json.as_deref(), &report)?;
        verdict(&report)?;
        Ok(ExitCode::SUCCESS)
    }

    fn sweep(&self, bench: &ClusterBench, stop: &Stop) -> anyhow::Result<ExitCode> {
        let limits = Limits {
            p99_ms_max: self.p99_max.as_secs_f64() * 1e3,
            ..Limits::default()
        };
        let mut search = Search::new(self.rate, self.rate_max, limits);
        let mut steps = Vec::new();
        while let Some(rate) = search.rate() {
            let bench = ClusterBench {
                rate,
                ..bench.clone()
            };
            let (report, _) = measure(&bench, stop)?;
            if stop.asked() {
                break;
            }
            verdict(&report)?;
            let not_held = why_not_held(&report, &limits);
            eprintln!(
                "{rate} tx/s: {:.0} committed, p50 {:.1} ms, p99 {:.1} ms, {}",
                report.committed_tps,
                report.latency_ms.p50,
                report.latency_ms.p99,
                not_held.as_deref().unwrap_or("held")
            );
            search.answer(not_held.is_none());
            steps.push(Step { not_held, report });
        }
        let sweep = Sweep::new(steps, limits, Environment::detect());
        if let Some(path) = &self.html {
            write(path, &html::sweep(&sweep))?;
        }
        present(self.json.as_deref(), &sweep)?;
        if sweep.steps.is_empty() {
            bail!("stopped before the first rate was measured");
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Runs one load with a spinner that tells how it goes.
fn measure(bench: &ClusterBench, stop: &Stop) -> anyhow::Result<(Report, LoadOutcome)> {
    let spinner = output::spinner("preparing");
    let bars = progress::bars();
    let result = bench_cluster(bench, &bars, &mut |watch| {
        match watch {
            Watch::Live(live) => spinner.set_message(format!(
                "{:.0} tx/s committed of {} offered, p50 {} ms, p99 {} ms",
                live.committed_tps,
                live.offered_tps,
                output::millis(live.p50_ms),
                output::millis(live.p99_ms),
            )),
            Watch::Exit(exit) => spinner.suspend(|| eprintln!("{exit}")),
        }
        if stop.asked() {
            Wish::Stop
        } else {
            Wish::Continue
        }
    })?;
    spinner.finish_and_clear();
    Ok(result)
}

/// The report as text and, where wished, as JSON: with `-` on standard output, the text then on
/// standard error.
fn present<T: Serialize + Display>(json: Option<&Path>, report: &T) -> anyhow::Result<()> {
    match json {
        Some(path) if path == Path::new("-") => {
            eprint!("{report}");
            output::line(serde_json::to_string(report)?)?;
        }
        Some(path) => {
            write(
                path,
                &format!("{}\n", serde_json::to_string_pretty(report)?),
            )?;
            output::line(report.to_string().trim_end())?;
        }
        None => output::line(report.to_string().trim_end())?,
    }
    Ok(())
}

/// Compare signature verification with other libraries, on one core, in one run
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet bench crypto
  falconet bench crypto --json

Every contender takes turns of well under a millisecond and its fastest turn counts, so the ratios
hold on a busy machine too. `make bench-crypto` builds the program with the libraries to compare
with; without them this command says so.")]
struct Crypto {
    /// End with one JSON object on standard output; tables go to standard error
    #[arg(long)]
    json: bool,
}

impl Crypto {
    #[cfg(feature = "peers")]
    fn run(self) -> anyhow::Result<ExitCode> {
        if cfg!(debug_assertions) {
            eprintln!("warning: this is a debug build; its figures mean nothing");
        }
        let spinner = output::spinner("preparing");
        let result = falconet_bench::crypto::compare(&|step| spinner.set_message(step.to_owned()));
        spinner.finish_and_clear();
        if self.json {
            eprint!("{}", result.text);
            output::line(result.to_json())?;
        } else {
            output::line(result.text.trim_end())?;
            for (name, value) in result
                .figures
                .iter()
                .filter(|(name, _)| name.contains("_vs_"))
            {
                output::line(format_args!("{name:48} {value:8.2}"))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    #[cfg(not(feature = "peers"))]
    fn run(self) -> anyhow::Result<ExitCode> {
        let Self { json: _ } = self;
        bail!(
            "this program was built without the libraries to compare with; \
             run `make bench-crypto`, or build with `--features peers`"
        )
    }
}

/// A measurement that shows something broken is a failure.
pub fn verdict(report: &Report) -> anyhow::Result<()> {
    if !report.died.is_empty() {
        bail!(
            "validators {:?} ended during the run; see their logs",
            report.died
        );
    }
    if !report.roots_agree {
        bail!(
            "the validators' states do not agree: {}",
            serde_json::to_string(&report.roots)?
        );
    }
    if report.committed == 0 {
        bail!(
            "nothing was committed in {:.1} s of load; see the validators' logs",
            report.duration_s
        );
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text)
        .with_context(|| format!("cannot write {}; choose another place", path.display()))
}
