//! `falconet bench compare`

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use falconet_bench::compare::compare;
use serde_json::Value;

use crate::output;

/// Compare two JSON reports of one benchmark, figure by figure
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet bench compare before.json after.json
  falconet bench compare before.json after.json --json

A ratio is after / before. Figures that carry their rounds differ when the ranges between their
quartiles do not touch; of single values, a difference up to 10 % is called noise.")]
pub struct Compare {
    /// The report to compare with
    before: PathBuf,
    /// The report to compare
    after: PathBuf,
    /// End with one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

impl Compare {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let found = compare(&read(&self.before)?, &read(&self.after)?)?;
        if self.json {
            output::line(serde_json::to_string(&found)?)?;
        } else {
            output::line(found.to_string().trim_end())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The report in a file: all of it, or its last line, as where standard output was kept.
pub fn read(path: &Path) -> anyhow::Result<Value> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("cannot read {}; give a report of --json", path.display()))?;
    let last = text.lines().rfind(|line| !line.trim().is_empty());
    serde_json::from_str(&text)
        .or_else(|_| serde_json::from_str(last.unwrap_or_default()))
        .with_context(|| format!("{} is no JSON report; give one of --json", path.display()))
}
