//! `falconet account`

use clap::Subcommand;
use falconet_types::AccountId;

use crate::http::{NodeArgs, text};
use crate::output;

/// Look at accounts
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show balance, highest nonce and key of an account
    #[command(after_help = "\
Examples:
  falconet account show 3f0c…64 hexadecimal digits…9a
  falconet key show alice.key               prints the account id that belongs to a key")]
    Show {
        /// Account id: 64 hexadecimal digits
        id: AccountId,
        #[command(flatten)]
        node: NodeArgs,
        /// Print the answer as JSON
        #[arg(long)]
        json: bool,
    },
}

impl Args {
    pub fn run(self) -> anyhow::Result<()> {
        let Command::Show { id, node, json } = self.command;
        let account = node.connect()?.get(&format!("/v1/accounts/{id}"))?;
        if json {
            return output::json(&account);
        }
        let key = match account["key"].as_str() {
            Some(key) => key.to_owned(),
            None => "none registered: it can receive, not pay".to_owned(),
        };
        output::fields(&[
            ("account", text(&account, "id")),
            ("balance", text(&account, "balance")),
            ("highest nonce", text(&account, "nonce_highest")),
            ("key", key),
        ])
    }
}
