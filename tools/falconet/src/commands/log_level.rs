//! `falconet log-level`

use falconet_validator::http::LogLevel;

use crate::http::{NodeArgs, text};
use crate::output;

/// Show or change the log level of a validator that runs on this machine
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet log-level                                   what it is
  falconet log-level debug                             change it
  falconet log-level info,falconet_hotstuff=debug      one part in detail

The change lasts until the next one, or the end of the process. SIGHUP (systemctl reload) puts the
level of the configuration file into force again. A validator listens to its own machine only.")]
pub struct Args {
    /// error, warn, info, debug, trace, off, or directives
    level: Option<String>,
    #[command(flatten)]
    node: NodeArgs,
}

impl Args {
    pub fn run(self) -> anyhow::Result<()> {
        let node = self.node.connect()?;
        let answer = match self.level {
            None => node.get("/v1/log-level")?,
            Some(level) => {
                let body = serde_json::to_vec(&LogLevel { level })?;
                node.put("/v1/log-level", &body)?
            }
        };
        output::line(text(&answer, "level"))
    }
}
