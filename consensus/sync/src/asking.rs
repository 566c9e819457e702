//! What peers are asked beside parts: what they have, and the manifest of the snapshot that is wanted
//! (rules Z3 and Z4).

use falconet_types::message::PeerMessage;
use falconet_types::snapshot::GetSnapshot;
use falconet_types::time::Now;
use falconet_types::{Height, ValidatorIndex};

use crate::download::{Download, Effect, Peer};
use crate::limits::{ANSWER_TIMEOUT_US, ASK_AFTER_US, ASK_INTERVAL_US, DOUBTED_US, PATIENCE_US};

impl Download {
    /// Asks peers what they have, and those who have the snapshot that is wanted for its manifest.
    pub(crate) fn ask(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.deadline_us = None;
        if self.target.as_ref().is_some_and(|target| target.complete) {
            return;
        }
        let due_us = match (&self.target, self.stuck_since_us) {
            (Some(_), _) => now.mono_us,
            (None, Some(since_us)) => since_us.saturating_add(ASK_AFTER_US),
            (None, None) => return,
        };
        if due_us > now.mono_us {
            self.note_deadline(due_us);
            return;
        }
        self.doubt(now, out);
        let manifest = self.manifest_due(now);
        let me = self.config.me;
        for index in 0..self.peers.len() {
            let to = ValidatorIndex(u16::try_from(index).expect("VALIDATORS_MAX fits u16"));
            let peer = &mut self.peers[index];
            if !peer.up || to == me {
                continue;
            }
            let manifest_of = manifest.filter(|(from, _)| *from == to);
            let due_us = peer.asked_us.map_or(0, |at| at + ASK_INTERVAL_US);
            if due_us > now.mono_us && manifest_of.is_none() {
                self.note_deadline(due_us);
                continue;
            }
            peer.asked_us = Some(now.mono_us);
            let height = match manifest_of {
                Some((_, height)) => {
                    self.manifests.sent(to, height, now.mono_us);
                    height
                }
                None => {
                    peer.awaited_us = Some(now.mono_us);
                    Height::ZERO
                }
            };
            self.note_deadline(now.mono_us + ASK_INTERVAL_US);
            let message = PeerMessage::GetSnapshot(GetSnapshot { height });
            out.push(Effect::Send { to, message });
        }
        if manifest.is_some() {
            // Notes when the next peer is asked, should this one not answer.
            let next = self.manifest_due(now);
            assert!(next.is_none(), "one was asked now");
        }
        let (_, late_us) = self.manifests.late(now.mono_us, ANSWER_TIMEOUT_US);
        if let Some(late_us) = late_us {
            self.note_deadline(late_us);
        }
        if let Some(since_us) = self.stuck_since_us {
            let patience_us = since_us.saturating_add(PATIENCE_US);
            if patience_us > now.mono_us {
                self.note_deadline(patience_us);
            }
        }
    }

    /// Rule Z4: gives up a snapshot that nobody offers any more once somebody offers another, and one
    /// that only few offer, who need not be correct, while another is offered by weight F1.
    fn doubt(&mut self, now: Now, out: &mut Vec<Effect>) {
        let Some(height) = self.target.as_ref().map(|target| target.height) else {
            return;
        };
        let Some(best) = self.best_height(|_| true) else {
            return;
        };
        let weak = self.config.set.weak_weight();
        let weight = self.offered_by(height);
        let doubted = best != height && weight < weak && self.offered_by(best) >= weak;
        let target = self.target.as_mut().expect("looked at above");
        if !doubted {
            target.doubted_since_us = None;
        } else {
            let since_us = *target.doubted_since_us.get_or_insert(now.mono_us);
            let until_us = since_us.saturating_add(DOUBTED_US);
            if until_us <= now.mono_us {
                return self.abandon(out);
            }
            self.note_deadline(until_us);
        }
        if weight == 0 {
            self.abandon(out);
        }
    }

    /// Weight of the peers who offer the snapshot of a height.
    fn offered_by(&self, height: Height) -> u64 {
        let members = self.config.set.iter().map(|v| v.index);
        let set = &self.config.set;
        set.weight_of(members.filter(|peer| self.has(*peer, height)))
    }

    /// Who is asked for a manifest now, and for which; otherwise notes when somebody will be.
    fn manifest_due(&mut self, now: Now) -> Option<(ValidatorIndex, Height)> {
        if self.target.is_some() || !self.is_needed(now) {
            return None;
        }
        let usable = |peer: &Peer| peer.shunned_until_us <= now.mono_us;
        let height = self.best_height(usable)?;
        let members = self.config.set.iter().map(|v| v.index);
        let free = members.filter(|peer| {
            *peer != self.config.me
                && self.has(*peer, height)
                && usable(&self.peers[peer.at()])
                && !self.manifests.is_asked(*peer)
        });
        let peer = free.min_by_key(|peer| self.peers[peer.at()].silences)?;
        let due_us = self.manifests.next_us(height)?;
        if due_us > now.mono_us {
            self.note_deadline(due_us);
            return None;
        }
        Some((peer, height))
    }

    /// Rule Z4: the snapshot that most peers have, of those who are `usable`; the newest among
    /// those.
    fn best_height(&self, usable: impl Fn(&Peer) -> bool) -> Option<Height> {
        let offers = self.peers.iter().filter(|peer| peer.up && !peer.demoted);
        let offers = offers.filter(|peer| usable(peer));
        let offers = offers.filter_map(|peer| peer.offer.as_ref());
        let mut heights: Vec<Height> = offers.flat_map(|o| o.heights.iter().copied()).collect();
        heights.retain(|height| *height > self.executed);
        heights.sort_unstable();
        let runs = heights.chunk_by(|a, b| a == b);
        runs.max_by_key(|run| (run.len(), run[0])).map(|run| run[0])
    }

    pub(crate) fn has(&self, peer: ValidatorIndex, height: Height) -> bool {
        let Some(state) = self.peers.get(peer.at()) else {
            return false;
        };
        let offer = state.offer.as_ref();
        state.up && !state.demoted && offer.is_some_and(|offer| offer.heights.contains(&height))
    }
}
