//! Verification beside pqcrypto-falcon and fn-dsa, and hashing: `cargo bench -p falconet-crypto`.
//!
//! `falconet bench crypto` measures the same in one interleaved run and prints ratios as JSON.

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use falconet_crypto::falcon::Backend;
use falconet_crypto::hash::merkle;
use falconet_crypto::keccak::Engine;
use falconet_crypto::{Digest, KeyPair, Scheme};
use support::peers::{Ours, Workload};

/// Signatures in the largest batch; the peers go through the same number.
const BATCH: usize = 512;
const MESSAGE_LEN: usize = 150;

fn verification(criterion: &mut Criterion) {
    for scheme in [Scheme::Falcon1024, Scheme::Falcon512] {
        let workload = Workload::new(scheme, BATCH, MESSAGE_LEN);
        let (prepared, encoded) = (workload.jobs(true), workload.jobs(false));
        let mut group = criterion.benchmark_group(format!("verify/{scheme}"));
        group.sample_size(10);
        group.throughput(Throughput::Elements(BATCH as u64));
        group.bench_function("pqcrypto-falcon", |b| {
            b.iter(|| workload.pqcrypto(0..BATCH))
        });
        group.bench_function("fn-dsa-0.4 decoded key", |b| {
            b.iter(|| workload.fn_dsa(0..BATCH))
        });
        for backend in Backend::available() {
            let ours = Ours::new(backend);
            for size in [1, 32, BATCH] {
                group.throughput(Throughput::Elements(size as u64));
                group.bench_function(BenchmarkId::new(backend.to_string(), size), |b| {
                    b.iter(|| ours.verify(&prepared[..size]));
                });
            }
            group.bench_function(
                BenchmarkId::new(format!("{backend} encoded keys"), BATCH),
                |b| {
                    b.iter(|| ours.verify(&encoded));
                },
            );
        }
    }
}

fn signing(criterion: &mut Criterion) {
    for scheme in [Scheme::Falcon1024, Scheme::Falcon512] {
        let pair = KeyPair::from_seed(scheme, &[1; 32]);
        criterion.bench_function(&format!("sign/{scheme}"), |b| {
            b.iter(|| pair.sign(black_box(&[7; 48])));
        });
    }
}

fn hashing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("sha3-256 of 117 bytes");
    group.throughput(Throughput::Elements(256));
    let messages = vec![[7u8; 117]; 256];
    let mut out = vec![[0u8; 32]; 256];
    for engine in Engine::available() {
        group.bench_function(format!("{engine:?}"), |b| {
            b.iter(|| engine.sha3_256_many(b"benchmark of SHA-3", black_box(&messages), &mut out));
        });
    }
    group.finish();
    let leaves = vec![Digest([1; 32]); 1024];
    criterion.bench_function("merkle root of 1024", |b| {
        b.iter(|| merkle::root(black_box(&leaves)))
    });
}

criterion_group!(benches, verification, signing, hashing);
criterion_main!(benches);
