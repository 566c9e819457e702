//! The SIMD kernels by themselves, against definitions.

use super::super::field::centre;
use super::*;
use crate::cpu::{Avx2, Avx512};
use transform::Work;

/// |c - s2·h|² + |s2|² in Z_q\[x\]/(x^n + 1), by the definition.
fn norm_by_definition(s2: &[i16], h: &[i16], c: &[i16]) -> u64 {
    let n = s2.len();
    let mut s1: Vec<i64> = c.iter().map(|&c| c.into()).collect();
    for (i, &x) in s2.iter().enumerate() {
        for (j, &y) in h.iter().enumerate() {
            let term = i64::from(x) * i64::from(y);
            if i + j < n {
                s1[i + j] -= term;
            } else {
                s1[i + j - n] += term;
            }
        }
    }
    let square = |x: i16| i64::from(x).pow(2).cast_unsigned();
    let norm_s1: u64 = s1.into_iter().map(|x| square(centre(x))).sum();
    norm_s1 + s2.iter().map(|&x| square(x)).sum::<u64>()
}

fn rows(values: &[i16]) -> Polynomial {
    let mut polynomial = Polynomial::ZERO;
    polynomial.0.as_flattened_mut()[..values.len()].copy_from_slice(values);
    polynomial
}

/// The encoding of a key with coefficients h modulo q.
fn encode(scheme: Scheme, h: &[i16]) -> Vec<u8> {
    let mut bytes = vec![scheme.public_key_header()];
    for four in h.chunks(4) {
        let word = four
            .iter()
            .fold(0u64, |word, &x| word << 14 | x.rem_euclid(12_289) as u64);
        bytes.extend_from_slice(&word.to_be_bytes()[1..]);
    }
    bytes
}

fn norms_match_the_definition<K: Kernels>(kernels: K) {
    let mut state = 9u64;
    let mut next = move |below: u64| {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((state >> 33) % below) as i16
    };
    for scheme in Scheme::ALL {
        let n = scheme.degree();
        let mut work: Work = [Polynomial::ZERO, Polynomial::ZERO];
        // Two of everything: degree 512 goes through in pairs.
        for case in 0..48 {
            let s2: [Vec<i16>; 2] = std::array::from_fn(|_| {
                (0..n)
                    .map(|_| match case % 4 {
                        0 => next(4095) - 2047,
                        1 => [2047, -2047][next(2) as usize],
                        2 => 2047,
                        _ => -2047,
                    })
                    .collect()
            });
            let h: [Vec<i16>; 2] = std::array::from_fn(|_| {
                (0..n)
                    .map(|_| match case / 4 % 4 {
                        0 => centre(next(12_289).into()),
                        1 => [0, 6144, -6144, -1][next(4) as usize],
                        2 => 6144,
                        _ => -6144,
                    })
                    .collect()
            });
            let c: [Vec<i16>; 2] = std::array::from_fn(|_| {
                (0..n)
                    .map(|_| match case / 16 {
                        0 => next(12_289),
                        1 => [0, 12_288][next(2) as usize],
                        _ => 6144,
                    })
                    .collect()
            });
            let mut keys = [Coefficients::ZERO, Coefficients::ZERO];
            for (key, h) in keys.iter_mut().zip(&h) {
                assert!(kernels.prepare_key(scheme, &encode(scheme, h), key, &mut work));
            }
            let norms = kernels.squared_norms(
                scheme,
                [&rows(&s2[0]), &rows(&s2[1])],
                [&keys[0], &keys[1]],
                [&rows(&c[0]), &rows(&c[1])],
                &mut work,
            );
            for k in 0..1024 / n {
                let expected = norm_by_definition(&s2[k], &h[k], &c[k]);
                assert_eq!(norms[k], expected, "{scheme}, case {case}, number {k}");
            }
        }
    }
}

#[test]
fn avx512_norms_match_the_definition() {
    match Avx512::detect() {
        Some(cpu) => norms_match_the_definition(cpu),
        None => println!("skipped: this CPU has no AVX-512"),
    }
}

#[test]
fn avx2_norms_match_the_definition() {
    match Avx2::detect() {
        Some(cpu) => norms_match_the_definition(cpu),
        None => println!("skipped: this CPU has no AVX2"),
    }
}
