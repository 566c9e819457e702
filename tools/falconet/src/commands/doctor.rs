//! `falconet doctor`

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use falconet_doctor::{Finding, Fix, Machine, ReadOptions, Report, Severity, check};
use falconet_validator::config::Config;

use crate::output;

/// Look at everything on this machine that decides performance and correctness
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet doctor                           everything at once, no privileges needed
  falconet doctor --config falconet.toml    with the disk of that validator's data directory
  falconet doctor --json | jq '.findings[] | select(.severity == \"warn\")'
  falconet doctor --fix                     show what can be changed here, ask for each
  sudo falconet doctor --fix rmem wmem      change these, print how to take them back
  sudo falconet doctor --fix all

Each finding says what was found, what it costs and how to mend it. A validator makes the same
checks when it starts, and does not start when one fails.

With --json the findings are on standard output: {\"version\", \"worst\", \"findings\": [{\"check\",
\"subject\", \"severity\", \"found\", \"costs\", \"mend\", \"fix\"}]}; severity is ok, not_checked, note,
warn or fail, see the operator guide.

Exit codes: 0 a validator can run, 1 a finding fails or a change could not be made, 2 called
wrongly.")]
pub struct Args {
    /// The configuration of a validator: its data directory is looked at
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The directory whose disk is looked at; need not exist yet
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    data: Option<PathBuf>,
    /// Make changes: those named, or `all`; without a name ask for each
    #[arg(long, value_name = "NAME", num_args = 0..)]
    fix: Option<Vec<String>>,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let data_dir = match &self.config {
            Some(path) => Some(Config::load(path)?.data),
            None => self.data.clone(),
        };
        let options = ReadOptions { data_dir };
        let mut report = check(&Machine::read(&options));
        if let Some(names) = &self.fix {
            // Standard output is the JSON's alone.
            let say = |text: &str| match self.json {
                true => {
                    eprintln!("{text}");
                    Ok(())
                }
                false => output::line(text),
            };
            if mend(&report, names, &say)? {
                report = check(&Machine::read(&options));
            }
        }
        if self.json {
            output::line(serde_json::to_string_pretty(&report)?)?;
        } else if self.fix.is_none() {
            show(&report)?;
        }
        Ok(match report.worst {
            Severity::Fail => ExitCode::FAILURE,
            _ => ExitCode::SUCCESS,
        })
    }
}

/// Findings that want something done come last, where the reader's eye is.
fn show(report: &Report) -> anyhow::Result<()> {
    for severity in [
        Severity::Ok,
        Severity::NotChecked,
        Severity::Note,
        Severity::Warn,
        Severity::Fail,
    ] {
        for finding in report.of(severity) {
            output::line(text_of(finding))?;
        }
    }
    let count = |severity| report.of(severity).count();
    let (fail, warn, note) = (
        count(Severity::Fail),
        count(Severity::Warn),
        count(Severity::Note),
    );
    let verdict = match fail {
        0 => "a validator can run here",
        _ => "a validator cannot run here",
    };
    output::line(format_args!(
        "\n{verdict}: {fail} failures, {warn} warnings, {note} notes, {} not checked",
        count(Severity::NotChecked)
    ))?;
    if report.fixes().next().is_some() {
        let names: Vec<&str> = report.fixes().map(|fix| fix.name.as_str()).collect();
        output::line(format_args!(
            "can be changed from here: falconet doctor --fix {}",
            names.join(" ")
        ))?;
    }
    Ok(())
}

fn text_of(finding: &Finding) -> String {
    let mut name = finding.check.to_owned();
    if let Some(subject) = &finding.subject {
        name = format!("{name} ({subject})");
    }
    let word = finding.severity.word();
    let mut text = match finding.severity {
        Severity::Ok => format!("{word:<11} {name}: {}", finding.found),
        Severity::NotChecked => format!("{word}: {name}: {}", finding.found),
        _ => format!("\n{word:<11} {name}: {}", finding.found),
    };
    if let Some(costs) = &finding.costs {
        text += &format!("\n    costs   {costs}");
    }
    for (index, how) in finding.mend.iter().enumerate() {
        let label = if index == 0 { "mend" } else { "" };
        text += &format!("\n    {label:<7} {how}");
    }
    text
}

type Say<'a> = &'a dyn Fn(&str) -> anyhow::Result<()>;

/// Makes the wished changes; whether there was any.
fn mend(report: &Report, names: &[String], say: Say<'_>) -> anyhow::Result<bool> {
    let known: Vec<&Fix> = report.fixes().collect();
    for name in names.iter().filter(|name| *name != "all") {
        if !known.iter().any(|fix| fix.name == *name) {
            let known: Vec<&str> = known.iter().map(|fix| fix.name.as_str()).collect();
            bail!(
                "nothing to change is called {name:?}; here: {}",
                match known.is_empty() {
                    true => "nothing".into(),
                    false => known.join(", "),
                }
            );
        }
    }
    if known.is_empty() {
        say("nothing to change: what is left is not in the power of this command")?;
    }
    let mut changed = false;
    let mut failed = Vec::new();
    for fix in known {
        let wished = match names {
            [] => ask(fix, say)?,
            names => names.iter().any(|name| name == "all" || *name == fix.name),
        };
        if wished {
            changed = true;
            if let Err(error) = make(fix, say) {
                failed.push(format!("{}: {error}", fix.name));
            }
        }
    }
    if !failed.is_empty() {
        bail!("{}", failed.join("; "));
    }
    Ok(changed)
}

/// Shows a change and asks for it; without a terminal it is only shown.
fn ask(fix: &Fix, say: Say<'_>) -> anyhow::Result<bool> {
    say(&format!("{}:", fix.name))?;
    for command in fix.commands() {
        say(&format!("    {command}"))?;
    }
    if !io::stdin().is_terminal() {
        say(&format!(
            "    not changed; to change it: --fix {}",
            fix.name
        ))?;
        return Ok(false);
    }
    eprint!("    change this? [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn make(fix: &Fix, say: Say<'_>) -> anyhow::Result<()> {
    for change in &fix.changes {
        change.make()?;
        say(&format!("done: {}", change.command()))?;
        say(&format!("      to take it back: {}", change.undo()))?;
    }
    Ok(())
}
