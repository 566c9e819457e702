//! `falconet genesis`

use std::path::PathBuf;

use clap::Subcommand;
use falconet_types::genesis::{ApplicationKind, Genesis};
use serde_json::json;

use crate::output;

/// Inspect genesis documents
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a genesis document and print the id of the chain that it starts
    #[command(after_help = "\
Examples:
  falconet genesis check genesis.json

Two files start the same chain when this prints the same chain id; spacing does not matter.")]
    Check {
        /// The genesis document
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

impl Args {
    pub fn run(self) -> anyhow::Result<()> {
        let Command::Check { file, json } = self.command;
        let genesis = Genesis::load(&file)?;
        let application = match genesis.application {
            ApplicationKind::Ledger => "ledger",
            ApplicationKind::Opaque => "opaque",
        };
        let chain_id = genesis.chain_id().to_string();
        if json {
            return output::json(&json!({
                "chain_id": chain_id,
                "name": genesis.name,
                "application": application,
                "validators": genesis.validators.len(),
                "accounts": genesis.accounts.len(),
            }));
        }
        output::fields(&[
            ("chain id", chain_id),
            ("name", genesis.name),
            ("application", application.into()),
            ("validators", genesis.validators.len().to_string()),
            ("accounts", genesis.accounts.len().to_string()),
        ])
    }
}
