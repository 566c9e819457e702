//! `falconet keygen`

use std::path::PathBuf;

use falconet_crypto::keyfile;
use falconet_types::{KeyPair, Scheme};

use super::key;

/// Make a key pair and write it to a new file that only you can read
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet keygen --out alice.key
  falconet keygen --out small.key --scheme falcon512

The file gets mode 0600 and is never overwritten. Keep a backup: a lost key cannot be restored.")]
pub struct Args {
    /// The file to create
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Signature scheme: falcon1024 or falcon512
    #[arg(long, default_value_t = Scheme::Falcon1024)]
    scheme: Scheme,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self) -> anyhow::Result<()> {
        let pair = KeyPair::generate(self.scheme);
        keyfile::write(&self.out, &pair)?;
        key::print(&self.out, pair.public(), self.json)
    }
}
