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
