//! Public keys ready for verification.

use std::fmt;

use super::{DEGREE_MAX, KeyError, PublicKey, Scheme, codec, field, ntt};

/// A decoded public key in the NTT domain: 2 KB, reusable for any number of verifications.
#[derive(Clone, PartialEq, Eq)]
pub struct PreparedKey {
    scheme: Scheme,
    /// Montgomery form, centred, in the order of the transform; the first n are used.
    coefficients: [i16; DEGREE_MAX],
}

impl PreparedKey {
    /// Prepares a key that has been decoded before.
    pub fn from_public(key: &PublicKey) -> Self {
        Self::from_bytes(key.scheme(), key.as_bytes()).expect("a PublicKey is canonical")
    }

    /// Strict decoding of the canonical encoding, without the scheme byte.
    pub fn from_bytes(scheme: Scheme, bytes: &[u8]) -> Result<Self, KeyError> {
        let mut key = Self {
            scheme,
            coefficients: [0; DEGREE_MAX],
        };
        let coefficients = &mut key.coefficients[..scheme.degree()];
        codec::decode_public_key(scheme, bytes, coefficients)?;
        coefficients.iter_mut().for_each(|x| *x = field::reduce(*x));
        ntt::forward(coefficients);
        ntt::to_montgomery(coefficients);
        Ok(key)
    }

    /// The parameter set.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    pub(super) fn coefficients(&self) -> &[i16] {
        &self.coefficients[..self.scheme.degree()]
    }
}

impl fmt::Debug for PreparedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PreparedKey({})", self.scheme)
    }
}
