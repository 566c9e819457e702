//! The domain convention, and the text form of digests.

use super::*;
use sha3::Digest as _;

#[test]
fn the_input_is_length_domain_parts() {
    let mut input = vec![4u8];
    input.extend_from_slice(b"testhello world");
    let expected = sha3::Sha3_256::digest(&input);
    assert_eq!(hash("test", &[b"hello ", b"world"]).0[..], expected[..]);
}

#[test]
fn the_length_byte_keeps_domains_apart() {
    assert_ne!(hash("ab", &[b"c"]), hash("a", &[b"bc"]));
}

#[test]
fn streaming_equals_one_call() {
    let mut hasher = Hasher::new("stream");
    hasher.update(b"one");
    hasher.update(b"two");
    assert_eq!(hasher.finish(), hash("stream", &[b"onetwo"]));
}

#[test]
fn many_equals_one_by_one_for_any_mix_of_lengths() {
    for count in [0usize, 1, 2, 3, 4, 7, 8, 9, 17, 64] {
        let items: Vec<Vec<u8>> = (0..count)
            .map(|i| vec![i as u8; (i * 37) % 500 + i / 3])
            .collect();
        let mut out = vec![Digest::ZERO; count];
        hash_many("falconet/test", &items, &mut out);
        for (item, digest) in items.iter().zip(&out) {
            assert_eq!(*digest, hash("falconet/test", &[item]));
        }
    }
}

#[test]
fn text_round_trip_and_refusals() {
    let digest = hash("x", &[]);
    assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
    assert_eq!(digest.short().to_string(), digest.to_string()[..8]);
    for bad in [
        "",
        "00",
        &"0".repeat(63),
        &"0".repeat(65),
        &"g".repeat(64),
        &"+1".repeat(32),
    ] {
        assert_eq!(bad.parse::<Digest>(), Err(ParseDigestError), "{bad}");
    }
}
