//! Who signed what.
//!
//! Every signed string is 48 bytes: a 16-byte tag and a digest over chain id, the signer's key
//! and the content. FALCON (round 3) does not bind the public key, so the digest does; the fixed
//! size lets nonce and message fit one SHAKE block, which keeps the lanes of the batch verifier
//! uniform.

use falconet_crypto::falcon::{
    Bitmap, Job, Key, KeyPair, SIGNING_MESSAGE_LEN, Signature, SigningMessage, Verifier,
};
use falconet_crypto::hash;

use crate::ids::{ChainId, Epoch, ValidatorIndex};
use crate::validators::ValidatorSet;

/// One statement by one validator inside a message, with the signature that should prove it.
#[derive(Debug, Clone)]
pub struct Claim<'a> {
    /// The validator who is said to have signed.
    pub signer: ValidatorIndex,
    /// What was signed.
    pub message: SigningMessage,
    /// The proof.
    pub signature: &'a Signature,
}

/// Why a message is not what it claims to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The message belongs to another epoch than the validator set that judges it.
    #[error("epoch {found}, expected {expected}")]
    Epoch {
        /// Epoch of the message.
        found: Epoch,
        /// Epoch of the set.
        expected: Epoch,
    },
    /// The named signer is not in the set.
    #[error("validator {0} is not in the set")]
    UnknownSigner(ValidatorIndex),
    /// A signer stands twice, or signers are not in ascending order.
    #[error("signers are not distinct and ascending")]
    SignerOrder,
    /// The signers' weight is below a quorum.
    #[error("weight {have} is below the quorum {need}")]
    Weight {
        /// Weight of the signers.
        have: u64,
        /// Weight of a quorum.
        need: u64,
    },
    /// A rule on the message's own fields is broken.
    #[error("{0}")]
    Malformed(&'static str),
    /// A signature does not verify.
    #[error("signature of validator {0} does not verify")]
    Signature(ValidatorIndex),
}

/// A message that stands on validators' signatures.
pub trait Signed {
    /// Checks all that needs no cryptography and lists the signatures to verify.
    fn claims<'a>(
        &'a self,
        chain: ChainId,
        set: &ValidatorSet,
        out: &mut Vec<Claim<'a>>,
    ) -> Result<(), Invalid>;
}

/// A message whose structure and signatures were checked. The cores accept only these, so that
/// no unverified message can reach a rule by mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// Wraps a message that needs no check: made by this node, read back from its own disk, or
    /// delivered by a test that decides itself what is authentic.
    pub fn trusted(message: T) -> Self {
        Self(message)
    }

    /// The message.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> std::ops::Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

/// Checks one message, all of its signatures in one batch.
pub fn verify<T: Signed>(
    message: T,
    chain: ChainId,
    set: &ValidatorSet,
    verifier: &mut Verifier,
) -> Result<Verified<T>, Invalid> {
    let mut claims = Vec::new();
    message.claims(chain, set, &mut claims)?;
    if let Some(bad) = first_bad(&claims, set, verifier)? {
        return Err(Invalid::Signature(bad));
    }
    Ok(Verified(message))
}

/// Verifies claims of any number of messages in one batch; the signer of the first that fails.
pub fn first_bad(
    claims: &[Claim<'_>],
    set: &ValidatorSet,
    verifier: &mut Verifier,
) -> Result<Option<ValidatorIndex>, Invalid> {
    let bytes: Vec<[u8; SIGNING_MESSAGE_LEN]> = claims
        .iter()
        .map(|claim| claim.message.as_bytes())
        .collect();
    let mut jobs = Vec::with_capacity(claims.len());
    for (claim, message) in claims.iter().zip(&bytes) {
        let validator = set
            .get(claim.signer)
            .ok_or(Invalid::UnknownSigner(claim.signer))?;
        if claim.signature.scheme() != validator.key.scheme() {
            return Err(Invalid::Signature(claim.signer));
        }
        jobs.push(Job {
            key: Key::Prepared(&validator.prepared),
            message,
            signature: claim.signature.as_bytes(),
        });
    }
    let mut valid = Bitmap::with_capacity(jobs.len());
    verifier.verify_batch(&jobs, &mut valid);
    Ok(claims
        .iter()
        .zip(valid.iter())
        .find(|(_, valid)| !valid)
        .map(|(claim, _)| claim.signer))
}

/// The 48 bytes that a validator signs for `content`.
#[must_use]
pub fn message(
    tag: &'static str,
    chain: ChainId,
    key_id: hash::Digest,
    content: &[u8],
) -> SigningMessage {
    let digest = hash::hash(tag, &[chain.as_ref(), key_id.as_ref(), content]);
    SigningMessage::new(tag, digest)
}

/// Signs on behalf of one validator. A trait so that the simulator can use signatures that are a
/// function of the seed.
pub trait Signer: Send {
    /// Signs; the caller persists the result before it leaves and never signs the same content
    /// again.
    fn sign(&self, message: &SigningMessage) -> Signature;
    /// Id of the public key, part of each signed digest.
    fn key_id(&self) -> hash::Digest;
}

impl Signer for KeyPair {
    fn sign(&self, message: &SigningMessage) -> Signature {
        KeyPair::sign(self, &message.as_bytes())
    }
    fn key_id(&self) -> hash::Digest {
        self.public().id()
    }
}

impl<S: Signer + Sync> Signer for std::sync::Arc<S> {
    fn sign(&self, message: &SigningMessage) -> Signature {
        S::sign(self, message)
    }
    fn key_id(&self) -> hash::Digest {
        S::key_id(self)
    }
}
