//! Verification without SIMD: one signature at a time, on any CPU.
//!
//! Also the reference: plain enough to be compared with the specification line by line.

use super::hash_to_point::hash_to_point;
use super::{DEGREE_MAX, PreparedKey, SIGNATURE_PREFIX_LEN, codec, field, ntt};

/// Whether `signature` is a valid encoding and a valid signature of `message` under `key`
/// (specification, section 3.10).
pub(super) fn verify(key: &PreparedKey, message: &[u8], signature: &[u8]) -> bool {
    let scheme = key.scheme();
    let n = scheme.degree();
    if signature.len() != scheme.signature_len() || signature[0] != scheme.signature_header() {
        return false;
    }
    let (prefix, compressed) = signature.split_at(SIGNATURE_PREFIX_LEN);

    let mut s2 = [0; DEGREE_MAX];
    let s2 = &mut s2[..n];
    let Some(norm_s2) = codec::decode_compressed(scheme, compressed, s2) else {
        return false;
    };

    let mut c = [0; DEGREE_MAX];
    let c = &mut c[..n];
    hash_to_point(&prefix[1..], message, c);

    // s1 = c - s2 · h, centred.
    ntt::forward(s2);
    ntt::multiply_pointwise(s2, key.coefficients().gather(n));
    ntt::inverse(s2);
    // c is in [0, q) and the product centred: the difference is within 1.5 q, where `reduce` is
    // exact.
    const { assert!(3 * field::Q as i32 / 2 <= field::REDUCE_EXACT_MAX as i32) };
    let norm_s1: u64 = c
        .iter()
        .zip(s2)
        .map(|(&c, &mut product)| {
            let s1 = i64::from(field::reduce(field::subtract(c, product)));
            (s1 * s1) as u64
        })
        .sum();

    norm_s1 + u64::from(norm_s2) <= scheme.squared_norm_max()
}
