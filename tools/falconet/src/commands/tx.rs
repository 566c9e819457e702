//! `falconet tx`: make, send and look up transactions.

pub mod send;
mod show;

use std::process::ExitCode;

use clap::Subcommand;

/// Send transactions and look them up
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Transfer(send::Transfer),
    RegisterKey(send::RegisterKey),
    Show(show::Args),
}

impl Args {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Transfer(args) => args.run(),
            Command::RegisterKey(args) => args.run(),
            Command::Show(args) => args.run(),
        }
    }
}
