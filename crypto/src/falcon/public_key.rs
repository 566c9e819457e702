//! Public keys as bytes.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{Scheme, UnknownScheme, codec};
use crate::hash::{self, Digest};

const DOMAIN_KEY_ID: &str = "falconet/key-id";

/// A public key: a scheme and the canonical encoding. Cheap to clone.
///
/// Its text form is `falcon1024:<base64>`.
#[derive(Clone)]
pub struct PublicKey(Arc<Inner>);

struct Inner {
    scheme: Scheme,
    bytes: Box<[u8]>,
    id: OnceLock<Digest>,
}

/// Why bytes or a text are not a public key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// No scheme byte, or one that is not known; or a text with an unknown scheme.
    #[error(transparent)]
    Scheme(#[from] UnknownScheme),
    /// Nothing there.
    #[error("a public key starts with a scheme byte; the input is empty")]
    Empty,
    /// Another length than the scheme has.
    #[error("a {scheme} public key has {} bytes, not {found}", scheme.public_key_len())]
    Length {
        /// The scheme of the key.
        scheme: Scheme,
        /// The length of the input in bytes.
        found: usize,
    },
    /// Another first byte than the scheme has.
    #[error(
        "a {scheme} public key starts with {:#04x}, not {found:#04x}",
        scheme.public_key_header()
    )]
    Header {
        /// The scheme of the key.
        scheme: Scheme,
        /// The first byte of the input.
        found: u8,
    },
    /// A coefficient is not below q = 12,289.
    #[error("a coefficient of the {scheme} public key is not below 12289; the key is corrupt")]
    Coefficient {
        /// The scheme of the key.
        scheme: Scheme,
    },
    /// The text form is wrong.
    #[error("a public key is written as <scheme>:<base64>, for example falcon1024:Cg…")]
    Text,
}

impl PublicKey {
    /// Strict decoding of the canonical encoding, without the scheme byte.
    pub fn from_bytes(scheme: Scheme, bytes: &[u8]) -> Result<Self, KeyError> {
        codec::check_public_key(scheme, bytes)?;
        Ok(Self(Arc::new(Inner {
            scheme,
            bytes: bytes.into(),
            id: OnceLock::new(),
        })))
    }

    /// Strict decoding of scheme byte ‖ key.
    pub fn from_wire(wire: &[u8]) -> Result<Self, KeyError> {
        let (&scheme, bytes) = wire.split_first().ok_or(KeyError::Empty)?;
        Self::from_bytes(Scheme::try_from(scheme)?, bytes)
    }

    /// Scheme byte ‖ key.
    pub fn to_wire(&self) -> Vec<u8> {
        let mut wire = Vec::with_capacity(1 + self.0.bytes.len());
        wire.push(self.0.scheme.as_byte());
        wire.extend_from_slice(&self.0.bytes);
        wire
    }

    /// The parameter set.
    pub fn scheme(&self) -> Scheme {
        self.0.scheme
    }

    /// The canonical encoding, without the scheme byte.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// The identity of the key: the hash of scheme byte ‖ key in the domain `falconet/key-id`.
    /// Computed once.
    pub fn id(&self) -> Digest {
        *self
            .0
            .id
            .get_or_init(|| hash::hash(DOMAIN_KEY_ID, &[&[self.0.scheme.as_byte()], &self.0.bytes]))
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for PublicKey {}

impl PartialOrd for PublicKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PublicKey {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.0.scheme, &self.0.bytes).cmp(&(other.0.scheme, &other.0.bytes))
    }
}

impl Hash for PublicKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.scheme.hash(state);
        self.0.bytes.hash(state);
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({}, id {}…)", self.0.scheme, self.id().short())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0.scheme, BASE64.encode(&self.0.bytes))
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (scheme, encoded) = text.split_once(':').ok_or(KeyError::Text)?;
        let scheme: Scheme = scheme.parse()?;
        if encoded.len() != scheme.public_key_len().div_ceil(3) * 4 {
            return Err(KeyError::Text);
        }
        let bytes = BASE64.decode(encoded).map_err(|_| KeyError::Text)?;
        Self::from_bytes(scheme, &bytes)
    }
}
