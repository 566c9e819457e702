//! `falconet proof`

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use clap::Subcommand;
use falconet_types::genesis::Genesis;
use falconet_types::proof::PortableProof;
use falconet_types::transaction::{Body, SignedTransaction};
use falconet_types::wire::Wire as _;
use serde_json::json;

use crate::output;

/// Largest proof file that is read, bytes. A certificate of 256 validators has about 330 KB, the
/// headers of a proof at their limit 6 MB. The proof of an epoch of 4 validators with FALCON-1024
/// has about 13 KB, of 100 validators 300 KB.
const PROOF_BYTES_MAX: u64 = 1 << 30;

/// Check proofs of transactions
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check offline that a transaction was committed and what came of it
    #[command(after_help = "\
Examples:
  falconet tx show 77ab…01 --proof --out payment.proof
  falconet proof verify --genesis genesis.json payment.proof

Needs no network and trusts nobody but the validators in genesis, and those to whom they handed over:
transaction, batch, block, commit certificate and the ends of all epochs before are checked by their
hashes and FALCON signatures. Exit code 0 means that the
proof is valid; what came of the transaction is in the output.")]
    Verify {
        /// Genesis document of the chain
        #[arg(long, value_name = "FILE")]
        genesis: PathBuf,
        /// The proof, as `falconet tx show --proof --out` writes it
        proof: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

impl Args {
    pub fn run(self) -> anyhow::Result<()> {
        let Command::Verify {
            genesis,
            proof: path,
            json,
        } = self.command;
        let genesis = Genesis::load(&genesis)?;
        let bytes = read(&path)?;
        let proof = PortableProof::from_bytes(&bytes).map_err(|error| {
            anyhow!(
                "{} is not a proof: {error}; fetch it again with: falconet tx show --proof --out",
                path.display()
            )
        })?;
        let proven = proof.verify(&genesis).map_err(|error| {
            anyhow!(
                "{} proves nothing on chain {}: {error}; check that the genesis document is the \
                 right one and the proof is as it was fetched",
                path.display(),
                genesis.chain_id().short()
            )
        })?;
        let epoch = proof.proof.epoch();
        let transfer = SignedTransaction::parse(proof.proof.tx.clone())
            .ok()
            .and_then(|tx| match tx.body {
                Body::Transfer { to, amount } => Some((tx.sender, to, amount)),
                Body::RegisterKey { .. } | Body::Stake(_) => None,
            });
        if json {
            let mut result = json!({
                "valid": true,
                "chain_id": genesis.chain_id().to_string(),
                "id": proven.tx_id.to_string(),
                "outcome": proven.outcome.name(),
                "epoch": epoch.0,
                "height": proven.height.0,
                "time_ms": proven.time_ms,
                "lane": proven.lane.0,
                "seq": proven.seq.0,
                "index": proven.index,
            });
            if let Some((from, to, amount)) = transfer {
                result["transfer"] = json!({
                    "from": from.to_string(),
                    "to": to.to_string(),
                    "amount": amount,
                });
            }
            return output::json(&result);
        }
        let mut rows = vec![
            ("proof", "valid".to_owned()),
            ("chain", format!("{} {}", genesis.name, genesis.chain_id())),
            ("transaction", proven.tx_id.to_string()),
            ("outcome", proven.outcome.name().to_owned()),
            ("epoch", epoch.to_string()),
            ("height", proven.height.to_string()),
            ("time", format!("{} ms since 1970", proven.time_ms)),
            ("lane", proven.lane.to_string()),
            ("batch", proven.seq.to_string()),
            ("index", proven.index.to_string()),
        ];
        if let Some((from, to, amount)) = transfer {
            rows.push(("from", from.to_string()));
            rows.push(("to", to.to_string()));
            rows.push(("amount", amount.to_string()));
        }
        output::fields(&rows)
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(PROOF_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            anyhow!(
                "cannot read the proof {}: {error}; check the path",
                path.display()
            )
        })?;
    if bytes.len() as u64 > PROOF_BYTES_MAX {
        bail!(
            "{} is larger than any proof ({PROOF_BYTES_MAX} bytes)",
            path.display()
        );
    }
    Ok(bytes)
}
