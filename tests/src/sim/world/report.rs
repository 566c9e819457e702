//! Words for people.

use std::fmt::Write as _;

use falconet_types::TxId;
use falconet_types::message::PeerMessage;

use super::super::checkers::Violation;
use super::World;

/// Open transactions that are named.
const OPEN_MAX: usize = 4;

impl World {
    pub(super) fn stuck(&self) -> Violation {
        let mut text = String::from("not in order long after the last fault:");
        for (i, node) in self.nodes.iter().enumerate() {
            let (committed, executed) = self.agreement.heights_of(i);
            let open = self.promises.open_ids(i).map(TxId::short);
            let open: Vec<String> = open.take(OPEN_MAX).map(|id| id.to_string()).collect();
            let _ = write!(
                text,
                "\n  node {i}: committed {committed}, executed {executed}, open transactions: {open:?}"
            );
            if let Some(live) = &node.live {
                let hotstuff = live.hotstuff.status();
                let _ = write!(
                    text,
                    "; round {} by QC {} or TC {}, locked {}, not signing: {:?}, syncing: {}",
                    hotstuff.round,
                    hotstuff.high_qc_round,
                    hotstuff.high_tc_round,
                    hotstuff.locked_round,
                    hotstuff.not_signing,
                    hotstuff.syncing
                );
                let _ = write!(text, "; own lane {:?}", live.mempool.status().own_lane);
            }
        }
        text
    }
}

/// A message in a few words.
pub(super) fn brief(message: &PeerMessage) -> String {
    match message {
        PeerMessage::Header(h) => format!(
            "header {} round {} {:?} on {} names {} {}",
            h.height,
            h.round,
            h.kind,
            h.parent_round,
            h.executed.height,
            h.id().short()
        ),
        PeerMessage::Vote(v) => format!("vote round {} {}", v.round, v.block_id.short()),
        PeerMessage::CommitVote(v) => {
            format!("commit vote round {} {}", v.round, v.block_id.short())
        }
        PeerMessage::Timeout(t) => format!("timeout round {} with {}", t.round, t.hqc_round),
        PeerMessage::Qc(qc) => format!("QC round {} {}", qc.round, qc.block_id.short()),
        PeerMessage::Tc(tc) => format!("TC round {} max {}", tc.round, tc.max_hqc_round()),
        PeerMessage::Blocks(headers) => format!("{} headers", headers.len()),
        PeerMessage::Batch(bytes) => format!("batch of {} bytes", bytes.len()),
        PeerMessage::Watermark(w) => format!(
            "watermark {:?}",
            w.tips
                .iter()
                .map(|(lane, tip)| (lane.0, tip.seq.0))
                .collect::<Vec<_>>()
        ),
        other => format!("{other:?}"),
    }
}
