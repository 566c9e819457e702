//! Batches of every shape: sizes, mixes of schemes, keys and message lengths, threads.

mod support;

use falconet_crypto::Scheme;
use falconet_crypto::falcon::{Backend, Bitmap, Job, PreparedKey, Verifier, verify_batch_parallel};
use fastrand::Rng;
use support::agree::Judges;
use support::mutate::Corpus;
use support::{Case, encode, oracle};

fn cases(count: u64) -> Vec<Case> {
    let corpus = Corpus::new(2, 40);
    (0..count).map(|seed| corpus.case(seed)).collect()
}

#[test]
fn every_batch_size_gives_every_job_its_own_answer() {
    let cases = cases(140);
    let expected: Vec<bool> = cases.iter().map(oracle::fn_dsa).collect();
    let mut judges = Judges::new();
    for size in 0..cases.len() {
        // Another start each time, so that jobs change places.
        let start = size * 37 % (cases.len() - size);
        let range = start..start + size;
        assert_eq!(
            judges.verdicts(&cases[range.clone()]),
            expected[range],
            "size {size}"
        );
    }
}

#[test]
fn one_scheme_alone_fills_its_chunks() {
    let cases = cases(400);
    let mut judges = Judges::new();
    for scheme in Scheme::ALL {
        let cases: Vec<Case> = cases
            .iter()
            .filter(|case| case.scheme == scheme)
            .cloned()
            .collect();
        let expected: Vec<bool> = cases.iter().map(oracle::fn_dsa).collect();
        for size in [1, 2, 3, 4, 5, 8, 9, 31, 32, 33, 64, cases.len()] {
            assert_eq!(
                judges.verdicts(&cases[..size]),
                expected[..size],
                "{scheme}, {size}"
            );
        }
    }
}

#[test]
fn threads_give_the_same_answers() {
    let cases = cases(1000);
    let jobs: Vec<Job<'_>> = cases.iter().map(Case::job).collect();
    let mut expected = Bitmap::new();
    Verifier::new().verify_batch(&jobs, &mut expected);
    for threads in [1, 2, 5] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("threads");
        for size in [0, 1, 127, 128, 129, 1000] {
            let mut valid = Bitmap::new();
            verify_batch_parallel(&pool, &jobs[..size], &mut valid);
            assert!(
                valid.iter().eq(expected.iter().take(size)),
                "{size} jobs, {threads} threads"
            );
        }
    }
}

#[test]
fn every_backend_prepares_the_same_key() {
    let mut random = Rng::with_seed(5);
    for scheme in Scheme::ALL {
        for case in 0..200 {
            let top = [12_288, 12_289, 16_383][case % 3];
            let h: Vec<u32> = (0..scheme.degree())
                .map(|_| match case {
                    0 => 12_288,
                    1 => 6144,
                    2 => 6145,
                    _ if random.usize(..600) == 0 => top,
                    _ => random.usize(..12_289) as u32,
                })
                .collect();
            let bytes = encode::public_key(scheme, &h);
            let mut keys = Backend::available()
                .map(|backend| PreparedKey::with_backend(backend, scheme, &bytes));
            let first = keys.next().expect("a backend");
            assert_eq!(first.is_ok(), h.iter().all(|&x| x < 12_289));
            assert!(keys.all(|key| key == first), "{scheme}, case {case}");
        }
    }
}

#[test]
fn messages_of_any_length_are_hashed_whole() {
    let pair = falconet_crypto::KeyPair::from_seed(Scheme::Falcon512, &[9; 32]);
    // Around one and two blocks: the nonce takes 40 bytes of 136.
    let cases: Vec<Case> = (0..2)
        .flat_map(|changed| [0, 1, 94, 95, 96, 97, 231, 232, 233, 5000].map(|len| (changed, len)))
        .map(|(changed, len): (usize, usize)| {
            let mut message = vec![7; len];
            let signature = pair.sign(&message).as_bytes().to_vec();
            if let Some(last) = message.last_mut() {
                *last ^= changed as u8;
            }
            let public_key = pair.public().as_bytes().to_vec();
            Case {
                scheme: Scheme::Falcon512,
                public_key,
                message,
                signature,
            }
        })
        .collect();
    let verdicts = Judges::new().verdicts(&cases);
    assert!(verdicts[..10].iter().all(|&valid| valid));
    // The empty message cannot be changed.
    assert!(verdicts[10] && !verdicts[11..].iter().any(|&valid| valid));
}
