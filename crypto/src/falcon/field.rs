//! Arithmetic modulo q = 12,289 in 16-bit words.
//!
//! Residues are signed and reduced lazily. A constant factor b is stored with the companion
//! b / q mod 2^16, so that a Montgomery product costs three multiplications (as in Seiler,
//! "Faster AVX2 optimized NTT multiplication for Ring-LWE lattice cryptography", ePrint 2018/039).

/// The modulus of FALCON.
pub(super) const Q: i16 = 12_289;

/// q^-1 mod 2^16.
pub(super) const Q_INVERSE: i16 = {
    // Newton iteration: each step doubles the number of correct low bits.
    let mut x: u32 = 1;
    let mut step = 0;
    while step < 5 {
        x = x.wrapping_mul(2u32.wrapping_sub((Q as u32).wrapping_mul(x)));
        step += 1;
    }
    x as u16 as i16
};

/// 2^16 mod q: the Montgomery form of one.
pub(super) const R: i64 = 65_536 % Q as i64;

/// A constant factor: `value` = b · 2^16 mod q, centred, and `companion` = `value` / q mod 2^16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Factor {
    pub(super) value: i16,
    pub(super) companion: i16,
}

impl Factor {
    /// The factor b.
    pub(super) const fn new(b: i64) -> Self {
        let value = centre(b.rem_euclid(Q as i64) * R);
        Self {
            value,
            companion: value.wrapping_mul(Q_INVERSE),
        }
    }
}

/// The representative of x modulo q in [-6144, 6144].
pub(super) const fn centre(x: i64) -> i16 {
    let x = x.rem_euclid(Q as i64);
    (if x > 6144 { x - Q as i64 } else { x }) as i16
}

/// b^e modulo q, in [0, q).
pub(super) const fn power(b: i64, e: u64) -> i64 {
    let q = Q as i64;
    let (mut base, mut e, mut result) = (b.rem_euclid(q), e, 1);
    while e > 0 {
        if e & 1 == 1 {
            result = result * base % q;
        }
        base = base * base % q;
        e >>= 1;
    }
    result
}

/// A primitive 2048th root of unity: 11 generates the multiplicative group.
pub(super) const ROOT_2048: i64 = power(11, (Q as u64 - 1) / 2048);

const fn high(a: i16, b: i16) -> i16 {
    ((a as i32 * b as i32) >> 16) as i16
}

/// a · b modulo q for the constant b; a may be any i16.
///
/// |result| ≤ |a| · 6144 / 2^16 + q / 2 < 0.094 |a| + 0.5 q.
#[inline(always)]
pub(super) const fn multiply(a: i16, b: Factor) -> i16 {
    // The low halves of a·value and (a·companion)·q are equal, so the difference of the products
    // is 2^16 times the difference of their high halves.
    subtract(high(a, b.value), high(a.wrapping_mul(b.companion), Q))
}

/// a · b / 2^16 modulo q.
///
/// |result| ≤ |a| · |b| / 2^16 + q / 2.
#[inline(always)]
pub(super) const fn multiply_montgomery(a: i16, b: i16) -> i16 {
    subtract(
        high(a, b),
        high(a.wrapping_mul(b).wrapping_mul(Q_INVERSE), Q),
    )
}

/// Up to this magnitude [`reduce`] yields the centred representative.
pub(super) const REDUCE_EXACT_MAX: i16 = 30_721;

/// A representative of a modulo q: the one in [-6144, 6144] if |a| ≤ [`REDUCE_EXACT_MAX`], and
/// one of magnitude at most 6145 for any i16.
#[inline(always)]
pub(super) const fn reduce(a: i16) -> i16 {
    // 5461 / 2^26 is just below 1 / q.
    let quotient = (high(a, 5461) + 512) >> 10;
    // The product may leave 16 bits, the difference never does.
    a.wrapping_sub(quotient.wrapping_mul(Q))
}

/// a + b, which the caller has bounded to 16 bits.
#[inline(always)]
pub(super) const fn add(a: i16, b: i16) -> i16 {
    debug_assert!(a.checked_add(b).is_some(), "a lazy sum exceeds 16 bits");
    a.wrapping_add(b)
}

/// a - b, which the caller has bounded to 16 bits.
#[inline(always)]
pub(super) const fn subtract(a: i16, b: i16) -> i16 {
    debug_assert!(
        a.checked_sub(b).is_some(),
        "a lazy difference exceeds 16 bits"
    );
    a.wrapping_sub(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reduce_is_exact_in_its_range_and_close_everywhere() {
        for a in i16::MIN..=i16::MAX {
            if a.unsigned_abs() <= REDUCE_EXACT_MAX.unsigned_abs() {
                assert_eq!(reduce(a), centre(i64::from(a)), "{a}");
            } else {
                assert_eq!(centre(i64::from(reduce(a))), centre(i64::from(a)), "{a}");
                assert!(reduce(a).abs() <= 6145, "{a}");
            }
        }
    }

    #[test]
    fn multiply_is_right_and_within_its_bound_for_every_word() {
        for b in [0, 1, 2, 6144, 6145, 12_288, ROOT_2048, R] {
            let factor = Factor::new(b);
            for a in i16::MIN..=i16::MAX {
                let product = i64::from(multiply(a, factor));
                assert_eq!(centre(product), centre(i64::from(a) * b), "{a} * {b}");
                let bound = f64::from(a).abs() * 6144.0 / 65_536.0 + f64::from(Q) / 2.0 + 1.0;
                assert!((product as f64).abs() <= bound, "{a} * {b} = {product}");
            }
        }
    }

    #[test]
    fn the_root_has_order_2048() {
        assert_eq!(power(ROOT_2048, 1024), i64::from(Q) - 1);
        assert_eq!(Q.wrapping_mul(Q_INVERSE), 1);
    }
}
