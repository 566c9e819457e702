//! The greeting: the first frame in each direction of a connection. See `docs/stoq.md`,
//! "Greeting".
//!
//! TLS proves keys; the greeting makes sure that both sides mean the same chain and the same
//! protocol before anything else is believed.

use falconet_crypto::hash::Digest;
use thiserror::Error;

/// Frame kind of a HELLO.
pub const KIND_HELLO: u8 = 0;

/// Version of the protocol above QUIC.
pub const PROTOCOL_VERSION: u16 = 1;

/// Length of a HELLO payload, bytes.
pub const HELLO_BYTES: usize = 40;

/// Part that an endpoint plays on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// Proves a key.
    Validator = 1,
    /// Proves none.
    Client = 2,
}

/// The first frame in each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The chain that the sender serves or uses.
    pub chain_id: Digest,
    /// The sender's part.
    pub role: Role,
}

/// Why a greeting was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HelloError {
    /// The first frame was of another kind.
    #[error("the first frame is of kind {0}, expected HELLO")]
    NotHello(u8),
    /// Wrong length.
    #[error("a HELLO of {0} bytes, expected {HELLO_BYTES}")]
    Length(usize),
    /// Another protocol version.
    #[error("protocol version {0}, this side speaks {PROTOCOL_VERSION}")]
    Version(u16),
    /// Unknown role, or one that does not fit what TLS proved.
    #[error("role {0} is unknown or not the one that TLS proved")]
    Role(u8),
    /// Reserved bytes are not zero.
    #[error("reserved bytes of a HELLO are not zero")]
    Reserved,
    /// Another chain.
    #[error("the peer serves chain {theirs}, this side {ours}")]
    Chain {
        /// The peer's chain.
        theirs: Digest,
        /// The chain of this endpoint.
        ours: Digest,
    },
}

impl Hello {
    /// The payload: version u16, role u8, five reserved bytes, chain id.
    pub fn encode(&self) -> [u8; HELLO_BYTES] {
        let mut payload = [0; HELLO_BYTES];
        payload[..2].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
        payload[2] = self.role as u8;
        payload[8..].copy_from_slice(self.chain_id.as_bytes());
        payload
    }

    /// Strict decoding, and the checks against what is known: the role that TLS proved and the
    /// chain of this endpoint.
    pub fn check(
        kind: u8,
        payload: &[u8],
        proved: Role,
        ours: Digest,
    ) -> Result<Hello, HelloError> {
        if kind != KIND_HELLO {
            return Err(HelloError::NotHello(kind));
        }
        // The version comes first: another version may have another length.
        let Some((version, _)) = payload.split_first_chunk::<2>() else {
            return Err(HelloError::Length(payload.len()));
        };
        let version = u16::from_le_bytes(*version);
        if version != PROTOCOL_VERSION {
            return Err(HelloError::Version(version));
        }
        let Ok(payload) = <&[u8; HELLO_BYTES]>::try_from(payload) else {
            return Err(HelloError::Length(payload.len()));
        };
        if payload[3..8] != [0; 5] {
            return Err(HelloError::Reserved);
        }
        if payload[2] != proved as u8 {
            return Err(HelloError::Role(payload[2]));
        }
        let mut chain_id = Digest::ZERO;
        chain_id.0.copy_from_slice(&payload[8..]);
        if chain_id != ours {
            return Err(HelloError::Chain {
                theirs: chain_id,
                ours,
            });
        }
        Ok(Hello {
            chain_id,
            role: proved,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHAIN: Digest = Digest([7; 32]);

    fn hello() -> Hello {
        Hello {
            chain_id: CHAIN,
            role: Role::Validator,
        }
    }

    fn check(payload: &[u8]) -> Result<Hello, HelloError> {
        Hello::check(KIND_HELLO, payload, Role::Validator, CHAIN)
    }

    #[test]
    fn round_trip() {
        assert_eq!(check(&hello().encode()), Ok(hello()));
    }

    #[test]
    fn every_truncation_and_extension_is_refused() {
        let payload = hello().encode();
        for len in 0..payload.len() {
            assert_eq!(check(&payload[..len]), Err(HelloError::Length(len)));
        }
        assert_eq!(
            check(&[&payload[..], &[0]].concat()),
            Err(HelloError::Length(41))
        );
    }

    #[test]
    fn every_field_is_checked() {
        let flip = |at: usize| {
            let mut payload = hello().encode();
            payload[at] ^= 0x80;
            check(&payload).unwrap_err()
        };
        assert_eq!(flip(0), HelloError::Version(0x81));
        assert_eq!(flip(1), HelloError::Version(0x8001));
        assert_eq!(flip(2), HelloError::Role(0x81));
        for at in 3..8 {
            assert_eq!(flip(at), HelloError::Reserved);
        }
        for at in 8..40 {
            assert!(matches!(flip(at), HelloError::Chain { .. }));
        }
        let kind = Hello::check(16, &hello().encode(), Role::Validator, CHAIN);
        assert_eq!(kind, Err(HelloError::NotHello(16)));
        let role = Hello::check(KIND_HELLO, &hello().encode(), Role::Client, CHAIN);
        assert_eq!(role, Err(HelloError::Role(1)));
    }
}
