//! Key generation and signing, by `fn-dsa` in its mode for round-3 FALCON.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use fn_dsa::{
    DOMAIN_NONE, HASH_ID_ORIGINAL_FALCON, KeyPairGenerator as _, KeyPairGeneratorStandard,
    SigningKey as _, SigningKeyStandard,
};
use rand_core::{CryptoRng, OsRng, RngCore};
use zeroize::{Zeroize as _, Zeroizing};

use super::{PublicKey, Scheme, Signature};
use crate::keccak::{Shake256, Shake256Reader};

/// A key pair that signs. Cheap to clone; clones share one secret, which is overwritten when the
/// last of them is dropped.
///
/// Decoding a secret passes it through the stack, from where it cannot be wiped with certainty.
///
/// Signing takes a lock, because the signing engine owns its scratch memory: threads that sign at
/// the same time should each have a pair of their own ([`KeyPair::from_secret_bytes`]).
#[derive(Clone)]
pub struct KeyPair(Arc<Inner>);

struct Inner {
    public: PublicKey,
    /// The encoded secret key: header, then f, g and F (section 3.11.5 of the specification).
    secret: Zeroizing<Vec<u8>>,
    /// The decoded secret with its basis in FFT form; zeroized on drop by `fn-dsa`.
    engine: Mutex<Box<SigningKeyStandard>>,
}

/// Why bytes are not a secret key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SecretKeyError {
    /// Another length than the scheme has.
    #[error("a {scheme} secret key has {expected} bytes, not {found}")]
    Length {
        /// The scheme of the key.
        scheme: Scheme,
        /// Its length in bytes.
        expected: usize,
        /// The length of the input in bytes.
        found: usize,
    },
    /// The bytes do not describe an NTRU basis.
    #[error("the {scheme} secret key is corrupt; restore it from a backup")]
    Corrupt {
        /// The scheme of the key.
        scheme: Scheme,
    },
}

impl KeyPair {
    /// A new key pair from the operating system's randomness. Takes some tens of milliseconds.
    pub fn generate(scheme: Scheme) -> Self {
        Self::generate_from(scheme, &mut OsRng)
    }

    /// The key pair that belongs to `seed`: `fn-dsa`'s key generation, fed with SHAKE256 over
    /// `"falconet/keygen" ‖ scheme byte ‖ seed`.
    ///
    /// For tests and load generators. The result is reproducible for one version of `fn-dsa`; a
    /// secret to be kept is kept as a key file, not as a seed.
    pub fn from_seed(scheme: Scheme, seed: &[u8; 32]) -> Self {
        let mut rng = SeededRng::new(b"falconet/keygen", scheme, &[seed]);
        Self::generate_from(scheme, &mut rng)
    }

    /// Decodes a secret key from its encoding ([`KeyPair::secret_bytes`]).
    pub fn from_secret_bytes(scheme: Scheme, secret: &[u8]) -> Result<Self, SecretKeyError> {
        let expected = fn_dsa::sign_key_size(scheme.log_degree());
        if secret.len() != expected {
            return Err(SecretKeyError::Length {
                scheme,
                expected,
                found: secret.len(),
            });
        }
        let engine = SigningKeyStandard::decode(secret)
            .filter(|engine| engine.get_logn() == scheme.log_degree())
            .map(Box::new)
            .ok_or(SecretKeyError::Corrupt { scheme })?;
        let mut public = vec![0; scheme.public_key_len()];
        engine.to_verifying_key(&mut public);
        let public =
            PublicKey::from_bytes(scheme, &public).expect("fn-dsa encodes public keys canonically");
        let secret = Zeroizing::new(secret.to_vec());
        Ok(Self(Arc::new(Inner {
            public,
            secret,
            engine: Mutex::new(engine),
        })))
    }

    /// The public key.
    pub fn public(&self) -> &PublicKey {
        &self.0.public
    }

    /// The parameter set.
    pub fn scheme(&self) -> Scheme {
        self.0.public.scheme()
    }

    /// The encoded secret key; handle with care.
    pub fn secret_bytes(&self) -> &[u8] {
        &self.0.secret
    }

    /// Signs `message` with a fresh nonce from the operating system's randomness.
    pub fn sign(&self, message: &[u8]) -> Signature {
        self.sign_with(&mut OsRng, message)
    }

    /// Signs with randomness derived from `seed` and `message`: the same call gives the same
    /// signature.
    ///
    /// For tests and load generators. Signing computes in floating point; should two machines
    /// round differently, two signatures with one nonce would leak the key.
    pub fn sign_deterministic(&self, message: &[u8], seed: &[u8; 32]) -> Signature {
        let mut rng = SeededRng::new(b"falconet/sign", self.scheme(), &[seed, message]);
        self.sign_with(&mut rng, message)
    }

    fn generate_from<R: CryptoRng + RngCore>(scheme: Scheme, rng: &mut R) -> Self {
        let mut secret = Zeroizing::new(vec![0; fn_dsa::sign_key_size(scheme.log_degree())]);
        let mut public = vec![0; scheme.public_key_len()];
        // The generator's scratch memory (some 80 KB) is zeroized by fn-dsa when it is dropped.
        let mut generator = Box::new(KeyPairGeneratorStandard::default());
        generator.keygen(scheme.log_degree(), rng, &mut secret, &mut public);
        let pair = Self::from_secret_bytes(scheme, &secret).expect("a fresh secret key decodes");
        assert_eq!(
            pair.public().as_bytes(),
            public,
            "secret and public key belong together"
        );
        pair
    }

    fn sign_with<R: CryptoRng + RngCore>(&self, rng: &mut R, message: &[u8]) -> Signature {
        let scheme = self.scheme();
        // Room for the larger scheme; fn-dsa wants exactly the scheme's length.
        let mut buffer = [0; Scheme::Falcon1024.signature_len()];
        let bytes = &mut buffer[..scheme.signature_len()];
        // fn-dsa starts again with a fresh nonce when the norm is too large or the compressed
        // polynomial does not fit the padded length, so what it returns always fits.
        self.0
            .engine
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .sign(rng, &DOMAIN_NONE, &HASH_ID_ORIGINAL_FALCON, message, bytes);
        Signature::from_bytes(scheme, bytes).expect("fn-dsa writes the padded encoding")
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({:?}, secret hidden)", self.0.public)
    }
}

/// SHAKE256 as a random number generator.
struct SeededRng(Shake256Reader);

impl SeededRng {
    fn new(purpose: &[u8], scheme: Scheme, parts: &[&[u8]]) -> Self {
        let mut shake = Shake256::new();
        shake.update(purpose);
        shake.update(&[scheme.as_byte()]);
        for part in parts {
            shake.update(part);
        }
        Self(shake.finish())
    }
}

impl RngCore for SeededRng {
    fn next_u32(&mut self) -> u32 {
        let mut bytes = [0; 4];
        self.0.read(&mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.0.read(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        self.0.read(dest);
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rand_core::Error> {
        self.0.read(dest);
        Ok(())
    }
}

impl CryptoRng for SeededRng {}

impl Drop for SeededRng {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
