//! The number-theoretic transform and what surrounds it, over vectors of 16-bit words.
//!
//! A polynomial is a 32 x 32 matrix ([`Polynomial`]). As long as the distance of a butterfly is 32
//! or more, it joins two rows. For the smaller distances the matrix is transposed in the middle,
//! in two steps that fit the registers: 8 x 8 words within quarters of rows, then whole quarters.
//! Row l, column r of the result belongs to index 32 r + l; prepared keys are stored in that order,
//! so the product needs no rearrangement, and the inverse transform runs the same way back.
//!
//! Degree 512 fills 16 rows. Two polynomials go through together, one in the upper and one in the
//! lower half, which become the left and the right half of each row.
//!
//! The forward transform is negacyclic (Cooley-Tukey, roots by block). The inverse is cyclic, with
//! roots by position, and a twist by psi^-i at the end: so both directions multiply before they
//! add, sums stay small, and one multiplication does twist, scaling and the Montgomery factor.
//!
//! Reduction is lazy. A butterfly takes a and b to a ± b·w, where |b·w| ≤ 0.094 |b| + 0.5 q for
//! any root; 16 bits hold 2.66 q, [`Words::reduce`] brings that to about 0.67 q. The bounds of
//! each pass stand at its functions, and `interval.rs` proves them for all inputs.

use super::super::prepared::Coefficients;
use super::tables::{DEGREE_512, DEGREE_1024, Tables};
use super::words::{FactorRow, Polynomial, Words};

/// Memory for a polynomial between passes.
pub(crate) type Work = [Polynomial; 2];

/// (a, b) to (a + b·w, a - b·w).
#[inline(always)]
fn butterfly<W: Words>(x: &mut [W], a: usize, b: usize, factors: &FactorRow, part: usize) {
    let product = x[b].multiply(factors, part);
    (x[a], x[b]) = (x[a].add(product), x[a].subtract(product));
}

/// (a, b) to (a + b, a - b).
#[inline(always)]
fn butterfly_by_one<W: Words>(x: &mut [W], a: usize, b: usize) {
    (x[a], x[b]) = (x[a].add(x[b]), x[a].subtract(x[b]));
}

#[inline(always)]
fn tables<const N: usize>() -> &'static Tables {
    // Hidden from the optimizer: given the numbers, it replaces multiplications by worse.
    std::hint::black_box(if N == 1024 { &DEGREE_1024 } else { &DEGREE_512 })
}

// The loads below are written out, because a closure given to `array::from_fn` is not compiled for
// the instruction set of its surroundings.

/// The rows `first` and `first` + 8.
#[inline(always)]
fn load_two<W: Words>(cpu: W::Cpu, rows: &Polynomial, first: usize, part: usize) -> [W; 2] {
    [
        W::load(cpu, &rows.0[first], part),
        W::load(cpu, &rows.0[first + 8], part),
    ]
}

/// The rows `first`, `first` + 8, + 16 and + 24.
#[inline(always)]
fn load_four<W: Words>(cpu: W::Cpu, rows: &Polynomial, first: usize, part: usize) -> [W; 4] {
    let [a, b] = load_two(cpu, rows, first, part);
    let [c, d] = load_two(cpu, rows, first + 16, part);
    [a, b, c, d]
}

/// Eight rows from `first` on.
#[inline(always)]
fn load_eight<W: Words>(cpu: W::Cpu, rows: &Polynomial, first: usize, part: usize) -> [W; 8] {
    [
        W::load(cpu, &rows.0[first], part),
        W::load(cpu, &rows.0[first + 1], part),
        W::load(cpu, &rows.0[first + 2], part),
        W::load(cpu, &rows.0[first + 3], part),
        W::load(cpu, &rows.0[first + 4], part),
        W::load(cpu, &rows.0[first + 5], part),
        W::load(cpu, &rows.0[first + 6], part),
        W::load(cpu, &rows.0[first + 7], part),
    ]
}

#[inline(always)]
fn store_eight<W: Words>(vectors: [W; 8], rows: &mut Polynomial, first: usize, part: usize) {
    for (k, vector) in vectors.into_iter().enumerate() {
        vector.store(&mut rows.0[first + k], part);
    }
}

/// Forward, distances 512 and 256 (degree 1024) or 256 (degree 512). Also sums the squares of the
/// inputs.
///
/// In: 2047 for s2, q/2 for a key. Out: 1.2 q for s2, 1.6 q for a key.
#[inline(always)]
fn forward_outer<W: Words, const N: usize>(
    cpu: W::Cpu,
    source: [&Polynomial; 2],
    work: &mut Polynomial,
) -> [W::Sum; 2] {
    let factors = &tables::<N>().outer;
    let mut squares = [W::no_squares(cpu); 2];
    for part in 0..W::PARTS {
        for r in 0..8 {
            if N == 1024 {
                let mut x: [W; 4] = load_four(cpu, source[0], r, part);
                for (k, x) in x.iter().enumerate() {
                    squares[k % 2] = x.add_squares(squares[k % 2]);
                }
                butterfly(&mut x, 0, 2, &factors[0], part);
                butterfly(&mut x, 1, 3, &factors[0], part);
                butterfly(&mut x, 0, 1, &factors[1], part);
                butterfly(&mut x, 2, 3, &factors[2], part);
                for (k, x) in x.into_iter().enumerate() {
                    x.store(&mut work.0[r + 8 * k], part);
                }
            } else {
                for half in 0..2 {
                    let mut x: [W; 2] = load_two(cpu, source[half], r, part);
                    squares[half] = x[1].add_squares(x[0].add_squares(squares[half]));
                    butterfly(&mut x, 0, 1, &factors[0], part);
                    for (k, x) in x.into_iter().enumerate() {
                        x.store(&mut work.0[16 * half + r + 8 * k], part);
                    }
                }
            }
        }
    }
    squares
}

/// Forward, distances 128, 64 and 32, then the first half of the transposition. In place.
///
/// `SMALL` says that the input of the whole transform was at most 2047: then two more layers fit
/// before the first reduction. In: 1.2 q if small, else 1.6 q. Out: 1.5 q.
#[inline(always)]
fn forward_rows<W: Words, const N: usize, const SMALL: bool>(cpu: W::Cpu, work: &mut Polynomial) {
    for part in 0..W::PARTS {
        for (group, factors) in tables::<N>().rows.iter().enumerate() {
            let mut x = load_eight::<W>(cpu, work, 8 * group, part);
            if !SMALL {
                for x in &mut x[..4] {
                    *x = x.reduce();
                }
            }
            for k in 0..4 {
                butterfly(&mut x, k, k + 4, &factors[0], part);
            }
            for (half, factors) in factors[1..3].iter().enumerate() {
                for k in [4 * half, 4 * half + 1] {
                    butterfly(&mut x, k, k + 2, factors, part);
                }
            }
            for (pair, factors) in factors[3..].iter().enumerate() {
                x[2 * pair] = x[2 * pair].reduce();
                butterfly(&mut x, 2 * pair, 2 * pair + 1, factors, part);
            }
            store_eight(W::transpose(x), work, 8 * group, part);
        }
    }
}

/// Forward, the second half of the transposition, then distances 16 and 8.
///
/// In: 1.5 q. Out: 1.4 q.
#[inline(always)]
fn forward_quarters<W: Words, const N: usize>(
    cpu: W::Cpu,
    work: &Polynomial,
    out: &mut Polynomial,
) {
    let factors = &tables::<N>().quarters;
    for part in 0..W::PARTS {
        for at in 0..8 {
            let mut x = W::load_quarters(cpu, work, at, part);
            butterfly(&mut x, 0, 2, &factors[0], part);
            butterfly(&mut x, 1, 3, &factors[0], part);
            x[0] = x[0].reduce();
            x[2] = x[2].reduce();
            butterfly(&mut x, 0, 1, &factors[1], part);
            butterfly(&mut x, 2, 3, &factors[2], part);
            for (k, x) in x.into_iter().enumerate() {
                x.store(&mut out.0[8 * k + at], part);
            }
        }
    }
}

/// Forward, distances 4, 2 and 1, in registers.
///
/// In: 1.4 q. Out: 2 q.
#[inline(always)]
fn forward_columns<W: Words>(x: &mut [W; 8], factors: &[FactorRow; 7], part: usize) {
    for k in 0..4 {
        butterfly(x, k, k + 4, &factors[0], part);
    }
    for (half, factors) in factors[1..3].iter().enumerate() {
        for k in [4 * half, 4 * half + 1] {
            x[k] = x[k].reduce();
            butterfly(x, k, k + 2, factors, part);
        }
    }
    for (pair, factors) in factors[3..].iter().enumerate() {
        butterfly(x, 2 * pair, 2 * pair + 1, factors, part);
    }
}

/// The values of the key in row `row`, one part. For degree 512 the rows of two keys side by side.
#[inline(always)]
fn load_key<W: Words, const N: usize>(
    cpu: W::Cpu,
    key: [&Coefficients; 2],
    row: usize,
    part: usize,
) -> W {
    if N == 1024 {
        W::load(cpu, key[0].row(row), part)
    } else {
        W::load_halves(cpu, key[0].half_row(row), key[1].half_row(row), part)
    }
}

/// Forward, the last layers; the product with the key; inverse, distances 1, 2 and 4. In place.
///
/// In: 1.4 q. Out: 1.4 q.
#[inline(always)]
fn multiply_columns<W: Words, const N: usize>(
    cpu: W::Cpu,
    work: &mut Polynomial,
    key: [&Coefficients; 2],
) {
    let tables = tables::<N>();
    for part in 0..W::PARTS {
        for (group, factors) in tables.columns.iter().enumerate() {
            let mut x = load_eight::<W>(cpu, work, 8 * group, part);
            forward_columns(&mut x, factors, part);
            for (k, x) in x.iter_mut().enumerate() {
                // At most 2 q · 0.5 q / 2^16 + 0.5 q = 0.7 q.
                *x = x.multiply_montgomery(load_key::<W, N>(cpu, key, 8 * group + k, part));
            }
            for pair in 0..4 {
                butterfly_by_one(&mut x, 2 * pair, 2 * pair + 1);
            }
            for half in [0, 4] {
                x[half + 2] = x[half + 2].reduce();
                butterfly_by_one(&mut x, half, half + 2);
                butterfly(&mut x, half + 1, half + 3, &tables.inverse_2, part);
            }
            for x in &mut x[..5] {
                *x = x.reduce();
            }
            butterfly_by_one(&mut x, 0, 4);
            for k in 1..4 {
                butterfly(&mut x, k, k + 4, &tables.inverse_4[k - 1], part);
            }
            store_eight(x, work, 8 * group, part);
        }
    }
}

/// Inverse, distances 8 and 16, then the quarters back in their places.
///
/// In: 1.4 q. Out: 1.4 q.
#[inline(always)]
fn inverse_quarters<W: Words, const N: usize>(
    cpu: W::Cpu,
    work: &Polynomial,
    out: &mut Polynomial,
) {
    let tables = tables::<N>();
    for part in 0..W::PARTS {
        for at in 0..8 {
            let mut x: [W; 4] = load_four(cpu, work, at, part);
            butterfly(&mut x, 0, 1, &tables.inverse_8[at], part);
            butterfly(&mut x, 2, 3, &tables.inverse_8[at], part);
            x[0] = x[0].reduce();
            x[1] = x[1].reduce();
            butterfly(&mut x, 0, 2, &tables.inverse_16[at], part);
            butterfly(&mut x, 1, 3, &tables.inverse_16[at + 8], part);
            W::store_quarters(x, out, at, part);
        }
    }
}

/// The words back in their places, then inverse, distances 32, 64 and 128. In place.
///
/// In: 1.4 q. Out: 2 q.
#[inline(always)]
fn inverse_rows<W: Words, const N: usize>(cpu: W::Cpu, work: &mut Polynomial) {
    let factors = &tables::<N>().inverse_rows;
    for part in 0..W::PARTS {
        for group in 0..4 {
            let mut x = W::transpose(load_eight::<W>(cpu, work, 8 * group, part));
            for pair in 0..4 {
                butterfly(&mut x, 2 * pair, 2 * pair + 1, &factors[0], part);
            }
            for half in [0, 4] {
                for k in 0..2 {
                    x[half + k] = x[half + k].reduce();
                    butterfly(&mut x, half + k, half + k + 2, &factors[1 + k], part);
                }
            }
            for k in 0..4 {
                butterfly(&mut x, k, k + 4, &factors[3 + k], part);
            }
            store_eight(x, work, 8 * group, part);
        }
    }
}

/// Inverse, distances 256 and 512, the twist, and |c - s2·h|².
///
/// In: 2 q. A difference c - s2·h is at most 1.75 q, where centring is exact.
#[inline(always)]
fn inverse_outer<W: Words, const N: usize>(
    cpu: W::Cpu,
    work: &Polynomial,
    c: [&Polynomial; 2],
) -> [W::Sum; 2] {
    let tables = tables::<N>();
    let mut squares = [W::no_squares(cpu); 2];
    for part in 0..W::PARTS {
        for r in 0..8 {
            if N == 1024 {
                let mut x: [W; 4] = load_four(cpu, work, r, part);
                x[0] = x[0].reduce();
                x[2] = x[2].reduce();
                butterfly(&mut x, 0, 1, &tables.inverse_256[r], part);
                butterfly(&mut x, 2, 3, &tables.inverse_256[r], part);
                butterfly(&mut x, 0, 2, &tables.inverse_512[r], part);
                butterfly(&mut x, 1, 3, &tables.inverse_512[r + 8], part);
                for (k, x) in x.into_iter().enumerate() {
                    let row = r + 8 * k;
                    let product = x.multiply(&tables.twist[row], part);
                    let s1 = W::load(cpu, &c[0].0[row], part).subtract(product).centre();
                    squares[k % 2] = s1.add_squares(squares[k % 2]);
                }
            } else {
                for half in 0..2 {
                    let mut x: [W; 2] = load_two(cpu, work, 16 * half + r, part);
                    x[0] = x[0].reduce();
                    butterfly(&mut x, 0, 1, &tables.inverse_256[r], part);
                    for (k, x) in x.into_iter().enumerate() {
                        let row = r + 8 * k;
                        let product = x.multiply(&tables.twist[row], part);
                        let s1 = W::load(cpu, &c[half].0[row], part)
                            .subtract(product)
                            .centre();
                        squares[half] = s1.add_squares(squares[half]);
                    }
                }
            }
        }
    }
    squares
}

/// |c - s2·h|² + |s2|²: one result for degree 1024, two for degree 512.
///
/// |s2| ≤ 2047, h centred, c in [0, q).
#[inline(always)]
pub(crate) fn squared_norms<W: Words, const N: usize>(
    cpu: W::Cpu,
    s2: [&Polynomial; 2],
    key: [&Coefficients; 2],
    c: [&Polynomial; 2],
    work: &mut Work,
) -> [u64; 2] {
    let [a, b] = work;
    let norm_s2 = forward_outer::<W, N>(cpu, s2, a);
    forward_rows::<W, N, true>(cpu, a);
    forward_quarters::<W, N>(cpu, a, b);
    multiply_columns::<W, N>(cpu, b, key);
    inverse_quarters::<W, N>(cpu, b, a);
    inverse_rows::<W, N>(cpu, a);
    let norm_s1 = inverse_outer::<W, N>(cpu, a, c);
    let sums = [
        W::total(norm_s1[0]) + W::total(norm_s2[0]),
        W::total(norm_s1[1]) + W::total(norm_s2[1]),
    ];
    if N == 1024 {
        [sums[0] + sums[1], 0]
    } else {
        sums
    }
}

/// Transforms a key with coefficients at most q/2 in magnitude into its prepared form.
#[inline(always)]
pub(crate) fn prepare<W: Words, const N: usize>(
    cpu: W::Cpu,
    h: &Polynomial,
    key: &mut Coefficients,
    work: &mut Work,
) {
    let [a, b] = work;
    let _ = forward_outer::<W, N>(cpu, [h, h], a);
    forward_rows::<W, N, false>(cpu, a);
    forward_quarters::<W, N>(cpu, a, b);
    for part in 0..W::PARTS {
        for (group, factors) in tables::<N>().columns.iter().enumerate() {
            let mut x = load_eight::<W>(cpu, b, 8 * group, part);
            forward_columns(&mut x, factors, part);
            for (k, x) in x.into_iter().enumerate() {
                // For degree 512 both halves of the row hold the same key.
                x.centre().store(&mut a.0[8 * group + k], part);
            }
        }
    }
    key.set::<N>(a);
}
