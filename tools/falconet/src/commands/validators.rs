//! `falconet validators`

mod membership;

use std::process::ExitCode;

use serde_json::Value;

use crate::http::{NodeArgs, text};
use crate::output;

/// Characters of an id that tell validators apart for people.
const SHORT: usize = 12;

/// Show the validators of an epoch, everybody with stake, and what was punished; join and leave
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  falconet validators
  falconet validators --epoch 7
  falconet validators --json
  falconet validators join --config delta/falconet.toml --name delta --key owner.key
  falconet validators leave delta --key owner.key"
)]
pub struct Args {
    #[command(subcommand)]
    command: Option<membership::Command>,
    /// The epoch; the present one by default. Those of which misbehaviour can be reported are kept
    #[arg(long)]
    epoch: Option<u64>,
    #[command(flatten)]
    node: NodeArgs,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Some(command) => command.run(),
            None => self.show().map(|()| ExitCode::SUCCESS),
        }
    }

    fn show(self) -> anyhow::Result<()> {
        let query = self.epoch.map_or(String::new(), |e| format!("?epoch={e}"));
        let answer = self
            .node
            .connect()?
            .get(&format!("/v1/validators{query}"))?;
        if self.json {
            return output::json(&answer);
        }
        output::line(format_args!(
            "epoch {} (present: {}, {})",
            text(&answer, "epoch"),
            text(&answer, "present_epoch"),
            match answer["epoch_heights"].as_u64() {
                Some(0) | None => "one epoch for ever".to_owned(),
                Some(heights) => format!("{heights} heights each"),
            }
        ))?;
        output::line(format_args!(
            "{:>5}  {:<20} {:<SHORT$}  {:>12}  address",
            "index", "name", "validator", "weight"
        ))?;
        for row in rows(&answer, "members") {
            output::line(format_args!(
                "{:>5}  {:<20} {:<SHORT$}  {:>12}  {}",
                text(row, "index"),
                text(row, "name"),
                short(row, "validator"),
                text(row, "weight"),
                text(row, "address"),
            ))?;
        }
        let outside = rows(&answer, "candidates").filter(|row| row["member"] == false);
        for row in outside {
            let state = match (&row["ready"], row["barred_until"].as_u64()) {
                (_, Some(epoch)) if epoch > 0 => format!("barred until epoch {epoch}"),
                (Value::Bool(true), _) => "follows, joins with the next epoch".into(),
                _ => "does not follow yet".into(),
            };
            output::line(format_args!(
                "    -  {:<20} {:<SHORT$}  stake {}, {state}",
                text(row, "name"),
                short(row, "validator"),
                text(row, "stake"),
            ))?;
        }
        for row in rows(&answer, "returning") {
            output::line(format_args!(
                "returning: {} of {} with epoch {}",
                text(row, "amount"),
                short(row, "validator"),
                text(row, "epoch"),
            ))?;
        }
        for row in rows(&answer, "offences") {
            output::line(format_args!(
                "punished: {} for epoch {}: {} burned at height {}",
                short(row, "validator"),
                text(row, "epoch"),
                text(row, "burned"),
                text(row, "height"),
            ))?;
        }
        Ok(())
    }
}

fn rows<'a>(answer: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    answer[field].as_array().into_iter().flatten()
}

fn short(row: &Value, field: &str) -> String {
    text(row, field).chars().take(SHORT).collect()
}
