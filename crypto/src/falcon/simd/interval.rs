//! The bounds of the transform, proven: the same passes on intervals instead of numbers.
//!
//! A word here is the largest magnitude that the word can have, and every operation computes the
//! magnitude of its result from the actual constants. Should a sum exceed 16 bits for any input,
//! this run panics.

use super::super::field::{self, Q};
use super::super::prepared::Coefficients;
use super::transform;
use super::words::{FactorRow, Polynomial, Words};

/// Magnitudes of 32 words.
#[derive(Clone, Copy)]
struct Interval([i16; 32]);

impl Interval {
    fn map2(self, other: Self, f: impl Fn(i64, i64) -> i64) -> Self {
        Self(std::array::from_fn(|i| {
            let bound = f(self.0[i].into(), other.0[i].into());
            i16::try_from(bound).unwrap_or_else(|_| panic!("a word can reach {bound}"))
        }))
    }
}

/// Magnitude of a Montgomery product: the floor of the high half may add one.
fn product(a: i64, b: i64) -> i64 {
    a * b / 65_536 + 1 + (i64::from(Q) + 1) / 2
}

/// `REDUCED[m]` = the largest |reduce(x)| for |x| ≤ m, by trying every word.
fn reduced(magnitude: i16) -> i16 {
    static REDUCED: std::sync::LazyLock<Vec<i16>> = std::sync::LazyLock::new(|| {
        let one = |x: i16| {
            let quotient = ((i32::from(x) * 3 + (1 << 14)) >> 15) as i16;
            x.wrapping_sub(quotient.wrapping_mul(Q)).abs()
        };
        let mut largest = 0;
        (0..=i16::MAX)
            .map(|x| {
                largest = largest.max(one(x)).max(one(-x));
                largest
            })
            .collect()
    });
    REDUCED[magnitude as usize]
}

impl Words for Interval {
    type Cpu = ();
    type Sum = u64;
    const PARTS: usize = 1;

    fn load((): (), row: &[i16; 32], _: usize) -> Self {
        Self(*row)
    }

    fn load_halves((): (), left: &[i16; 16], right: &[i16; 16], _: usize) -> Self {
        Self(std::array::from_fn(|i| {
            if i < 16 { left[i] } else { right[i - 16] }
        }))
    }

    fn store(self, row: &mut [i16; 32], _: usize) {
        *row = self.0;
    }

    fn load_quarters((): (), rows: &Polynomial, at: usize, _: usize) -> [Self; 4] {
        std::array::from_fn(|k| {
            Self(std::array::from_fn(|i| {
                rows.0[at + 8 * (i / 8)][8 * k + i % 8]
            }))
        })
    }

    fn store_quarters(vectors: [Self; 4], rows: &mut Polynomial, at: usize, _: usize) {
        for (k, vector) in vectors.iter().enumerate() {
            for i in 0..32 {
                rows.0[at + 8 * (i / 8)][8 * k + i % 8] = vector.0[i];
            }
        }
    }

    fn transpose(rows: [Self; 8]) -> [Self; 8] {
        std::array::from_fn(|k| Self(std::array::from_fn(|i| rows[i % 8].0[8 * (i / 8) + k])))
    }

    fn add(self, other: Self) -> Self {
        self.map2(other, |a, b| a + b)
    }

    fn subtract(self, other: Self) -> Self {
        self.map2(other, |a, b| a + b)
    }

    fn multiply(self, factors: &FactorRow, _: usize) -> Self {
        self.map2(Self(factors.values), |a, b| product(a, b.abs()))
    }

    fn multiply_montgomery(self, other: Self) -> Self {
        self.map2(other, product)
    }

    fn reduce(self) -> Self {
        Self(self.0.map(reduced))
    }

    fn centre(self) -> Self {
        assert!(
            self.0.iter().all(|&x| x <= field::REDUCE_EXACT_MAX),
            "centring is not exact"
        );
        Self([6144; 32])
    }

    fn no_squares((): ()) -> u64 {
        0
    }

    fn add_squares(self, sum: u64) -> u64 {
        // The largest 32-bit lane: two words, and with half rows twice as many of them.
        let largest = self
            .0
            .iter()
            .map(|&x| i64::from(x) as u64)
            .max()
            .expect("32 words");
        let sum = sum + 4 * largest * largest;
        assert!(
            sum <= u64::from(u32::MAX),
            "a lane of squares can reach {sum}"
        );
        sum
    }

    fn total(sum: u64) -> u64 {
        sum
    }
}

fn all(magnitude: i16) -> Polynomial {
    Polynomial([[magnitude; 32]; 32])
}

fn check<const N: usize>() {
    let s2 = all(2047);
    let c = all(Q - 1);
    let mut key = Coefficients::ZERO;
    let mut work = [Polynomial::ZERO, Polynomial::ZERO];
    transform::prepare::<Interval, N>((), &all(6144), &mut key, &mut work);
    assert!(key.of_degree(N).iter().all(|&x| x <= 6144));
    let (keys, c) = ([&key, &key], [&c, &c]);
    let norms = transform::squared_norms::<Interval, N>((), [&s2, &s2], keys, c, &mut work);
    assert_ne!(norms[0], 0);
}

#[test]
fn no_input_can_overflow_16_bits_in_degree_512() {
    check::<512>();
}

#[test]
fn no_input_can_overflow_16_bits_in_degree_1024() {
    check::<1024>();
}
