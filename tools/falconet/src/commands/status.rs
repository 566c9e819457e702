//! `falconet status`

use crate::http::{NodeArgs, text};
use crate::output;

/// Show what a running validator says about itself
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet status
  falconet status --http http://[::1]:26701 --json")]
pub struct Args {
    #[command(flatten)]
    node: NodeArgs,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self) -> anyhow::Result<()> {
        let status = self.node.connect()?.get("/v1/status")?;
        if self.json {
            return output::json(&status);
        }
        let peers = status["peers"].as_array().map_or(&[][..], Vec::as_slice);
        let connected = peers
            .iter()
            .filter(|peer| peer["connected"] == true)
            .count();
        let throttled: Vec<String> = peers
            .iter()
            .filter(|peer| !peer["banned_until_ms"].is_null())
            .map(|peer| text(peer, "name"))
            .collect();
        let mut connected = format!("{connected} of {} connected", peers.len());
        if !throttled.is_empty() {
            connected += &format!("; throttled: {}", throttled.join(", "));
        }
        let signing = match status["signing"].as_bool() {
            Some(true) => "yes".to_owned(),
            _ => format!("NO: {}", text(&status, "not_signing_reason")),
        };
        let validator = match status["follower"].as_bool() {
            Some(true) => "none: it follows the chain".to_owned(),
            _ => format!(
                "{} {}",
                text(&status, "validator"),
                text(&status, "validator_name")
            ),
        };
        output::fields(&[
            (
                "chain",
                format!("{} {}", text(&status, "name"), text(&status, "chain_id")),
            ),
            ("validator", validator),
            ("height", text(&status, "height")),
            (
                "round",
                format!(
                    "{} of epoch {}",
                    text(&status, "round"),
                    text(&status, "epoch")
                ),
            ),
            ("committed block", text(&status, "committed_block")),
            (
                "commits",
                format!(
                    "{} blocks since the start, {} of them by commit votes",
                    text(&status, "blocks_committed"),
                    text(&status, "blocks_committed_by_votes")
                ),
            ),
            ("executed height", text(&status, "executed_height")),
            ("state", text(&status, "state_commitment")),
            ("transactions", text(&status, "transactions_committed")),
            ("peers", connected),
            ("signing", signing),
        ])
    }
}
