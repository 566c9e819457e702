//! What is sent to validators in one turn of a load, gathered into frames.

use bytes::Bytes;
use falconet_client::Filling;
use falconet_types::TxId;

/// Transactions to send to one validator at once.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) link: usize,
    pub(super) tag: u64,
    pub(super) txs: Vec<Bytes>,
    pub(super) ids: Vec<TxId>,
    filling: Filling,
}

/// The frames of one turn, at most one of them open for each validator.
pub(super) struct OpenFrames {
    open: Vec<Option<Frame>>,
    full: Vec<Frame>,
}

impl OpenFrames {
    pub(super) fn new(links: usize) -> Self {
        Self {
            open: (0..links).map(|_| None).collect(),
            full: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, link: usize, id: TxId, bytes: Bytes, next_tag: &mut u64) {
        let slot = &mut self.open[link];
        if slot
            .as_mut()
            .is_none_or(|frame| !frame.filling.add(bytes.len()))
        {
            self.full.extend(slot.take());
            let mut filling = Filling::default();
            assert!(filling.add(bytes.len()), "a transaction fits a frame");
            let tag = *next_tag;
            *next_tag += 1;
            *slot = Some(Frame {
                link,
                tag,
                txs: Vec::new(),
                ids: Vec::new(),
                filling,
            });
        }
        let frame = slot.as_mut().expect("set above");
        frame.txs.push(bytes);
        frame.ids.push(id);
    }

    pub(super) fn finish(mut self) -> Vec<Frame> {
        self.full.extend(self.open.into_iter().flatten());
        self.full
    }
}
