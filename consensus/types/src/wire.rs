//! Strict, explicit encoding: little-endian, fixed headers, explicit lengths with limits, one
//! encoding for one value. A decoder never allocates more than the input's own length allows and
//! never panics.

use falconet_crypto::falcon::{Scheme, Signature};
use falconet_crypto::hash::Digest;

/// Why bytes are not a value of the type that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The input ends before the value does.
    #[error("truncated: {needed} more bytes needed, {have} left")]
    Truncated {
        /// Bytes the next field needs.
        needed: usize,
        /// Bytes that are left.
        have: usize,
    },
    /// The value ends before the input does.
    #[error("{0} bytes after the end of the value")]
    Trailing(usize),
    /// The version byte is not one that this build knows.
    #[error("unknown {what} version {found}")]
    Version {
        /// What the version belongs to.
        what: &'static str,
        /// The byte that was found.
        found: u8,
    },
    /// A field holds a value that the format forbids.
    #[error("field {0} has a value that is not allowed")]
    Value(&'static str),
    /// A length or count is above its limit.
    #[error("field {field} is {len}, at most {max} allowed")]
    TooLong {
        /// The field.
        field: &'static str,
        /// The length that was found.
        len: usize,
        /// The limit.
        max: usize,
    },
}

/// A value with exactly one encoding.
pub trait Wire: Sized {
    /// Appends the encoding.
    fn encode(&self, out: &mut Vec<u8>);

    /// Reads one value from the front of the reader.
    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError>;

    /// The encoding alone.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }

    /// Reads a value that must be the whole input.
    fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        let mut r = Reader::new(bytes);
        let value = Self::decode(&mut r)?;
        r.finish()?;
        Ok(value)
    }
}

/// A cursor over received bytes.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the beginning of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next byte, which stays unread.
    #[must_use]
    pub fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// Bytes not yet read.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `n` bytes.
    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8], WireError> {
        let Some((head, rest)) = self.rest.split_at_checked(n) else {
            return Err(WireError::Truncated {
                needed: n,
                have: self.rest.len(),
            });
        };
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let bytes = self.bytes(N)?;
        Ok(bytes.try_into().expect("bytes(N) returns N bytes"))
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes, little-endian.
    pub fn u16(&mut self) -> Result<u16, WireError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A 32-byte digest.
    pub fn digest(&mut self) -> Result<Digest, WireError> {
        Ok(Digest(self.array()?))
    }

    /// A two-byte count of at most `max`.
    pub fn count16(&mut self, field: &'static str, max: usize) -> Result<usize, WireError> {
        let len = usize::from(self.u16()?);
        if len > max {
            return Err(WireError::TooLong { field, len, max });
        }
        Ok(len)
    }

    /// A four-byte count or length of at most `max`.
    pub fn count32(&mut self, field: &'static str, max: usize) -> Result<usize, WireError> {
        let len = self.u32()? as usize;
        if len > max {
            return Err(WireError::TooLong { field, len, max });
        }
        Ok(len)
    }

    /// A signature: scheme byte, then the scheme's fixed number of bytes.
    pub fn signature(&mut self) -> Result<Signature, WireError> {
        let scheme = Scheme::try_from(self.u8()?).map_err(|_| WireError::Value("scheme"))?;
        let bytes = self.bytes(scheme.signature_len())?;
        Signature::from_bytes(scheme, bytes).map_err(|_| WireError::Value("signature"))
    }

    /// Ends the reading: nothing may be left.
    pub fn finish(self) -> Result<(), WireError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(WireError::Trailing(self.rest.len()))
        }
    }
}

/// Appends a signature: scheme byte, then its bytes.
pub fn put_signature(out: &mut Vec<u8>, signature: &Signature) {
    out.push(signature.scheme() as u8);
    out.extend_from_slice(signature.as_bytes());
}

/// Appends a count as two bytes; the caller's limit keeps it below 65,536.
pub fn put_count16(out: &mut Vec<u8>, count: usize) {
    let count = u16::try_from(count).expect("count within its limit");
    out.extend_from_slice(&count.to_le_bytes());
}

/// Appends a count or length as four bytes; the caller's limit keeps it below 2^32.
pub fn put_count32(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("count within its limit");
    out.extend_from_slice(&count.to_le_bytes());
}
