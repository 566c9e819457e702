//! Who this endpoint is: the key that it proves, and the QUIC configurations that follow from it.
//! The key may change at run time without a connection lost.

use std::{collections::HashMap, sync::Arc};

use falconet_crypto::{
    falcon::{KeyPair, PublicKey},
    hash::Digest,
};
use quinn_proto::{ClientConfig, ServerConfig, TransportConfig};

use super::{
    Endpoint,
    transport::{Side, transport_config},
};
use crate::{IoOptions, Limits, Stats, StoqConfig, TrustedKeys, tls};

/// What all QUIC configurations of an endpoint have in common.
#[derive(Clone)]
pub(super) struct Recipe {
    limits: Limits,
    io: IoOptions,
    datagrams: bool,
    trusted: TrustedKeys,
    tls: tls::Shared,
    stats: Arc<Stats>,
}

impl Recipe {
    pub(super) fn new(config: &StoqConfig, stats: Arc<Stats>) -> Self {
        Recipe {
            limits: config.limits.clone(),
            io: config.io,
            datagrams: config.datagrams,
            trusted: config.trusted.clone(),
            tls: config.tls.clone(),
            stats,
        }
    }

    /// How to accept as the owner of `identity`.
    pub(super) fn acceptor(&self, identity: &Arc<KeyPair>) -> Result<Acceptor, rustls::Error> {
        let stats = Some(self.stats.clone());
        let crypto = tls::server_config_with(identity, &self.trusted, &self.tls, stats)?;
        let crypto = Arc::new(crypto);
        let server = |near| {
            let mut server = ServerConfig::with_crypto(crypto.clone());
            server.transport_config(self.transport(Side::Accepting, near));
            Arc::new(server)
        };
        Ok(Acceptor {
            key: identity.public().id(),
            near: server(true),
            far: server(false),
        })
    }

    /// How to dial with `identity`, or anonymously.
    pub(super) fn dialler(&self, identity: Option<Arc<KeyPair>>) -> Dialler {
        let side = if identity.is_some() {
            Side::DiallingAsValidator
        } else {
            Side::DiallingAsClient
        };
        Dialler {
            identity,
            near: self.transport(side, true),
            far: self.transport(side, false),
            tls: self.tls.clone(),
            by_key: HashMap::new(),
        }
    }

    fn transport(&self, side: Side, near: bool) -> Arc<TransportConfig> {
        transport_config(&self.limits, &self.io, self.datagrams, side, near)
    }
}

/// Configurations for peers on this machine and elsewhere; they differ in the largest datagram.
#[derive(Clone)]
pub(super) struct Acceptor {
    /// Identifier of the key proved.
    pub(super) key: Digest,
    pub(super) near: Arc<ServerConfig>,
    pub(super) far: Arc<ServerConfig>,
}

/// What is needed to dial.
#[derive(Clone)]
pub(super) struct Dialler {
    identity: Option<Arc<KeyPair>>,
    near: Arc<TransportConfig>,
    far: Arc<TransportConfig>,
    tls: tls::Shared,
    /// TLS configurations by the key that they pin. Each keeps the tickets for its server.
    by_key: HashMap<Digest, Arc<quinn_proto::crypto::rustls::QuicClientConfig>>,
}

/// Servers whose tickets are kept; beyond that all are forgotten.
const SERVERS_MAX: usize = 1024;

impl Dialler {
    /// Whether this side proves a key when it dials.
    pub(super) fn has_identity(&self) -> bool {
        self.identity.is_some()
    }

    /// How to dial the owner of `key`, on this machine (`near`) or elsewhere.
    pub(super) fn config(
        &mut self,
        key: &PublicKey,
        near: bool,
    ) -> Result<ClientConfig, rustls::Error> {
        let id = key.id();
        let crypto = match self.by_key.get(&id) {
            Some(crypto) => crypto.clone(),
            None => {
                let crypto = tls::client_config_with(self.identity.as_ref(), key, &self.tls)?;
                if self.by_key.len() >= SERVERS_MAX {
                    self.by_key.clear();
                }
                self.by_key.entry(id).or_insert(Arc::new(crypto)).clone()
            }
        };
        let mut config = ClientConfig::new(crypto);
        let transport = if near { &self.near } else { &self.far };
        config.transport_config(transport.clone());
        Ok(config)
    }
}

impl Endpoint {
    /// Proves another key from now on. Connections keep the key that they began with.
    pub(super) fn set_identity(&mut self, identity: Arc<KeyPair>) -> Result<(), rustls::Error> {
        let acceptor = self.recipe.acceptor(&identity)?;
        self.quic.set_server_config(Some(acceptor.far.clone()));
        self.acceptor = Some(acceptor);
        self.dialler = self.recipe.dialler(Some(identity));
        for target in self.targets.values_mut() {
            let near = super::transport::is_loopback(target.peer.addr.ip());
            target.config = self.dialler.config(&target.peer.key, near)?;
        }
        Ok(())
    }
}
