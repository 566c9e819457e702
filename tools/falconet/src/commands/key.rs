//! `falconet key`

use std::path::{Path, PathBuf};

use clap::Subcommand;
use falconet_crypto::keyfile;
use falconet_types::PublicKey;
use serde_json::json;

use crate::output;

/// Inspect key files
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the public part of a key file: scheme, account id, public key
    #[command(after_help = "\
Examples:
  falconet key show alice.key
  falconet key show alice.key --json

The secret part is never printed. The account id is the hash of the public key.")]
    Show {
        /// The key file
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

impl Args {
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Show { file, json } => print(&file, keyfile::read(&file)?.public(), json),
        }
    }
}

/// Prints what may be known of a key.
pub fn print(file: &Path, key: &PublicKey, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(&json!({
            "file": file,
            "scheme": key.scheme().to_string(),
            "account": key.id().to_string(),
            "public_key": key.to_string(),
        }));
    }
    output::fields(&[
        ("file", file.display().to_string()),
        ("scheme", key.scheme().to_string()),
        ("account", key.id().to_string()),
        ("public key", key.to_string()),
    ])
}
