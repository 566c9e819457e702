//! Two connections between the same two keys: which one is kept.
//!
//! A newer connection that a key dialled replaces its older one: the peer has restarted, or the
//! older one is about to time out. When each side dialled the other, the connection dialled by the
//! side whose key identifier is lower is kept. Both sides know both identifiers, so both close the
//! same one, whichever of the two opened first. So that there are seldom two, the side with the higher
//! identifier lets the other dial first when it means to stay connected; it dials as well, later,
//! because the other may not know where it is.

use std::time::Instant;

use falconet_crypto::hash::{Digest, hash};

use super::{Endpoint, TimerKey, admission::Dialled, connection::Conn, sender::Failure};
use crate::{CloseCode, CloseReason, Event, PeerTarget, TargetId};

/// What the peer and the consumer are told of the connection that is not kept.
const NOT_KEPT: &str = "both sides dialled; the connection of the lower key is kept";

impl Endpoint {
    /// Registers a connection that is about to open, between the keys `peer` and `own`. An error
    /// when it is the one not kept; otherwise the ones that it replaces are closed.
    pub(super) fn bind(
        &mut self,
        now: Instant,
        conn: &mut Conn,
        peer: Digest,
        own: Digest,
    ) -> Result<(), Failure> {
        let pair = pair(peer, own);
        let dialled = Dialled::by_us(conn.initiator());
        let kept = Dialled::by_us(own < peer);
        let (twin, older) = {
            let mut admission = self.admission();
            let twin = admission.bound(pair, dialled.other());
            if twin.is_some() && dialled != kept {
                return Err((CloseCode::Superseded, NOT_KEPT.into()));
            }
            (twin, admission.bind_key(pair, dialled, conn.id))
        };
        conn.bound = Some(pair);
        if let Some(older) = older.filter(|_| dialled == Dialled::ByPeer) {
            let reason = "replaced by a newer connection";
            self.close(now, older, CloseCode::Superseded, reason);
        }
        if let Some(twin) = twin {
            self.close(now, twin, CloseCode::Superseded, NOT_KEPT);
        }
        Ok(())
    }

    /// Puts dialling a target off while a connection that its owner dialled is open and would be
    /// kept instead. Returns whether it did.
    pub(super) fn put_off(&mut self, now: Instant, id: TargetId) -> bool {
        let Some(own) = self.dialler.key() else {
            return false;
        };
        let Some(target) = self.targets.get(&id) else {
            return false;
        };
        let peer = target.peer.key.id();
        if own < peer
            || self
                .admission()
                .bound(pair(peer, own), Dialled::ByPeer)
                .is_none()
        {
            return false;
        }
        let target = self.targets.get_mut(&id).expect("looked at above");
        let is_news = !std::mem::replace(&mut target.is_put_off, true);
        let (addr, is_persistent) = (target.peer.addr, target.peer.persistent);
        let retry_in = is_persistent.then_some(self.core.limits.redial_delay_max);
        if is_persistent {
            self.dial_later(now, id);
        } else {
            self.targets.remove(&id);
        }
        if is_news {
            self.core.events.push_back(Event::DialFailed {
                target: id,
                addr,
                reason: CloseReason::Local {
                    code: CloseCode::Superseded,
                    reason: NOT_KEPT.into(),
                },
                retry_in,
            });
        }
        true
    }

    /// Whether the peer, should it dial as well, would make the connection that is kept.
    pub(super) fn peer_dials_first(&self, peer: &PeerTarget) -> bool {
        let own = self.dialler.key();
        peer.persistent && own.is_some_and(|own| own > peer.key.id())
    }

    /// Has a target dialled when the peer had time to.
    pub(super) fn dial_later(&mut self, now: Instant, id: TargetId) {
        let at = now + self.core.limits.redial_delay_max;
        let target = self.targets.get_mut(&id).expect("the caller has it");
        target.dial_at = Some(at);
        self.timers.insert((at, TimerKey::Target(id)));
    }
}

/// Names a pair of keys, as the table of connections knows it. A peer that connects to both keys of
/// a rotation keeps both connections.
fn pair(peer: Digest, own: Digest) -> Digest {
    hash("falconet stoq peer", &[peer.as_bytes(), own.as_bytes()])
}
