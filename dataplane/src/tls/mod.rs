//! TLS 1.3 for QUIC with post-quantum algorithms only: X25519MLKEM768 for the key exchange,
//! FALCON raw public keys (RFC 7250) for authentication, AES-GCM for the records.
//!
//! A server always proves its key, which the client has pinned. A client either proves a key of
//! the server's trusted set or stays anonymous; a key outside the set ends the handshake. Session
//! resumption is off: a resumed session would skip the check against the trusted set.

mod falcon;
mod spki;
mod trusted;
mod verify;

use std::sync::Arc;

use falconet_crypto::falcon::{KeyPair, PublicKey};
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs},
    pki_types::CertificateDer,
    server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage},
    sign::CertifiedKey,
};

pub use self::{
    falcon::{scheme_code_point, scheme_of_code_point},
    trusted::TrustedKeys,
};

/// Application protocol negotiated in TLS (RFC 7301).
pub const ALPN: &[u8] = b"stoq/1";

/// TLS alert that a refused key causes: access_denied (RFC 8446, section 6).
pub(crate) const ALERT_ACCESS_DENIED: u8 = 49;

/// Server name in the client's configuration. It is never sent (no SNI) and never checked (the
/// key is pinned), but quinn-proto wants one.
pub(crate) const SERVER_NAME: &str = "stoq";

/// TLS configuration of the accepting side; also for other QUIC implementations that are to
/// speak with STOQ.
pub fn server_config(
    identity: &Arc<KeyPair>,
    trusted: &TrustedKeys,
) -> Result<QuicServerConfig, rustls::Error> {
    let key = Arc::new(certified_key(identity));
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verify::TrustedClients::new(trusted.clone())))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(key)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    QuicServerConfig::try_from(config).map_err(no_initial_suite)
}

/// TLS configuration for dialling the owner of `server`, with `identity` or anonymously; also for
/// other QUIC implementations that are to speak with STOQ.
pub fn client_config(
    identity: Option<&Arc<KeyPair>>,
    server: &PublicKey,
) -> Result<QuicClientConfig, rustls::Error> {
    let resolver = ClientKey(identity.map(|pair| Arc::new(certified_key(pair))));
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verify::PinnedServer::new(server)))
        .with_client_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    QuicClientConfig::try_from(config).map_err(no_initial_suite)
}

/// The key that a peer proved, from what the TLS session says about it.
pub(crate) fn proved_key(identity: Option<Box<dyn std::any::Any>>) -> Option<PublicKey> {
    let chain = identity?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    spki::decode(chain.first()?)
}

fn no_initial_suite(error: quinn_proto::crypto::rustls::NoInitialCipherSuite) -> rustls::Error {
    rustls::Error::General(error.to_string())
}

/// aws-lc-rs reduced to what STOQ permits.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768];
    provider.cipher_suites = vec![
        aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
        aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
    ];
    // Nothing verifies X.509 here; an empty table makes sure that nothing can.
    provider.signature_verification_algorithms = WebPkiSupportedAlgorithms {
        all: &[],
        mapping: &[],
    };
    Arc::new(provider)
}

fn certified_key(identity: &Arc<KeyPair>) -> CertifiedKey {
    let spki = CertificateDer::from(spki::encode(identity.public()));
    CertifiedKey::new(
        vec![spki],
        Arc::new(falcon::FalconKey::new(identity.clone())),
    )
}

/// Offers the identity when there is one. An anonymous client announces raw public keys as well:
/// a server that asks for client keys refuses whoever does not.
#[derive(Debug)]
struct ClientKey(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for ClientKey {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0
            .as_ref()
            .filter(|key| key.key.choose_scheme(schemes).is_some())
            .cloned()
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}
