//! The fuzz targets as ordinary tests: random inputs, and those near valid ones.

#[path = "../fuzz/targets.rs"]
mod targets;

mod support;

use fastrand::Rng;
use support::mutate::Corpus;
use support::{bytes, pick};

/// Inputs of all lengths around those that matter.
fn inputs(lengths: &[usize]) -> impl Iterator<Item = Vec<u8>> + '_ {
    let mut random = Rng::with_seed(77);
    (0..3000).map(move |_| {
        let len = pick(&mut random, lengths) + random.usize(..3);
        let mut bytes = bytes(&mut random, len.saturating_sub(1));
        // Rare bytes that matter: zeros, ones, headers.
        for _ in 0..random.usize(..8) {
            if !bytes.is_empty() {
                let from = random.usize(..bytes.len());
                let to = (from + random.usize(..64)).min(bytes.len());
                let byte = pick(&mut random, &[0, 0xff, 0x80, 0x0a, 0x09, 0x3a, 0x39]);
                bytes[from..to].fill(byte);
            }
        }
        bytes
    })
}

#[test]
fn signatures() {
    inputs(&[0, 1, 625, 665, 1239, 1279]).for_each(|bytes| targets::signature(&bytes));
    let corpus = Corpus::new(1, 50);
    for seed in 0..2000 {
        let case = corpus.case(seed);
        targets::signature(&[&[case.scheme.as_byte()], &case.signature[..]].concat());
    }
}

#[test]
fn public_keys() {
    inputs(&[0, 1, 896, 897, 1792, 1793]).for_each(|bytes| targets::public_key(&bytes));
    let corpus = Corpus::new(1, 50);
    for seed in 0..2000 {
        let case = corpus.case(seed);
        targets::public_key(&[&[case.scheme.as_byte()], &case.public_key[..]].concat());
    }
}

#[test]
fn texts() {
    inputs(&[0, 10, 64, 1206]).for_each(|bytes| targets::text(&bytes));
    let corpus = Corpus::new(1, 10);
    for seed in 0..200 {
        let case = corpus.case(seed);
        if let Ok(key) = falconet_crypto::PublicKey::from_bytes(case.scheme, &case.public_key) {
            let text = key.to_string();
            assert_eq!(text.parse(), Ok(key));
            for at in [0, 5, 8, 11, text.len() - 1] {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= 1;
                targets::text(&bytes);
            }
        }
    }
}

#[test]
fn hashes() {
    inputs(&[0, 1, 100, 135, 136, 137, 300, 2000]).for_each(|bytes| targets::hashes(&bytes));
}
