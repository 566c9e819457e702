//! Signatures as bytes.

use std::fmt;
use std::sync::Arc;

use super::Scheme;

/// A signature in the padded encoding. Cheap to clone.
///
/// Length and header are right; whether it verifies is for [`super::verify`] to say.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Signature {
    scheme: Scheme,
    bytes: Arc<[u8]>,
}

/// Why bytes are not a signature.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SignatureError {
    /// Another length than the padded encoding has.
    #[error("a {scheme} signature has {} bytes, not {found}", scheme.signature_len())]
    Length {
        /// The scheme of the signature.
        scheme: Scheme,
        /// The length of the input in bytes.
        found: usize,
    },
    /// Another first byte than the scheme has.
    #[error(
        "a {scheme} signature starts with {:#04x}, not {found:#04x}",
        scheme.signature_header()
    )]
    Header {
        /// The scheme of the signature.
        scheme: Scheme,
        /// The first byte of the input.
        found: u8,
    },
}

impl Signature {
    /// Takes the bytes of a signature, without the scheme byte. Checks length and header only.
    pub fn from_bytes(scheme: Scheme, bytes: &[u8]) -> Result<Self, SignatureError> {
        if bytes.len() != scheme.signature_len() {
            return Err(SignatureError::Length {
                scheme,
                found: bytes.len(),
            });
        }
        if bytes[0] != scheme.signature_header() {
            return Err(SignatureError::Header {
                scheme,
                found: bytes[0],
            });
        }
        Ok(Self {
            scheme,
            bytes: bytes.into(),
        })
    }

    /// The parameter set.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The bytes, without the scheme byte; exactly [`Scheme::signature_len`] of them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsRef<[u8]> for Signature {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The nonce identifies a signature; a kilobyte of hexadecimal would drown a log.
        write!(f, "Signature({}, nonce ", self.scheme)?;
        for byte in &self.bytes[1..9] {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("…)")
    }
}
