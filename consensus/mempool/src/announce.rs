//! What this node tells its peers: its watermarks.
//!
//! A watermark carries the tips that changed since the last one and goes out at once when the
//! node was quiet for an interval, otherwise at the end of the interval or when much was taken
//! in. It may only name what the turn in which it goes out, or an earlier one, has persisted: a
//! lane's tip is that by construction. A new connection gets all tips, and all tips are repeated
//! now and then while something is uncommitted.

use falconet_types::Seq;
use falconet_types::batch::Watermark;
use falconet_types::block::LaneTip;
use falconet_types::message::PeerMessage;
use falconet_types::time::Now;

use crate::api::Effect;
use crate::lane::Lane;
use crate::limits::{WATERMARK_BYTES, WATERMARK_REFRESH_US};
use crate::mempool::Mempool;
use crate::pacing::Crowd;

/// What this node has told the others.
pub(crate) struct Announced {
    tips: Vec<LaneTip>,
    last_us: Option<u64>,
    last_full_us: Option<u64>,
    /// Bytes accepted since the last watermark.
    pub(crate) bytes: u64,
}

impl Announced {
    /// `tips`: what the peers will be told when they connect.
    pub(crate) fn new(tips: Vec<LaneTip>) -> Self {
        Self {
            tips,
            last_us: None,
            last_full_us: None,
            bytes: 0,
        }
    }
}

impl Mempool {
    pub(crate) fn full_watermark(&self) -> Watermark {
        let tips = self
            .config
            .set
            .iter()
            .zip(&self.lanes)
            .map(|(v, lane)| (v.index, lane.tip()));
        let tips = tips.filter(|(_, tip)| tip.seq > Seq::ZERO).collect();
        Watermark {
            epoch: self.config.set.epoch(),
            tips,
        }
    }

    /// When the next watermark is due. The own lane alone is no reason to send one: whoever gets
    /// the batch knows that its owner has it.
    pub(crate) fn announce_due_us(&self) -> Option<u64> {
        let me = self.config.me.at();
        // A follower's word counts for nothing.
        self.lanes.get(me)?;
        let dirty = (self.lanes.iter().zip(&self.announced.tips).enumerate())
            .any(|(i, (lane, told))| i != me && lane.tip() != *told);
        let n = self.lanes.len();
        let interval_us = Crowd::of(n).watermark_interval_us(n, self.own.busy);
        let delta_us = dirty.then(|| match self.announced.last_us {
            Some(last_us) if self.announced.bytes < WATERMARK_BYTES => last_us + interval_us,
            _ => 0,
        });
        let unsettled = self
            .lanes
            .iter()
            .any(|lane| lane.tip().seq > lane.committed().seq);
        let full_us = (unsettled && n > 1).then(|| {
            self.announced
                .last_full_us
                .map_or(0, |last_us| last_us + WATERMARK_REFRESH_US)
        });
        [delta_us, full_us].into_iter().flatten().min()
    }

    pub(crate) fn announce(&mut self, now: Now, out: &mut Vec<Effect>) {
        if self
            .announce_due_us()
            .is_none_or(|due_us| due_us > now.mono_us)
        {
            return;
        }
        let mut watermark = self.full_watermark();
        let full_due = self
            .announced
            .last_full_us
            .is_none_or(|at| at + WATERMARK_REFRESH_US <= now.mono_us);
        if full_due {
            self.announced.last_full_us = Some(now.mono_us);
        } else {
            let told = &self.announced.tips;
            watermark.tips.retain(|(lane, tip)| told[lane.at()] != *tip);
        }
        self.announced.tips.clear();
        self.announced.tips.extend(self.lanes.iter().map(Lane::tip));
        self.announced.bytes = 0;
        self.announced.last_us = Some(now.mono_us);
        out.push(Effect::Broadcast(PeerMessage::Watermark(watermark)));
    }
}
