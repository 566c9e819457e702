//! `falconet tx show`: where a transaction stands, and its proof.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use falconet_types::TxId;

use crate::http::{NodeArgs, text};
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
        let tx = self
            .node
            .connect()?
            .get(&format!("/v1/transactions/{}{query}", self.id))?;
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
            write_new(path, &proof)?;
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
