//! Roots of unity, laid out as the passes of the transform read them.

use super::super::field::{Factor, Q, R, ROOT_2048, power};
use super::words::FactorRow;

/// Tables for degree 512, where two polynomials go side by side.
pub(crate) static DEGREE_512: Tables = Tables::new(512);
/// Tables for degree 1024.
pub(crate) static DEGREE_1024: Tables = Tables::new(1024);

/// Factors of all passes. "Rows" are rows of 32 coefficients; after the transposition in the
/// middle of the transform a column stands for such a row.
pub(crate) struct Tables {
    /// Forward, blocks larger than 256: one root, then (degree 1024) two.
    pub(crate) outer: [FactorRow; 3],
    /// Forward, distances 128 (one), 64 (two) and 32 (four), for each group of eight rows.
    pub(crate) rows: [[FactorRow; 7]; 4],
    /// Forward, distance 16 (one) and 8 (two).
    pub(crate) quarters: [FactorRow; 3],
    /// Forward, distances 4 (one), 2 (two) and 1 (four), for each group of eight rows.
    pub(crate) columns: [[FactorRow; 7]; 4],

    /// Inverse, distance 2: the root of position 1 (that of position 0 is one).
    pub(crate) inverse_2: FactorRow,
    /// Inverse, distance 4: the roots of positions 1 to 3.
    pub(crate) inverse_4: [FactorRow; 3],
    /// Inverse, distance 8, by position.
    pub(crate) inverse_8: [FactorRow; 8],
    /// Inverse, distance 16, by position.
    pub(crate) inverse_16: [FactorRow; 16],
    /// Inverse, distances 32 (one), 64 (two) and 128 (four), by row.
    pub(crate) inverse_rows: [FactorRow; 7],
    /// Inverse, distance 256, by row.
    pub(crate) inverse_256: [FactorRow; 8],
    /// Inverse, distance 512, by row; degree 1024 only.
    pub(crate) inverse_512: [FactorRow; 16],
    /// From the cyclic to the negacyclic inverse: psi^-i · 2^16 / n for coefficient i.
    pub(crate) twist: [FactorRow; 32],
}

/// `POWERS[e]` = psi^e for the 2048th root psi.
const POWERS: [i64; 2048] = {
    let mut powers = [1; 2048];
    let mut e = 1;
    while e < 2048 {
        powers[e] = powers[e - 1] * ROOT_2048 % Q as i64;
        e += 1;
    }
    powers
};

/// The root of block k in the order of the forward transform: psi^brv(k).
const fn root(k: usize) -> Factor {
    Factor::new(POWERS[k.reverse_bits() >> (usize::BITS - 10)])
}

/// The same factor in every column.
const fn splat(factor: Factor) -> FactorRow {
    FactorRow {
        values: [factor.value; 32],
        companions: [factor.companion; 32],
    }
}

/// The root of position `j` in the inverse layer of this distance: a 2·distance-th root to -j.
const fn inverse_root(distance: usize, j: usize) -> Factor {
    Factor::new(POWERS[(2048 - 1024 / distance * j) % 2048])
}

/// The roots of the positions in row `row`.
const fn inverse_row(distance: usize, row: usize) -> FactorRow {
    let mut factors = FactorRow::ZERO;
    let mut column = 0;
    while column < 32 {
        factors.set(column, inverse_root(distance, 32 * row + column));
        column += 1;
    }
    factors
}

impl Tables {
    const fn new(degree: usize) -> Self {
        let mut tables = Self {
            outer: [splat(root(1)), splat(root(2)), splat(root(3))],
            rows: [[FactorRow::ZERO; 7]; 4],
            quarters: [FactorRow::ZERO; 3],
            columns: [[FactorRow::ZERO; 7]; 4],
            inverse_2: splat(inverse_root(2, 1)),
            inverse_4: [FactorRow::ZERO; 3],
            inverse_8: [FactorRow::ZERO; 8],
            inverse_16: [FactorRow::ZERO; 16],
            inverse_rows: [FactorRow::ZERO; 7],
            inverse_256: [FactorRow::ZERO; 8],
            inverse_512: [FactorRow::ZERO; 16],
            twist: [FactorRow::ZERO; 32],
        };
        tables.fill_forward(degree);
        tables.fill_inverse(degree);
        tables
    }

    const fn fill_forward(&mut self, degree: usize) {
        // At distance d there are degree / 2d blocks; the roots of a layer start at that index.
        let groups = degree / 256;
        let rows = degree / 32;
        let mut group = 0;
        while group < 4 {
            // For degree 512 the groups 2 and 3 belong to the second polynomial.
            let block = group % groups;
            let mut at = 0;
            while at < 7 {
                let (blocks, within) = layer_of(at);
                self.rows[group][at] = splat(root(blocks * (groups + block) + within));
                let mut column = 0;
                while column < 32 {
                    let row = column % rows;
                    let sub = 4 * (rows + row) + group;
                    self.columns[group][at].set(column, root(blocks * sub + within));
                    column += 1;
                }
                at += 1;
            }
            group += 1;
        }
        let mut at = 0;
        while at < 3 {
            let (blocks, within) = layer_of(at);
            let mut column = 0;
            while column < 32 {
                let row = column % rows;
                self.quarters[at].set(column, root(blocks * (rows + row) + within));
                column += 1;
            }
            at += 1;
        }
    }

    const fn fill_inverse(&mut self, degree: usize) {
        let mut j = 0;
        while j < 16 {
            if j < 3 {
                self.inverse_4[j] = splat(inverse_root(4, j + 1));
            }
            if j < 7 {
                let (blocks, row) = layer_of(j);
                self.inverse_rows[j] = inverse_row(32 * blocks, row);
            }
            if j < 8 {
                self.inverse_8[j] = splat(inverse_root(8, j));
                self.inverse_256[j] = inverse_row(256, j);
            }
            self.inverse_16[j] = splat(inverse_root(16, j));
            self.inverse_512[j] = inverse_row(512, j);
            j += 1;
        }
        let step = 1024 / degree;
        let scale = power(degree as i64, Q as u64 - 2) * R;
        let mut i = 0;
        while i < degree {
            let inverse_psi = POWERS[(2048 - step * i) % 2048];
            self.twist[i / 32].set(i % 32, Factor::new(inverse_psi * (scale % Q as i64)));
            i += 1;
        }
    }
}

/// The seven factors of three layers in a row: one, two and four of them. Which of how many.
const fn layer_of(at: usize) -> (usize, usize) {
    match at {
        0 => (1, 0),
        1 | 2 => (2, at - 1),
        _ => (4, at - 3),
    }
}
