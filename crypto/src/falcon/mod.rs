//! Round-3 FALCON in its padded encoding: keys, signing, strict batched verification.
//!
//! One value has exactly one encoding here. Implementations of FALCON disagree on what they
//! accept, and in a replicated system such a disagreement splits the network; so the rules are
//! fixed (section 3.11 of the FALCON specification, version 1.2, narrowed to one choice each):
//!
//! * A signature is 666 bytes (FALCON-512) or 1,280 bytes (FALCON-1024): header 0x39 or 0x3a, a
//!   nonce of 40 bytes, the compressed s2, and zeros up to the end.
//! * Refused: any other length or header, "-0", a coefficient above 2,047 in magnitude, padding
//!   bits or tail bytes that are not zero, a squared norm of (s1, s2) above 34,034,726 or
//!   70,265,242. The bound itself is accepted.
//! * A public key is 897 or 1,793 bytes: header 0x09 or 0x0a, then coefficients of 14 bits, each
//!   below q = 12,289.
//! * On the wire a [`Scheme`] byte comes before every key and signature, so that FN-DSA (FIPS 206)
//!   can join later.
//!
//! FALCON does not promise that a second signature for a signed message is infeasible, and does
//! not bind the public key. So identifiers must exclude signatures, and signed digests must
//! include the identity of the key ([`PublicKey::id`]).
//!
//! Signing uses floating point and is not constant-time on every CPU.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod bitmap;
mod cache;
mod codec;
mod field;
mod hash_to_point;
mod keypair;
mod message;
mod ntt;
mod portable;
mod prepared;
mod public_key;
mod signature;
#[cfg(target_arch = "x86_64")]
mod simd;
#[cfg(target_arch = "x86_64")]
pub mod stages;
mod verifier;

use std::fmt;
use std::str::FromStr;

pub use bitmap::Bitmap;
pub use cache::{CACHE_KEYS_MAX, KeyCache};
pub use keypair::{KeyPair, SecretKeyError};
pub use message::{SIGNING_MESSAGE_LEN, SigningMessage};
pub use prepared::PreparedKey;
pub use public_key::{KeyError, PublicKey};
pub use signature::{Signature, SignatureError};
pub use verifier::{Backend, Job, Key, Verifier, verify, verify_batch_parallel};

/// Bytes of the nonce in a signature.
pub const NONCE_LEN: usize = 40;

/// Bytes of a signature before the compressed s2: header and nonce.
const SIGNATURE_PREFIX_LEN: usize = 1 + NONCE_LEN;

/// Largest degree of the ring: FALCON-1024.
const DEGREE_MAX: usize = 1024;

/// The FALCON parameter set of a key or a signature; its value is the scheme byte on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Scheme {
    /// Degree 512, NIST security level I.
    Falcon512 = 1,
    /// Degree 1024, NIST security level V.
    Falcon1024 = 2,
}

impl Scheme {
    /// Every scheme.
    pub const ALL: [Scheme; 2] = [Scheme::Falcon512, Scheme::Falcon1024];

    /// The scheme byte.
    pub const fn as_byte(self) -> u8 {
        self as u8
    }

    /// Degree n of the ring Z\[x\]/(x^n + 1).
    pub const fn degree(self) -> usize {
        match self {
            Scheme::Falcon512 => 512,
            Scheme::Falcon1024 => 1024,
        }
    }

    /// Bytes of a signature, without the scheme byte.
    pub const fn signature_len(self) -> usize {
        match self {
            Scheme::Falcon512 => 666,
            Scheme::Falcon1024 => 1280,
        }
    }

    /// Bytes of a public key, without the scheme byte.
    pub const fn public_key_len(self) -> usize {
        1 + self.degree() * 14 / 8
    }

    /// First byte of a signature.
    pub const fn signature_header(self) -> u8 {
        match self {
            Scheme::Falcon512 => 0x39,
            Scheme::Falcon1024 => 0x3a,
        }
    }

    /// First byte of a public key.
    pub const fn public_key_header(self) -> u8 {
        match self {
            Scheme::Falcon512 => 0x09,
            Scheme::Falcon1024 => 0x0a,
        }
    }

    /// Largest accepted squared norm of (s1, s2), inclusive.
    pub const fn squared_norm_max(self) -> u64 {
        match self {
            Scheme::Falcon512 => 34_034_726,
            Scheme::Falcon1024 => 70_265_242,
        }
    }

    /// Bytes of the compressed s2 with its zero padding.
    const fn compressed_len(self) -> usize {
        self.signature_len() - SIGNATURE_PREFIX_LEN
    }

    const fn log_degree(self) -> u32 {
        self.degree().trailing_zeros()
    }
}

/// A scheme byte or name that this version does not know.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UnknownScheme {
    /// The byte is not the value of a [`Scheme`].
    #[error("unknown signature scheme {0:#04x}; known are 0x01 (falcon512) and 0x02 (falcon1024)")]
    Byte(u8),
    /// The text is not the name of a [`Scheme`].
    #[error("unknown signature scheme {0:?}; known are falcon512 and falcon1024")]
    Name(String),
}

impl TryFrom<u8> for Scheme {
    type Error = UnknownScheme;

    fn try_from(byte: u8) -> Result<Self, UnknownScheme> {
        match byte {
            1 => Ok(Scheme::Falcon512),
            2 => Ok(Scheme::Falcon1024),
            _ => Err(UnknownScheme::Byte(byte)),
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scheme::Falcon512 => "falcon512",
            Scheme::Falcon1024 => "falcon1024",
        })
    }
}

impl FromStr for Scheme {
    type Err = UnknownScheme;

    fn from_str(name: &str) -> Result<Self, UnknownScheme> {
        match name {
            "falcon512" => Ok(Scheme::Falcon512),
            "falcon1024" => Ok(Scheme::Falcon1024),
            _ => Err(UnknownScheme::Name(name.chars().take(32).collect())),
        }
    }
}

#[cfg(test)]
mod tests;
