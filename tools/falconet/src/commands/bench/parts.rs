//! `falconet bench store`, `ledger` and `all`

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::{fs, io};

use anyhow::Context as _;
use falconet_bench::figures::FiguresReport;
use falconet_bench::machine::cache_dir;
use falconet_bench::{ledger, store};

use crate::output;

/// Rounds when none are given.
const ROUNDS: usize = 7;
/// Most rounds.
const ROUNDS_MAX: u64 = 1_000;

/// Compare the durable log with redb and fjall on what a validator writes
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet bench store
  falconet bench store --dir /var/lib/falconet --json

The directory decides which disk is measured; a RAM disk measures nothing. What is written is
removed at the end. Without `--features peers` only the log is measured.")]
pub struct Store {
    /// Directory on the disk that is meant [default: in the cache]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Rounds; each store has its turn in each
    #[arg(long, value_name = "N", default_value_t = ROUNDS as u64, value_parser = clap::value_parser!(u64).range(1..=ROUNDS_MAX))]
    rounds: u64,
    /// End with one JSON object on standard output; tables go to standard error
    #[arg(long)]
    json: bool,
}

impl Store {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let base = self.dir.clone().unwrap_or_else(cache_dir);
        let dir = Scratch::make(&base)?;
        let spinner = output::spinner("preparing");
        let report = store::measure(&dir.0, self.rounds as usize, &|step| {
            spinner.set_message(step.to_owned());
        });
        spinner.finish_and_clear();
        present(&report?, self.json)
    }
}

/// Execute blocks of transfers and compute their state roots
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet bench ledger
  falconet bench ledger --rounds 15 --json

Signatures are checked before the ledger sees a transaction and are not part of this. The figures in
us/transaction are CPU time of a long run with its state on disk: of the ledger, of handing what
changed to the state database, and of the thread that writes it.")]
pub struct Ledger {
    /// Directory on the disk that the state is written to [default: in the cache]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Rounds
    #[arg(long, value_name = "N", default_value_t = ROUNDS as u64, value_parser = clap::value_parser!(u64).range(1..=ROUNDS_MAX))]
    rounds: u64,
    /// End with one JSON object on standard output; tables go to standard error
    #[arg(long)]
    json: bool,
}

impl Ledger {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let base = self.dir.clone().unwrap_or_else(cache_dir);
        let dir = Scratch::make(&base)?;
        let spinner = output::spinner("preparing");
        let report = ledger::measure(&dir.0, self.rounds as usize, &|step| {
            spinner.set_message(step.to_owned());
        });
        spinner.finish_and_clear();
        present(&report?, self.json)
    }
}

fn present(report: &FiguresReport, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        eprint!("{report}");
        output::line(serde_json::to_string(report)?)?;
    } else {
        output::line(report.to_string().trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Run every benchmark, one after the other, each in a process of its own
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet bench all --quick
  falconet bench all --json FILE

The JSON object has one member a benchmark: crypto, net, store, ledger and cluster; one that could
not run is missing, and the exit code is 1.")]
pub struct All {
    /// Short runs with wide spreads
    #[arg(long)]
    quick: bool,
    /// Write the reports as one JSON object to this file; - is standard output
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl All {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let exe = std::env::current_exe().context("cannot find the path of this program")?;
        let mut parts: Vec<(&str, Vec<&str>)> = vec![
            ("net", vec!["--json"]),
            ("store", vec!["--json"]),
            ("ledger", vec!["--json"]),
            ("cluster", vec!["--json", "-"]),
        ];
        if cfg!(feature = "peers") {
            parts.insert(0, ("crypto", vec!["--json"]));
        }
        if self.quick {
            for (part, options) in &mut parts {
                options.extend(match *part {
                    "net" => &["--quick"][..],
                    "store" | "ledger" => &["--rounds", "3"],
                    "cluster" => &["--duration", "5s"],
                    _ => &[],
                });
            }
        }
        let mut reports = serde_json::Map::new();
        let mut failed = Vec::new();
        for (part, options) in parts {
            eprintln!("== {part}");
            let output = Command::new(&exe)
                .args(["bench", part])
                .args(options)
                .stderr(Stdio::inherit())
                .output()
                .with_context(|| format!("cannot start {}", exe.display()))?;
            let text = String::from_utf8_lossy(&output.stdout);
            let last = text.lines().last().unwrap_or_default();
            match serde_json::from_str(last) {
                Ok(report) if output.status.success() => {
                    reports.insert(part.to_owned(), report);
                }
                _ => failed.push(part),
            }
        }
        let reports = serde_json::Value::Object(reports);
        match &self.json {
            Some(path) if path == Path::new("-") => output::line(&reports)?,
            Some(path) => super::write(path, &format!("{reports:#}\n"))?,
            None => {}
        }
        anyhow::ensure!(
            failed.is_empty(),
            "failed: {}; see above",
            failed.join(", ")
        );
        Ok(ExitCode::SUCCESS)
    }
}

/// A directory that is removed when the measurement ends.
struct Scratch(PathBuf);

impl Scratch {
    fn make(base: &Path) -> anyhow::Result<Self> {
        let path = base.join(format!("falconet-bench-store-{}", std::process::id()));
        fs::create_dir_all(base)
            .and_then(|()| fs::create_dir(&path))
            .with_context(|| format!("cannot create {}; give --dir", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                eprintln!(
                    "cannot remove {}: {error}; remove it by hand",
                    self.0.display()
                );
            }
            _ => {}
        }
    }
}
