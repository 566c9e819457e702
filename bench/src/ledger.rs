//! `falconet bench ledger`: blocks of transfers executed, up to and including the state root; then
//! what a transaction costs in the long run, with its state on disk.
//!
//! Signatures are checked before the ledger sees a transaction, so here verdicts say that they
//! are valid. Senders and recipients are spread over all accounts: most of the tree's paths are
//! dirty, the worst case for the root.

mod steady;

use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use falconet_crypto::falcon::{KeyPair, PublicKey, Scheme};
use falconet_ledger::{Application as _, Block, Ledger, Verdict, Verdicts};
use falconet_store::StoreError;
use falconet_types::batch::Batch;
use falconet_types::block::LaneTip;
use falconet_types::genesis::{
    ApplicationKind, Genesis, GenesisAccount, GenesisValidator, Params, StakeParams,
};
use falconet_types::transaction::{Body, Transaction};
use falconet_types::wire::Wire as _;
use falconet_types::{AccountId, ChainId, Epoch, Height, ValidatorIndex};

use crate::figures::{Collector, FiguresReport};

/// Accounts of the ledger.
const ACCOUNTS: usize = 10_000;
/// Transfers of a block: what comes together at a moderate rate, and at a high one.
const BLOCKS: [usize; 2] = [500, 5_000];
/// Transfers of a batch.
const BATCH_TXS: usize = 500;
const BALANCE: u64 = 1 << 40;

/// A ledger and blocks to execute on it.
pub struct Load {
    genesis: Genesis,
    /// Transfers of each block, and the block's batches.
    blocks: [(usize, Vec<(Batch, Verdicts)>); BLOCKS.len()],
}

impl Load {
    /// Makes accounts and transfers. The keys are made up: signatures never verify, and the
    /// verdicts say that they do, as the verify stage would.
    #[must_use]
    pub fn make() -> Self {
        let validator = validator();
        let genesis = genesis(&validator, ACCOUNTS);
        let blocks = BLOCKS.map(|transfers| (transfers, batches(&genesis, &validator, transfers)));
        Self { genesis, blocks }
    }

    /// A ledger that has executed nothing.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        Ledger::from_genesis(&self.genesis)
    }

    /// The blocks, each to be executed first: how many transfers it holds, and the block.
    pub fn blocks(&self) -> impl Iterator<Item = (usize, Block<'_>)> {
        self.blocks.iter().map(|(transfers, batches)| {
            let block = Block {
                height: Height(1),
                epoch: Epoch::ZERO,
                ends_epoch: false,
                time_ms: 2,
                batches,
            };
            (*transfers, block)
        })
    }
}

/// Executes blocks in `rounds` rounds. The state is written below `dir`, which decides which disk
/// is measured; what is written there is left.
pub fn measure(
    dir: &Path,
    rounds: usize,
    progress: &dyn Fn(&str),
) -> Result<FiguresReport, StoreError> {
    progress("making accounts");
    let load = Load::make();
    let mut collector = Collector::start("ledger");
    for round in 0..rounds {
        for (transfers, block) in load.blocks() {
            progress(&format!(
                "round {} of {rounds}: {transfers} transfers",
                round + 1
            ));
            let mut ledger = load.ledger();
            let began = Instant::now();
            let result = ledger.execute(&block);
            let root = result.commitment();
            let seconds = began.elapsed().as_secs_f64();
            std::hint::black_box(root);
            assert_eq!(
                result.changes.len(),
                2 * transfers,
                "every transfer changes two accounts"
            );
            let name = |what: &str| format!("block_{transfers}.{what}");
            collector.add(
                &name("transactions"),
                "transactions/s",
                transfers as f64 / seconds,
            );
            collector.add(&name("state_roots"), "blocks with root/s", 1.0 / seconds);
            collector.add(&name("time"), "ms", seconds * 1e3);
        }
    }
    steady::measure(dir, rounds, &mut collector, progress)?;
    Ok(collector.finish(&[]))
}

fn validator() -> KeyPair {
    KeyPair::from_seed(Scheme::Falcon512, &[1; 32])
}

fn genesis(validator: &KeyPair, accounts: usize) -> Genesis {
    let scheme = Scheme::Falcon1024;
    let mut accounts: Vec<GenesisAccount> = (0..accounts)
        .map(|i| {
            let mut bytes = vec![0; scheme.public_key_len()];
            bytes[0] = scheme.public_key_header();
            // Seven bytes hold four 14-bit coefficients; a small number in each stays below q.
            bytes[2] = (i & 0xff) as u8;
            bytes[9] = (i >> 8) as u8;
            bytes[16] = (i >> 16) as u8;
            let key = PublicKey::from_bytes(scheme, &bytes).expect("small coefficients");
            GenesisAccount {
                id: key.id(),
                balance: BALANCE,
                key: Some(key),
            }
        })
        .collect();
    accounts.sort_by_key(|account| account.id);
    let validator = GenesisValidator {
        name: "v0".into(),
        key: validator.public().clone(),
        weight: 1,
        owner: None,
        address: None,
    };
    Genesis {
        name: "bench".into(),
        time_ms: 1,
        application: ApplicationKind::Ledger,
        params: Params::default(),
        validators: vec![validator],
        stake: StakeParams::default(),
        accounts,
    }
}

fn batches(genesis: &Genesis, validator: &KeyPair, transfers: usize) -> Vec<(Batch, Verdicts)> {
    let chain_id = genesis.chain_id();
    let id = |i: usize| genesis.accounts[i].id;
    let txs: Vec<Bytes> = (0..transfers)
        .map(|i| transfer_bytes(chain_id, id(2 * i), id(2 * i + 1), 1))
        .collect();
    let mut tip = LaneTip::default();
    txs.chunks(BATCH_TXS)
        .map(|txs| {
            let batch = sealed(ValidatorIndex(0), &mut tip, txs, chain_id, validator);
            let verdicts = Verdicts::new(vec![Verdict::Valid; txs.len()]);
            (batch, verdicts)
        })
        .collect()
}

/// A transfer with zeros for a signature.
fn transfer_bytes(chain_id: ChainId, from: AccountId, to: AccountId, nonce: u64) -> Bytes {
    let scheme = Scheme::Falcon1024;
    let tx = Transaction {
        scheme,
        chain_id,
        sender: from,
        nonce,
        valid_until_ms: u64::MAX,
        fee: 1,
        body: Body::Transfer { to, amount: 5 },
    };
    let mut bytes = tx.to_bytes();
    bytes.resize(bytes.len() + scheme.signature_len(), 0);
    bytes.into()
}

/// The next batch of a lane.
fn sealed(
    lane: ValidatorIndex,
    tip: &mut LaneTip,
    txs: &[Bytes],
    chain_id: ChainId,
    validator: &KeyPair,
) -> Batch {
    let batch = Batch::seal(Epoch::ZERO, lane, *tip, txs, chain_id, validator);
    *tip = batch.tip();
    batch
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_executed_and_timed() {
        let dir = tempfile::tempdir().unwrap();
        let report = measure(dir.path(), 1, &|_| {}).unwrap();
        for transfers in BLOCKS {
            let rate = &report.cases[&format!("block_{transfers}.transactions")];
            assert!(rate.series.median > 0.0);
        }
        // Other tests have threads of the same name as the one that writes the state.
        let writers = |name: &&String| !name.contains("writer") && !name.ends_with("all");
        for name in report.cases.keys().filter(writers) {
            let figure = &report.cases[name];
            assert!(figure.series.median > 0.0, "{name}");
        }
    }
}
