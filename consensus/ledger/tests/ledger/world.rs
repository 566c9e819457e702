//! A small chain for the tests: a genesis with a few keys, transactions, blocks.

use std::sync::OnceLock;

use bytes::Bytes;
use falconet_crypto::falcon::{KeyPair, Scheme};
use falconet_ledger::{Application, Block, BlockResult, Ledger, Verdicts};
use falconet_types::batch::Batch;
use falconet_types::block::LaneTip;
use falconet_types::genesis::{
    ApplicationKind, Genesis, GenesisAccount, GenesisValidator, Params, StakeParams,
};
use falconet_types::receipt::Outcome;
use falconet_types::transaction::{Body, Transaction};
use falconet_types::{AccountId, ChainId, Epoch, Height, ValidatorIndex};

/// Balance of every genesis account.
pub const RICH: u64 = 1_000_000;
/// Least fee on the test chain.
pub const FEE_MIN: u64 = 10;
/// Lanes of the test chain.
pub const LANES: u16 = 3;

/// The key with this number; the same in every test, made once.
pub fn key(number: u8) -> KeyPair {
    static KEYS: [OnceLock<KeyPair>; 256] = [const { OnceLock::new() }; 256];
    let make = || KeyPair::from_seed(Scheme::Falcon512, &[number; 32]);
    KEYS[usize::from(number)].get_or_init(make).clone()
}

pub fn account_of(key: &KeyPair) -> AccountId {
    key.public().id()
}

/// Keys 0 and 1 are registered and rich, key 2 is rich and not registered; others are strangers.
pub fn genesis() -> Genesis {
    let mut accounts: Vec<GenesisAccount> = (0..3)
        .map(|n| GenesisAccount {
            id: account_of(&key(n)),
            balance: RICH,
            key: (n < 2).then(|| key(n).public().clone()),
        })
        .collect();
    accounts.sort_by_key(|account| account.id);
    let validators = (0..LANES)
        .map(|lane| GenesisValidator {
            name: format!("v{lane}"),
            key: key(200 + lane as u8).public().clone(),
            weight: 1,
            owner: None,
            address: None,
        })
        .collect();
    let genesis = Genesis {
        name: "test".into(),
        time_ms: 1_000,
        application: ApplicationKind::Ledger,
        params: Params {
            fee_min: FEE_MIN,
            ..Params::default()
        },
        validators,
        stake: StakeParams::default(),
        accounts,
    };
    genesis.check().expect("the test genesis is valid");
    genesis
}

/// A transfer that executes on a fresh chain when `from` is key 0 or 1; tests spoil it.
pub fn transfer(chain_id: ChainId, from: &KeyPair, to: AccountId, nonce: u64) -> Transaction {
    Transaction {
        scheme: from.scheme(),
        chain_id,
        sender: account_of(from),
        nonce,
        valid_until_ms: 1_000_000,
        fee: FEE_MIN,
        body: Body::Transfer { to, amount: 100 },
    }
}

pub fn registration(chain_id: ChainId, key: &KeyPair, nonce: u64) -> Transaction {
    let body = Body::RegisterKey {
        key: key.public().clone(),
    };
    Transaction {
        body,
        ..transfer(chain_id, key, AccountId::ZERO, nonce)
    }
}

/// Signs; the same transaction gets the same bytes in every run.
pub fn sign(tx: &Transaction, key: &KeyPair) -> Bytes {
    tx.sign(key).bytes().clone()
}

/// Breaks the signature and nothing else.
pub fn break_signature(tx: &Bytes) -> Bytes {
    let mut bytes = tx.to_vec();
    let at = bytes.len() - 500;
    bytes[at] ^= 1;
    bytes.into()
}

/// Makes batches of lanes, one after the other.
pub struct Lanes {
    chain_id: ChainId,
    tips: Vec<LaneTip>,
}

impl Lanes {
    pub fn new(chain_id: ChainId) -> Self {
        Self {
            chain_id,
            tips: vec![LaneTip::default(); usize::from(LANES)],
        }
    }

    pub fn seal(&mut self, lane: u16, txs: &[Bytes]) -> Batch {
        let tip = &mut self.tips[usize::from(lane)];
        let owner = key(200 + lane as u8);
        let batch = Batch::seal(
            Epoch::ZERO,
            ValidatorIndex(lane),
            *tip,
            txs,
            self.chain_id,
            &owner,
        );
        *tip = batch.tip();
        batch
    }
}

/// A chain with one ledger, on which blocks are executed one by one.
pub struct World {
    pub genesis: Genesis,
    pub chain_id: ChainId,
    pub ledger: Ledger,
    pub lanes: Lanes,
}

impl World {
    pub fn new() -> Self {
        let genesis = genesis();
        let chain_id = genesis.chain_id();
        Self {
            ledger: Ledger::from_genesis(&genesis),
            genesis,
            chain_id,
            lanes: Lanes::new(chain_id),
        }
    }

    /// Executes the next block: one list of transactions a lane, no verdict known.
    pub fn block(&mut self, time_ms: u64, lanes: &[&[Bytes]]) -> BlockResult {
        let batches: Vec<(Batch, Verdicts)> = (0u16..)
            .zip(lanes)
            .filter(|(_, txs)| !txs.is_empty())
            .map(|(lane, txs)| {
                let batch = self.lanes.seal(lane, txs);
                let verdicts = Verdicts::unknown(&batch);
                (batch, verdicts)
            })
            .collect();
        let height = self.ledger.height().next();
        self.ledger.execute(&Block {
            height,
            epoch: Epoch::ZERO,
            ends_epoch: false,
            time_ms,
            batches: &batches,
        })
    }

    /// Executes one block of one lane at time 2,000; the outcomes.
    pub fn outcomes(&mut self, txs: &[Bytes]) -> Vec<Outcome> {
        outcomes(&self.block(2_000, &[txs]))
    }

    pub fn balance(&self, id: &AccountId) -> Option<u64> {
        self.ledger
            .view()
            .expect("the ledger has a view")
            .account(id)
            .map(|a| a.balance)
    }

    pub fn height(&self) -> Height {
        self.ledger.height()
    }
}

pub fn outcomes(result: &BlockResult) -> Vec<Outcome> {
    result
        .receipts
        .iter()
        .map(|receipt| receipt.outcome)
        .collect()
}
