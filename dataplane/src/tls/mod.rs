//! TLS 1.3 for QUIC with post-quantum algorithms only: X25519MLKEM768 for the key exchange,
//! FALCON raw public keys (RFC 7250) for authentication, AES-GCM for the records.
//!
//! A server always proves its key, which the client has pinned. A client either proves a key of
//! the server's trusted set or stays anonymous; a key outside the set ends the handshake. Sessions
//! may be resumed under the rules that the module `sessions` states; there is no early data.

mod falcon;
mod key_log;
mod sessions;
mod spki;
mod trusted;
mod verify;

use std::{io, path::Path, sync::Arc};

use falconet_crypto::falcon::{KeyPair, PublicKey};
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::{
    KeyLog, NoKeyLog, SignatureScheme,
    client::{ResolvesClientCert, Resumption},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs},
    pki_types::CertificateDer,
    server::AlwaysResolvesServerRawPublicKeys,
    sign::CertifiedKey,
};

pub use self::{
    falcon::{scheme_code_point, scheme_of_code_point},
    trusted::TrustedKeys,
};
use self::{
    key_log::KeyLogFile,
    sessions::{Sessions, SessionsOf},
};
use crate::Stats;

/// Application protocol negotiated in TLS (RFC 7301).
pub const ALPN: &[u8] = b"stoq/1";

/// TLS alert that a refused key causes: access_denied (RFC 8446, section 6).
pub(crate) const ALERT_ACCESS_DENIED: u8 = 49;

/// Server name in the client's configuration. It is never sent (no SNI) and never checked (the
/// key is pinned), but quinn-proto wants one.
pub(crate) const SERVER_NAME: &str = "stoq";

/// Sessions for one server that a client keeps; each connection brings a new one.
const CLIENT_SESSIONS: usize = 8;

/// What the TLS configurations of one endpoint share.
#[derive(Clone, Default)]
pub(crate) struct Shared {
    sessions: Sessions,
    key_log: Option<Arc<KeyLogFile>>,
}

impl Shared {
    pub(crate) fn danger_log_keys_to(&mut self, path: &Path) -> io::Result<()> {
        self.key_log = Some(Arc::new(KeyLogFile::open(path)?));
        tracing::warn!(path = %path.display(), "DANGER: the keys of all connections are written to a file");
        Ok(())
    }

    fn key_log(&self) -> Arc<dyn KeyLog> {
        match &self.key_log {
            Some(file) => file.clone(),
            None => Arc::new(NoKeyLog {}),
        }
    }
}

/// TLS configuration of the accepting side; also for other QUIC implementations that are to
/// speak with STOQ.
pub fn server_config(
    identity: &Arc<KeyPair>,
    trusted: &TrustedKeys,
) -> Result<QuicServerConfig, rustls::Error> {
    server_config_with(identity, trusted, &Shared::default(), None)
}

/// As [`server_config`], with what the endpoint shares; `stats` counts resumed sessions.
pub(crate) fn server_config_with(
    identity: &Arc<KeyPair>,
    trusted: &TrustedKeys,
    shared: &Shared,
    stats: Option<Arc<Stats>>,
) -> Result<QuicServerConfig, rustls::Error> {
    QuicServerConfig::try_from(server_tls(identity, trusted, shared, stats)?)
        .map_err(no_initial_suite)
}

/// [`server_config`] before it is made one for QUIC: for other transports over the same TLS.
pub fn rustls_server_config(
    identity: &Arc<KeyPair>,
    trusted: &TrustedKeys,
) -> Result<rustls::ServerConfig, rustls::Error> {
    server_tls(identity, trusted, &Shared::default(), None)
}

fn server_tls(
    identity: &Arc<KeyPair>,
    trusted: &TrustedKeys,
    shared: &Shared,
    stats: Option<Arc<Stats>>,
) -> Result<rustls::ServerConfig, rustls::Error> {
    let key = Arc::new(certified_key(identity));
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(verify::TrustedClients::new(trusted.clone())))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(key)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.key_log = shared.key_log();
    config.send_tls13_tickets = 1;
    let id = identity.public().id();
    config.session_storage = Arc::new(SessionsOf::new(shared.sessions.clone(), id, stats));
    assert_eq!(
        config.max_early_data_size, 0,
        "early data could be replayed"
    );
    Ok(config)
}

/// TLS configuration for dialling the owner of `server`, with `identity` or anonymously; also for
/// other QUIC implementations that are to speak with STOQ. Sessions are resumed among the
/// connections made with the same value, so with the same pinned key.
pub fn client_config(
    identity: Option<&Arc<KeyPair>>,
    server: &PublicKey,
) -> Result<QuicClientConfig, rustls::Error> {
    client_config_with(identity, server, &Shared::default())
}

/// As [`client_config`], with what the endpoint shares.
pub(crate) fn client_config_with(
    identity: Option<&Arc<KeyPair>>,
    server: &PublicKey,
    shared: &Shared,
) -> Result<QuicClientConfig, rustls::Error> {
    QuicClientConfig::try_from(client_tls(identity, server, shared)?).map_err(no_initial_suite)
}

/// [`client_config`] before it is made one for QUIC: for other transports over the same TLS.
pub fn rustls_client_config(
    identity: Option<&Arc<KeyPair>>,
    server: &PublicKey,
) -> Result<rustls::ClientConfig, rustls::Error> {
    client_tls(identity, server, &Shared::default())
}

fn client_tls(
    identity: Option<&Arc<KeyPair>>,
    server: &PublicKey,
    shared: &Shared,
) -> Result<rustls::ClientConfig, rustls::Error> {
    let resolver = ClientKey(identity.map(|pair| Arc::new(certified_key(pair))));
    let mut config = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verify::PinnedServer::new(server)))
        .with_client_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false;
    config.key_log = shared.key_log();
    config.resumption = Resumption::in_memory_sessions(CLIENT_SESSIONS);
    assert!(!config.enable_early_data, "early data could be replayed");
    Ok(config)
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
