//! `falconet bench`

mod net;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use falconet_bench::cluster::StartOptions;
use falconet_bench::hgrm;
use falconet_bench::load::BusyPolicy;
use falconet_bench::progress;
use falconet_bench::report::Report;
use falconet_bench::run::{ClusterBench, LoadKind, Watch, Wish, bench_cluster};

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
    Crypto(Crypto),
    Net(net::Net),
}

impl Args {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Cluster(cluster) => cluster.run(),
            Command::Crypto(crypto) => crypto.run(),
            Command::Net(net) => net.run(),
        }
    }
}

/// Load a fresh network of validators on this machine and report throughput and latency
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet bench cluster --rate 5000
  falconet bench cluster --validators 1 --scheme opaque --rate 50000 --json -
  falconet bench cluster --rate 2000 --duration 60s --json run.json --hgrm run.hgrm

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
    /// Size of an opaque payload, bytes
    #[arg(long, value_name = "N", default_value_t = falconet_bench::supply::opaque::PAYLOAD_BYTES)]
    payload_bytes: usize,
    /// Drop transactions that a busy validator does not take, instead of offering them again
    #[arg(long)]
    drop_busy: bool,
    /// Directory of the network [default: in the cache]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Write the report as JSON to this file; - is standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the latencies as a percentile table in the format of HdrHistogram
    #[arg(long, value_name = "FILE")]
    hgrm: Option<PathBuf>,
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
            busy: if self.drop_busy {
                BusyPolicy::Drop
            } else {
                BusyPolicy::Retry
            },
            payload_bytes: self.payload_bytes,
            dir: self.dir,
            start: StartOptions {
                env: parent::to_be_followed(),
                ..StartOptions::default()
            },
            ..ClusterBench::new(exe)
        };
        let spinner = output::spinner("preparing");
        let bars = progress::bars();
        let (report, outcome) = bench_cluster(&bench, &bars, &mut |watch| {
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
        if let Some(path) = &self.hgrm {
            write(path, &hgrm::to_hgrm(&outcome.latency_us))?;
        }
        match &self.json {
            Some(path) if path == Path::new("-") => {
                eprint!("{report}");
                output::line(serde_json::to_string(&report)?)?;
            }
            Some(path) => {
                write(
                    path,
                    &format!("{}\n", serde_json::to_string_pretty(&report)?),
                )?;
                output::line(report.to_string().trim_end())?;
            }
            None => output::line(report.to_string().trim_end())?,
        }
        verdict(&report)?;
        Ok(ExitCode::SUCCESS)
    }
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
