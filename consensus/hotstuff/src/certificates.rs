//! The certificates that this node holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use falconet_types::certificate::{Qc, Tc};
use falconet_types::message::CertRef;
use falconet_types::{BlockId, Round};

use crate::limits::QCS_MAX;

/// QCs at and above the committed round, the highest QC, and the highest TC.
#[derive(Debug, Clone)]
pub(crate) struct Certificates {
    /// By round: at most one block a round can be certified (rule C1).
    qcs: BTreeMap<Round, Arc<Qc>>,
    high_qc: Arc<Qc>,
    /// Of the TCs of the highest round, the one with the lowest `max_hqc_round`: any valid TC
    /// justifies the round, and the lowest one admits the most proposals.
    high_tc: Option<Arc<Tc>>,
}

/// What came of adding a QC.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Added {
    New,
    Known,
    /// Another block is certified in the same round.
    Conflict(Arc<Qc>),
}

impl Certificates {
    pub(crate) fn new(genesis: Qc) -> Self {
        let genesis = Arc::new(genesis);
        Self {
            qcs: BTreeMap::from([(genesis.round, genesis.clone())]),
            high_qc: genesis,
            high_tc: None,
        }
    }

    /// The QC of the highest round.
    pub(crate) fn high_qc(&self) -> &Arc<Qc> {
        &self.high_qc
    }

    /// The TC of the highest round.
    pub(crate) fn high_tc(&self) -> Option<&Arc<Tc>> {
        self.high_tc.as_ref()
    }

    /// Round of the highest TC; 0 when there is none.
    pub(crate) fn high_tc_round(&self) -> Round {
        self.high_tc.as_ref().map_or(Round::ZERO, |tc| tc.round)
    }

    /// The TC of exactly this round.
    pub(crate) fn tc(&self, round: Round) -> Option<&Arc<Tc>> {
        self.high_tc.as_ref().filter(|tc| tc.round == round)
    }

    /// The round that these certificates bring a node into.
    pub(crate) fn round(&self) -> Round {
        self.high_qc.round.max(self.high_tc_round()).next()
    }

    /// The QC of a block.
    pub(crate) fn qc(&self, round: Round, id: &BlockId) -> Option<&Arc<Qc>> {
        self.qcs.get(&round).filter(|qc| qc.block_id == *id)
    }

    /// All QCs, highest round first.
    pub(crate) fn qcs_from_high(&self) -> impl Iterator<Item = &Arc<Qc>> {
        self.qcs.values().rev()
    }

    pub(crate) fn add_qc(&mut self, qc: Arc<Qc>) -> Added {
        if let Some(held) = self.qcs.get(&qc.round) {
            return if held.block_id == qc.block_id {
                Added::Known
            } else {
                Added::Conflict(held.clone())
            };
        }
        if qc.round > self.high_qc.round {
            self.high_qc = qc.clone();
        }
        self.qcs.insert(qc.round, qc);
        if self.qcs.len() > QCS_MAX {
            self.qcs.pop_first();
        }
        Added::New
    }

    /// True when the TC is news: a higher round, or the same with a lower maximum.
    pub(crate) fn add_tc(&mut self, tc: &Arc<Tc>) -> bool {
        let news = self.high_tc.as_ref().is_none_or(|held| {
            tc.round > held.round
                || (tc.round == held.round && tc.max_hqc_round() < held.max_hqc_round())
        });
        if news {
            self.high_tc = Some(tc.clone());
        }
        news
    }

    /// Forgets the QCs below the committed round.
    pub(crate) fn prune_below(&mut self, round: Round) {
        self.qcs = self.qcs.split_off(&round);
    }

    /// The references that justify the current round to others.
    pub(crate) fn best_refs(&self) -> Vec<CertRef> {
        let mut refs = Vec::with_capacity(2);
        let qc = &self.high_qc;
        if qc.round > Round::ZERO {
            refs.push(CertRef::Qc {
                epoch: qc.epoch,
                round: qc.round,
                block_id: qc.block_id,
            });
        }
        if let Some(tc) = &self.high_tc
            && tc.round > qc.round
        {
            refs.push(CertRef::Tc {
                epoch: tc.epoch,
                round: tc.round,
            });
        }
        refs
    }
}
