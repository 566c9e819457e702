//! Pays from one account to another and proves it: submits a transfer, waits for its receipt,
//! fetches the proof and verifies it against genesis.
//!
//! With a local network (`falconet testnet --dir net`) running:
//!
//! ```sh
//! cargo run -p falconet-client --example transfer -- \
//!     net/genesis.json net/faucet.key [::1]:26600 <account id of the recipient> 25
//! ```
//!
//! The address is that of validator 0, the first in genesis.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use falconet_client::{Client, ClientConfig, Fate, Wallet};
use falconet_types::AccountId;
use falconet_types::genesis::Genesis;

const WAIT: Duration = Duration::from_secs(30);
const USAGE: &str = "usage: transfer GENESIS KEYFILE [VALIDATOR]:PORT RECIPIENT AMOUNT";

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [genesis, key, addr, to, amount] = args.as_slice() else {
        anyhow::bail!(USAGE)
    };
    let genesis = Genesis::load(Path::new(genesis))?;
    let key = falconet_crypto::keyfile::read(Path::new(key))?;
    let to: AccountId = to
        .parse()
        .context("the recipient is an account id, 64 hex digits")?;
    let amount: u64 = amount.parse().context("the amount is a whole number")?;

    // Validator 0 must prove the key that genesis lists for it.
    let validator = genesis.validators[0].key.clone();
    let addr = addr
        .parse()
        .context("the address is written as [::1]:26600")?;
    let mut client = Client::connect(&ClientConfig::new(addr, validator, genesis.chain_id()))?;

    let mut wallet = Wallet::new(key, genesis.chain_id(), Wallet::nonce_from_clock());
    wallet.set_fee(genesis.params.fee_min);
    let tx = wallet.transfer(to, amount);
    println!("transaction {}", tx.id());

    match client.submit_and_wait(std::slice::from_ref(&tx), WAIT)?[0] {
        Fate::NotAdmitted(admission) => anyhow::bail!("not admitted: {admission:?}"),
        Fate::Executed(receipt) => {
            println!("height {}: {}", receipt.height, receipt.outcome.name());
        }
    }

    // A block is provable once a later one has named its state.
    let proven = loop {
        match client.proof(tx.id(), &genesis, WAIT) {
            Ok((_, proven)) => break proven,
            Err(falconet_client::ClientError::NoProof(_)) => {
                std::thread::sleep(Duration::from_millis(100));
            }
            Err(error) => return Err(error.into()),
        }
    };
    println!("proven: {:?} at height {}", proven.outcome, proven.height);
    Ok(())
}
