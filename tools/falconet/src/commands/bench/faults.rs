//! `falconet bench faults`, and what `--byzantine` means

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use std::{fmt, fs};

use anyhow::Context as _;
use falconet_bench::cluster::StartOptions;
use falconet_bench::report::{Byzantine, Report};
use falconet_bench::run::ClusterBench;

use super::{measure, verdict, write};
use crate::signals::Stop;
use crate::{output, parent};

/// Of how many validators each row is measured, with as many faulty ones as these bear.
const SIZES: [usize; 2] = [4, 7];
/// Before the measured time: by then each faulty validator has led and been noticed.
const WARMUP: Duration = Duration::from_secs(3);

/// Reads `KIND[:F]`.
pub fn byzantine(text: &str) -> Result<Byzantine, String> {
    let (kind, count) = match text.split_once(':') {
        Some((kind, count)) => (kind, count.parse().ok().filter(|count| *count > 0)),
        None => (text, Some(1)),
    };
    let count = count.ok_or("write KIND or KIND:F, such as flooder:2")?;
    known(kind)?;
    Ok(Byzantine {
        kind: kind.into(),
        count,
    })
}

#[cfg(feature = "danger-byzantine")]
fn known(kind: &str) -> Result<(), String> {
    let kind: Result<falconet_adversary::Kind, _> = kind.parse();
    kind.map(drop).map_err(|error| error.to_string())
}

#[cfg(not(feature = "danger-byzantine"))]
fn known(_: &str) -> Result<(), String> {
    Err(NEEDS_FEATURE.into())
}

/// Said by a program that cannot do it.
#[cfg(not(feature = "danger-byzantine"))]
const NEEDS_FEATURE: &str = "this program has no Byzantine validators; build one that has: cargo \
    build --release -p falconet --features danger-byzantine";

/// The kinds of Byzantine validators.
#[cfg(feature = "danger-byzantine")]
fn kinds() -> anyhow::Result<Vec<String>> {
    Ok(falconet_adversary::Kind::ALL
        .iter()
        .map(ToString::to_string)
        .collect())
}

#[cfg(not(feature = "danger-byzantine"))]
fn kinds() -> anyhow::Result<Vec<String>> {
    anyhow::bail!("{NEEDS_FEATURE}")
}

/// Latency of clients with as many faulty validators as 4 and 7 bear, of each kind
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet bench faults --dir docs/measured/faults
  falconet bench faults --rate 200 --only flooder

Each row runs on a fresh network of processes: nobody faulty; f killed before the measured time; f
killed at its start; and f of each kind of `falconet run --danger-byzantine`. Load and figures are of
the correct validators. A row's report is written to the directory when it is done, and rows that are
there already are not measured again: run it again to go on. Ends with a table of all rows there, in
Markdown. Needs a build with `--features danger-byzantine`.")]
pub struct Faults {
    /// Where the reports are, and go
    #[arg(long, default_value = "faults")]
    dir: PathBuf,
    /// Transactions a second, over all correct validators
    #[arg(long, default_value_t = 500)]
    rate: u64,
    /// Time that is measured
    #[arg(long, default_value = "8s", value_parser = output::parse_duration)]
    duration: Duration,
    /// Only rows whose name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
}

/// What is wrong with the faulty ones.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    Nobody,
    /// Killed before the measured time.
    Dead,
    /// Killed at its start.
    Crash,
    Byzantine(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nobody => "nobody",
            Self::Dead => "dead",
            Self::Crash => "crash",
            Self::Byzantine(kind) => kind,
        })
    }
}

struct Row {
    validators: usize,
    fault: Fault,
}

impl Row {
    /// How many faulty ones these validators bear.
    fn faulty(&self) -> usize {
        (self.validators - 1) / 3
    }

    fn name(&self, rate: u64) -> String {
        format!("{}-{}-{rate}", self.validators, self.fault)
    }

    fn bench(&self, faults: &Faults, exe: &std::path::Path) -> ClusterBench {
        let killed = matches!(self.fault, Fault::Dead | Fault::Crash);
        ClusterBench {
            validators: self.validators,
            rate: faults.rate,
            warmup: WARMUP,
            duration: faults.duration,
            crash: if killed { self.faulty() } else { 0 },
            crash_early: self.fault == Fault::Dead,
            byzantine: match &self.fault {
                Fault::Byzantine(kind) => Some(Byzantine {
                    kind: kind.clone(),
                    count: self.faulty(),
                }),
                _ => None,
            },
            start: StartOptions {
                env: parent::to_be_followed(),
                ..StartOptions::default()
            },
            ..ClusterBench::new(exe)
        }
    }

    fn line(&self, report: &Report) -> String {
        let who = match &self.fault {
            Fault::Nobody => "nobody".into(),
            Fault::Dead => format!("{} dead before", self.faulty()),
            Fault::Crash => format!("{} killed at the start", self.faulty()),
            Fault::Byzantine(kind) => format!("{} {kind}", self.faulty()),
        };
        format!(
            "| {} | {who} | {:.0} | {:.1} | {:.1} | {:.0} |",
            self.validators,
            report.committed_tps,
            report.latency_ms.p50,
            report.latency_ms.p99,
            report.latency_ms.max
        )
    }
}

impl Faults {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let mut faults = vec![Fault::Nobody, Fault::Dead, Fault::Crash];
        faults.extend(kinds()?.into_iter().map(Fault::Byzantine));
        let rows = SIZES.into_iter().flat_map(|validators| {
            let row = move |fault| Row { validators, fault };
            faults.clone().into_iter().map(row)
        });
        let stop = Stop::install().context("cannot catch signals")?;
        let exe = std::env::current_exe().context("cannot find the path of this program")?;
        fs::create_dir_all(&self.dir)
            .with_context(|| format!("cannot make {}", self.dir.display()))?;
        let mut table = vec![
            "| n | faulty | tx/s | p50, ms | p99, ms | max, ms |".to_owned(),
            "|---|---|---|---|---|---|".to_owned(),
        ];
        for row in rows {
            let name = row.name(self.rate);
            let path = self.dir.join(format!("{name}.json"));
            if !path.exists() {
                if stop.asked() || !name.contains(&self.only) {
                    continue;
                }
                eprintln!("{name}");
                let (report, _) = measure(&row.bench(&self, &exe), &stop)?;
                if stop.asked() {
                    continue;
                }
                verdict(&report).with_context(|| name.clone())?;
                write(&path, &format!("{}\n", serde_json::to_string(&report)?))?;
            }
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let report: Report = serde_json::from_str(&text)
                .with_context(|| format!("{} is no report; remove it", path.display()))?;
            table.push(row.line(&report));
        }
        output::line(table.join("\n"))?;
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "danger-byzantine")]
    #[test]
    fn a_kind_may_have_a_number() {
        assert_eq!(byzantine("flooder").unwrap().count, 1);
        assert_eq!(byzantine("slow-loris:2").unwrap().count, 2);
        for bad in ["", "flooder:", "flooder:0", "flooder:x", "angel", "angel:2"] {
            assert!(byzantine(bad).is_err(), "{bad}");
        }
    }

    #[cfg(not(feature = "danger-byzantine"))]
    #[test]
    fn a_program_without_them_says_which_has_them() {
        let error = byzantine("flooder:2").unwrap_err();
        assert!(error.contains("--features danger-byzantine"), "{error}");
        assert!(kinds().is_err());
    }
}
