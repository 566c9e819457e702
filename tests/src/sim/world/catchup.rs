//! Checkpoints become durable, old history goes, and a node that is behind gathers and installs a
//! snapshot. Each step is an effect after which a node may die.

use std::sync::Arc;

use falconet_sync::catchup::Effect;
use falconet_types::Height;

use super::super::checkers::{Check, snapshots};
use super::super::disk::state::Snapshot;
use super::super::node::{Checkpoint, Installed};
use super::super::scenario::Fault;
use super::{Event, World};

/// The state is durable, and so is its snapshot, after at most so many syncs each.
const SAVING_SYNCS: u64 = 4;
/// Before calm, one installation in so many is cut off by a crash, perhaps several times.
const INSTALLATIONS_CUT: u64 = 500;
/// Steps of an installation: more than there are.
const STEPS_MAX: usize = 300;

impl World {
    /// A checkpoint was executed: its state, and then its snapshot, become durable by and by.
    pub(super) fn save(&mut self, node: usize, checkpoint: Checkpoint) {
        let checkpoint = Box::new(checkpoint);
        let life = self.nodes[node].life;
        let at = self.now_us + self.saving_us(node);
        self.schedule(
            at,
            Event::StateSaved {
                node,
                life,
                checkpoint,
            },
        );
    }

    fn saving_us(&mut self, node: usize) -> u64 {
        let (least, most) = self.sync_us[node];
        self.rng.between(least, SAVING_SYNCS * most)
    }

    pub(super) fn state_saved(&mut self, i: usize, life: u64, checkpoint: Checkpoint) -> Check {
        if self.nodes[i].life != life || self.nodes[i].live.is_none() {
            return Ok(());
        }
        let Checkpoint { state, snapshot } = checkpoint;
        self.note(|| format!("{i}: the state of {} is durable", state.height));
        self.nodes[i].disk.files.keep_state(state);
        if self.effect(i) {
            return self.crash(i, 0);
        }
        let at = self.now_us + self.saving_us(i);
        self.schedule(
            at,
            Event::SnapshotSaved {
                node: i,
                life,
                snapshot,
            },
        );
        Ok(())
    }

    pub(super) fn snapshot_saved(&mut self, i: usize, life: u64, snapshot: Arc<Snapshot>) -> Check {
        if self.nodes[i].life != life || self.nodes[i].live.is_none() {
            return Ok(());
        }
        self.note(|| format!("{i} took a snapshot of {}", snapshot.height));
        self.nodes[i].keep_snapshot(snapshot);
        if self.effect(i) {
            return self.crash(i, 0);
        }
        Ok(())
    }

    /// What lies below a height may go.
    pub(super) fn prune(&mut self, i: usize, height: Height) -> Check {
        if self.scenario.correct(i) {
            let executed = self.executed_height(i);
            let history = self.chain.genesis.params.history_heights();
            snapshots::pruned(i, height, executed, history)?;
        }
        let before = self.nodes[i].disk.first_of_last_run();
        let below = self.nodes[i].prune(height);
        if self.scenario.correct(i) && self.nodes[i].disk.first_of_last_run() > before {
            snapshots::left(i, &self.nodes[i].disk)?;
        }
        self.note(|| format!("{i} wants to prune below {height}, and does below {below}"));
        if self.effect(i) {
            return self.crash(i, 0);
        }
        Ok(())
    }

    /// What a node's machine for catching up wants done. It has a thread of its own in a validator
    /// and waits for no sync of the log.
    pub(super) fn catch_up(&mut self, i: usize) -> Check {
        let Some(live) = &mut self.nodes[i].live else {
            return Ok(());
        };
        let effects = live.take_catching();
        for epoch in self.nodes[i].keep_learned() {
            self.note(|| format!("{i} learns that epoch {epoch} is over"));
            if self.scenario.correct(i) {
                let proof = self.nodes[i].disk.proof(epoch).expect("just kept");
                self.eras.ended(i, proof)?;
            }
        }
        for effect in effects {
            match effect {
                Effect::Send { to, message } => self.leave(i, Some(to), message)?,
                Effect::Begin(manifest) => {
                    self.note(|| format!("{i} fetches the snapshot of {}", manifest.height()));
                    self.nodes[i].disk.files.begin(*manifest);
                }
                Effect::Store(chunk) => self.nodes[i].disk.files.gather(chunk),
                Effect::Abandon => self.nodes[i].disk.files.abandon(),
                Effect::Complete => {
                    self.note(|| format!("{i} has a whole snapshot"));
                    self.nodes[i].disk.files.complete();
                    if !self.effect(i) {
                        // The process goes on with a new start of its stages.
                        let survive = self.rng.index(self.nodes[i].disk.pending() + 1);
                        self.stop(i, survive);
                        self.schedule(self.now_us + 1, Event::Fault(Fault::Restart(Some(i))));
                        return Ok(());
                    }
                    return self.crash(i, 0);
                }
                Effect::Misbehaved { peer, why, .. } => {
                    self.note(|| format!("{i}: {peer:?} sent wrong bytes: {why}"));
                    if let Some(peer) = peer.filter(|_| self.scenario.correct(i))
                        && !self.scenario.faulty(peer)
                    {
                        return Err(format!("node {i} blames {peer}, which is correct: {why}"));
                    }
                    continue;
                }
            }
            if self.effect(i) {
                return self.crash(i, 0);
            }
        }
        Ok(())
    }

    /// Installs a snapshot that waits; the node may die in it, and starts again.
    pub(super) fn install(&mut self, i: usize) -> Check {
        let mut died = false;
        while self.nodes[i].disk.files.ready().is_some() {
            let cut = self.calm.is_none() && self.rng.chance(INSTALLATIONS_CUT);
            let steps = if cut { self.rng.index(16) } else { STEPS_MAX };
            let installed = self.nodes[i].install(&self.chain, steps);
            match installed.map_err(|why| format!("node {i} installs: {why}"))? {
                Installed::Died => {
                    self.note(|| format!("{i} dies in step {steps} of an installation"));
                    self.crashes += 1;
                    died = true;
                }
                Installed::Done(Some(height)) => {
                    self.note(|| format!("{i} installed the snapshot of {height}"));
                    self.installed += 1;
                }
                Installed::Done(None) => {
                    self.note(|| format!("{i} has no use for a snapshot"));
                    // It died after everything was in its place.
                    self.installed += u64::from(died);
                }
            }
        }
        if let Some(record) = self.nodes[i].disk.safety()
            && self.scenario.correct(i)
        {
            self.locks.durable(i, record)?;
        }
        Ok(())
    }
}
