//! Against the `sha3` crate and fn-dsa's SHAKE, at every length around the block boundaries.

use super::*;
use sha3::Digest as _;

fn message(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 131 + 7) as u8).collect()
}

#[test]
fn sha3_256_of_nothing_is_the_published_digest() {
    let expected = "a7ffc6f8bf1ed76651c14756a061d662f580ff4de43b49fa82d80a4b80f8434a";
    assert_eq!(
        crate::Digest(Sha3_256::new().finish()).to_string(),
        expected
    );
}

#[test]
fn sha3_256_agrees_with_the_sha3_crate_at_every_length() {
    for len in 0..420 {
        let data = message(len);
        let mut ours = Sha3_256::new();
        // Uneven pieces exercise partial blocks.
        for piece in data.chunks(1 + len % 61) {
            ours.update(piece);
        }
        assert_eq!(
            ours.finish()[..],
            sha3::Sha3_256::digest(&data)[..],
            "length {len}"
        );
    }
}

#[test]
fn shake256_agrees_with_fn_dsa_for_long_outputs() {
    for len in [0, 1, 40, 88, 135, 136, 137, 271, 272, 273, 1000] {
        let data = message(len);
        let mut ours = Shake256::new();
        ours.update(&data);
        let mut reader = ours.finish();
        let mut out = vec![0; 1000];
        for piece in out.chunks_mut(77) {
            reader.read(piece);
        }

        let mut theirs = fn_dsa::SHAKE256::new();
        theirs.inject(&data);
        theirs.flip();
        let mut expected = vec![0; 1000];
        theirs.extract(&mut expected);
        assert_eq!(out, expected, "length {len}");
    }
}

#[test]
fn every_engine_hashes_many_like_one_by_one() {
    for engine in Engine::available() {
        for count in [0usize, 1, 2, 3, 5, 8, 9, 20, 67] {
            // Lengths around the block boundaries, in an order that makes lanes drift apart.
            let messages: Vec<Vec<u8>> = (0..count)
                .map(|i| message([0, 135, 136, 137, 40, 300, 271, 1000][i * 5 % 8] + i))
                .collect();
            let mut digests = vec![[0; 32]; count];
            engine.sha3_256_many(b"prefix", &messages, &mut digests);
            let mut streams = vec![[0; 301]; count];
            engine.shake256_many(b"prefix", &messages, &mut streams);
            for (i, data) in messages.iter().enumerate() {
                let mut sha = Sha3_256::new();
                sha.update(b"prefix");
                sha.update(data);
                assert_eq!(
                    digests[i],
                    sha.finish(),
                    "{engine:?}, message {i} of {count}"
                );
                let mut shake = Shake256::new();
                shake.update(b"prefix");
                shake.update(data);
                let mut expected = [0; 301];
                shake.finish().read(&mut expected);
                assert_eq!(streams[i], expected, "{engine:?}, message {i} of {count}");
            }
        }
    }
}

#[test]
fn a_prefix_may_be_longer_than_a_block() {
    let prefix = message(500);
    for engine in Engine::available() {
        let mut digests = [[0; 32]; 3];
        engine.sha3_256_many(&prefix, &[b"a", b"b", b"c"], &mut digests);
        let mut one = Sha3_256::new();
        one.update(&prefix);
        one.update(b"b");
        assert_eq!(digests[1], one.finish());
    }
}

#[test]
fn messages_of_one_block_are_hashed_like_others_among_them() {
    for engine in Engine::available() {
        for lens in [&[64][..], &[129, 130], &[0, 64, 131, 64, 64, 500, 129]] {
            let messages: Vec<Vec<u8>> = (0..41)
                .map(|i| {
                    let mut data = message(lens[i % lens.len()]);
                    data.iter_mut().for_each(|byte| *byte ^= i as u8);
                    data
                })
                .collect();
            let mut digests = vec![[0; 32]; messages.len()];
            engine.sha3_256_many(b"prefix", &messages, &mut digests);
            for (i, data) in messages.iter().enumerate() {
                let mut one = Sha3_256::new();
                one.update(b"prefix");
                one.update(data);
                assert_eq!(digests[i], one.finish(), "{engine:?}, {} bytes", data.len());
            }
        }
    }
}
