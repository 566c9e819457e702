//! Who leads, if genesis sets `leader_reputation` (rules L1 to L4 of `docs/protocol.md`).
//!
//! Rounds are counted in *windows* of a few cycles of leaders. The first cycle of each window is
//! everybody's turn. In the rest of window *w* those are passed over who authored no block of
//! window *w* - 2 in the ancestry of what is proposed: a crashed leader costs one round a window
//! instead of one a cycle.
//!
//! The leader is a function of the round and of a block's ancestors, at least a whole window below
//! it. So whoever judges a header, whenever it does and however it came by the chain, finds the
//! same leader; nothing that a node saw by itself has a part in it. (LeaderReputation of Diem and
//! Aptos, with the lag made explicit.)
//!
//! ```text
//!  window w - 2             window w - 1             window w
//!  who authored blocks?     settles the answer       1st cycle: all;  2nd ..: all but the absent
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use falconet_types::block::SignedHeader;
use falconet_types::genesis::REPUTATION_CYCLES;
use falconet_types::message::{BLOCKS_PER_ANSWER_MAX, GetBlocks, PeerMessage};
use falconet_types::signing::Verified;
use falconet_types::time::Now;
use falconet_types::validators::ValidatorSet;
use falconet_types::{BlockId, Height, Round, ValidatorIndex};

use crate::api::Effect;
use crate::core::HotStuff;

/// Cycles of leaders in a window. The absent cost one round of this many cycles; a validator that
/// comes back waits for a window at most until it can show itself.
pub(crate) const CYCLES_PER_WINDOW: u64 = 8;
/// Windows back from the one that a round is in to the one that decides about it.
const LAG_WINDOWS: u64 = 2;
const _: () = assert!(
    REPUTATION_CYCLES == (LAG_WINDOWS + 1) * CYCLES_PER_WINDOW,
    "history must be kept for as long as it decides"
);

/// Authors of the committed blocks of the last windows, and from which round on they are known.
#[derive(Debug, Clone)]
pub(crate) struct Reputation {
    /// By window.
    authors: BTreeMap<u64, BTreeSet<ValidatorIndex>>,
    /// All committed blocks of this round and later ones were counted.
    known_from: Round,
    /// Parent of the oldest block that was counted, to go on from.
    cursor: Option<(BlockId, Height)>,
    /// When its header is asked for (again), and how often it was.
    due_us: u64,
    attempts: usize,
}

impl Reputation {
    /// At the start of an epoch everything is known: there were no blocks.
    pub(crate) fn fresh() -> Self {
        Self {
            authors: BTreeMap::new(),
            known_from: Round::ZERO,
            cursor: None,
            due_us: 0,
            attempts: 0,
        }
    }

    /// From a log: the headers from the last committed one down, as far as they are there.
    /// `start` is what the epoch starts from.
    pub(crate) fn recovered(
        root: Option<&Arc<SignedHeader>>,
        headers: &[Arc<SignedHeader>],
        start: BlockId,
        rounds: u64,
    ) -> Self {
        let mut reputation = Self::fresh();
        let Some(root) = root else { return reputation };
        let by_id: BTreeMap<BlockId, &Arc<SignedHeader>> =
            headers.iter().map(|header| (header.id(), header)).collect();
        reputation.known_from = root.round.next();
        reputation.cursor = Some((root.id(), root.height));
        while let Some((id, _)) = reputation.cursor
            && let Some(header) = by_id.get(&id)
        {
            reputation.count_older(header, start, rounds);
        }
        reputation
    }

    /// A block was committed.
    pub(crate) fn count(&mut self, header: &SignedHeader, rounds: u64) {
        let window = window_of(header.round, rounds);
        self.authors
            .entry(window)
            .or_default()
            .insert(header.author);
        let oldest = window.saturating_sub(LAG_WINDOWS);
        self.authors = self.authors.split_off(&oldest);
    }

    /// The next older block than those that were counted.
    fn count_older(&mut self, header: &SignedHeader, start: BlockId, rounds: u64) {
        let window = window_of(header.round, rounds);
        self.authors
            .entry(window)
            .or_default()
            .insert(header.author);
        let first = header.parent_id == start;
        self.known_from = if first {
            Round::ZERO
        } else {
            header.parent_round.next()
        };
        self.cursor = (!first).then(|| (header.parent_id, header.height.prev()));
        self.attempts = 0;
        self.due_us = 0;
    }

    fn knows(&self, window: u64, rounds: u64) -> bool {
        self.known_from.0 <= window * rounds + 1
    }
}

fn window_of(round: Round, rounds: u64) -> u64 {
    round.0.saturating_sub(1) / rounds
}

/// Rounds of a window: a multiple of a cycle.
pub(crate) fn window_rounds(set: &ValidatorSet) -> u64 {
    CYCLES_PER_WINDOW * set.cycle_rounds()
}

/// Rounds below the last committed block whose headers a core wants back after a restart if
/// genesis sets `leader_reputation` ([`crate::Recovered::headers`]).
#[must_use]
pub fn past_rounds(set: &ValidatorSet) -> u64 {
    REPUTATION_CYCLES * set.cycle_rounds()
}

/// Rule L3: the leader of a round, given who authored blocks of the window that decides.
pub(crate) fn leader(
    set: &ValidatorSet,
    round: Round,
    authors: &BTreeSet<ValidatorIndex>,
) -> ValidatorIndex {
    let (cycle_rounds, rounds) = (set.cycle_rounds(), window_rounds(set));
    let place = round.0.saturating_sub(1) % rounds;
    let absent = set.iter().map(|validator| validator.index);
    let absent: BTreeSet<_> = absent.filter(|v| !authors.contains(v)).collect();
    let weight = set.weight_of(absent.iter().copied());
    let bearable = set.total_weight() - set.quorum_weight();
    if place < cycle_rounds || authors.is_empty() || weight > bearable {
        return set.leader(round);
    }
    let first = round.0 - place;
    let turn = set.turn_rounds();
    let cycle = (0..set.len() as u64).map(|i| set.leader(Round(first + i * turn)));
    let present: Vec<_> = cycle.filter(|v| !absent.contains(v)).collect();
    let at = (place - cycle_rounds) / turn % present.len() as u64;
    present[usize::try_from(at).expect("an index of the set")]
}

impl HotStuff {
    /// The leader of a round for headers that extend `tip`, a block in the tree. `None` while this
    /// node does not know enough of the chain's past.
    pub(crate) fn leader_on(&self, round: Round, tip: &BlockId) -> Option<ValidatorIndex> {
        let set = &self.config.set;
        let rounds = window_rounds(set);
        let decides = window_of(round, rounds).checked_sub(LAG_WINDOWS);
        let everybody = round.0.saturating_sub(1) % rounds < set.cycle_rounds();
        let Some(decides) = decides.filter(|_| self.config.params.leader_reputation && !everybody)
        else {
            return Some(set.leader(round));
        };
        if !self.reputation.knows(decides, rounds) {
            return None;
        }
        let committed = self.reputation.authors.get(&decides);
        let mut authors = committed.cloned().unwrap_or_default();
        let mut at = *tip;
        while let Some(header) = self.tree.get(&at) {
            if window_of(header.round, rounds) == decides {
                authors.insert(header.author);
            }
            at = header.parent_id;
        }
        Some(leader(set, round, &authors))
    }

    /// The leader of a round as far as this node can tell: for headers that extend its highest
    /// certified block.
    #[must_use]
    pub fn leader_of(&self, round: Round) -> ValidatorIndex {
        let leader = self.leader_on(round, &self.best_tip());
        leader.unwrap_or_else(|| self.config.set.leader(round))
    }

    /// The highest certified block that is connected.
    fn best_tip(&self) -> BlockId {
        let high = self.certificates.high_qc().block_id;
        if self.tree.contains(&high) {
            high
        } else {
            self.tree.root().id
        }
    }

    /// Rule V1, as far as can be told when a header arrives: its author leads its round, on its
    /// parent if that is connected, otherwise on what this node would extend itself.
    pub(crate) fn may_lead(&self, header: &SignedHeader) -> bool {
        let tip = if self.tree.contains(&header.parent_id) {
            header.parent_id
        } else {
            self.best_tip()
        };
        self.leader_on(header.round, &tip) == Some(header.author)
    }

    /// Rule L4: a node that began with a snapshot asks for the headers that it lacks to know the
    /// leaders.
    pub(crate) fn ask_for_past(&mut self, now: Now, out: &mut Vec<Effect>) {
        let due = self.past_due_us();
        if due.is_none_or(|due_us| due_us > now.mono_us) {
            return;
        }
        let Some((from, height)) = self.reputation.cursor else {
            return;
        };
        let peers = self.config.set.iter().map(|validator| validator.index);
        let up = peers.filter(|p| *p != self.config.me && self.peers[p.at()].up);
        let up: Vec<_> = up.collect();
        let reputation = &mut self.reputation;
        reputation.due_us = now.mono_us + self.times.retry_us();
        if up.is_empty() {
            return;
        }
        let to = up[reputation.attempts % up.len()];
        reputation.attempts += 1;
        let max = BLOCKS_PER_ANSWER_MAX;
        let request = GetBlocks {
            from,
            stop_height: Height(height.0.saturating_sub(max as u64)),
            max: u16::try_from(max).expect("fits"),
        };
        self.counters.block_requests += 1;
        let message = PeerMessage::GetBlocks(request);
        out.push(Effect::Send { to, message });
    }

    /// When [`HotStuff::ask_for_past`] has something to do.
    pub(crate) fn past_due_us(&self) -> Option<u64> {
        let rounds = window_rounds(&self.config.set);
        let decides = window_of(self.pace.round, rounds).saturating_sub(LAG_WINDOWS);
        let lacks = self.config.params.leader_reputation
            && self.reputation.cursor.is_some()
            && !self.reputation.knows(decides, rounds);
        lacks.then_some(self.reputation.due_us)
    }

    /// Headers that continue what is known of the past; each is pinned by the id that its child
    /// names. True when they did.
    pub(crate) fn take_past(&mut self, headers: &[Verified<SignedHeader>]) -> bool {
        let rounds = window_rounds(&self.config.set);
        let mut taken = false;
        for header in headers.iter().take(BLOCKS_PER_ANSWER_MAX) {
            let wanted = self
                .reputation
                .cursor
                .is_some_and(|(id, _)| id == header.id());
            if !wanted || self.past_due_us().is_none() {
                break;
            }
            self.reputation
                .count_older(header, self.config.start.id, rounds);
            taken = true;
        }
        taken
    }
}
