//! Vectors of 16-bit words: what the transform needs from an instruction set.

use super::super::field::Factor;

/// 1024 words as a 32 x 32 matrix: coefficient i is in row i / 32, column i % 32.
#[derive(Clone)]
#[repr(C, align(64))]
pub(crate) struct Polynomial(pub(crate) [[i16; 32]; 32]);

impl Polynomial {
    pub(crate) const ZERO: Self = Self([[0; 32]; 32]);
}

/// A row of constant factors.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct FactorRow {
    pub(crate) values: [i16; 32],
    pub(crate) companions: [i16; 32],
}

impl FactorRow {
    pub(crate) const ZERO: Self = Self {
        values: [0; 32],
        companions: [0; 32],
    };

    /// Sets the factor of one column.
    pub(crate) const fn set(&mut self, column: usize, factor: Factor) {
        self.values[column] = factor.value;
        self.companions[column] = factor.companion;
    }
}

/// A vector of 16-bit words: a whole row of 32, or one of the parts of a row.
///
/// Sums and differences must not overflow; debug builds check it, and a test proves it for all
/// inputs by running the transform on intervals.
pub(crate) trait Words: Copy {
    /// Proof that the CPU has the instructions; a vector cannot be made without it.
    type Cpu: Copy;

    /// A sum of squares, in 32-bit lanes.
    type Sum: Copy;

    /// Parts of a row: 1 or 2.
    const PARTS: usize;

    /// One part of a row.
    fn load(cpu: Self::Cpu, row: &[i16; 32], part: usize) -> Self;

    /// One part of the row whose halves are `left` and `right`.
    fn load_halves(cpu: Self::Cpu, left: &[i16; 16], right: &[i16; 16], part: usize) -> Self;

    /// Writes one part of a row.
    fn store(self, row: &mut [i16; 32], part: usize);

    /// Transposes quarters of rows: vector k consists of quarter k of the rows `at`, `at` + 8,
    /// `at` + 16 and `at` + 24 (one part of that).
    fn load_quarters(cpu: Self::Cpu, rows: &Polynomial, at: usize, part: usize) -> [Self; 4];

    /// The reverse of [`Words::load_quarters`].
    fn store_quarters(vectors: [Self; 4], rows: &mut Polynomial, at: usize, part: usize);

    /// Transposes 8 x 8 words in each 128-bit quarter.
    fn transpose(rows: [Self; 8]) -> [Self; 8];

    /// Word by word.
    fn add(self, other: Self) -> Self;

    /// Word by word.
    fn subtract(self, other: Self) -> Self;

    /// The product with constant factors modulo q; at most |a| · |b| / 2^16 + q / 2 in magnitude.
    fn multiply(self, factors: &FactorRow, part: usize) -> Self;

    /// The product divided by 2^16 modulo q; at most |a| · |b| / 2^16 + q / 2 in magnitude.
    fn multiply_montgomery(self, other: Self) -> Self;

    /// A cheap reduction to about 0.67 q.
    fn reduce(self) -> Self;

    /// The centred representative, at most 6144 in magnitude. Exact in the range of
    /// [`super::super::field::reduce`].
    fn centre(self) -> Self;

    /// An empty sum.
    fn no_squares(cpu: Self::Cpu) -> Self::Sum;

    /// `sum` plus the squares of the words.
    fn add_squares(self, sum: Self::Sum) -> Self::Sum;

    /// The sum over all lanes, which hold unsigned 32-bit numbers.
    fn total(sum: Self::Sum) -> u64;
}
