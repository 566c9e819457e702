//! `falconet bench model`

use std::process::ExitCode;

use falconet_bench::model::{self, Costs, Question};

use crate::output;

/// Default bytes of a transaction: a FALCON-1024 transfer.
const TRANSACTION_BYTES: u32 = 1_412;

/// Compute the cores, network and disk that a rate needs, from measured costs of each stage
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet bench model
  falconet bench model --tps 50000 --validators 4,7 --verify-us 7

Nothing is measured: defaults are costs of one core of an AMD EPYC (Zen 5). Put in what `bench
crypto`, `bench net` and `bench ledger` say on your machine. Formulas: docs/benchmarks.md.")]
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
    /// Verifying one signature, microseconds
    #[arg(long, value_name = "US")]
    verify_us: Option<f64>,
    /// Transport of 1 KB one way, microseconds
    #[arg(long, value_name = "US")]
    transport_us: Option<f64>,
    /// Executing one transaction, microseconds
    #[arg(long, value_name = "US")]
    execute_us: Option<f64>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

impl Model {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let mut costs = Costs::default();
        for (given, cost) in [
            (self.verify_us, &mut costs.verify_us),
            (self.transport_us, &mut costs.transport_us_per_kb),
            (self.execute_us, &mut costs.execute_us),
        ] {
            if let Some(us) = given {
                anyhow::ensure!(
                    us.is_finite() && us > 0.0,
                    "a cost of {us} us makes no sense; give a number above 0"
                );
                *cost = us;
            }
        }
        let question = Question {
            validators: 0,
            tps: self.tps.into(),
            transaction_bytes: self.transaction_bytes.into(),
            blocks_per_s: self.blocks.into(),
        };
        let model = model::Model::new(costs, &self.validators, question);
        if self.json {
            output::line(serde_json::to_string(&model)?)?;
        } else {
            output::line(model.to_string().trim_end())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
