//! Who this endpoint is: the key that it proves, and the QUIC configurations that follow from it.
//! The key may change at run time without a connection lost.

use std::{collections::HashMap, sync::Arc};

use falconet_crypto::{
    falcon::{KeyPair, PublicKey},
    hash::Digest,
};
use quinn_proto::{ClientConfig, ServerConfig, TransportConfig, crypto::rustls::QuicClientConfig};

use super::{
    Endpoint,
    path::PathGuess,
    transport::{Side, transport_config},
};
use crate::{IoOptions, Limits, PathPolicy, Stats, StoqConfig, TrustedKeys, tls};

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
        Ok(Acceptor {
            key: identity.public().id(),
            server: Arc::new(ServerConfig::with_crypto(crypto)),
        })
    }

    /// How to dial with `identity`, or anonymously.
    pub(super) fn dialler(&self, identity: Option<Arc<KeyPair>>) -> Dialler {
        Dialler {
            identity,
            tls: self.tls.clone(),
            by_key: HashMap::new(),
        }
    }

    /// How to dial a target.
    pub(super) fn client(
        &self,
        crypto: Arc<QuicClientConfig>,
        as_validator: bool,
        guess: &PathGuess,
    ) -> ClientConfig {
        let side = if as_validator {
            Side::DiallingAsValidator
        } else {
            Side::DiallingAsClient
        };
        let mut config = ClientConfig::new(crypto);
        config.transport_config(self.transport(side, guess));
        config
    }

    /// How to accept a peer.
    pub(super) fn server(&self, acceptor: &Acceptor, guess: &PathGuess) -> Arc<ServerConfig> {
        let mut config = (*acceptor.server).clone();
        config.transport_config(self.transport(Side::Accepting, guess));
        Arc::new(config)
    }

    /// What paths are assumed and how they are treated.
    pub(super) fn policy(&self) -> PathPolicy {
        self.io.paths
    }

    fn transport(&self, side: Side, guess: &PathGuess) -> Arc<TransportConfig> {
        transport_config(&self.limits, &self.io, self.datagrams, side, guess)
    }
}

/// What is needed to accept.
#[derive(Clone)]
pub(super) struct Acceptor {
    /// Identifier of the key proved.
    pub(super) key: Digest,
    /// Without the parameters of the path, which follow from the peer's address.
    pub(super) server: Arc<ServerConfig>,
}

/// What is needed to dial.
#[derive(Clone)]
pub(super) struct Dialler {
    identity: Option<Arc<KeyPair>>,
    tls: tls::Shared,
    /// TLS configurations by the key that they pin. Each keeps the tickets for its server.
    by_key: HashMap<Digest, Arc<QuicClientConfig>>,
}

/// Servers whose tickets are kept; beyond that all are forgotten.
const SERVERS_MAX: usize = 1024;

impl Dialler {
    /// Identifier of the key that this side proves when it dials, if any.
    pub(super) fn key(&self) -> Option<Digest> {
        self.identity.as_ref().map(|pair| pair.public().id())
    }

    /// The TLS configuration for the owner of `key`.
    pub(super) fn crypto(
        &mut self,
        key: &PublicKey,
    ) -> Result<Arc<QuicClientConfig>, rustls::Error> {
        let id = key.id();
        if let Some(crypto) = self.by_key.get(&id) {
            return Ok(crypto.clone());
        }
        let crypto = Arc::new(tls::client_config_with(
            self.identity.as_ref(),
            key,
            &self.tls,
        )?);
        if self.by_key.len() >= SERVERS_MAX {
            self.by_key.clear();
        }
        self.by_key.insert(id, crypto.clone());
        Ok(crypto)
    }
}

impl Endpoint {
    /// Proves another key from now on. Connections keep the key that they began with.
    pub(super) fn set_identity(&mut self, identity: Arc<KeyPair>) -> Result<(), rustls::Error> {
        let acceptor = self.recipe.acceptor(&identity)?;
        self.quic.set_server_config(Some(acceptor.server.clone()));
        self.acceptor = Some(acceptor);
        self.dialler = self.recipe.dialler(Some(identity));
        for target in self.targets.values_mut() {
            target.crypto = self.dialler.crypto(&target.peer.key)?;
        }
        Ok(())
    }
}
