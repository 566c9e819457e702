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

/// What one validator of one epoch states and signs.
pub(crate) struct Statement<'c, 's> {
    pub epoch: Epoch,
    pub signer: ValidatorIndex,
    pub tag: &'static str,
    pub content: &'c [u8],
    pub signature: &'s Signature,
}

impl<'s> Statement<'_, 's> {
    /// The claim that has to be proven, if the set is that of the epoch and has the signer.
    pub fn claim(&self, chain: ChainId, set: &ValidatorSet) -> Result<Claim<'s>, Invalid> {
        check_epoch(self.epoch, set)?;
        let signer = set
            .get(self.signer)
            .ok_or(Invalid::UnknownSigner(self.signer))?;
        Ok(Claim {
            signer: self.signer,
            message: message(self.tag, chain, signer.key.id(), self.content),
            signature: self.signature,
        })
    }
}

/// Messages are judged by the validators of their own epoch only.
pub(crate) fn check_epoch(found: Epoch, set: &ValidatorSet) -> Result<(), Invalid> {
    if found == set.epoch() {
        Ok(())
    } else {
        Err(Invalid::Epoch {
            found,
            expected: set.epoch(),
        })
    }
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

    /// A part of a verified message is verified.
    pub fn project<U>(self, part: impl FnOnce(T) -> U) -> Verified<U> {
        Verified(part(self.0))
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
    let mut one = verify_many(vec![message], chain, set, verifier);
    one.pop().expect("one answer a message")
}

/// Checks many messages, all of their signatures in one batch; one answer a message, in order.
pub fn verify_many<T: Signed>(
    messages: Vec<T>,
    chain: ChainId,
    set: &ValidatorSet,
    verifier: &mut Verifier,
) -> Vec<Result<Verified<T>, Invalid>> {
    verify_many_counted(messages, chain, set, verifier).0
}

/// As [`verify_many`], and how many signatures that were: a certificate has one for each voter.
pub fn verify_many_counted<T: Signed>(
    messages: Vec<T>,
    chain: ChainId,
    set: &ValidatorSet,
    verifier: &mut Verifier,
) -> (Vec<Result<Verified<T>, Invalid>>, usize) {
    let mut claims = Vec::new();
    let mut ends = Vec::with_capacity(messages.len());
    for message in &messages {
        let before = claims.len();
        let structure = message.claims(chain, set, &mut claims);
        if structure.is_err() {
            claims.truncate(before);
        }
        ends.push((structure, claims.len()));
    }
    let valid = check(&claims, set, verifier);
    let mut start = 0;
    let verdicts: Vec<Result<(), Invalid>> = ends
        .into_iter()
        .map(|(structure, end)| {
            let mine = start..end;
            start = end;
            structure?;
            match mine.into_iter().find(|&i| !valid[i]) {
                Some(bad) => Err(Invalid::Signature(claims[bad].signer)),
                None => Ok(()),
            }
        })
        .collect();
    let signatures = claims.len();
    drop(claims);
    let answers = messages
        .into_iter()
        .zip(verdicts)
        .map(|(m, v)| v.map(|()| Verified(m)))
        .collect();
    (answers, signatures)
}

/// Verifies claims in one batch; one answer a claim. A signer outside the set or a signature of
/// another scheme than the signer's key is a claim that fails.
fn check(claims: &[Claim<'_>], set: &ValidatorSet, verifier: &mut Verifier) -> Vec<bool> {
    let bytes: Vec<[u8; SIGNING_MESSAGE_LEN]> = claims
        .iter()
        .map(|claim| claim.message.as_bytes())
        .collect();
    let mut answers = vec![false; claims.len()];
    let mut jobs = Vec::with_capacity(claims.len());
    let mut of = Vec::with_capacity(claims.len());
    for (i, (claim, message)) in claims.iter().zip(&bytes).enumerate() {
        let Some(validator) = set.get(claim.signer) else {
            continue;
        };
        if claim.signature.scheme() != validator.key.scheme() {
            continue;
        }
        jobs.push(Job {
            key: Key::Prepared(&validator.prepared),
            message,
            signature: claim.signature.as_bytes(),
        });
        of.push(i);
    }
    let mut valid = Bitmap::with_capacity(jobs.len());
    verifier.verify_batch(&jobs, &mut valid);
    for (i, valid) in of.into_iter().zip(valid.iter()) {
        answers[i] = valid;
    }
    answers
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
