//! Signatures with any chosen (s1, s2), each under a key made for it.
//!
//! For c = HashToPoint(nonce ‖ message), the key h = (c - s1) / s2 satisfies c - s2 · h = s1. Such
//! a pair says nothing about FALCON's security (the key is chosen last), but it reaches every
//! corner of a verifier: norms at the bound, extreme coefficients, full encodings.

use super::pick;
use fastrand::Rng;
use std::sync::LazyLock;

use falconet_crypto::Scheme;

use super::{Case, encode};

pub const Q: i64 = 12_289;

/// HashToPoint, by the specification, on fn-dsa's SHAKE256.
pub fn hash_to_point(scheme: Scheme, nonce: &[u8], message: &[u8]) -> Vec<i64> {
    let mut shake = fn_dsa::SHAKE256::new();
    shake.inject(nonce);
    shake.inject(message);
    shake.flip();
    let mut point = Vec::with_capacity(scheme.degree());
    while point.len() < scheme.degree() {
        let mut word = [0; 2];
        shake.extract(&mut word);
        let word = i64::from(u16::from_be_bytes(word));
        if word < 5 * Q {
            point.push(word % Q);
        }
    }
    point
}

/// Powers of a primitive 2048th root of unity modulo q.
static POWERS: LazyLock<Vec<i64>> = LazyLock::new(|| {
    let root = power(11, (Q - 1) / 2048);
    let mut powers = vec![1];
    for at in 1..2048 {
        powers.push(powers[at - 1] * root % Q);
    }
    powers
});

fn power(mut base: i64, mut exponent: i64) -> i64 {
    let mut result = 1;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result * base % Q;
        }
        base = base * base % Q;
        exponent >>= 1;
    }
    result
}

/// Values at the odd powers of the 2n-th root, in natural order (recursive, out of place).
fn evaluate(a: &[i64]) -> Vec<i64> {
    // a(x) = even(x²) + x · odd(x²); step 2048 / 2n makes x the 2n-th root.
    let n = a.len();
    if n == 1 {
        return vec![a[0].rem_euclid(Q)];
    }
    let halves: Vec<Vec<i64>> = (0..2)
        .map(|parity| {
            evaluate(
                &a.iter()
                    .skip(parity)
                    .step_by(2)
                    .copied()
                    .collect::<Vec<_>>(),
            )
        })
        .collect();
    (0..n)
        .map(|k| {
            let x = POWERS[(2 * k + 1) * (1024 / n)];
            (halves[0][k % (n / 2)] + x * halves[1][k % (n / 2)]) % Q
        })
        .collect()
}

/// The polynomial with these values: the inverse of [`evaluate`].
fn interpolate(values: &[i64]) -> Vec<i64> {
    let n = values.len();
    if n == 1 {
        return values.to_vec();
    }
    let half = power(2, Q - 2);
    let (mut even, mut odd) = (vec![0; n / 2], vec![0; n / 2]);
    for k in 0..n / 2 {
        // x and -x are a half turn apart.
        let (plus, minus) = (values[k], values[k + n / 2]);
        let inverse = POWERS[2048 - (2 * k + 1) * (1024 / n)];
        even[k] = (plus + minus) * half % Q;
        odd[k] = (plus - minus).rem_euclid(Q) * half % Q * inverse % Q;
    }
    let (even, odd) = (interpolate(&even), interpolate(&odd));
    (0..n)
        .map(|i| if i % 2 == 0 { even[i / 2] } else { odd[i / 2] })
        .collect()
}

/// The key under which (s1, s2) is the signature; `None` if s2 has no inverse.
pub fn key_for(scheme: Scheme, c: &[i64], s1: &[i32], s2: &[i32]) -> Option<Vec<u8>> {
    let difference: Vec<i64> = c
        .iter()
        .zip(s1)
        .map(|(&c, &s1)| c - i64::from(s1))
        .collect();
    let difference = evaluate(&difference);
    let s2 = evaluate(&s2.iter().map(|&x| i64::from(x)).collect::<Vec<_>>());
    if s2.contains(&0) {
        return None;
    }
    let quotient: Vec<i64> = difference
        .iter()
        .zip(&s2)
        .map(|(a, b)| a * power(*b, Q - 2) % Q)
        .collect();
    let h: Vec<u32> = interpolate(&quotient)
        .iter()
        .map(|x| x.rem_euclid(Q) as u32)
        .collect();
    Some(encode::public_key(scheme, &h))
}

/// A case with exactly this (s1, s2); `None` if s2 has no inverse or does not fit the encoding.
pub fn case(
    scheme: Scheme,
    s1: &[i32],
    s2: &[i32],
    message: &[u8],
    nonce: &[u8; 40],
) -> Option<Case> {
    let signature = encode::signature_of(scheme, nonce, s2)?;
    let c = hash_to_point(scheme, nonce, message);
    let public_key = key_for(scheme, &c, s1, s2)?;
    Some(Case {
        scheme,
        public_key,
        message: message.to_vec(),
        signature,
    })
}

/// A polynomial whose squared norm is exactly `norm`, with coefficients up to 6144.
pub fn with_squared_norm(scheme: Scheme, mut norm: u64, random: &mut Rng) -> Vec<i32> {
    let mut s1 = vec![0; scheme.degree()];
    for value in &mut s1 {
        // The largest square that is left; four of these steps suffice for small rests.
        let root = norm.isqrt().min(6144);
        norm -= root * root;
        *value = root as i32 * pick(random, &[1, -1]);
    }
    assert_eq!(norm, 0, "the norm is reached");
    s1
}
