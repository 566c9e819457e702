//! Strict decoding of signatures and public keys.

use super::field::Q;
use super::{KeyError, Scheme};

/// Largest magnitude of a coefficient of s2.
pub(super) const COEFFICIENT_MAX: i16 = 2047;

/// Codewords decoded from one 64-bit window.
const WINDOW_CODEWORDS: usize = 4;
/// A window loaded at any bit offset has at least this many valid bits.
const WINDOW_BITS: u32 = 57;
/// Room for the longest compressed polynomial and for a window that starts at its end.
const PADDED_LEN: usize = Scheme::Falcon1024.compressed_len() + 17;

/// Decodes the compressed s2 into `out` and returns its squared norm; `None` if the encoding is
/// not the canonical one.
///
/// Codewords are read four at a time: their usual length is below 40 bits together.
pub(super) fn decode_compressed(scheme: Scheme, compressed: &[u8], out: &mut [i16]) -> Option<u32> {
    assert_eq!(compressed.len(), scheme.compressed_len());
    assert_eq!(out.len(), scheme.degree());
    let mut padded = [0; PADDED_LEN];
    padded[..compressed.len()].copy_from_slice(compressed);

    let mut position = 0;
    let mut canonical = true;
    for quad in out.chunks_exact_mut(WINDOW_CODEWORDS) {
        let mut window = load_window(&padded, position);
        let (mut used, mut quad_canonical) = (0, true);
        for coefficient in quad.iter_mut() {
            let codeword = Codeword::first_in(window);
            window = window.checked_shl(codeword.bits()).unwrap_or(0);
            used += codeword.bits();
            quad_canonical &= codeword.is_canonical();
            *coefficient = codeword.value();
        }
        if used > WINDOW_BITS {
            used = decode_wide(&padded, position, quad)?;
        } else {
            canonical &= quad_canonical;
        }
        position += used as usize;
        if position > 8 * compressed.len() {
            return None;
        }
    }

    let end = position.div_ceil(8);
    let padding_bits = if position % 8 == 0 {
        0
    } else {
        padded[position / 8] << (position % 8)
    };
    if !canonical || padding_bits != 0 || compressed[end..].iter().any(|&byte| byte != 0) {
        return None;
    }
    // At most 1024 · 2047², which is just below 2^32.
    Some(
        out.iter()
            .map(|&x| (i32::from(x) * i32::from(x)) as u32)
            .sum(),
    )
}

/// Decodes codewords that together do not fit one window, each from a window of its own. Returns
/// the bits used; `None` if a codeword is not canonical.
///
/// A canonical codeword has at most 8 + 15 + 1 bits, so one always fits. A signature has room for
/// at most 31 such groups: the unary parts of all coefficients share 696 bits (FALCON-1024), and
/// each group takes 22 of them.
#[cold]
fn decode_wide(padded: &[u8], position: usize, quad: &mut [i16]) -> Option<u32> {
    let mut used = 0;
    for coefficient in quad {
        let codeword = Codeword::first_in(load_window(padded, position + used as usize));
        if !codeword.is_canonical() {
            return None;
        }
        *coefficient = codeword.value();
        used += codeword.bits();
    }
    Some(used)
}

/// An encoded coefficient: a sign bit, the seven low bits of the magnitude, and the rest of the
/// magnitude in unary, that is so many zeros and a one (specification, section 3.11.2).
struct Codeword {
    negative: bool,
    magnitude: i32,
    /// Length of the unary part without the one; 64 if there is no one in the window.
    zeros: u32,
}

impl Codeword {
    #[inline(always)]
    fn first_in(window: u64) -> Self {
        let zeros = (window << 8).leading_zeros();
        let low = (window >> 56) as u32 & 0x7f;
        Self {
            negative: window >> 63 == 1,
            magnitude: (low | zeros << 7) as i32,
            zeros,
        }
    }

    #[inline(always)]
    fn bits(&self) -> u32 {
        8 + self.zeros + 1
    }

    #[inline(always)]
    fn is_canonical(&self) -> bool {
        let minus_zero = self.negative & (self.magnitude == 0);
        (self.magnitude <= i32::from(COEFFICIENT_MAX)) & !minus_zero
    }

    #[inline(always)]
    fn value(&self) -> i16 {
        (if self.negative {
            -self.magnitude
        } else {
            self.magnitude
        }) as i16
    }
}

/// 64 bits from bit `position` on, the first in the top; the lowest seven may be zero instead.
/// Past the end there are zeros.
fn load_window(padded: &[u8], position: usize) -> u64 {
    let start = (position / 8).min(padded.len() - 8);
    let bytes = padded[start..start + 8].try_into().expect("eight bytes");
    u64::from_be_bytes(bytes) << (position % 8)
}

/// Checks that `bytes` is the canonical encoding of a public key.
pub(super) fn check_public_key(scheme: Scheme, bytes: &[u8]) -> Result<(), KeyError> {
    check_public_key_frame(scheme, bytes)?;
    let mut coefficients = [0; super::DEGREE_MAX];
    if decode_public_key(bytes, &mut coefficients[..scheme.degree()]) {
        Ok(())
    } else {
        Err(KeyError::Coefficient { scheme })
    }
}

/// Checks length and header of a public key.
pub(super) fn check_public_key_frame(scheme: Scheme, bytes: &[u8]) -> Result<(), KeyError> {
    if bytes.len() != scheme.public_key_len() {
        return Err(KeyError::Length {
            scheme,
            found: bytes.len(),
        });
    }
    if bytes[0] != scheme.public_key_header() {
        return Err(KeyError::Header {
            scheme,
            found: bytes[0],
        });
    }
    Ok(())
}

/// Decodes a public key of the right length and header; false if a coefficient is not below q.
pub(super) fn decode_public_key(bytes: &[u8], out: &mut [i16]) -> bool {
    assert_eq!(bytes.len(), 1 + out.len() * 14 / 8);
    let mut below_q = true;
    // Four coefficients of 14 bits are seven bytes.
    for (group, seven) in out.chunks_exact_mut(4).zip(bytes[1..].chunks_exact(7)) {
        let mut word = [0; 8];
        word[1..].copy_from_slice(seven);
        let word = u64::from_be_bytes(word);
        for (at, coefficient) in group.iter_mut().enumerate() {
            *coefficient = (word >> (42 - 14 * at) & 0x3fff) as i16;
            below_q &= *coefficient < Q;
        }
    }
    below_q
}
