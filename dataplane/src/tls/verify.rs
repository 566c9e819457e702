//! The two checks of a peer's raw public key: a client against its pin, a server against the
//! trusted set. Both then verify the signature over the handshake transcript strictly.

use std::sync::Arc;

use falconet_crypto::falcon::{PreparedKey, PublicKey, Scheme, verify};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::{TrustedKeys, falcon::tls_scheme, spki};

/// Accepts exactly one server key.
#[derive(Debug)]
pub(super) struct PinnedServer {
    spki: Vec<u8>,
    scheme: Scheme,
    key: PreparedKeyDebug,
}

impl PinnedServer {
    pub(super) fn new(key: &PublicKey) -> Self {
        PinnedServer {
            spki: spki::encode(key),
            scheme: key.scheme(),
            key: PreparedKeyDebug(PreparedKey::from_public(key)),
        }
    }
}

impl ServerCertVerifier for PinnedServer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if end_entity.as_ref() == self.spki && intermediates.is_empty() {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(refused())
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        end_entity: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // rustls calls this after verify_server_cert; a mismatch here is its error, not a peer's.
        assert_eq!(end_entity.as_ref(), self.spki, "verified another key");
        check_signature(&self.key.0, self.scheme, message, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![tls_scheme(self.scheme)]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Accepts clients without a key and clients with a trusted one.
#[derive(Debug)]
pub(super) struct TrustedClients {
    trusted: TrustedKeys,
}

impl TrustedClients {
    pub(super) fn new(trusted: TrustedKeys) -> Self {
        TrustedClients { trusted }
    }

    fn find(&self, end_entity: &CertificateDer<'_>) -> Option<(Scheme, Arc<PreparedKey>)> {
        let key = spki::decode(end_entity)?;
        Some((key.scheme(), self.trusted.prepared(&key.id())?))
    }
}

impl ClientCertVerifier for TrustedClients {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if intermediates.is_empty() && self.find(end_entity).is_some() {
            Ok(ClientCertVerified::assertion())
        } else {
            Err(refused())
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        end_entity: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // The set may have changed since verify_client_cert.
        let (scheme, key) = self.find(end_entity).ok_or_else(refused)?;
        check_signature(&key, scheme, message, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            tls_scheme(Scheme::Falcon1024),
            tls_scheme(Scheme::Falcon512),
        ]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

fn check_signature(
    key: &PreparedKey,
    scheme: Scheme,
    message: &[u8],
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    if signed.scheme == tls_scheme(scheme) && verify(key, message, signed.signature()) {
        Ok(HandshakeSignatureValid::assertion())
    } else {
        Err(CertificateError::BadSignature.into())
    }
}

/// Becomes the TLS alert access_denied.
fn refused() -> Error {
    CertificateError::ApplicationVerificationFailure.into()
}

/// rustls wants verifiers to be `Debug`; a key in NTT form says nothing to a reader.
struct PreparedKeyDebug(PreparedKey);

impl std::fmt::Debug for PreparedKeyDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PreparedKey")
    }
}
