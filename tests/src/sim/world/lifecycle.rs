//! Starts, crashes, connections and all other faults.

use falconet_hotstuff::Misbehaviour;
use falconet_types::{Epoch, Height};

use super::super::checkers::Check;
use super::super::node::Started;
use super::super::scenario::{CrashPoint, Fault, Scenario};
use super::{BLOCKS_AFTER_CALM, Calm, Event, World};

impl World {
    /// True for a node that runs, and for an actor that has none behind it.
    pub(super) fn up(&self, i: usize) -> bool {
        let alone = self.actors[i].as_ref().is_some_and(|actor| !actor.wraps());
        self.nodes[i].live.is_some() || alone
    }

    pub(super) fn reset(&mut self, a: usize, b: usize) {
        self.network.break_link(a, b);
        self.connect(a, b, false);
        self.connect(a, b, true);
    }

    /// Tells both ends that their connection is gone, or up again a little later.
    pub(super) fn connect(&mut self, a: usize, b: usize, up: bool) {
        for (node, peer) in [(a, b), (b, a)] {
            let wait = if up {
                self.rng.between(1_000, 50_000)
            } else {
                0
            };
            let life = self.nodes[node].life;
            let at = self.now_us + wait;
            self.schedule(
                at,
                Event::Link {
                    node,
                    life,
                    peer,
                    up,
                },
            );
        }
    }

    pub(super) fn link(&mut self, node: usize, life: u64, peer: usize, up: bool) -> Check {
        if self.nodes[node].life != life || self.nodes[node].live.is_none() {
            return Ok(());
        }
        if up && (!self.network.connected(node, peer) || !self.up(peer)) {
            return Ok(());
        }
        self.note(|| {
            format!(
                "{node}: connection to {peer} {}",
                if up { "up" } else { "down" }
            )
        });
        let now = self.now(node);
        let peer = self.scenario.validator_of(peer);
        self.nodes[node].link(now, peer, up);
        self.after_turns(node)
    }

    pub(super) fn start(&mut self, i: usize) -> Check {
        let validator = self.scenario.validator_of(i);
        if self.scenario.silent.contains(&validator) || self.up(i) {
            return Ok(());
        }
        self.note(|| format!("{i} starts"));
        self.crash_points[i] = None;
        let now = self.now(i);
        self.install(i)?;
        let setup = &mut self.setup;
        let bent = self.actors[i].is_some();
        let started = self.nodes[i].start(&self.chain, now, &mut |i, core| {
            if bent {
                core.misbehave(Misbehaviour::Twin);
            }
            setup(i, core);
        });
        let Started { from, results } = started.map_err(|why| format!("node {i}: {why}"))?;
        if self.scenario.correct(i) {
            let mut epoch = Epoch::ZERO;
            while let Some(proof) = self.nodes[i].disk.proof(epoch) {
                self.eras.ended(i, proof)?;
                epoch = epoch.next();
            }
            self.agreement.restarted(i, &self.nodes[i].disk)?;
            let (height, state) = from;
            if height > Height::ZERO {
                self.agreement.holds(i, height, state)?;
            }
            self.promises.restarted(i, height)?;
            for result in &results {
                self.agreement.executed(i, result)?;
                self.promises.executed(i, result)?;
            }
        }
        for peer in 0..self.nodes.len() {
            let other = self.scenario.validator_of(peer) != validator;
            if other && self.up(peer) && self.network.connected(i, peer) {
                self.network.break_link(i, peer);
                self.connect(i, peer, true);
            }
        }
        self.after_turns(i)
    }

    pub(super) fn crash(&mut self, i: usize, survive: usize) -> Check {
        self.note(|| format!("{i} crashes; {survive} records more than synced survive"));
        self.crash_points[i] = None;
        self.crashes += 1;
        self.stop(i, survive);
        self.nodes[i].disk.files.crash(&mut self.rng);
        if let Some(record) = self.nodes[i].disk.safety()
            && self.scenario.correct(i)
        {
            self.locks.durable(i, record)?;
        }
        Ok(())
    }

    /// A node's process ends.
    pub(super) fn stop(&mut self, i: usize, survive: usize) {
        self.nodes[i].crash(survive);
        let me = self.scenario.validator_of(i);
        for peer in 0..self.nodes.len() {
            if self.scenario.validator_of(peer) != me {
                self.network.break_link(i, peer);
                self.connect(i, peer, false);
            }
        }
    }

    /// The last fault is over.
    pub(super) fn calm_down(&mut self) -> Check {
        self.note(|| "calm".to_owned());
        self.network.mend();
        self.regroup(vec![0; self.nodes.len()]);
        for i in 0..self.nodes.len() {
            self.nodes[i].skew_ms = 0;
            self.stalled_until_us[i] = self.stalled_until_us[i].min(self.now_us);
            self.cpu_us[i] = 0;
            self.sync_us[i] = self.scenario.sync_us;
            self.crash_points[i] = None;
        }
        self.hurry_syncs();
        (0..self.nodes.len()).try_for_each(|i| self.start(i))?;
        let height = self.agreement.highest();
        let (epoch, round) = self.highest_place();
        self.calm = Some(Calm {
            target: height + BLOCKS_AFTER_CALM,
            height,
            round,
            seen: round,
            epoch,
            before: 0,
            changes: self.eras.changes(),
            rounds: None,
        });
        Ok(())
    }

    /// A disk that was slow is so no more, and what it was about to sync takes no longer than anything
    /// on a disk in order: or its node would lose rounds for a fault that is over.
    fn hurry_syncs(&mut self) {
        let latest = self.now_us + self.scenario.sync_us.1;
        let late = self.queue.extract_if((latest + 1, 0).., |_, event| {
            matches!(event, Event::Synced { .. })
        });
        let late: Vec<_> = late.map(|(_, event)| event).collect();
        for event in late {
            self.schedule(latest, event);
        }
    }

    /// True for a validator that must not die yet: it would begin with a snapshot and sign nothing in
    /// the epochs that it finds (rule Z8), while another is faulty, or was and has lost its place.
    /// Together they must be less than a third.
    fn needs_a_block(&self, i: usize) -> bool {
        let Scenario { byzantine, n, .. } = &self.scenario;
        !byzantine.is_empty() && i < *n && 3 * (byzantine.len() + 1) >= *n && self.may_forfeit(i)
    }

    pub(super) fn fault(&mut self, fault: Fault) -> Check {
        self.note(|| format!("{fault:?}"));
        match fault {
            Fault::Crash(i, point) => {
                if self.nodes[i].live.is_some() && !self.needs_a_block(i) {
                    let point = match point {
                        CrashPoint::Soon(more) => CrashPoint::Effect(self.effects[i] + 1 + more),
                        other => other,
                    };
                    self.crash_points[i] = Some(point);
                }
            }
            Fault::CrashAll => {
                for i in 0..self.nodes.len() {
                    if self.nodes[i].live.is_some() && !self.needs_a_block(i) {
                        let survive = self.rng.index(self.nodes[i].disk.pending() + 1);
                        self.crash(i, survive)?;
                    }
                }
            }
            Fault::Restart(Some(i)) => return self.start(i),
            Fault::Restart(None) => {
                self.crash_points.fill(None);
                return (0..self.nodes.len()).try_for_each(|i| self.start(i));
            }
            Fault::Partition(groups) => self.regroup(groups),
            Fault::Heal => self.regroup(vec![0; self.nodes.len()]),
            Fault::Deaf(links) => self.network.set_deaf(links),
            Fault::Lose(losses) => self.network.set_losses(losses),
            Fault::Network(profile) => self.network.set_profile(profile),
            Fault::SlowLink(from, to, us) => self.network.set_slow(from, to, us),
            Fault::SlowCpu(i, us) => self.cpu_us[i] = us,
            Fault::SlowDisk(i, us) => self.sync_us[i] = us,
            Fault::ClockJump(i, ms) => self.nodes[i].skew_ms += ms,
            Fault::ClocksRight => self.nodes.iter_mut().for_each(|node| node.skew_ms = 0),
            Fault::Stall(i, us) => self.stalled_until_us[i] = self.now_us + us,
            Fault::Bond(node, amount) => self.bond(node, amount),
            Fault::Unbond(node, amount) => self.unbond(node, amount),
            Fault::Rotate(from, to) => self.rotate(from, to),
        }
        Ok(())
    }

    fn regroup(&mut self, groups: Vec<u8>) {
        let n = self.nodes.len();
        let pairs: Vec<(usize, usize, bool)> = (0..n)
            .flat_map(|a| (a + 1..n).map(move |b| (a, b)))
            .filter(|(a, b)| self.scenario.validator_of(*a) != self.scenario.validator_of(*b))
            .map(|(a, b)| (a, b, self.network.connected(a, b)))
            .collect();
        self.network.set_groups(groups);
        for (a, b, before) in pairs {
            let after = self.network.connected(a, b);
            if before != after {
                self.network.break_link(a, b);
                self.connect(a, b, after);
            }
        }
    }
}
