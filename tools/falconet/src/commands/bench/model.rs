//! `falconet bench model`

use std::path::PathBuf;
use std::process::ExitCode;

use falconet_bench::model::{self, Inputs, Question, Stage};

use crate::output;

/// Default bytes of a transaction: a FALCON-1024 transfer.
const TRANSACTION_BYTES: u32 = 1_412;

/// Compute the cores, network and disk that a rate needs, from costs of each stage
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet bench model --from crypto.json --from net.json --from ledger.json --from cluster.json
  falconet bench model --tps 50000 --validators 4,7 --verify-us 7

This command measures nothing. Costs come from reports (--from) or options; those that neither
names are ASSUMED, and the answer says for each which it is. Reports give: crypto the verification,
net the transport, ledger the execution, cluster the CPU time of a whole transaction, of which what
the stages do not explain is added as \"other\". No benchmark gives hash and log by themselves.
Formulas and assumptions: docs/benchmarks.md.")]
pub struct Model {
    /// Transactions a second
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    tps: u32,
    /// Numbers of validators
    #[arg(long, value_name = "N,N", value_delimiter = ',', default_value = "4,13,50,100", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    validators: Vec<u32>,
    /// Bytes of a transaction
    #[arg(long, value_name = "N", default_value_t = TRANSACTION_BYTES)]
    transaction_bytes: u32,
    /// Blocks a second
    #[arg(long, value_name = "N", default_value_t = 20)]
    blocks: u32,
    /// Take costs from the JSON report of bench crypto, net, ledger, cluster or all; may be repeated
    #[arg(long, value_name = "FILE")]
    from: Vec<PathBuf>,
    /// Verifying one signature, microseconds
    #[arg(long, value_name = "US")]
    verify_us: Option<f64>,
    /// Transport of 1 KB one way, microseconds
    #[arg(long, value_name = "US")]
    transport_us: Option<f64>,
    /// Executing one transaction, microseconds
    #[arg(long, value_name = "US")]
    execute_us: Option<f64>,
    /// Hashing one transaction, microseconds
    #[arg(long, value_name = "US")]
    hash_us: Option<f64>,
    /// Appending 1 KB to the log, microseconds
    #[arg(long, value_name = "US")]
    log_us: Option<f64>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

impl Model {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let mut inputs = Inputs::default();
        for path in &self.from {
            let report = super::compare::read(path)?;
            let name = path.file_name().unwrap_or(path.as_os_str());
            anyhow::ensure!(
                inputs.read(&report, &name.to_string_lossy()) > 0,
                "{} holds no cost; give a report of bench crypto, net, ledger, cluster or all",
                path.display()
            );
        }
        for (given, stage) in [
            (self.verify_us, Stage::Verify),
            (self.transport_us, Stage::Transport),
            (self.execute_us, Stage::Execute),
            (self.hash_us, Stage::Hash),
            (self.log_us, Stage::Log),
        ] {
            if let Some(us) = given {
                anyhow::ensure!(
                    us.is_finite() && us > 0.0,
                    "a cost of {us} us makes no sense; give a number above 0"
                );
                inputs.give(stage, us);
            }
        }
        let question = Question {
            validators: 0,
            tps: self.tps.into(),
            transaction_bytes: self.transaction_bytes.into(),
            blocks_per_s: self.blocks.into(),
        };
        let model = model::Model::new(inputs, &self.validators, question);
        if self.json {
            output::line(serde_json::to_string(&model)?)?;
        } else {
            output::line(model.to_string().trim_end())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
