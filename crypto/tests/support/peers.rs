//! The peers in benchmarks: how their users would verify a batch.

use super::bytes;
use fastrand::Rng;
use std::cell::RefCell;

use falconet_crypto::falcon::{Backend, Bitmap, Job, Key, PreparedKey, Verifier};
use falconet_crypto::{KeyPair, Scheme};
use pqcrypto_traits::sign::{DetachedSignature as _, PublicKey as _};

/// Keys among which signatures are spread.
const KEYS: usize = 32;

/// Signed messages of one scheme, in the form that each implementation wants.
pub struct Workload {
    pub scheme: Scheme,
    pub messages: Vec<Vec<u8>>,
    /// Round-3 padded signatures.
    pub signatures: Vec<Vec<u8>>,
    pub public_keys: Vec<Vec<u8>>,
    /// Decoded keys; signature i belongs to key i % KEYS.
    prepared: Vec<PreparedKey>,
    /// fn-dsa 0.4 has a wire format of its own, so its keys and signatures differ.
    fn_dsa_keys: Vec<fn_dsa_04::VerifyingKeyStandard>,
    fn_dsa_signatures: Vec<Vec<u8>>,
}

impl Workload {
    pub fn new(scheme: Scheme, count: usize, message_len: usize) -> Self {
        use fn_dsa_04::{KeyPairGenerator as _, SigningKey as _, VerifyingKey as _};
        let mut random = Rng::with_seed(scheme.degree() as u64);
        let pairs: Vec<KeyPair> = (0..KEYS)
            .map(|at| KeyPair::from_seed(scheme, &[at as u8 + 1; 32]))
            .collect();
        // fn-dsa 0.4 encodes secret keys in another way than 0.3, so it has keys of its own.
        let log_degree = scheme.degree().trailing_zeros();
        let mut theirs: Vec<_> = (0..KEYS)
            .map(|_| {
                let mut secret = vec![0; fn_dsa_04::sign_key_size(log_degree)];
                let mut public = vec![0; fn_dsa_04::vrfy_key_size(log_degree)];
                fn_dsa_04::KeyPairGeneratorStandard::default().keygen(
                    log_degree,
                    &mut rand_core::OsRng,
                    &mut secret,
                    &mut public,
                );
                let signer = fn_dsa_04::SigningKeyStandard::decode(&secret).expect("a key");
                let key = fn_dsa_04::VerifyingKeyStandard::decode(&public).expect("a key");
                (signer, key)
            })
            .collect();
        let mut workload = Self {
            scheme,
            messages: vec![],
            signatures: vec![],
            public_keys: vec![],
            prepared: vec![],
            fn_dsa_keys: vec![],
            fn_dsa_signatures: vec![],
        };
        for at in 0..count {
            let pair = &pairs[at % KEYS];
            let message = bytes(&mut random, message_len);
            let signature = pair.sign(&message).as_bytes().to_vec();
            let mut other = vec![0; signature.len()];
            let (signer, key) = &mut theirs[at % KEYS];
            signer
                .sign(
                    &mut rand_core::OsRng,
                    &fn_dsa_04::DOMAIN_NONE,
                    &fn_dsa_04::HASH_ID_RAW,
                    &message,
                    &mut other,
                )
                .expect("signed");
            workload.messages.push(message);
            workload.signatures.push(signature);
            workload.fn_dsa_signatures.push(other);
            workload.public_keys.push(pair.public().as_bytes().to_vec());
            workload
                .prepared
                .push(PreparedKey::from_public(pair.public()));
            workload.fn_dsa_keys.push(*key);
        }
        workload
    }

    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Our jobs, with prepared or encoded keys.
    pub fn jobs(&self, prepared: bool) -> Vec<Job<'_>> {
        (0..self.len())
            .map(|at| Job {
                key: if prepared {
                    Key::Prepared(&self.prepared[at % KEYS])
                } else {
                    Key::Encoded {
                        scheme: self.scheme,
                        bytes: &self.public_keys[at],
                    }
                },
                message: &self.messages[at],
                signature: &self.signatures[at],
            })
            .collect()
    }

    /// fn-dsa 0.4 with decoded keys.
    pub fn fn_dsa(&self, range: std::ops::Range<usize>) {
        use fn_dsa_04::VerifyingKey as _;
        for at in range {
            assert!(self.fn_dsa_keys[at % KEYS].verify(
                &self.fn_dsa_signatures[at],
                &fn_dsa_04::DOMAIN_NONE,
                &fn_dsa_04::HASH_ID_RAW,
                &self.messages[at],
            ));
        }
    }

    /// pqcrypto-falcon, which decodes the key each time.
    pub fn pqcrypto(&self, range: std::ops::Range<usize>) {
        macro_rules! verify {
            ($module:ident) => {{
                use pqcrypto_falcon::$module::*;
                for at in range {
                    let key = PublicKey::from_bytes(&self.public_keys[at]).expect("a key");
                    let signature =
                        DetachedSignature::from_bytes(&self.signatures[at]).expect("a signature");
                    verify_detached_signature(&signature, &self.messages[at], &key).expect("valid");
                }
            }};
        }
        match self.scheme {
            Scheme::Falcon512 => verify!(falconpadded512),
            Scheme::Falcon1024 => verify!(falconpadded1024),
        }
    }
}

/// Our verifier on a slice of jobs, all of which must be valid.
pub struct Ours(RefCell<(Verifier, Bitmap)>);

impl Ours {
    pub fn new(backend: Backend) -> Self {
        Self(RefCell::new((
            Verifier::with_backend(backend),
            Bitmap::new(),
        )))
    }

    pub fn verify(&self, jobs: &[Job<'_>]) {
        let (verifier, valid) = &mut *self.0.borrow_mut();
        verifier.verify_batch(jobs, valid);
        assert!(valid.all());
    }
}
