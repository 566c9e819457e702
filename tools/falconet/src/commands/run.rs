//! `falconet run`

use std::path::PathBuf;
use std::process::ExitCode;

use falconet_validator::byzantine::Danger;
use falconet_validator::config::Config;
use falconet_validator::{Node, run_as};

use crate::{output, panics, parent};

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
    /// Break the protocol on purpose: equivocator, withholder, lane-forker, timeout-liar,
    /// selective-sender, replayer, flooder, slow-loris or hoarder. For test networks only
    #[cfg(feature = "danger-byzantine")]
    #[arg(long, value_name = "KIND")]
    danger_byzantine: Option<falconet_adversary::Kind>,
}

impl Args {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        panics::end_the_process();
        parent::follow()?;
        let config = Config::load(&self.config)?;
        run_as(&config, &self.config, self.danger(), announce)?;
        Ok(ExitCode::SUCCESS)
    }

    #[cfg(feature = "danger-byzantine")]
    fn danger(&self) -> Danger {
        Danger(self.danger_byzantine)
    }

    #[cfg(not(feature = "danger-byzantine"))]
    fn danger(&self) -> Danger {
        Danger::default()
    }
}

/// The line that scripts wait for.
fn announce(node: &Node) {
    let (stoq, http) = (node.stoq_addr(), node.http_addr());
    let who = if node.is_follower() {
        "follower".to_owned()
    } else {
        format!("validator {}", node.index())
    };
    // Nobody needs to read it: a closed standard output must not stop a validator.
    let _ = output::line(format_args!(
        "{who} ready: stoq {stoq}, http http://{http}, metrics http://{http}/metrics"
    ));
}
