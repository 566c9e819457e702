//! Parts of a snapshot that take long are asked of a second peer too (rule Z5).
//!
//! A peer that stalls would cost the whole [`crate::limits::ANSWER_TIMEOUT_US`] a part. How long an
//! answer takes depends on the link and on the load, so it is measured: a part that takes several
//! times as long as answers of late did is asked of somebody else, and whoever answers first
//! delivers it. (J. Dean, L. A. Barroso: The Tail at Scale, CACM 56(2), 2013: hedged requests.) If
//! that was the second one, the first is asked nothing for a while. At most
//! [`crate::limits::HEDGES_MAX`] parts are fetched twice at one time, so a network that is slow for
//! everybody is not made slower.

use std::collections::VecDeque;

use falconet_types::message::PeerMessage;
use falconet_types::snapshot::GetChunk;
use falconet_types::time::Now;

use crate::download::{Download, Effect};
use crate::limits::{ANSWER_TIMES_MAX, HEDGE_FACTOR, HEDGE_US_MIN, HEDGES_MAX};
use crate::target::Request;

/// How long answers of late took, whoever gave them.
#[derive(Debug, Default)]
pub(crate) struct AnswerTimes(VecDeque<u64>);

impl AnswerTimes {
    /// A part arrived so many microseconds after it was asked for.
    pub(crate) fn add(&mut self, took_us: u64) {
        if self.0.len() == ANSWER_TIMES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(took_us);
    }

    /// After how long a part is asked of a second peer, microseconds; `None` while nothing arrived.
    pub(crate) fn hedge_after_us(&self) -> Option<u64> {
        let mut times: Vec<u64> = self.0.iter().copied().collect();
        times.sort_unstable();
        let median = times.get(times.len() / 2)?;
        Some(median.saturating_mul(HEDGE_FACTOR).max(HEDGE_US_MIN))
    }
}

impl Download {
    /// Requests for parts and for manifests that were not answered yet.
    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> (usize, usize) {
        let target = self.target.iter();
        let parts = target.map(|target| target.requests.len()).sum();
        (parts, self.manifests.len())
    }

    /// Ranges that are missing and asked of nobody.
    #[cfg(test)]
    pub(crate) fn fragments(&self) -> usize {
        let target = self.target.iter();
        target.map(|target| target.missing.fragments()).sum()
    }

    /// Asks for parts a second time that take long, and notes when the next one will.
    pub(crate) fn hedge(&mut self, now: Now, out: &mut Vec<Effect>) {
        let Some(after_us) = self.answer_times.hedge_after_us() else {
            return;
        };
        loop {
            let Some(target) = &self.target else { return };
            let alone = |request: &&Request| {
                let same = target.requests.iter().filter(|r| r.first == request.first);
                same.count() == 1
            };
            let singles = target.requests.iter().filter(alone).count();
            if (target.requests.len() - singles) / 2 >= HEDGES_MAX {
                return;
            }
            let oldest = target.requests.iter().filter(alone);
            let Some(oldest) = oldest.min_by_key(|request| request.sent_us).copied() else {
                return;
            };
            let Some(peer) = self.whom_to_ask(now, Some(oldest.peer)) else {
                return;
            };
            let due_us = oldest.sent_us.saturating_add(after_us);
            if due_us > now.mono_us {
                self.note_deadline(due_us);
                return;
            }
            let target = self.target.as_mut().expect("looked at above");
            target.requests.push(Request {
                peer,
                sent_us: now.mono_us,
                ..oldest
            });
            let request = GetChunk {
                height: target.height,
                first: oldest.first,
                last: oldest.last,
            };
            let message = PeerMessage::GetChunk(request);
            out.push(Effect::Send { to: peer, message });
        }
    }
}
