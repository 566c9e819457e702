//! The validators, followed from epoch to epoch.
//!
//! With the genesis document it asks those it is connected to, in turn, for the proof that the
//! present epoch is over, verifies it with that epoch's validators, and turns to the members of the
//! next one. Nobody's word is taken for it. Those of the epoch before stay connected for one epoch:
//! something may still be heard of them.

use std::collections::HashMap;
use std::net::SocketAddrV6;
use std::time::{Duration, Instant};

use falconet_crypto::falcon::Verifier;
use falconet_types::epoch::{EpochProof, EpochTrail};
use falconet_types::genesis::Genesis;
use falconet_types::wire::Wire as _;
use falconet_types::{Digest, Epoch, PublicKey};

use crate::hub::deadline_after;
use crate::{ClientError, ClientEvent, Hub, Link};

/// Time between two questions whether the epoch is over.
const EPOCH_INTERVAL: Duration = Duration::from_secs(2);
/// The same while nobody is connected.
const EPOCH_RETRY: Duration = Duration::from_millis(200);

/// Whom a hub is connected to, and who they are.
#[derive(Debug)]
pub struct Members {
    /// The validators, in the order of the set.
    links: Vec<Link>,
    /// Those of the epoch before.
    former: Vec<Link>,
    /// Every validator that was dialled and not hung up, by the id of its key.
    dialled: HashMap<Digest, (SocketAddrV6, Link)>,
    /// As far as the epochs are known.
    trail: Option<EpochTrail>,
    /// Whom to ask next whether the epoch is over, and when.
    asks: usize,
    due: Instant,
}

/// What became of the members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Connections that are not used any more.
    pub gone: Vec<Link>,
}

impl Members {
    /// Dials these validators: those of genesis, or of a later epoch, in the order of the set.
    /// Without genesis they are the validators for ever.
    ///
    /// # Panics
    /// If there is no validator.
    pub fn dial(
        hub: &mut Hub,
        validators: &[(SocketAddrV6, PublicKey)],
        genesis: Option<&Genesis>,
    ) -> Result<Self, ClientError> {
        assert!(!validators.is_empty(), "at least one validator");
        let (mut links, mut dialled) = (Vec::new(), HashMap::new());
        for (addr, key) in validators {
            let link = hub.dial(*addr, key)?;
            dialled.insert(key.id(), (*addr, link));
            links.push(link);
        }
        let trail = genesis.map(EpochTrail::new).transpose();
        Ok(Self {
            links,
            former: Vec::new(),
            dialled,
            trail: trail.map_err(ClientError::Genesis)?,
            asks: 0,
            due: Instant::now(),
        })
    }

    /// The validators of the newest epoch, in the order of the set.
    #[must_use]
    pub fn links(&self) -> &[Link] {
        &self.links
    }

    /// The newest epoch whose validators are known; 0 without a genesis document.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        let newest = |trail: &EpochTrail| trail.newest().start.epoch;
        self.trail.as_ref().map_or(Epoch::ZERO, newest)
    }

    /// When to call [`Members::ask`] next.
    #[must_use]
    pub fn next_ask(&self) -> Instant {
        let never = || deadline_after(Duration::MAX);
        self.trail.as_ref().map_or_else(never, |_| self.due)
    }

    /// Asks one after the other of those who are connected whether the epoch is over, if it is time.
    pub fn ask(&mut self, hub: &Hub, now: Instant) {
        let Some(trail) = &self.trail else { return };
        if self.due > now {
            return;
        }
        self.due = now + EPOCH_INTERVAL;
        let epoch = trail.newest().start.epoch;
        let all: Vec<Link> = self.links.iter().chain(&self.former).copied().collect();
        let turn = (0..all.len()).map(|step| all[(self.asks + step) % all.len()]);
        if let Some(link) = turn.into_iter().find(|link| hub.is_connected(*link)) {
            // An error means that the connection is gone: another one is asked next time.
            let _ = hub.request_epoch_proof(link, epoch);
        } else {
            self.due = now + EPOCH_RETRY;
        }
        self.asks += 1;
    }

    /// Goes over to the next epoch if the event is a valid proof of it, and asks on.
    pub fn heard(
        &mut self,
        hub: &mut Hub,
        link: Link,
        event: &ClientEvent,
    ) -> Result<Option<Changed>, ClientError> {
        let (Some(trail), ClientEvent::EpochProof { epoch, proof }) = (&mut self.trail, event)
        else {
            return Ok(None);
        };
        if *epoch != trail.newest().start.epoch || proof.is_empty() {
            return Ok(None);
        }
        let proof = EpochProof::from_bytes(proof).map_err(|error| error.to_string());
        let followed = proof.and_then(|proof| {
            let next = trail.follow(&proof, &mut Verifier::new());
            next.map(drop).map_err(|error| error.to_string())
        });
        if let Err(error) = followed {
            tracing::warn!(%epoch, error, "a validator sent a proof of an epoch that is none");
            return Ok(None);
        }
        let changed = self.adopt(hub)?;
        let ending = self.epoch();
        // Whoever knew of this end may know of the next.
        let _ = hub.request_epoch_proof(link, ending);
        Ok(Some(changed))
    }

    /// Turns to the validators of the newest epoch.
    fn adopt(&mut self, hub: &mut Hub) -> Result<Changed, ClientError> {
        let trail = self.trail.as_ref().expect("it led here");
        let mut gone = Vec::new();
        let mut links = Vec::new();
        for member in &trail.newest().members {
            let known = self.dialled.get(&member.key.id()).copied();
            let addr = member.address.or_else(|| known.map(|(addr, _)| addr));
            // Nobody has said where it is.
            let Some(addr) = addr else { continue };
            links.push(match known {
                Some((old, link)) if old == addr => link,
                _ => {
                    let link = hub.dial(addr, &member.key)?;
                    self.dialled.insert(member.key.id(), (addr, link));
                    link
                }
            });
        }
        if links.is_empty() {
            return Ok(Changed { gone }); // those who are known have to do
        }
        let left = std::mem::replace(&mut self.links, links);
        let still = |link: &Link| !self.links.contains(link);
        let former: Vec<Link> = left.into_iter().filter(still).collect();
        for link in std::mem::replace(&mut self.former, former) {
            if !self.links.contains(&link) && !self.former.contains(&link) {
                hub.hang_up(link);
                self.dialled.retain(|_, (_, other)| *other != link);
                gone.push(link);
            }
        }
        tracing::info!(epoch = %self.epoch(), validators = self.links.len(), "an epoch begins");
        Ok(Changed { gone })
    }
}
