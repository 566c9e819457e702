//! `falconet tx show`: where a transaction stands, and its proof.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use falconet_types::TxId;
use falconet_types::epoch::EpochProof;
use falconet_types::proof::{PORTABLE_EPOCHS_MAX, PortableProof, TransactionProof};
use falconet_types::wire::Wire as _;

use crate::http::{Node, NodeArgs, text};
use crate::output;

/// Show where a transaction stands and what came of it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet tx show 77ab…01
  falconet tx show 77ab…01 --proof --out payment.proof
  falconet proof verify --genesis genesis.json payment.proof")]
pub struct Args {
    /// Transaction id: 64 hexadecimal digits
    id: TxId,
    /// Ask for the proof that it was committed
    #[arg(long)]
    proof: bool,
    /// Write the proof to this file, which must not exist yet
    #[arg(long, value_name = "FILE", requires = "proof")]
    out: Option<PathBuf>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: NodeArgs,
}

impl Args {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let query = if self.proof { "?proof=true" } else { "" };
        let node = self.node.connect()?;
        let tx = node.get(&format!("/v1/transactions/{}{query}", self.id))?;
        if let Some(path) = &self.out {
            let Some(proof) = tx["proof"].as_str() else {
                bail!(
                    "no proof of {} yet (status {}): a few more blocks are needed; try again",
                    self.id,
                    text(&tx, "status")
                );
            };
            let proof = BASE64
                .decode(proof)
                .context("the validator's proof is not base64")?;
            write_new(path, &portable(&node, &proof)?.to_bytes())?;
        }
        if self.json {
            output::json(&tx)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut rows = vec![
            ("transaction", self.id.to_string()),
            ("status", text(&tx, "status")),
            ("outcome", text(&tx, "outcome")),
            ("height", text(&tx, "height")),
            ("lane", text(&tx, "lane")),
            ("batch", text(&tx, "seq")),
            ("index", text(&tx, "index")),
        ];
        match (&self.out, self.proof) {
            (Some(path), _) => rows.push(("proof", path.display().to_string())),
            (None, true) => rows.push(("proof", text(&tx, "proof"))),
            (None, false) => {}
        }
        output::fields(&rows)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The proof with those of all epochs before its own, as `falconet proof verify` needs it.
fn portable(node: &Node, proof: &[u8]) -> anyhow::Result<PortableProof> {
    let proof = TransactionProof::from_bytes(proof).context("the validator's proof is none")?;
    let epochs = proof.epoch().0;
    if epochs > PORTABLE_EPOCHS_MAX as u64 {
        bail!(
            "the transaction is of epoch {epochs}, a proof file holds at most {PORTABLE_EPOCHS_MAX}"
        );
    }
    let epochs = (0..epochs).map(|epoch| epoch_proof(node, epoch));
    Ok(PortableProof {
        epochs: epochs.collect::<Result<_, _>>()?,
        proof,
    })
}

fn epoch_proof(node: &Node, epoch: u64) -> anyhow::Result<EpochProof> {
    let answer = node.get(&format!("/v1/epochs/{epoch}/proof"))?;
    let bytes = BASE64
        .decode(answer["proof"].as_str().unwrap_or_default())
        .with_context(|| format!("the validator's proof of epoch {epoch} is not base64"))?;
    EpochProof::from_bytes(&bytes)
        .with_context(|| format!("the validator's proof of epoch {epoch} is none"))
}

fn write_new(path: &PathBuf, bytes: &[u8]) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .with_context(|| {
            format!(
                "cannot create {}; choose a name that does not exist yet",
                path.display()
            )
        })?;
    file.write_all(bytes)
        .with_context(|| format!("cannot write {}", path.display()))
}
