//! `falconet run`

use std::path::PathBuf;
use std::process::ExitCode;

use falconet_validator::config::Config;
use falconet_validator::{Node, run};

use crate::{output, parent};

/// Run a validator until it is told to stop
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet run --config validator-0/falconet.toml

One line on standard output says when it is ready and where it listens; logs go to standard error.
Ctrl-C or SIGTERM stops it, a second one at once; kill -9 is safe at any time.")]
pub struct Args {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

impl Args {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        parent::follow()?;
        let config = Config::load(&self.config)?;
        run(&config, &self.config, announce)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The line that scripts wait for.
fn announce(node: &Node) {
    let (index, stoq, http) = (node.index(), node.stoq_addr(), node.http_addr());
    // Nobody needs to read it: a closed standard output must not stop a validator.
    let _ = output::line(format_args!(
        "validator {index} ready: stoq {stoq}, http http://{http}, metrics http://{http}/metrics"
    ));
}
