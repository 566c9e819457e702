//! One block of 5,000 transfers between 10,000 accounts, signatures checked beforehand, up to
//! and including the state commitment. Target: below 20 ms on one core.
//!
//! `cargo bench -p falconet-ledger`
//!
//! The keys are made up: signatures never verify here, and the verdicts say that they do, as the
//! verify stage would. Senders and recipients are spread over all accounts, so most of the tree's
//! paths are dirty: the worst case for the commitment.

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use falconet_crypto::falcon::{KeyPair, PublicKey, Scheme};
use falconet_ledger::{Application, Block, Ledger, Verdict, Verdicts};
use falconet_types::batch::Batch;
use falconet_types::block::LaneTip;
use falconet_types::genesis::{
    ApplicationKind, Genesis, GenesisAccount, GenesisValidator, Params, StakeParams,
};
use falconet_types::transaction::{Body, Transaction};
use falconet_types::wire::Wire;
use falconet_types::{Epoch, Height, ValidatorIndex};

const ACCOUNTS: usize = 10_000;
const TRANSFERS: usize = 5_000;
const BATCH_TXS: usize = 500;

fn genesis(validator: &KeyPair) -> Genesis {
    let scheme = Scheme::Falcon1024;
    let mut accounts: Vec<GenesisAccount> = (0..ACCOUNTS)
        .map(|i| {
            let mut bytes = vec![0; scheme.public_key_len()];
            bytes[0] = scheme.public_key_header();
            // Seven bytes hold four 14-bit coefficients; a small number in each stays below q.
            bytes[2] = i as u8;
            bytes[9] = (i >> 8) as u8;
            let key = PublicKey::from_bytes(scheme, &bytes).expect("small coefficients");
            GenesisAccount {
                id: key.id(),
                balance: 1 << 40,
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

fn batches(genesis: &Genesis, validator: &KeyPair) -> Vec<(Batch, Verdicts)> {
    let chain_id = genesis.chain_id();
    let scheme = Scheme::Falcon1024;
    let txs: Vec<Bytes> = (0..TRANSFERS)
        .map(|i| {
            let tx = Transaction {
                scheme,
                chain_id,
                sender: genesis.accounts[2 * i].id,
                nonce: 1,
                valid_until_ms: u64::MAX,
                fee: 1,
                body: Body::Transfer {
                    to: genesis.accounts[2 * i + 1].id,
                    amount: 5,
                },
            };
            let mut bytes = tx.to_bytes();
            bytes.resize(bytes.len() + scheme.signature_len(), 0);
            bytes.into()
        })
        .collect();
    let mut tip = LaneTip::default();
    txs.chunks(BATCH_TXS)
        .map(|txs| {
            let batch = Batch::seal(
                Epoch::ZERO,
                ValidatorIndex(0),
                tip,
                txs,
                chain_id,
                validator,
            );
            tip = batch.tip();
            let verdicts = Verdicts(vec![Verdict::Valid; txs.len()]);
            (batch, verdicts)
        })
        .collect()
}

fn execute(c: &mut Criterion) {
    let validator = KeyPair::from_seed(Scheme::Falcon512, &[1; 32]);
    let genesis = genesis(&validator);
    let batches = batches(&genesis, &validator);
    let block = Block {
        height: Height(1),
        epoch: Epoch::ZERO,
        ends_epoch: false,
        time_ms: 2,
        batches: &batches,
    };
    let mut group = c.benchmark_group("ledger");
    group.sample_size(20);
    group.bench_function("5,000 transfers over 10,000 accounts", |b| {
        b.iter_batched(
            || Ledger::from_genesis(&genesis),
            |mut ledger| {
                let result = ledger.execute(&block);
                assert_eq!(result.changes.len(), ACCOUNTS);
                (ledger, result)
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, execute);
criterion_main!(benches);
