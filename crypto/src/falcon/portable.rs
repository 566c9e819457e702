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

    let mut transformed = [0; DEGREE_MAX];
    let transformed = &mut transformed[..n];
    ntt::forward(s2, transformed);
    ntt::multiply_pointwise(transformed, key.coefficients().of_degree(n));
    let product = s2;
    ntt::inverse(transformed, product);

    squared_norm_of_difference(c, product) + u64::from(norm_s2) <= scheme.squared_norm_max()
}

/// |c - product|² modulo q, centred; that is |s1|².
fn squared_norm_of_difference(c: &[i16], product: &[i16]) -> u64 {
    // c is in [0, q) and the product centred: the difference is within 1.5 q, where `reduce` is
    // exact.
    const { assert!(3 * field::Q as i32 / 2 <= field::REDUCE_EXACT_MAX as i32) };
    let square = |(&c, &product): (&i16, &i16)| {
        let s1 = i32::from(field::reduce(field::subtract(c, product)));
        (s1 * s1).cast_unsigned()
    };
    // 64 squares of at most 6144 fit 32 bits.
    c.chunks(64)
        .zip(product.chunks(64))
        .map(|(c, product)| u64::from(c.iter().zip(product).map(square).fold(0, u32::wrapping_add)))
        .sum()
}
