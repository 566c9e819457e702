//! The negacyclic number-theoretic transform, one polynomial at a time.
//!
//! The straightforward form: Cooley-Tukey forwards with the roots in bit-reversed order,
//! Gentleman-Sande backwards. Degree 512 uses the first half of the table of degree 1024, because
//! the square of the 2048th root is the 1024th root and bit reversal is stable under doubling.

use super::DEGREE_MAX;
use super::field::{
    Factor, Q, R, ROOT_2048, add, multiply, multiply_montgomery, power, reduce, subtract,
};

/// `ROOTS[k]` = psi^brv(k), psi the 2048th root and brv the reversal of 10 bits.
static ROOTS: [Factor; DEGREE_MAX] = {
    let mut powers = [0i64; DEGREE_MAX];
    powers[0] = 1;
    let mut at = 1;
    while at < DEGREE_MAX {
        powers[at] = powers[at - 1] * ROOT_2048 % Q as i64;
        at += 1;
    }
    let mut roots = [Factor {
        value: 0,
        companion: 0,
    }; DEGREE_MAX];
    let mut k = 0;
    while k < DEGREE_MAX {
        roots[k] = Factor::new(powers[k.reverse_bits() >> (usize::BITS - 10)]);
        k += 1;
    }
    roots
};

/// Transforms in place. The result is centred and in bit-reversed order.
///
/// Inputs are at most q/2 in magnitude.
pub(super) fn forward(a: &mut [i16]) {
    let n = a.len();
    debug_assert!(n == 512 || n == 1024);
    debug_assert!(a.iter().all(|x| x.unsigned_abs() <= 6144));
    let mut len = n / 2;
    let mut layer = 0;
    while len > 0 {
        let blocks = n / (2 * len);
        for (block, root) in a.chunks_exact_mut(2 * len).zip(&ROOTS[blocks..2 * blocks]) {
            let (low, high) = block.split_at_mut(len);
            for (x, y) in low.iter_mut().zip(high) {
                let product = multiply(*y, *root);
                *y = subtract(*x, product);
                *x = add(*x, product);
            }
        }
        // A layer takes a magnitude B to 1.094 B + 0.5 q: from 0.5 q to 1.05 q, 1.65 q, 2.3 q,
        // and 16 bits hold 2.66 q. So every third layer ends with a reduction to 0.5 q.
        layer += 1;
        if layer % 3 == 0 || len == 1 {
            a.iter_mut().for_each(|x| *x = reduce(*x));
        }
        len /= 2;
    }
}

/// Multiplies `a` by `b`, element by element, and divides by 2^16 (which [`inverse`] undoes).
pub(super) fn multiply_pointwise(a: &mut [i16], b: impl Iterator<Item = i16>) {
    for (x, y) in a.iter_mut().zip(b) {
        // Both factors are centred, so the product is at most 0.05 q + 0.5 q.
        *x = multiply_montgomery(*x, y);
    }
}

/// Transforms a result of [`multiply_pointwise`] back in place; the result is centred.
///
/// Inputs are at most 0.6 q in magnitude.
pub(super) fn inverse(a: &mut [i16]) {
    let n = a.len();
    debug_assert!(n == 512 || n == 1024);
    let mut len = 1;
    while len < n {
        let blocks = n / (2 * len);
        // psi^-brv(m + i) = -psi^brv(2m - 1 - i), hence the reversed table and the swapped
        // difference.
        let roots = ROOTS[blocks..2 * blocks].iter().rev();
        for (block, root) in a.chunks_exact_mut(2 * len).zip(roots) {
            let (low, high) = block.split_at_mut(len);
            for (x, y) in low.iter_mut().zip(high) {
                // Sums stay below 1.4 q: both terms are at most 0.7 q (a product of a difference
                // below 1.4 q is below 0.64 q, a reduced sum at most 0.5 q).
                let (sum, difference) = (add(*x, *y), subtract(*y, *x));
                *x = reduce(sum);
                *y = multiply(difference, *root);
            }
        }
        len *= 2;
    }
    let scale = Factor::new(power(n as i64, Q as u64 - 2) * R);
    a.iter_mut().for_each(|x| *x = reduce(multiply(*x, scale)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::falcon::field::centre;

    /// a · b in Z_q\[x\]/(x^n + 1), by the definition.
    fn product_by_definition(a: &[i16], b: &[i16]) -> Vec<i16> {
        let n = a.len();
        let mut sum = vec![0i64; n];
        for (i, &x) in a.iter().enumerate() {
            for (j, &y) in b.iter().enumerate() {
                let term = i64::from(x) * i64::from(y);
                if i + j < n {
                    sum[i + j] += term
                } else {
                    sum[i + j - n] -= term
                }
            }
        }
        sum.into_iter().map(centre).collect()
    }

    #[test]
    fn products_match_the_definition_for_extreme_and_mixed_inputs() {
        let mut state = 1u64;
        let mut next = move |below: u64| {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            ((state >> 33) % below) as i64
        };
        for n in [512, 1024] {
            for case in 0..12 {
                let a: Vec<i16> = (0..n)
                    .map(|_| match case % 4 {
                        0 => (next(4095) - 2047) as i16,
                        1 => [2047, -2047][next(2) as usize],
                        2 => 2047,
                        _ => -2047,
                    })
                    .collect();
                let b: Vec<i16> = (0..n)
                    .map(|_| match case / 4 {
                        0 => centre(next(12_289)),
                        1 => [0, 6144, -6144, -1][next(4) as usize],
                        _ => 6144,
                    })
                    .collect();
                let expected = product_by_definition(&a, &b);
                let (mut a, mut b) = (a, b);
                forward(&mut a);
                forward(&mut b);
                multiply_pointwise(&mut a, b.into_iter());
                inverse(&mut a);
                assert_eq!(a, expected, "degree {n}, case {case}");
            }
        }
    }
}
