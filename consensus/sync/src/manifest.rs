//! Of whom a manifest is asked, and when of somebody else too (rule Z4).
//!
//! What a peer has it says to whoever asks, and how long that takes is measured: the round trip and
//! the work of a busy node. A manifest that takes several times as long is asked of a second peer,
//! after twice that time of a third, and so on. So a peer that stalls costs a fraction of a second.

use falconet_types::{Height, ValidatorIndex};

use crate::hedging::AnswerTimes;
use crate::limits::{MANIFEST_HEDGE_US, MANIFEST_REQUESTS_MAX};

/// A manifest that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked {
    peer: ValidatorIndex,
    height: Height,
    sent_us: u64,
}

/// Requests for manifests: at most [`MANIFEST_REQUESTS_MAX`], in the order in which they were sent.
#[derive(Debug, Default)]
pub(crate) struct ManifestRequests {
    asked: Vec<Asked>,
    /// How long peers took to say what they have.
    times: AnswerTimes,
}

impl ManifestRequests {
    /// A peer said what it has so many microseconds after it was asked.
    pub(crate) fn measured(&mut self, took_us: u64) {
        self.times.add(took_us);
    }

    pub(crate) fn sent(&mut self, peer: ValidatorIndex, height: Height, sent_us: u64) {
        assert!(self.asked.len() < MANIFEST_REQUESTS_MAX, "looked at before");
        self.asked.push(Asked {
            peer,
            height,
            sent_us,
        });
    }

    pub(crate) fn is_asked(&self, peer: ValidatorIndex) -> bool {
        self.asked.iter().any(|asked| asked.peer == peer)
    }

    /// A peer showed the manifest of a height; true if it was asked for that.
    pub(crate) fn answered(&mut self, peer: ValidatorIndex, height: Height) -> bool {
        let before = self.asked.len();
        self.asked
            .retain(|asked| (asked.peer, asked.height) != (peer, height));
        self.asked.len() < before
    }

    /// A peer has snapshots of these heights only; what it has not it need not show.
    pub(crate) fn keep(&mut self, peer: ValidatorIndex, heights: &[Height]) {
        self.asked
            .retain(|asked| asked.peer != peer || heights.contains(&asked.height));
    }

    /// Nothing is wanted of a peer any more.
    pub(crate) fn release(&mut self, peer: ValidatorIndex) {
        self.asked.retain(|asked| asked.peer != peer);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.asked.len()
    }

    /// Nothing is wanted of anybody.
    pub(crate) fn clear(&mut self) {
        self.asked.clear();
    }

    /// When another peer may be asked for the manifest of a height, microseconds; `None` while
    /// enough are.
    pub(crate) fn next_us(&self, height: Height) -> Option<u64> {
        if self.asked.len() == MANIFEST_REQUESTS_MAX {
            return None;
        }
        let mut same = self.asked.iter().filter(|asked| asked.height == height);
        let count = same.clone().count();
        let Some(last) = same.next_back() else {
            return Some(0);
        };
        let first_us = self.times.hedge_after_us().unwrap_or(MANIFEST_HEDGE_US);
        let after_us = first_us.saturating_mul(1 << (count - 1));
        Some(last.sent_us.saturating_add(after_us))
    }

    /// Those who were asked longer ago than `answer_us`, and when the next of the others will be.
    pub(crate) fn late(&self, now_us: u64, answer_us: u64) -> (Vec<ValidatorIndex>, Option<u64>) {
        let due_us = |asked: &Asked| asked.sent_us.saturating_add(answer_us);
        let late = self.asked.iter().filter(|asked| due_us(asked) <= now_us);
        let late = late.map(|asked| asked.peer).collect();
        let others = self.asked.iter().map(due_us);
        (late, others.filter(|at| *at > now_us).min())
    }
}
