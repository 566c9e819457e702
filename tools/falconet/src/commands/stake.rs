//! `falconet stake`: bond, unbond, rotate keys, join.

use std::net::SocketAddrV6;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Subcommand;
use falconet_crypto::keyfile;
use falconet_types::stake::Stake;
use falconet_types::transaction::Body;
use falconet_types::validators::{is_name, is_plain};
use falconet_types::{Epoch, Height, ValidatorId};
use serde_json::Value;

use super::tx::send::Common;
use crate::http::{Node, NodeArgs, text};
use crate::output;

/// Stake of validators: bond, unbond, rotate keys, join
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Bond(Bond),
    Unbond(Unbond),
    Rotate(Rotate),
    Address(Address),
    Ready(Ready),
    Show(Show),
}

/// Bond stake to a validator, new or your own
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet stake bond --key owner.key --validator-key validator.key --name delta \\
      --address '[2001:db8::4]:26600' --amount 50000 --wait

The account of --key pays and owns the stake; the validator's key signs that it consents. A new
validator joins with the epoch after the one in which its node, started with that key, has shown
that it follows the chain; it does so by itself.")]
struct Bond {
    /// Key file of the validator; its node may be running
    #[arg(long, value_name = "FILE")]
    validator_key: PathBuf,
    /// Name of the validator: letters, digits, '-', '_', '.'
    #[arg(long)]
    name: String,
    /// Where the validator's STOQ endpoint can be reached
    #[arg(long, value_name = "[IPV6]:PORT")]
    address: SocketAddrV6,
    /// What moves from the account into the bond
    #[arg(long, value_name = "N")]
    amount: u64,
    #[command(flatten)]
    common: Common,
}

/// Take stake out; it returns to the account after the unbonding time
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet stake unbond --key owner.key --validator delta --amount 50000 --wait

All of it: the validator leaves the set when the epoch ends. Its node must run until then. Until
the stake returns it still answers for misbehaviour.")]
struct Unbond {
    /// Name or id of the validator
    #[arg(long, value_name = "NAME")]
    validator: String,
    /// How much
    #[arg(long, value_name = "N")]
    amount: u64,
    #[command(flatten)]
    common: Common,
}

/// Replace a validator's key from the next epoch on
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet keygen --out next.key   # and a node with it, which follows
  falconet stake rotate --key owner.key --validator delta --old-key validator.key \\
      --new-key next.key --wait

Both keys sign that they consent. The node with the old key validates until the epoch has ended, one
that follows with the new key from then on.")]
struct Rotate {
    /// Name or id of the validator
    #[arg(long, value_name = "NAME")]
    validator: String,
    /// Key file that the validator has now
    #[arg(long, value_name = "FILE")]
    old_key: PathBuf,
    /// Key file that it shall have
    #[arg(long, value_name = "FILE")]
    new_key: PathBuf,
    #[command(flatten)]
    common: Common,
}

/// Change the address at which others reach a validator, from the next epoch on
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet stake address --key owner.key --validator delta --address '[2001:db8::5]:26600' --wait")]
struct Address {
    /// Name or id of the validator
    #[arg(long, value_name = "NAME")]
    validator: String,
    /// Where its STOQ endpoint can be reached
    #[arg(long, value_name = "[IPV6]:PORT")]
    address: SocketAddrV6,
    #[command(flatten)]
    common: Common,
}

/// Say that a validator that waits to join follows the chain; its node does so by itself
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet stake ready --key validator.key --http http://[::1]:26704 --wait

--key is the validator's key, --http its own node: what that node has executed is what is said.
It costs nothing.")]
struct Ready {
    #[command(flatten)]
    common: Common,
}

/// Show the stake of one validator
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet stake show delta
  falconet validators                       all of them")]
struct Show {
    /// Name or id of the validator
    validator: String,
    #[command(flatten)]
    node: NodeArgs,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Bond(args) => args.run(),
            Command::Unbond(args) => {
                let id = find(&args.common.connect()?, &args.validator)?;
                let stake = Stake::Unbond {
                    validator: id_of(&id)?,
                    amount: args.amount,
                };
                args.common.send_for(|_, _| Ok(body(stake)))
            }
            Command::Rotate(args) => args.run(),
            Command::Address(args) => {
                check_address(&args.address)?;
                let id = find(&args.common.connect()?, &args.validator)?;
                let stake = Stake::SetAddress {
                    validator: id_of(&id)?,
                    address: args.address,
                };
                args.common.send_for(|_, _| Ok(body(stake)))
            }
            Command::Ready(args) => args.common.say(ready),
            Command::Show(args) => args.run(),
        }
    }
}

impl Bond {
    fn run(self) -> anyhow::Result<ExitCode> {
        if !is_name(&self.name) {
            bail!(
                "--name {:?}: a name has 1 to 64 letters, digits, '-', '_' or '.'",
                self.name
            );
        }
        check_address(&self.address)?;
        let validator = keyfile::read(&self.validator_key)?;
        let (name, address, amount) = (self.name, self.address, self.amount);
        self.common.send_for(|key, chain| {
            let owner = key.public().id();
            Ok(body(Stake::bond(
                chain, owner, &validator, amount, &name, address,
            )))
        })
    }
}

impl Rotate {
    fn run(self) -> anyhow::Result<ExitCode> {
        let (old, new) = (keyfile::read(&self.old_key)?, keyfile::read(&self.new_key)?);
        let row = find(&self.common.connect()?, &self.validator)?;
        if row["key_id"] != old.public().id().to_string() {
            bail!(
                "{} is not the key that {} has now",
                self.old_key.display(),
                text(&row, "name")
            );
        }
        let id = id_of(&row)?;
        self.common
            .send_for(|_, chain| Ok(body(Stake::rotate(chain, id, &old, &new))))
    }
}

impl Show {
    fn run(self) -> anyhow::Result<ExitCode> {
        let row = find(&self.node.connect()?, &self.validator)?;
        if self.json {
            output::json(&row)?;
            return Ok(ExitCode::SUCCESS);
        }
        output::fields(&[
            ("validator", text(&row, "validator")),
            ("name", text(&row, "name")),
            ("stake", text(&row, "stake")),
            ("owner", text(&row, "owner")),
            ("address", text(&row, "address")),
            ("key", text(&row, "key_id")),
            ("next key", text(&row, "next_key_id")),
            ("in the set", text(&row, "member")),
            ("follows", text(&row, "ready")),
            ("barred until epoch", text(&row, "barred_until")),
        ])?;
        Ok(ExitCode::SUCCESS)
    }
}

fn body(stake: Stake) -> Body {
    Body::Stake(Box::new(stake))
}

fn check_address(address: &SocketAddrV6) -> anyhow::Result<()> {
    if !is_plain(address) {
        bail!("--address {address}: give an address without scope that means the same everywhere");
    }
    Ok(())
}

/// The validator with this name or id.
fn find(node: &Node, which: &str) -> anyhow::Result<Value> {
    let answer = node.get("/v1/validators")?;
    let candidates = answer["candidates"].as_array().cloned().unwrap_or_default();
    candidates
        .into_iter()
        .find(|row| row["name"] == which || row["validator"] == which)
        .with_context(|| {
            format!("no validator called {which:?} has stake; see: falconet validators")
        })
}

fn id_of(row: &Value) -> anyhow::Result<ValidatorId> {
    let id = row["validator"].as_str().unwrap_or_default();
    id.parse()
        .context("the validator's answer has no usable id")
}

/// What the node at hand can say for its validator.
fn ready(node: &Node) -> anyhow::Result<Body> {
    let answer = node.get("/v1/validators")?;
    let point = &answer["checkpoint"];
    let (Some(epoch), Some(height), Some(commitment)) = (
        answer["present_epoch"].as_u64(),
        point["height"].as_u64(),
        point["commitment"].as_str(),
    ) else {
        bail!("the node has not executed enough of this epoch yet, or the chain has no epochs");
    };
    Ok(body(Stake::Ready {
        epoch: Epoch(epoch),
        height: Height(height),
        commitment: commitment
            .parse()
            .context("the node's answer has no usable commitment")?,
    }))
}
