//! Public keys ready for verification.

use std::fmt;

#[cfg(target_arch = "x86_64")]
use super::simd::words::Polynomial;
use super::verifier::Backend;
use super::{DEGREE_MAX, KeyError, PublicKey, Scheme, codec, field, ntt};

/// A decoded public key in the NTT domain: 2 KB, reusable for any number of verifications.
#[derive(Clone, PartialEq, Eq)]
pub struct PreparedKey {
    scheme: Scheme,
    coefficients: Coefficients,
}

/// A transformed key: coefficients modulo q, centred. The first n are used.
///
/// Coefficient i of the transform (in bit-reversed order) is at i / 32 + (n / 32) · (i mod 32):
/// where both transforms leave it.
#[derive(Clone, PartialEq, Eq)]
#[repr(C, align(64))]
pub(super) struct Coefficients([i16; DEGREE_MAX]);

impl Coefficients {
    pub(super) const ZERO: Self = Self([0; DEGREE_MAX]);

    /// The coefficients of degree `n`.
    pub(super) fn of_degree(&self, n: usize) -> &[i16] {
        &self.0[..n]
    }

    /// Takes the coefficients from a SIMD transform of degree `N`. A degree of 512 fills the left
    /// half of each row.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn set<const N: usize>(&mut self, rows: &Polynomial) {
        let width = N / 32;
        for (to, from) in self.0.chunks_exact_mut(width).zip(&rows.0) {
            to.copy_from_slice(&from[..width]);
        }
    }

    /// Row `index` of degree 1024.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn row(&self, index: usize) -> &[i16; 32] {
        self.0[32 * index..].first_chunk().expect("32 rows of 32")
    }

    /// Row `index` of degree 512.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn half_row(&self, index: usize) -> &[i16; 16] {
        self.0[16 * index..].first_chunk().expect("32 rows of 16")
    }
}

impl PreparedKey {
    /// Prepares a key that has been decoded before.
    pub fn from_public(key: &PublicKey) -> Self {
        Self::from_bytes(key.scheme(), key.as_bytes()).expect("a PublicKey is canonical")
    }

    /// Strict decoding of the canonical encoding, without the scheme byte.
    pub fn from_bytes(scheme: Scheme, bytes: &[u8]) -> Result<Self, KeyError> {
        Self::with_backend(Backend::best(), scheme, bytes)
    }

    /// [`PreparedKey::from_bytes`] with the given backend; the result is the same for all.
    ///
    /// # Panics
    /// If this CPU cannot run the backend.
    pub fn with_backend(backend: Backend, scheme: Scheme, bytes: &[u8]) -> Result<Self, KeyError> {
        codec::check_public_key_frame(scheme, bytes)?;
        let mut key = Self {
            scheme,
            coefficients: Coefficients::ZERO,
        };
        if backend.prepare_key(scheme, bytes, &mut key.coefficients) {
            Ok(key)
        } else {
            Err(KeyError::Coefficient { scheme })
        }
    }

    /// The parameter set.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    pub(super) fn coefficients(&self) -> &Coefficients {
        &self.coefficients
    }
}

/// The portable way to prepare a key of the right length and header; false if a coefficient is not
/// below q.
pub(super) fn prepare_portable(scheme: Scheme, bytes: &[u8], key: &mut Coefficients) -> bool {
    let mut h = [0; DEGREE_MAX];
    let h = &mut h[..scheme.degree()];
    if !codec::decode_public_key(bytes, h) {
        return false;
    }
    h.iter_mut().for_each(|x| *x = field::reduce(*x));
    ntt::forward(h, &mut key.0[..scheme.degree()]);
    true
}

impl fmt::Debug for PreparedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PreparedKey({})", self.scheme)
    }
}
