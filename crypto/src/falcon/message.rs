//! What is signed: a fixed-size message.
//!
//! With at most 95 bytes, nonce and message fit one block of SHAKE256. Then every signature costs
//! the verifier the same number of permutations, and long payloads cost it nothing.

use crate::hash::Digest;

/// Bytes of a [`SigningMessage`].
pub const SIGNING_MESSAGE_LEN: usize = 48;

/// Bytes of the tag in a [`SigningMessage`].
const TAG_LEN: usize = 16;

// One SHAKE256 block must hold nonce, message and the first padding byte.
const _: () = assert!(super::NONCE_LEN + SIGNING_MESSAGE_LEN < crate::keccak::RATE);

/// A purpose and the digest of what is signed for that purpose: tag (16 bytes) ‖ digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SigningMessage {
    /// The purpose, in ASCII, padded with zeros.
    pub tag: [u8; TAG_LEN],
    /// The digest of the content; it must cover the chain and the signer's key id.
    pub digest: Digest,
}

impl SigningMessage {
    /// A message for the purpose `tag`.
    ///
    /// # Panics
    /// If `tag` is empty, longer than 16 bytes, or not printable ASCII.
    pub const fn new(tag: &'static str, digest: Digest) -> Self {
        let text = tag.as_bytes();
        assert!(
            !text.is_empty() && text.len() <= TAG_LEN,
            "a tag has 1 to 16 characters"
        );
        let mut padded = [0; TAG_LEN];
        let mut at = 0;
        while at < text.len() {
            assert!(text[at].is_ascii_graphic(), "a tag is printable ASCII");
            padded[at] = text[at];
            at += 1;
        }
        Self {
            tag: padded,
            digest,
        }
    }

    /// The bytes that are signed.
    pub const fn as_bytes(&self) -> [u8; SIGNING_MESSAGE_LEN] {
        let mut bytes = [0; SIGNING_MESSAGE_LEN];
        let (tag, digest) = bytes.split_at_mut(TAG_LEN);
        tag.copy_from_slice(&self.tag);
        digest.copy_from_slice(&self.digest.0);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tag_then_digest() {
        let bytes = SigningMessage::new("vote", Digest([9; 32])).as_bytes();
        assert_eq!(bytes[..16], *b"vote\0\0\0\0\0\0\0\0\0\0\0\0");
        assert_eq!(bytes[16..], [9; 32]);
    }

    #[test]
    #[should_panic(expected = "1 to 16 characters")]
    fn a_longer_tag_is_a_bug() {
        SigningMessage::new("seventeen-letters", Digest::ZERO);
    }
}
