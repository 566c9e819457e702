//! Hot functions of a validator that have no benchmark beside their crate: frames, batches,
//! certificates, admission and execution. Signatures have theirs in `crypto`.
//!
//! `cargo bench -p falconet-bench`

use std::hint::black_box;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use falconet_bench::ledger::Load;
use falconet_dataplane::frame::{FrameDecoder, SmallCopies, header};
use falconet_ledger::Application as _;
use falconet_mempool::{Admission, Config, Mempool, Recovered};
use falconet_types::batch::Batch;
use falconet_types::block::{Cut, LaneTip};
use falconet_types::certificate::{Qc, Vote};
use falconet_types::genesis::Params;
use falconet_types::signing;
use falconet_types::time::Now;
use falconet_types::validators::ValidatorSet;
use falconet_types::{ChainId, Digest, Epoch, KeyPair, Round, Scheme, ValidatorIndex};

const CHAIN: ChainId = Digest([7; 32]);
/// Bytes of a transfer signed with FALCON-1024.
const TRANSACTION_BYTES: usize = 1_412;
/// Transactions of a batch: about 256 KB.
const BATCH_TXS: usize = 185;
const VALIDATORS: usize = 4;
/// Votes that make a quorum of four.
const QUORUM: usize = 3;

fn keys() -> Vec<KeyPair> {
    (0..VALIDATORS)
        .map(|i| KeyPair::from_seed(Scheme::Falcon1024, &[i as u8; 32]))
        .collect()
}

fn set(keys: &[KeyPair]) -> Arc<ValidatorSet> {
    let members: Vec<_> = keys.iter().map(|key| (key.public().clone(), 1)).collect();
    Arc::new(ValidatorSet::new(CHAIN, Epoch::ZERO, &members).expect("a valid set"))
}

/// Transactions that differ; nobody looks into them here.
fn transactions() -> Vec<Bytes> {
    (0..BATCH_TXS)
        .map(|i| Bytes::from(vec![i as u8; TRANSACTION_BYTES]))
        .collect()
}

fn frames(c: &mut Criterion) {
    const FRAMES: usize = 100;
    const PAYLOAD: usize = 256;
    let mut stream = BytesMut::new();
    for _ in 0..FRAMES {
        stream.extend_from_slice(&header(0x40, PAYLOAD as u32));
        stream.extend_from_slice(&[7; PAYLOAD]);
    }
    let stream = stream.freeze();
    let mut group = c.benchmark_group("frame");
    group.throughput(Throughput::Elements(FRAMES as u64));
    for (name, cut) in [("whole", stream.len()), ("cut at 1,200 bytes", 1_200)] {
        group.bench_function(format!("100 frames of 256 bytes, {name}"), |b| {
            b.iter(|| {
                let mut decoder = FrameDecoder::new(1 << 20, 0);
                let mut copies = SmallCopies::default();
                let mut count = 0;
                for at in (0..stream.len()).step_by(cut) {
                    let mut piece = stream.slice(at..stream.len().min(at + cut));
                    while let Some(frame) =
                        decoder.next_frame(&mut piece, &mut copies).expect("valid")
                    {
                        black_box(frame);
                        count += 1;
                    }
                }
                assert_eq!(count, FRAMES);
            });
        });
    }
    group.finish();
}

fn batches(c: &mut Criterion) {
    let keys = keys();
    let batch = Batch::seal(
        Epoch::ZERO,
        ValidatorIndex(0),
        LaneTip::default(),
        &transactions(),
        CHAIN,
        &keys[0],
    );
    let bytes = batch.bytes().clone();
    let mut group = c.benchmark_group("batch");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("parse, 185 transactions", |b| {
        b.iter(|| Batch::parse(bytes.clone()).expect("valid"));
    });
    group.finish();
}

fn certificates(c: &mut Criterion) {
    let keys = keys();
    let set = set(&keys);
    let block_id = Digest([9; 32]);
    let votes = keys.iter().take(QUORUM).enumerate().map(|(i, key)| {
        let voter = ValidatorIndex(i as u16);
        let vote = Vote::sign(Epoch::ZERO, Round(2), block_id, Round(1), voter, CHAIN, key);
        (voter, vote.signature)
    });
    let qc = Qc {
        epoch: Epoch::ZERO,
        round: Round(2),
        block_id,
        parent_round: Round(1),
        votes: votes.collect(),
    };
    let mut verifier = falconet_crypto::falcon::Verifier::default();
    c.bench_function("certificate/verify a QC of three votes", |b| {
        b.iter_batched(
            || qc.clone(),
            |qc| signing::verify(qc, CHAIN, &set, &mut verifier).expect("valid"),
            BatchSize::SmallInput,
        );
    });
}

fn admission(c: &mut Criterion) {
    let keys = keys();
    let set = set(&keys);
    let txs: Vec<(Digest, Bytes)> = transactions()
        .into_iter()
        .map(|tx| (falconet_crypto::hash::hash("bench-hot", &[&tx]), tx))
        .collect();
    let now = Now {
        mono_us: 1,
        wall_ms: 1,
    };
    let mut group = c.benchmark_group("mempool");
    group.throughput(Throughput::Elements(txs.len() as u64));
    group.bench_function("admit 185 transactions", |b| {
        b.iter_batched(
            || {
                let config = Config {
                    chain_id: CHAIN,
                    me: ValidatorIndex(0),
                    set: set.clone(),
                    params: Params::default(),
                };
                let signer = KeyPair::from_seed(Scheme::Falcon1024, &[0; 32]);
                let recovered = Recovered {
                    cut: Cut::empty(VALIDATORS),
                    ..Recovered::default()
                };
                Mempool::new(config, Box::new(signer), recovered).expect("an empty start")
            },
            |mut mempool| {
                for (id, tx) in &txs {
                    let answer = mempool.admit(now, *id, tx.clone());
                    assert_eq!(answer, Admission::Accepted);
                }
                mempool
            },
            // Making the key of a mempool takes longer than the admissions: few at a time.
            BatchSize::NumIterations(4),
        );
    });
    group.finish();
}

/// Blocks up to and including the state root. Target: 5,000 transfers below 20 ms on one core.
fn execution(c: &mut Criterion) {
    let load = Load::make();
    let mut group = c.benchmark_group("ledger");
    for (transfers, block) in load.blocks() {
        group.throughput(Throughput::Elements(transfers as u64));
        group.bench_function(format!("{transfers} transfers over 10,000 accounts"), |b| {
            b.iter_batched(
                || load.ledger(),
                |mut ledger| {
                    let result = ledger.execute(&block);
                    assert_eq!(result.changes.len(), 2 * transfers);
                    (ledger, result)
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = frames, batches, certificates, admission, execution
}
criterion_main!(benches);
