//! FALCON as a TLS signature scheme: code points and the signing side.
//!
//! Neither FALCON nor FN-DSA has assigned code points; these are the ones that the Open Quantum
//! Safe project uses for the padded form, so that its tools can name them.

use std::{fmt, sync::Arc};

use falconet_crypto::falcon::{KeyPair, Scheme};
use rustls::{
    SignatureAlgorithm, SignatureScheme,
    pki_types::SubjectPublicKeyInfoDer,
    sign::{Signer, SigningKey},
};

use super::spki;

/// TLS SignatureScheme of a FALCON parameter set: falconpadded512 or falconpadded1024.
pub const fn scheme_code_point(scheme: Scheme) -> u16 {
    match scheme {
        Scheme::Falcon512 => 0xfedc,
        Scheme::Falcon1024 => 0xfedf,
    }
}

/// The parameter set behind a TLS SignatureScheme.
pub const fn scheme_of_code_point(code_point: u16) -> Option<Scheme> {
    match code_point {
        0xfedc => Some(Scheme::Falcon512),
        0xfedf => Some(Scheme::Falcon1024),
        _ => None,
    }
}

pub(super) fn tls_scheme(scheme: Scheme) -> SignatureScheme {
    SignatureScheme::from(scheme_code_point(scheme))
}

/// A key pair that signs TLS transcripts.
#[derive(Clone)]
pub(super) struct FalconKey(Arc<KeyPair>);

impl FalconKey {
    pub(super) fn new(pair: Arc<KeyPair>) -> Self {
        FalconKey(pair)
    }
}

impl SigningKey for FalconKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&self.scheme())
            .then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(spki::encode(self.0.public()).into())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        // Only TLS 1.2 looks at it. By convention the low byte of the code point.
        SignatureAlgorithm::from(scheme_code_point(self.0.public().scheme()) as u8)
    }
}

impl Signer for FalconKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        Ok(self.0.sign(message).as_bytes().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        tls_scheme(self.0.public().scheme())
    }
}

impl fmt::Debug for FalconKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FalconKey({})", self.0.public().id())
    }
}
