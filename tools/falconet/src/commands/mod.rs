//! The command line: one module a command.

mod account;
mod bench;
mod completions;
mod doctor;
mod genesis;
mod key;
mod keygen;
mod log_level;
mod probes;
mod proof;
mod reference;
mod run;
#[cfg(feature = "sim")]
mod sim;
mod stake;
mod status;
mod testnet;
mod top;
mod tx;
mod validators;
mod xdp;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("FALCONET_COMMIT"),
    ", ",
    env!("FALCONET_PROFILE"),
    ")"
);

/// Post-quantum validators: FALCON signatures on every transaction and every vote
#[derive(Debug, Parser)]
#[command(
    name = "falconet",
    version = VERSION,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "\
Examples:
  falconet testnet                          four validators on this machine, with load
  falconet status                           what the first of them says about itself
  falconet keygen --out alice.key           a new key pair

Exit codes: 0 done, 1 failed, 2 called wrongly.
Every command has its own --help with examples."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Testnet(testnet::Args),
    Keygen(keygen::Args),
    Key(key::Args),
    Genesis(genesis::Args),
    Run(run::Args),
    Status(status::Args),
    Top(top::Args),
    LogLevel(log_level::Args),
    Account(account::Args),
    Tx(tx::Args),
    Stake(stake::Args),
    Validators(validators::Args),
    Proof(proof::Args),
    Probes(probes::Args),
    Xdp(xdp::Args),
    Bench(bench::Args),
    #[cfg(feature = "sim")]
    Sim(sim::Args),
    Doctor(doctor::Args),
    Completions(completions::Args),
    ManPages(reference::ManArgs),
    CliReference(reference::Args),
    WriteDocs(reference::WriteArgs),
}

impl Command {
    /// Carries the command out.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Testnet(args) => return args.run(),
            Self::Keygen(args) => args.run()?,
            Self::Key(args) => args.run()?,
            Self::Genesis(args) => args.run()?,
            Self::Run(args) => return args.run(),
            Self::Status(args) => args.run()?,
            Self::Top(args) => args.run()?,
            Self::LogLevel(args) => args.run()?,
            Self::Account(args) => args.run()?,
            Self::Tx(args) => return args.run(),
            Self::Stake(args) => return args.run(),
            Self::Validators(args) => return args.run(),
            Self::Proof(args) => args.run()?,
            Self::Xdp(args) => args.run()?,
            Self::Probes(args) => args.run()?,
            Self::Bench(args) => return args.run(),
            #[cfg(feature = "sim")]
            Self::Sim(args) => return args.run(),
            Self::Doctor(args) => return args.run(),
            Self::Completions(args) => args.run()?,
            Self::ManPages(args) => args.run()?,
            Self::CliReference(args) => args.run()?,
            Self::WriteDocs(args) => args.run()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
