//! `falconet validators join` and `leave`: stake in and out, and the wait for the epoch's end.

use std::fs;
use std::net::SocketAddrV6;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::Subcommand;
use falconet_crypto::falcon::Verifier;
use falconet_crypto::keyfile;
use falconet_types::ValidatorId;
use falconet_types::epoch::EpochProof;
use falconet_types::genesis::Genesis;
use falconet_types::signing::Verified;
use falconet_types::stake::Stake;
use falconet_types::transaction::Body;
use falconet_types::validators::{is_name, is_plain};
use falconet_types::wire::Wire as _;
use falconet_validator::config::Config;
use falconet_validator::epochs::Epochs;
use serde_json::Value;

use super::rows;
use crate::commands::tx::send::Common;
use crate::http::{Node, NodeArgs, Refused, text};
use crate::output;

/// Time between two looks at the validators.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

#[derive(Debug, Subcommand)]
pub enum Command {
    Join(Join),
    Leave(Leave),
    Proofs(Proofs),
}

/// Make a node a validator: bond stake to its key and wait until it is in the set
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet validators join --config delta/falconet.toml --name delta --key owner.key

Key and address of the validator are those of the node's configuration; the account of --key pays and
owns the stake. The node must run, with that key: it shows by itself that it follows, and begins to
validate when the epoch after that begins, without a restart.")]
pub struct Join {
    /// Configuration of the node, as for `falconet run`
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Name of the validator: letters, digits, '-', '_', '.'
    #[arg(long)]
    name: String,
    /// Where others reach it [default: the address at which it listens]
    #[arg(long, value_name = "[IPV6]:PORT")]
    address: Option<SocketAddrV6>,
    /// Stake to bond [default: what the smallest validator has]
    #[arg(long, value_name = "N")]
    amount: Option<u64>,
    #[command(flatten)]
    common: Common,
}

/// Take all of a validator's stake out and wait until it is out of the set
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet validators leave delta --key owner.key

Its node must run until the epoch has ended. Then it follows the chain; it may go on for those whom it
serves, or be stopped. The stake returns after the unbonding time.")]
pub struct Leave {
    /// Name or id of the validator
    validator: String,
    #[command(flatten)]
    common: Common,
}

/// Fetch and verify the proofs of all epochs, for a node to start with
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet validators proofs --genesis genesis.json --data data --http http://[2001:db8::9]:26700

Each proof is checked with the validators that the one before it has proven, from genesis on: the
node that is asked need not be trusted. A node that starts with the data directory finds the validators
of the newest epoch, also when nobody of genesis is left.")]
pub struct Proofs {
    /// Genesis document of the chain
    #[arg(long, value_name = "FILE")]
    genesis: PathBuf,
    /// Data directory of the node, which must not be running
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    #[command(flatten)]
    node: NodeArgs,
}

impl Command {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Join(args) => args.run(),
            Self::Leave(args) => args.run(),
            Self::Proofs(args) => args.run(),
        }
    }
}

impl Join {
    fn run(self) -> anyhow::Result<ExitCode> {
        if !is_name(&self.name) {
            bail!(
                "--name {:?}: a name has 1 to 64 letters, digits, '-', '_' or '.'",
                self.name
            );
        }
        let config = Config::load(&self.config)?;
        let address = self.address.unwrap_or(config.stoq.listen);
        if !is_plain(&address) || address.ip().is_unspecified() || address.port() == 0 {
            bail!("{address} is no address at which others reach the node; say it with --address");
        }
        let key = keyfile::read(&config.key)?;
        let node = self.common.connect()?;
        let amount = match self.amount {
            Some(amount) => amount,
            None => smallest(&node)?,
        };
        let quiet = self.common.is_json();
        let key_id = key.public().id().to_string();
        let name = self.name.clone();
        let sent = self.common.and_wait().send_for(|owner, chain| {
            let owner = owner.public().id();
            let bond = Stake::bond(chain, owner, &key, amount, &name, address);
            Ok(Body::Stake(Box::new(bond)))
        })?;
        if sent != ExitCode::SUCCESS {
            return Ok(sent);
        }
        let mut told = false;
        wait_for(&node, |answer| {
            let mine = |row: &&Value| row["key_id"] == key_id.as_str();
            if rows(answer, "members").any(|row| mine(&row)) {
                return true;
            }
            let candidate = rows(answer, "candidates").find(mine);
            if !told && candidate.is_some_and(|row| row["ready"] == true) {
                told = true;
                say(
                    quiet,
                    &format!("{name} follows the chain: it joins with the next epoch"),
                );
            }
            false
        })
        .map(|epoch| say(quiet, &format!("{name} is a validator in epoch {epoch}")))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Leave {
    fn run(self) -> anyhow::Result<ExitCode> {
        let node = self.common.connect()?;
        let answer = node.get("/v1/validators")?;
        let which = &self.validator;
        let row = rows(&answer, "candidates")
            .find(|row| row["name"] == which.as_str() || row["validator"] == which.as_str())
            .with_context(|| {
                format!("no validator called {which:?} has stake; see: falconet validators")
            })?;
        let id = text(row, "validator");
        let validator: ValidatorId = id.parse().context("the answer has no usable id")?;
        let amount = row["stake"].as_u64().context("the answer has no stake")?;
        let quiet = self.common.is_json();
        let sent = self.common.and_wait().send_for(|_, _| {
            let stake = Stake::Unbond { validator, amount };
            Ok(Body::Stake(Box::new(stake)))
        })?;
        if sent != ExitCode::SUCCESS {
            return Ok(sent);
        }
        let epoch = wait_for(&node, |answer| {
            !rows(answer, "members").any(|row| row["validator"] == id.as_str())
        })?;
        say(quiet, &format!("{which} is no validator in epoch {epoch}"));
        Ok(ExitCode::SUCCESS)
    }
}

impl Proofs {
    fn run(self) -> anyhow::Result<ExitCode> {
        let genesis = Genesis::load(&self.genesis)?;
        fs::create_dir_all(&self.data)
            .with_context(|| format!("cannot create {}", self.data.display()))?;
        let epochs = Epochs::open(&self.data, &genesis)?;
        let node = self.node.connect()?;
        let mut verifier = Verifier::new();
        loop {
            let newest = epochs.newest_known();
            let epoch = newest.start.epoch;
            let answer = match node.get(&format!("/v1/epochs/{epoch}/proof")) {
                Ok(answer) => answer,
                Err(error) => match error.downcast_ref::<Refused>() {
                    Some(refused) if refused.code == "epoch_not_over" => break,
                    _ => return Err(error),
                },
            };
            let wrong = || format!("the proof of epoch {epoch} from this node");
            let bytes = BASE64
                .decode(answer["proof"].as_str().unwrap_or_default())
                .with_context(wrong)?;
            let proof = EpochProof::from_bytes(&bytes).with_context(wrong)?;
            proof
                .verify(genesis.chain_id(), &genesis.params, &newest, &mut verifier)
                .with_context(wrong)?;
            // Just checked.
            anyhow::ensure!(
                epochs.learn(&Verified::trusted(proof))?,
                "epoch {epoch} is over already"
            );
        }
        let newest = epochs.newest_known();
        output::line(format_args!(
            "epoch {} from height {}: {} validators",
            newest.start.epoch,
            newest.start.height,
            newest.set.len()
        ))?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Asks for the present set until it is as wanted; the epoch.
fn wait_for(node: &Node, mut wanted: impl FnMut(&Value) -> bool) -> anyhow::Result<String> {
    loop {
        let answer = node.get("/v1/validators")?;
        if wanted(&answer) {
            return Ok(text(&answer, "epoch"));
        }
        if answer["epoch_heights"] == 0 {
            bail!("this chain has one epoch for ever: its validators do not change");
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// The stake of the validator that has the least.
fn smallest(node: &Node) -> anyhow::Result<u64> {
    let answer = node.get("/v1/validators")?;
    let stakes = rows(&answer, "candidates")
        .filter(|row| row["member"] == true)
        .filter_map(|row| row["stake"].as_u64());
    stakes
        .min()
        .context("nobody has stake on this chain: say how much with --amount")
}

fn say(quiet: bool, line: &str) {
    if !quiet {
        // Nobody needs to read it.
        let _ = output::line(format_args!("{line}"));
    }
}
