//! Who may connect as a validator and whom this node dials, as the validator set changes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::Arc;

use falconet_dataplane::{ConnId, PeerTarget, StoqHandle, TargetId};
use falconet_types::epoch::EpochInfo;
use falconet_types::{Digest, KeyPair, PublicKey, ValidatorIndex};

use crate::chain::Chain;
use crate::filter::Guard;
use crate::peers::Peers;
use crate::peers::standing::Standing;

/// The surroundings that follow the validator set.
pub struct Neighbours {
    /// The endpoint.
    pub stoq: StoqHandle,
    /// This node's key, to be shown once it is a validator's.
    pub key: Arc<KeyPair>,
    /// The table of connections.
    pub peers: Arc<Peers>,
    /// How validators stand.
    pub standing: Arc<Standing>,
    /// The filter before the network stack, if there is one.
    pub guard: Option<Arc<Guard>>,
    /// Addresses from the configuration, by validators' names; they go before those on chain.
    pub addresses: BTreeMap<String, SocketAddrV6>,
}

impl Neighbours {
    /// Goes over to the current epoch: who is trusted, dialled, allowed. Returns who is connected,
    /// with the indices of this epoch.
    pub fn follow(&self, chain: &Chain) -> Vec<(ValidatorIndex, ConnId)> {
        let info = chain.info();
        self.standing.set_validators(&info.set);
        if chain.me() != ValidatorIndex::NOBODY && chain.show_key() {
            self.show_key();
        }
        let present = self.peers.start_epoch(Arc::clone(&info.set), chain.me());
        self.reach(chain);
        present
    }

    /// Trusts and dials the validators of the current epoch, and of the newest that is known: a
    /// node that fell behind finds there what those of its own epoch may not have any more.
    ///
    /// Everybody dials all, because not everybody may know where everybody is: a validator whose key was
    /// rotated to another machine finds those who look for it at the old one. Of two connections
    /// between the same the transport keeps one, and seldom makes two. Keys of earlier epochs stay
    /// trusted as far as they are remembered: their nodes serve what they know, and ask.
    pub fn reach(&self, chain: &Chain) {
        let known = chain.epochs.newest();
        let current = chain.info();
        let infos = || known.iter().chain([&current]);
        let keys: Vec<&PublicKey> = infos()
            .flat_map(|info| info.members.iter().map(|member| &member.key))
            .collect();
        self.stoq.set_trusted(keys.iter().copied());
        let newest = chain.epochs.newest_known();
        if let Some(guard) = &self.guard {
            guard.set_validators([self.homes(&current), self.homes(&newest)].concat());
        }
        let mut dialled = self.peers.dialled();
        let remembered: HashSet<Digest> = keys.iter().map(|key| key.id()).collect();
        dialled.retain(|id, (_, target)| {
            let keep = remembered.contains(id);
            if !keep {
                // An error means that the endpoint has stopped.
                let _ = self.stoq.disconnect(*target);
            }
            keep
        });
        self.dial(chain, &current, &mut dialled);
        if newest.start.epoch > current.start.epoch {
            self.dial(chain, &newest, &mut dialled);
        }
    }

    /// This node proves its key from now on. Connections are made anew: those that stand were made
    /// by nobody.
    fn show_key(&self) {
        tracing::info!("the key is a validator's now: connections are made anew to prove it");
        if let Err(error) = self.stoq.set_identity(Arc::clone(&self.key)) {
            tracing::error!(%error, "the key cannot be proven before the next start");
            return;
        }
        for (_, (_, target)) in self.peers.dialled().drain() {
            let _ = self.stoq.disconnect(target);
        }
    }

    fn address(&self, name: &str, on_chain: Option<SocketAddrV6>) -> Option<SocketAddrV6> {
        self.addresses.get(name).copied().or(on_chain)
    }

    fn homes(&self, info: &EpochInfo) -> Vec<Ipv6Addr> {
        let members = info.members.iter();
        let homes = members.filter_map(|m| Some(*self.address(&m.name, m.address)?.ip()));
        homes.collect()
    }

    fn dial(
        &self,
        chain: &Chain,
        info: &EpochInfo,
        dialled: &mut HashMap<Digest, (SocketAddrV6, TargetId)>,
    ) {
        for member in info.members.iter().filter(|m| m.key != chain.key) {
            let id = member.key.id();
            let name = &member.name;
            let Some(addr) = self.address(name, member.address) else {
                tracing::warn!(
                    name,
                    "no address of this validator is known, neither from [peers] nor on chain"
                );
                continue;
            };
            match dialled.get(&id) {
                Some((old, _)) if *old == addr => continue,
                Some((_, target)) => {
                    let _ = self.stoq.disconnect(*target);
                    dialled.remove(&id);
                }
                None => {}
            }
            let target = PeerTarget {
                addr,
                key: member.key.clone(),
                persistent: true,
            };
            match self.stoq.connect(target) {
                Ok(target) => drop(dialled.insert(id, (addr, target))),
                Err(error) => tracing::warn!(name, %addr, %error, "cannot dial"),
            }
        }
    }
}
