//! `falconet tx transfer` and `falconet tx register-key`: sign, submit, and wait if asked.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use falconet_crypto::keyfile;
use falconet_types::genesis::Genesis;
use falconet_types::transaction::{Body, SignedTransaction, Transaction};
use falconet_types::{AccountId, ChainId, KeyPair};
use serde_json::{Value, json};

use crate::http::{Node, NodeArgs, Refused};
use crate::output;

/// Time between two questions whether the transaction is committed.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long after `valid_until` the command waits for the block that passes it: a transaction that
/// is in no block by then never will be.
const EXPIRY_GRACE: Duration = Duration::from_secs(5);

/// Options of every command that sends a transaction.
#[derive(Debug, clap::Args)]
pub struct Common {
    /// Key file of the paying account
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Fee, burned; the chain's minimum is in genesis
    #[arg(long, default_value_t = 1)]
    fee: u64,
    /// Nonce; by default one above the account's highest, so give it when several transactions of
    /// one account are under way
    #[arg(long)]
    nonce: Option<u64>,
    /// How long the transaction stays valid
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = output::parse_duration)]
    valid_for: Duration,
    /// Sign only for the chain of this genesis document, whatever the validator says
    #[arg(long, value_name = "FILE")]
    genesis: Option<PathBuf>,
    /// Wait until the transaction is committed; fail when it was not executed
    #[arg(long)]
    wait: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// Pay from one account to another
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet tx transfer --key alice.key --to 3f0c…9a --amount 25 --wait
  falconet tx transfer --key alice.key --to 3f0c…9a --amount 25 --genesis genesis.json --json

Exit code 0: accepted (with --wait: executed). The receiving account need not exist yet.")]
pub struct Transfer {
    /// Account that receives: 64 hexadecimal digits
    #[arg(long, value_name = "ID")]
    to: AccountId,
    /// What it receives; the fee comes on top
    #[arg(long, value_name = "N")]
    amount: u64,
    #[command(flatten)]
    common: Common,
}

/// Publish the key of an account that has received money, so that it can pay
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  falconet tx register-key --key bob.key --wait")]
pub struct RegisterKey {
    #[command(flatten)]
    common: Common,
}

impl Transfer {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let body = Body::Transfer {
            to: self.to,
            amount: self.amount,
        };
        self.common.send(|_| body)
    }
}

impl RegisterKey {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        self.common.send(|key| Body::RegisterKey {
            key: key.public().clone(),
        })
    }
}

impl Common {
    fn send(self, body: impl FnOnce(&KeyPair) -> Body) -> anyhow::Result<ExitCode> {
        self.send_for(|key, _| Ok(body(key)))
    }

    /// Signs and submits what `body` makes out of the key and the chain.
    pub fn send_for(
        self,
        body: impl FnOnce(&KeyPair, ChainId) -> anyhow::Result<Body>,
    ) -> anyhow::Result<ExitCode> {
        let key = keyfile::read(&self.key)?;
        let node = self.node.connect()?;
        let chain_id = self.chain_id(&node)?;
        let body = body(&key, chain_id)?;
        let nonce = match self.nonce {
            Some(nonce) => nonce,
            None => next_nonce(&node, key.public().id())?,
        };
        let deadline = SystemTime::now() + self.valid_for;
        let valid_until_ms = u64::try_from(deadline.duration_since(UNIX_EPOCH)?.as_millis())?;
        let tx = Transaction {
            scheme: key.scheme(),
            chain_id,
            sender: key.public().id(),
            nonce,
            valid_until_ms,
            fee: self.fee,
            body,
        }
        .sign(&key);
        self.submit(&node, &tx, deadline)
    }

    fn submit(
        &self,
        node: &Node,
        tx: &SignedTransaction,
        deadline: SystemTime,
    ) -> anyhow::Result<ExitCode> {
        let answer = node
            .post("/v1/transactions", tx.bytes())
            .context("the transaction was not accepted")?;
        let id = tx.id().to_string();
        let admission = &answer["admission"];
        if let Some(outcome) = admission["refused"].as_str() {
            bail!("the transaction was refused: {outcome}");
        }
        if let Some(millis) = admission["busy"]["retry_after_ms"].as_u64() {
            bail!("the validator is overloaded; try again in {millis} ms, or another validator");
        }
        if !self.wait {
            return self.report(&json!({ "id": id, "admission": admission }));
        }
        let committed = wait(node, &id, deadline)?;
        self.report(&committed)
    }

    /// Waits until the transaction is committed, whatever the arguments say.
    #[must_use]
    pub fn and_wait(self) -> Self {
        Self { wait: true, ..self }
    }

    /// True when programs read the output.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// The validator that it would be sent to.
    pub fn connect(&self) -> anyhow::Result<Node> {
        self.node.connect()
    }

    /// Signs and submits what a validator's key says: it pays nothing and has no nonce.
    pub fn say(self, body: impl FnOnce(&Node) -> anyhow::Result<Body>) -> anyhow::Result<ExitCode> {
        let key = keyfile::read(&self.key)?;
        let node = self.node.connect()?;
        let deadline = SystemTime::now() + self.valid_for;
        let tx = Transaction {
            scheme: key.scheme(),
            chain_id: self.chain_id(&node)?,
            sender: key.public().id(),
            nonce: 0,
            valid_until_ms: u64::try_from(deadline.duration_since(UNIX_EPOCH)?.as_millis())?,
            fee: 0,
            body: body(&node)?,
        };
        self.submit(&node, &tx.sign(&key), deadline)
    }

    /// The chain to sign for: by genesis when one is given, else as the validator says.
    fn chain_id(&self, node: &Node) -> anyhow::Result<ChainId> {
        let status = node.get("/v1/status")?;
        let told = status["chain_id"].as_str().unwrap_or_default();
        let told: ChainId = told
            .parse()
            .context("the validator's status has no usable chain_id")?;
        if let Some(path) = &self.genesis {
            let expected = Genesis::load(path)?.chain_id();
            if expected != told {
                bail!(
                    "the validator runs chain {told}, {} starts chain {expected}; \
                     nothing was signed: check --http and --genesis",
                    path.display()
                );
            }
        }
        Ok(told)
    }

    fn report(&self, result: &Value) -> anyhow::Result<ExitCode> {
        let outcome = result["outcome"].as_str();
        if self.json {
            output::json(result)?;
        } else {
            let id = result["id"].as_str().unwrap_or("-");
            match outcome {
                Some(outcome) => output::line(format_args!(
                    "{id} {outcome} at height {}",
                    crate::http::text(result, "height")
                ))?,
                None => output::line(format_args!("{id} accepted"))?,
            }
        }
        Ok(match outcome {
            None | Some("executed") => ExitCode::SUCCESS,
            Some(_) => ExitCode::FAILURE,
        })
    }
}

fn next_nonce(node: &Node, sender: AccountId) -> anyhow::Result<u64> {
    let account = match node.get(&format!("/v1/accounts/{sender}")) {
        Ok(account) => account,
        Err(error)
            if error
                .downcast_ref::<Refused>()
                .is_some_and(|r| r.code == "unknown_account") =>
        {
            bail!("account {sender} does not exist on this chain; pay something to it first")
        }
        Err(error) => return Err(error),
    };
    let highest = account["nonce_highest"].as_u64().unwrap_or(0);
    highest
        .checked_add(1)
        .context("the account has used its last nonce")
}

/// Asks until the transaction is committed or can no longer be.
fn wait(node: &Node, id: &str, deadline: SystemTime) -> anyhow::Result<Value> {
    let spinner = output::spinner("waiting for the commit");
    loop {
        match node.get(&format!("/v1/transactions/{id}")) {
            Ok(tx) if tx["status"] == "committed" => {
                spinner.finish_and_clear();
                return Ok(tx);
            }
            Ok(_) => {}
            Err(error) if error.downcast_ref::<Refused>().is_some() => {}
            Err(error) => return Err(error),
        }
        if SystemTime::now() > deadline + EXPIRY_GRACE {
            bail!(
                "transaction {id} was accepted but not committed before it expired; \
                 is the chain making progress? see: falconet status"
            );
        }
        thread::sleep(POLL_INTERVAL);
    }
}
