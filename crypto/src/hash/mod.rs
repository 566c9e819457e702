//! SHA3-256 digests with domain separation.
//!
//! Every hash in Falconet starts with a domain tag, so that a value of one kind can never be taken
//! for a value of another: the input is `len(domain) as u8 ‖ domain ‖ parts…`. Parts are joined
//! without separators; callers make them self-delimiting (fixed sizes, or explicit lengths).

pub mod merkle;

use std::fmt;
use std::str::FromStr;

use crate::keccak::{Engine, Sha3_256};

/// Longest domain tag, in bytes: its length is written as one byte.
pub const DOMAIN_LEN_MAX: usize = u8::MAX as usize;

/// A SHA3-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// 32 zero bytes: "no digest"; nothing hashes to it.
    pub const ZERO: Digest = Digest([0; 32]);

    /// The first eight hexadecimal digits, for logs and terminals.
    pub fn short(&self) -> impl fmt::Display + use<> {
        ShortDigest(*self)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl AsRef<[u8]> for Digest {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl AsMut<[u8]> for Digest {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl From<[u8; 32]> for Digest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

/// Why a text is not a digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a digest is 64 hexadecimal digits; this text has another length or other characters")]
pub struct ParseDigestError;

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(ParseDigestError);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |c: u8| char::from(c).to_digit(16).ok_or(ParseDigestError);
            *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
        }
        Ok(Self(bytes))
    }
}

struct ShortDigest(Digest);

impl fmt::Display for ShortDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0.0[..4])
    }
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for byte in bytes {
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}

/// Streaming form of [`hash`].
#[derive(Clone)]
pub struct Hasher(Sha3_256);

impl Hasher {
    /// Starts a hash in `domain`.
    ///
    /// # Panics
    /// If `domain` is longer than [`DOMAIN_LEN_MAX`] bytes.
    pub fn new(domain: &str) -> Self {
        let mut sponge = Sha3_256::new();
        sponge.update(&[domain_len(domain)]);
        sponge.update(domain.as_bytes());
        Self(sponge)
    }

    /// Appends `data`.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// Ends the input and returns its digest.
    pub fn finish(self) -> Digest {
        Digest(self.0.finish())
    }
}

/// SHA3-256 over `len(domain) as u8 ‖ domain ‖ parts…`.
///
/// # Panics
/// If `domain` is longer than [`DOMAIN_LEN_MAX`] bytes.
pub fn hash(domain: &str, parts: &[&[u8]]) -> Digest {
    let mut hasher = Hasher::new(domain);
    for part in parts {
        hasher.update(part);
    }
    hasher.finish()
}

/// `out[i] = hash(domain, &[items[i]])` for every item, several items at a time.
///
/// # Panics
/// If `items` and `out` differ in length, or `domain` is longer than [`DOMAIN_LEN_MAX`] bytes.
pub fn hash_many<T: AsRef<[u8]>>(domain: &str, items: &[T], out: &mut [Digest]) {
    let mut prefix = [0; 1 + DOMAIN_LEN_MAX];
    prefix[0] = domain_len(domain);
    let prefix = &mut prefix[..1 + domain.len()];
    prefix[1..].copy_from_slice(domain.as_bytes());
    Engine::best().sha3_256_many(prefix, items, out);
}

fn domain_len(domain: &str) -> u8 {
    u8::try_from(domain.len()).expect("domain tags are at most 255 bytes")
}

#[cfg(test)]
mod tests;
