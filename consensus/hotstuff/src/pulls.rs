//! Certificates that this node has heard of and asks its peers for (certificate elision, rules
//! P4 and Y1). Bounded per peer; a wish is dropped after a few attempts and returns with the next
//! message that names the certificate.
//!
//! Whoever named a certificate holds it, or lied. One peer is asked first, then two, four and eight
//! more, so that those who do not answer cost little time however many they are; and a holder that
//! kept back what it named is asked after the others the next time.

use std::collections::BTreeMap;

use falconet_types::ValidatorIndex;
use falconet_types::message::CertRef;

use crate::limits::{PULL_ASKED_AT_ONCE_MAX, PULL_ATTEMPTS_MAX, PULLS_PER_PEER_MAX};

#[derive(Debug, Clone)]
struct Holder {
    index: ValidatorIndex,
    /// It named the certificate itself.
    named: bool,
    /// Requests that it was sent.
    asked: u32,
    /// It was said to have kept it back.
    blamed: bool,
}

#[derive(Debug, Clone)]
struct Pull {
    /// Who made the node want it; counts against that peer's share.
    because_of: ValidatorIndex,
    /// At most one a validator.
    holders: Vec<Holder>,
    /// Times that somebody was asked.
    attempts: u32,
    due_us: u64,
}

impl Pull {
    /// Adds who holds it, or may; true when it is news that it does, and it was not asked yet.
    fn add(&mut self, index: ValidatorIndex, named: bool) -> bool {
        if let Some(holder) = self.holders.iter_mut().find(|h| h.index == index) {
            let news = named && !holder.named && holder.asked == 0;
            holder.named |= named;
            return news;
        }
        self.holders.push(Holder {
            index,
            named,
            asked: 0,
            blamed: false,
        });
        named
    }
}

/// Who is asked, and who did not answer what it was asked before.
#[derive(Debug, Default)]
pub(crate) struct Due {
    pub requests: Vec<(ValidatorIndex, CertRef)>,
    /// They named a certificate and did not hand it over in time.
    pub kept_back: Vec<ValidatorIndex>,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pulls {
    wanted: BTreeMap<CertRef, Pull>,
}

impl Pulls {
    /// Wants a certificate that `because_of` has named, first asked for at `due_us`; `others` are
    /// asked after it. False when that peer's share is used up.
    pub(crate) fn want(
        &mut self,
        cert: CertRef,
        because_of: ValidatorIndex,
        others: impl IntoIterator<Item = ValidatorIndex>,
        due_us: u64,
    ) -> bool {
        if !self.wanted.contains_key(&cert) {
            let theirs = self.wanted.values();
            let share = theirs.filter(|pull| pull.because_of == because_of).count();
            if share >= PULLS_PER_PEER_MAX {
                return false;
            }
        }
        let pull = self.wanted.entry(cert).or_insert_with(|| Pull {
            because_of,
            holders: Vec::new(),
            attempts: 0,
            due_us,
        });
        // A holder that nobody knew of need not wait until those who were asked had their time.
        // Each validator does this once.
        if pull.add(because_of, true) || pull.attempts == 0 {
            pull.due_us = pull.due_us.min(due_us);
        }
        for other in others {
            pull.add(other, false);
        }
        true
    }

    /// Drops what is no longer useful.
    pub(crate) fn retain(&mut self, useful: impl Fn(&CertRef) -> bool) {
        self.wanted.retain(|cert, _| useful(cert));
    }

    /// True when `peer` was asked for something that satisfies `answers`.
    pub(crate) fn asked(&self, peer: ValidatorIndex, answers: impl Fn(&CertRef) -> bool) -> bool {
        let mut answered = self.wanted.iter().filter(|(cert, _)| answers(cert));
        answered.any(|(_, pull)| {
            let mut asked = pull.holders.iter().filter(|holder| holder.asked > 0);
            asked.any(|holder| holder.index == peer)
        })
    }

    /// The requests that are due now. `kept_back` tells how often a peer did not hand over what it
    /// held, of late; nothing is asked of who is not `up`. The second wait is twice `retry_us`,
    /// and so are those after it until everybody was asked; then they double, up to `retry_us_max`.
    pub(crate) fn due(
        &mut self,
        now_us: u64,
        (retry_us, retry_us_max): (u64, u64),
        up: impl Fn(ValidatorIndex) -> bool,
        kept_back: impl Fn(ValidatorIndex) -> u32,
    ) -> Due {
        let mut out = Due::default();
        self.wanted.retain(|cert, pull| {
            if pull.due_us > now_us {
                return true;
            }
            for holder in &mut pull.holders {
                if holder.named && holder.asked > 0 && !holder.blamed {
                    holder.blamed = true;
                    out.kept_back.push(holder.index);
                }
            }
            let mut order: Vec<&mut Holder> =
                pull.holders.iter_mut().filter(|h| up(h.index)).collect();
            order.sort_by_key(|h| (h.asked, kept_back(h.index), !h.named));
            let passes = order.first().map_or(PULL_ATTEMPTS_MAX, |h| h.asked);
            if pull.attempts >= PULL_ATTEMPTS_MAX && passes >= PULL_ATTEMPTS_MAX {
                return false;
            }
            let at_once = PULL_ASKED_AT_ONCE_MAX.min(1 << pull.attempts.min(16));
            for holder in order.into_iter().take(at_once) {
                holder.asked += 1;
                out.requests.push((holder.index, *cert));
            }
            let wait_us = retry_us << (pull.attempts.min(1) + passes.min(8));
            pull.due_us = now_us + wait_us.min(retry_us_max.max(retry_us));
            pull.attempts += 1;
            true
        });
        out
    }

    pub(crate) fn next_due_us(&self) -> Option<u64> {
        self.wanted.values().map(|pull| pull.due_us).min()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.wanted.len()
    }
}
