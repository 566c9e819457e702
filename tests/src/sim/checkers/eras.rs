//! The epochs of a run, proven one after the other from genesis, and who may speak in each.

use std::sync::Arc;

use falconet_types::epoch::{EpochInfo, EpochProof};
use falconet_types::message::PeerMessage;
use falconet_types::validators::ValidatorSet;
use falconet_types::{Epoch, ValidatorIndex};

use super::super::keys;
use super::super::node::Chain;
use super::{Check, ensure};

/// All epochs that any correct node has begun. Everybody must begin the same ones, each with a
/// proof that the validators of the one before it signed.
#[derive(Debug, Clone)]
pub struct Eras {
    chain: Chain,
    eras: Vec<Era>,
    /// Nodes of validators that may break the rules.
    faulty: Vec<usize>,
}

#[derive(Debug, Clone)]
struct Era {
    info: EpochInfo,
    /// The node of each index.
    nodes: Vec<usize>,
}

impl Era {
    fn new(info: EpochInfo) -> Self {
        let node = |key_id| keys::node_of(&key_id).expect("all keys are the simulator's");
        Self {
            nodes: info.set.iter().map(|v| node(v.key.id())).collect(),
            info,
        }
    }
}

impl Eras {
    /// Only epoch 0.
    #[must_use]
    pub fn new(chain: &Chain) -> Self {
        Self {
            eras: vec![Era::new(chain.first_epoch())],
            chain: chain.clone(),
            faulty: Vec::new(),
        }
    }

    /// These may break the rules. In no epoch but the first, which the run's genesis decides, may
    /// they weigh a third: then nothing is promised, and the run is of no use.
    #[must_use]
    pub fn with_faulty(mut self, nodes: Vec<usize>) -> Self {
        self.faulty = nodes;
        self
    }

    /// What the validators of the newest epoch weigh that keep to the rules.
    #[must_use]
    pub fn correct_weight(&self) -> u64 {
        let era = self.eras.last().expect("epoch 0 is there");
        era.info.set.total_weight() - self.faulty_weight(era)
    }

    fn faulty_weight(&self, era: &Era) -> u64 {
        let members = era.info.set.iter().zip(&era.nodes);
        let faulty = members.filter(|(_, node)| self.faulty.contains(node));
        faulty.map(|(validator, _)| validator.weight).sum()
    }

    /// Epochs begun so far, epoch 0 not counted.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.eras.len() as u64 - 1
    }

    /// The validators of an epoch.
    #[must_use]
    pub fn set(&self, epoch: Epoch) -> Option<&Arc<ValidatorSet>> {
        Some(&self.era(epoch)?.info.set)
    }

    /// What an epoch starts from, and who its members are.
    #[must_use]
    pub fn info(&self, epoch: Epoch) -> Option<&EpochInfo> {
        Some(&self.era(epoch)?.info)
    }

    /// The node that has an index in an epoch.
    #[must_use]
    pub fn who(&self, epoch: Epoch, index: ValidatorIndex) -> Option<usize> {
        self.era(epoch)?.nodes.get(index.at()).copied()
    }

    /// The nodes that are validators of an epoch, by index.
    #[must_use]
    pub fn members(&self, epoch: Epoch) -> &[usize] {
        self.era(epoch).map_or(&[], |era| &era.nodes)
    }

    fn era(&self, epoch: Epoch) -> Option<&Era> {
        self.eras.get(usize::try_from(epoch.0).ok()?)
    }

    /// A correct node holds for proven that an epoch is over.
    pub fn ended(&mut self, node: usize, proof: &EpochProof) -> Check {
        let epoch = proof.epoch();
        let Some(before) = self.era(epoch) else {
            return Err(format!(
                "node {node} ends epoch {epoch}, which nobody began"
            ));
        };
        let params = &self.chain.genesis.params;
        let mut verifier = keys::verifier();
        let next = proof
            .verify(self.chain.id, params, &before.info, &mut verifier)
            .map_err(|why| format!("node {node}: its proof that epoch {epoch} is over: {why}"))?;
        let weight = before
            .info
            .set
            .weight_of(proof.qc.votes.iter().map(|(voter, _)| *voter));
        ensure!(
            weight * 3 > before.info.set.total_weight() * 2,
            "node {node} ends epoch {epoch} without a quorum of its validators"
        );
        match self.era(epoch.next()) {
            None => {
                let era = Era::new(next);
                let (faulty, total) = (self.faulty_weight(&era), era.info.set.total_weight());
                self.eras.push(era);
                ensure!(
                    faulty * 3 < total,
                    "the scenario is at fault: faulty validators weigh {faulty} of {total} in epoch {}",
                    epoch.next()
                );
            }
            Some(known) => ensure!(
                known.info.start.id == next.start.id,
                "agreement: node {node} begins epoch {} with other validators than others do",
                epoch.next()
            ),
        }
        Ok(())
    }

    /// A message left a correct node: what it signs is of an epoch to which it belongs, under its
    /// own index.
    pub fn sent(&self, node: usize, message: &PeerMessage) -> Check {
        let (what, epoch, index) = match message {
            PeerMessage::Vote(vote) => ("votes", vote.epoch, vote.voter),
            PeerMessage::Timeout(timeout) => ("gives up a round", timeout.epoch, timeout.author),
            PeerMessage::CommitVote(vote) => ("votes to commit", vote.epoch, vote.voter),
            _ => return Ok(()),
        };
        ensure!(
            self.who(epoch, index) == Some(node),
            "node {node} {what} in epoch {epoch} as validator {index}, which it is not"
        );
        Ok(())
    }
}
