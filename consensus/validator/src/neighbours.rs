//! Who may connect as a validator and whom this node dials, as the validator set changes.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::sync::Arc;

use falconet_dataplane::{ConnId, PeerTarget, StoqHandle};
use falconet_types::epoch::EpochInfo;
use falconet_types::{PublicKey, ValidatorIndex};

use crate::chain::Chain;
use crate::filter::Guard;
use crate::peers::Peers;
use crate::peers::standing::Standing;

/// The surroundings that follow the validator set.
pub struct Neighbours {
    /// The endpoint.
    pub stoq: StoqHandle,
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
    ///
    /// Of each pair of validators the one with the lower key id dials. Keys of earlier epochs stay
    /// trusted as far as they are remembered: their nodes serve what they know, and ask.
    pub fn follow(&self, chain: &Chain) -> Vec<(ValidatorIndex, ConnId)> {
        let info = chain.info();
        let known = chain.epochs.newest();
        let keys: Vec<&PublicKey> = known
            .iter()
            .flat_map(|info| info.members.iter().map(|member| &member.key))
            .collect();
        self.stoq.set_trusted(keys.iter().copied());
        self.standing.set_validators(&info.set);
        if let Some(guard) = &self.guard {
            guard.set_validators(self.homes(&info));
        }
        let present = self.peers.start_epoch(Arc::clone(&info.set), chain.me());
        self.dial(chain, &info);
        present
    }

    fn address(&self, name: &str, on_chain: Option<SocketAddrV6>) -> Option<SocketAddrV6> {
        self.addresses.get(name).copied().or(on_chain)
    }

    fn homes(&self, info: &EpochInfo) -> Vec<Ipv6Addr> {
        let members = info.members.iter();
        let homes = members.filter_map(|m| Some(*self.address(&m.name, m.address)?.ip()));
        homes.collect()
    }

    fn dial(&self, chain: &Chain, info: &EpochInfo) {
        let mine = chain.key.id();
        for member in &info.members {
            let id = member.key.id();
            // A follower dials all: nobody knows it.
            if id <= mine && !chain.is_follower() {
                continue;
            }
            let name = &member.name;
            let Some(addr) = self.address(name, member.address) else {
                tracing::warn!(
                    name,
                    "no address of this validator is known, neither from [peers] nor on chain"
                );
                continue;
            };
            let target = PeerTarget {
                addr,
                key: member.key.clone(),
                persistent: true,
            };
            if !self.peers.claim_dial(id) {
                continue;
            }
            if let Err(error) = self.stoq.connect(target) {
                self.peers.unclaim_dial(&id);
                tracing::warn!(name, %addr, %error, "cannot dial");
            }
        }
    }
}
