//! The number-theoretic transform in plain loops, for the portable backend.
//!
//! A polynomial is a matrix of n / 32 rows of 32 coefficients. As long as the distance of a
//! butterfly is 32 or more, it joins two rows. Then the matrix is transposed, so that the smaller
//! distances are between rows too: every loop runs over whole rows, and compilers vectorize it.
//! The transform stays transposed: coefficient i (in bit-reversed order) is at position
//! i / 32 + (n / 32) · (i mod 32), as prepared keys are stored.
//!
//! Cooley-Tukey forwards with the roots in bit-reversed order, Gentleman-Sande backwards.

use super::DEGREE_MAX;
use super::field::{
    Factor, Q, R, ROOT_2048, add, multiply, multiply_montgomery, power, reduce, subtract,
};

/// Columns before, rows after the transposition.
const WIDTH: usize = 32;

/// psi^brv(k) for the 2048th root psi, brv the reversal of 10 bits. Block b of a layer of m blocks
/// has root m + b. Degree 512 uses the first half: bit reversal is stable under doubling, and the
/// square of psi is its root.
const fn root(k: usize) -> Factor {
    Factor::new(power(
        ROOT_2048,
        (k.reverse_bits() >> (usize::BITS - 10)) as u64,
    ))
}

/// Roots with their companions, in the order in which the loops read them.
struct Roots {
    values: [i16; DEGREE_MAX],
    companions: [i16; DEGREE_MAX],
}

impl Roots {
    const ZERO: Self = Self {
        values: [0; DEGREE_MAX],
        companions: [0; DEGREE_MAX],
    };

    const fn set(&mut self, at: usize, factor: Factor) {
        self.values[at] = factor.value;
        self.companions[at] = factor.companion;
    }

    const fn get(&self, at: usize) -> Factor {
        Factor {
            value: self.values[at],
            companion: self.companions[at],
        }
    }

    /// Root k at position k.
    const fn in_order() -> Self {
        let mut roots = Self::ZERO;
        let mut k = 1;
        while k < DEGREE_MAX {
            roots.set(k, root(k));
            k += 1;
        }
        roots
    }

    /// The roots of the layers after the transposition, for `columns` columns: block b of a column
    /// is its block `column` · m / columns + b of m in all; its root goes to row b of the layer.
    ///
    /// Backwards, the root of block i is psi^-brv(m + i) = -psi^brv(2m - 1 - i).
    const fn transposed(columns: usize, backwards: bool) -> Self {
        let mut roots = Self::ZERO;
        let mut m = columns;
        while m < WIDTH * columns {
            let blocks = m / columns;
            let mut i = 0;
            while i < m {
                let (column, block) = (i / blocks, i % blocks);
                let from = if backwards { 2 * m - 1 - i } else { m + i };
                roots.set(m + block * columns + column, root(from));
                i += 1;
            }
            m *= 2;
        }
        roots
    }
}

static ROOTS: Roots = Roots::in_order();
static FORWARD: [Roots; 2] = [Roots::transposed(16, false), Roots::transposed(32, false)];
static BACKWARD: [Roots; 2] = [Roots::transposed(16, true), Roots::transposed(32, true)];

/// Columns after the transposition, and the index of the tables for them.
fn shape(n: usize) -> (usize, usize) {
    match n {
        512 => (16, 0),
        1024 => (32, 1),
        _ => panic!("the degree is 512 or 1024"),
    }
}

/// Transforms `a` into `out`, transposed and centred.
///
/// Inputs are at most q/2 in magnitude.
pub(super) fn forward(a: &mut [i16], out: &mut [i16]) {
    let n = a.len();
    let (columns, table) = shape(n);
    debug_assert!(a.iter().all(|x| x.unsigned_abs() <= 6144));
    // A layer takes a magnitude B to 1.094 B + 0.5 q: from 0.5 q to 1.05 q, 1.65 q, 2.3 q, and 16
    // bits hold 2.66 q. So there is a reduction to 0.5 q after at most three layers.
    let mut layers = 0;
    let mut reduce_every_third = |a: &mut [i16]| {
        layers += 1;
        if layers % 3 == 0 {
            a.iter_mut().for_each(|x| *x = reduce(*x));
        }
    };

    let mut distance = n / 2;
    while distance >= WIDTH {
        let blocks = n / (2 * distance);
        for (block, pair) in a.chunks_exact_mut(2 * distance).enumerate() {
            let (low, high) = pair.split_at_mut(distance);
            butterflies(low, high, ROOTS.get(blocks + block));
        }
        reduce_every_third(a);
        distance /= 2;
    }
    transpose(a, out, WIDTH);
    while distance > 0 {
        let first = n / (2 * distance);
        for (block, pair) in out.chunks_exact_mut(2 * distance * columns).enumerate() {
            let at = first + block * columns;
            let values = &FORWARD[table].values[at..at + columns];
            let companions = &FORWARD[table].companions[at..at + columns];
            let (low, high) = pair.split_at_mut(distance * columns);
            for (low, high) in low
                .chunks_exact_mut(columns)
                .zip(high.chunks_exact_mut(columns))
            {
                row_butterflies(low, high, values, companions);
            }
        }
        reduce_every_third(out);
        distance /= 2;
    }
    out.iter_mut().for_each(|x| *x = reduce(*x));
}

/// Multiplies `a` by `b`, element by element, and divides by 2^16 (which [`inverse`] undoes).
pub(super) fn multiply_pointwise(a: &mut [i16], b: &[i16]) {
    for (x, &y) in a.iter_mut().zip(b) {
        // Both factors are centred, so the product is at most 0.05 q + 0.5 q.
        *x = multiply_montgomery(*x, y);
    }
}

/// Transforms a result of [`multiply_pointwise`] back into `out`; the result is centred.
pub(super) fn inverse(a: &mut [i16], out: &mut [i16]) {
    let n = a.len();
    let (columns, table) = shape(n);
    let mut distance = 1;
    while distance < WIDTH {
        let first = n / (2 * distance);
        for (block, pair) in a.chunks_exact_mut(2 * distance * columns).enumerate() {
            let at = first + block * columns;
            let values = &BACKWARD[table].values[at..at + columns];
            let companions = &BACKWARD[table].companions[at..at + columns];
            let (low, high) = pair.split_at_mut(distance * columns);
            for (low, high) in low
                .chunks_exact_mut(columns)
                .zip(high.chunks_exact_mut(columns))
            {
                row_butterflies_back(low, high, values, companions);
            }
        }
        distance *= 2;
    }
    transpose(a, out, columns);
    while distance < n {
        let blocks = n / (2 * distance);
        for (block, pair) in out.chunks_exact_mut(2 * distance).enumerate() {
            let (low, high) = pair.split_at_mut(distance);
            butterflies_back(low, high, ROOTS.get(2 * blocks - 1 - block));
        }
        distance *= 2;
    }
    let scale = Factor::new(power(n as i64, Q as u64 - 2) * R);
    out.iter_mut()
        .for_each(|x| *x = reduce(multiply(*x, scale)));
}

// The loops are functions of their own because the compiler knows the arguments not to overlap.

/// (x, y) to (x + y·w, x - y·w).
#[inline(never)]
fn butterflies(low: &mut [i16], high: &mut [i16], root: Factor) {
    for (x, y) in low.iter_mut().zip(high) {
        let product = multiply(*y, root);
        (*x, *y) = (add(*x, product), subtract(*x, product));
    }
}

/// The same with a root for each column.
#[inline(never)]
fn row_butterflies(low: &mut [i16], high: &mut [i16], values: &[i16], companions: &[i16]) {
    let roots = values.iter().zip(companions);
    for ((x, y), (&value, &companion)) in low.iter_mut().zip(high).zip(roots) {
        let product = multiply(*y, Factor { value, companion });
        (*x, *y) = (add(*x, product), subtract(*x, product));
    }
}

/// (x, y) to (x + y, (y - x)·w), where -w is the inverse root.
///
/// Both are at most 0.64 q: a reduced sum 0.5 q, a product of a difference of 1.28 q 0.62 q.
#[inline(never)]
fn butterflies_back(low: &mut [i16], high: &mut [i16], root: Factor) {
    for (x, y) in low.iter_mut().zip(high) {
        let (sum, difference) = (add(*x, *y), subtract(*y, *x));
        (*x, *y) = (reduce(sum), multiply(difference, root));
    }
}

/// The same with a root for each column.
#[inline(never)]
fn row_butterflies_back(low: &mut [i16], high: &mut [i16], values: &[i16], companions: &[i16]) {
    let roots = values.iter().zip(companions);
    for ((x, y), (&value, &companion)) in low.iter_mut().zip(high).zip(roots) {
        let (sum, difference) = (add(*x, *y), subtract(*y, *x));
        (*x, *y) = (
            reduce(sum),
            multiply(difference, Factor { value, companion }),
        );
    }
}

/// Copies the matrix `a`, whose rows have `width` elements, column by column.
fn transpose(a: &[i16], out: &mut [i16], width: usize) {
    let height = a.len() / width;
    for (column, out) in out.chunks_exact_mut(height).enumerate() {
        for (row, out) in a.chunks_exact(width).zip(out) {
            *out = row[column];
        }
    }
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
                let mut a: Vec<i16> = (0..n)
                    .map(|_| match case % 4 {
                        0 => (next(4095) - 2047) as i16,
                        1 => [2047, -2047][next(2) as usize],
                        2 => 2047,
                        _ => -2047,
                    })
                    .collect();
                let mut b: Vec<i16> = (0..n)
                    .map(|_| match case / 4 {
                        0 => centre(next(12_289)),
                        1 => [0, 6144, -6144, -1][next(4) as usize],
                        _ => 6144,
                    })
                    .collect();
                let expected = product_by_definition(&a, &b);
                let (mut a_transformed, mut b_transformed) = (vec![0; n], vec![0; n]);
                forward(&mut a, &mut a_transformed);
                forward(&mut b, &mut b_transformed);
                multiply_pointwise(&mut a_transformed, &b_transformed);
                inverse(&mut a_transformed, &mut a);
                assert_eq!(a, expected, "degree {n}, case {case}");
            }
        }
    }
}
