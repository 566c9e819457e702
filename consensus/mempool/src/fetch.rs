//! Whom to ask for what, and how often.
//!
//! Two needs exist. *Committed* data: a block waits for batches whose hashes are known, and any
//! peer's answer is judged by them. *Repair*: peers hold batches that extend a lane beyond this
//! node's tip and the owner's stream does not bring them (it was cut, or the owner withholds);
//! they are asked for before any block names them, and judged like streamed ones. Committed data
//! comes first; a lane has at most one need at a time.
//!
//! **What is on its way is not asked for.** A node that is busy learns of commits before it has
//! dealt with the batches that they name, which lie in its own queues. To fetch these would double
//! what it has to receive and verify, and make it busier. So a lane is left alone while its owner's
//! stream was heard of lately ([`STREAM_ALIVE_US`]), and while batches of its owner wait to be
//! verified, as the shell says, for at most [`ARRIVING_US_MAX`].
//!
//! One request a lane, a second to another peer when the first makes no progress, or takes long and
//! makes much less than answers of late did: whoever sends a batch now and then is no better than one
//! that sends none. A node that is busy is slow itself, so this takes as long as a request that has
//! failed. Peers are tried in this order: not demoted lately; known to hold the data; the lane's
//! owner; anybody else; among equals those with the fewest requests, in rotation. A peer that has
//! nothing costs a time-out and is asked last for a while; so is one that sent another branch.

use std::collections::VecDeque;

use falconet_types::ids::FOLLOWERS_MAX;
use falconet_types::message::{GetBatches, PeerMessage};
use falconet_types::time::Now;
use falconet_types::validators::VALIDATORS_MAX;
use falconet_types::{Seq, ValidatorIndex};

use crate::api::{Effect, OwnLaneState};
use crate::delivery::Segment;
use crate::limits::{
    ARRIVING_US_MAX, EARLY_BATCHES_MAX, EARLY_BYTES_MAX, PACES_MAX, PAYLOAD_WINDOW_FULL_BLOCKS,
    PEER_DEMOTED_US, REPAIR_AFTER_US, REQUEST_BATCHES_MAX, REQUEST_HEDGE_US, REQUEST_TIMEOUT_US,
    REQUESTS_MAX, REQUESTS_PER_LANE_MAX, RETRY_US, RETRY_US_MAX, SERVE_BYTES_MAX, SLOW_FACTOR,
    STREAM_ALIVE_US,
};
use crate::mempool::Mempool;

/// Batches asked for at once to repair a lane: half of what the early buffer takes, because the
/// newest comes first and waits there for the oldest.
fn repair_batches(batch_bytes_full: u64) -> u64 {
    let by_bytes = EARLY_BYTES_MAX / 2 / batch_bytes_full.max(1);
    by_bytes.clamp(1, EARLY_BATCHES_MAX as u64 / 2)
}

/// A request in flight.
#[derive(Debug, Clone, Copy)]
struct Request {
    peer: ValidatorIndex,
    lane: ValidatorIndex,
    first: Seq,
    last: Seq,
    sent_us: u64,
    /// When it was sent, or last brought a batch.
    progress_us: u64,
    bytes: u64,
}

impl Request {
    fn overlaps(&self, want: Want) -> bool {
        self.first <= want.last && self.last >= want.first
    }
}

/// How fast answers of late came, whoever gave them: microseconds for each KiB.
#[derive(Debug, Default)]
struct Paces(VecDeque<u64>);

fn kib(bytes: u64) -> u64 {
    bytes.div_ceil(1_024).max(1)
}

impl Paces {
    fn add(&mut self, took_us: u64, bytes: u64) {
        if self.0.len() == PACES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(took_us / kib(bytes));
    }

    /// When a request that brought so much until now is too slow, after it was sent, microseconds;
    /// `None` while nothing was measured.
    fn slow_after_us(&self, bytes: u64) -> Option<u64> {
        let mut paces: Vec<u64> = self.0.iter().copied().collect();
        paces.sort_unstable();
        let median = paces.get(paces.len() / 2)?;
        let usual_us = median.saturating_mul(kib(bytes));
        Some(REQUEST_TIMEOUT_US.saturating_add(usual_us.saturating_mul(SLOW_FACTOR)))
    }
}

/// What a lane lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Want {
    first: Seq,
    last: Seq,
    /// Named by a commit; otherwise a repair.
    committed: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct LaneState {
    failures: u32,
    /// No request before this time.
    next_us: u64,
    /// Since when peers have been ahead without this lane's tip moving.
    behind_since_us: Option<u64>,
    /// When the owner's stream last brought a batch.
    streamed_us: Option<u64>,
    /// Batches of the owner arrived that are not verified yet.
    arriving: bool,
    /// Since when something has been wanted without any progress.
    wanted_since_us: Option<u64>,
}

impl LaneState {
    /// Until when what is wanted may come by itself, and is not asked for.
    fn hold_until_us(&mut self, now: Now) -> u64 {
        let since_us = *self.wanted_since_us.get_or_insert(now.mono_us);
        if self.arriving {
            return since_us.saturating_add(ARRIVING_US_MAX);
        }
        let streamed_us = self.streamed_us;
        streamed_us.map_or(0, |at_us| at_us.saturating_add(STREAM_ALIVE_US))
    }
}

pub(crate) struct Fetch {
    requests: Vec<Request>,
    paces: Paces,
    lanes: Vec<LaneState>,
    /// Until when each peer is asked last.
    demoted_until_us: Vec<u64>,
    connected: Vec<bool>,
    /// Where the rotation among equal peers, and among lanes, stands.
    turn: usize,
    deadline_us: Option<u64>,
}

impl Fetch {
    pub(crate) fn new(validators: usize) -> Self {
        Self {
            requests: Vec::with_capacity(REQUESTS_MAX),
            paces: Paces::default(),
            lanes: vec![LaneState::default(); validators],
            demoted_until_us: vec![0; VALIDATORS_MAX + FOLLOWERS_MAX],
            connected: vec![false; VALIDATORS_MAX + FOLLOWERS_MAX],
            turn: 0,
            deadline_us: None,
        }
    }

    /// True if a peer was asked for batches of a lane.
    pub(crate) fn is_asked(&self, peer: ValidatorIndex, lane: ValidatorIndex) -> bool {
        let mut open = self.requests.iter();
        open.any(|open| (open.peer, open.lane) == (peer, lane))
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.len()
    }

    /// When [`Mempool::schedule`] has something to do next.
    pub(crate) fn deadline_us(&self) -> Option<u64> {
        self.deadline_us
    }

    pub(crate) fn peer_up(&mut self, peer: ValidatorIndex) {
        self.connected[peer.at()] = true;
        self.demoted_until_us[peer.at()] = 0;
        // A new connection is a new chance for whatever was given up for a while.
        for lane in &mut self.lanes {
            (lane.failures, lane.next_us) = (0, 0);
        }
    }

    pub(crate) fn peer_down(&mut self, peer: ValidatorIndex) {
        self.connected[peer.at()] = false;
        self.requests.retain(|request| request.peer != peer);
    }

    /// A batch arrived; if it answers a request, that request made progress. True if it did.
    pub(crate) fn answered(
        &mut self,
        now: Now,
        from: ValidatorIndex,
        lane: ValidatorIndex,
        seq: Seq,
        bytes: u64,
    ) -> bool {
        let found = self.requests.iter().position(|request| {
            (request.peer, request.lane) == (from, lane)
                && (request.first..=request.last).contains(&seq)
        });
        let Some(index) = found else { return false };
        let request = &mut self.requests[index];
        request.bytes += bytes;
        request.progress_us = now.mono_us;
        // The answer ends at the oldest batch or at the answer's bound.
        if seq == request.first || request.bytes >= SERVE_BYTES_MAX {
            let request = self.requests.remove(index);
            self.paces.add(now.mono_us - request.sent_us, request.bytes);
        }
        true
    }

    /// A lane got a batch that it lacked, `asked` for or streamed. A stream that moves again needs
    /// no repair; a repair that succeeds goes on without another pause.
    pub(crate) fn progressed(&mut self, now: Now, lane: ValidatorIndex, asked: bool) {
        let state = &mut self.lanes[lane.at()];
        (state.failures, state.next_us) = (0, 0);
        if !asked {
            state.behind_since_us = None;
            state.wanted_since_us = None;
            state.streamed_us = Some(now.mono_us);
        }
    }

    /// Batches of the lane's owner arrived and wait to be verified, or no more do.
    pub(crate) fn arriving(&mut self, lane: usize, arriving: bool) {
        if let Some(state) = self.lanes.get_mut(lane) {
            state.arriving = arriving;
        }
    }

    /// `peer` sent what it was asked for, on another branch.
    pub(crate) fn wrong_branch(&mut self, now: Now, peer: ValidatorIndex, lane: ValidatorIndex) {
        self.demoted_until_us[peer.at()] = now.mono_us.saturating_add(PEER_DEMOTED_US);
        self.requests
            .retain(|request| (request.peer, request.lane) != (peer, lane));
    }

    /// Removes requests that ran out of time and returns how many.
    fn expire(&mut self, now: Now) -> u64 {
        let mut expired = 0;
        let (lanes, demoted) = (&mut self.lanes, &mut self.demoted_until_us);
        self.requests.retain(|request| {
            if request.progress_us.saturating_add(REQUEST_TIMEOUT_US) > now.mono_us {
                return true;
            }
            expired += 1;
            demoted[request.peer.at()] = now.mono_us.saturating_add(PEER_DEMOTED_US);
            let state = &mut lanes[request.lane.at()];
            let wait_us = (RETRY_US << state.failures.min(16)).min(RETRY_US_MAX);
            state.failures += 1;
            state.next_us = now.mono_us.saturating_add(wait_us);
            false
        });
        expired
    }

    /// When a request is too slow, although it may make progress.
    fn slow_us(&self, request: &Request) -> Option<u64> {
        let after_us = self.paces.slow_after_us(request.bytes)?;
        Some(request.sent_us.saturating_add(after_us))
    }

    fn note_deadline(&mut self, at_us: u64) {
        self.deadline_us = Some(self.deadline_us.map_or(at_us, |other| other.min(at_us)));
    }
}

impl Mempool {
    /// Sends the requests that are due.
    pub(crate) fn schedule(&mut self, now: Now, out: &mut Vec<Effect>) {
        self.fetch.deadline_us = None;
        self.counters.requests_failed += self.fetch.expire(now);
        let committed = self.committed_wants();
        let lanes = self.lanes.len();
        for offset in 0..lanes {
            let index = (offset + self.fetch.turn) % lanes;
            let lane = ValidatorIndex(u16::try_from(index).expect("VALIDATORS_MAX fits u16"));
            match committed[index].or_else(|| self.repair_want(now, lane)) {
                Some(want) => {
                    // Others brought what it was for. An answer may still be on its way: what is
                    // dropped at once would be asked for twice.
                    let requests = &mut self.fetch.requests;
                    requests.retain(|request| {
                        let is_old =
                            request.sent_us.saturating_add(REQUEST_TIMEOUT_US) <= now.mono_us;
                        request.lane != lane || request.overlaps(want) || !is_old
                    });
                    self.ask(now, lane, want, out);
                }
                // What is still in flight is not needed any more.
                None => {
                    self.fetch.lanes[index].wanted_since_us = None;
                    self.fetch.requests.retain(|request| request.lane != lane);
                }
            }
        }
        let fetch = &mut self.fetch;
        for index in 0..fetch.requests.len() {
            let progress_us = fetch.requests[index].progress_us;
            fetch.note_deadline(progress_us.saturating_add(REQUEST_TIMEOUT_US));
        }
    }

    /// For each lane the oldest range that committed blocks lack. Ranges of adjacent blocks are
    /// joined, so that small blocks do not cost a round trip each.
    fn committed_wants(&self) -> Vec<Option<Want>> {
        let mut wants: Vec<Option<Want>> = vec![None; self.lanes.len()];
        if self.delivery.missing() == 0 {
            return wants;
        }
        let mut open = vec![true; self.lanes.len()];
        let window_bytes = self
            .config
            .params
            .block_bytes_max
            .saturating_mul(PAYLOAD_WINDOW_FULL_BLOCKS);
        for segment in self.delivery.incomplete(window_bytes) {
            let (want, open) = (&mut wants[segment.lane.at()], &mut open[segment.lane.at()]);
            let joins = match want {
                None => true,
                Some(want) => {
                    *open
                        && segment.is_untouched()
                        && want.last == segment.old.seq
                        && segment.new.seq.0 - want.first.0 < REQUEST_BATCHES_MAX
                }
            };
            if !joins {
                *open = false;
                continue;
            }
            let first = want.map_or_else(|| self.first_missing(segment), |want| want.first);
            *want = Some(Want {
                first,
                last: segment.head.seq,
                committed: true,
            });
            // A segment that was begun ends below its tip: the next one does not adjoin.
            *open &= segment.is_untouched();
        }
        for want in wants.iter_mut().flatten() {
            let lowest = Seq(want.last.0.saturating_sub(REQUEST_BATCHES_MAX - 1));
            want.first = want.first.max(lowest);
        }
        wants
    }

    /// Where the missing part of a segment begins. While the lane's chain is shorter than the
    /// segment it is taken to lead there; should it turn out to be another branch, the walk passes
    /// its tip and the rest is asked for.
    fn first_missing(&self, segment: &Segment) -> Seq {
        let tip = self.lanes[segment.lane.at()].tip().seq;
        if tip < segment.head.seq {
            tip.max(segment.old.seq).next()
        } else {
            segment.old.seq.next()
        }
    }

    /// The range by which peers are ahead of this node, once the lane made no progress for a
    /// while.
    fn repair_want(&mut self, now: Now, index: ValidatorIndex) -> Option<Want> {
        let lane = &self.lanes[index.at()];
        let (tip, own) = (lane.tip(), index == self.config.me);
        let claimed = self.claimed[index.at()].max(lane.early_first().unwrap_or(Seq::ZERO));
        let wanted = if own {
            matches!(self.own.state, OwnLaneState::Behind { .. })
        } else {
            !lane.forked && !self.delivery.is_congested(self.execution_debt_bytes_max())
        };
        let state = &mut self.fetch.lanes[index.at()];
        // Below the committed batch, what is missing comes with the blocks.
        let unsettled = claimed > tip.seq && tip.seq >= lane.committed().seq;
        if !wanted || !unsettled || !lane.within_quota(1) {
            state.behind_since_us = None;
            return None;
        }
        let since_us = *state.behind_since_us.get_or_insert(now.mono_us);
        let due_us = since_us.saturating_add(REPAIR_AFTER_US);
        if due_us > now.mono_us {
            self.fetch.note_deadline(due_us);
            return None;
        }
        let batches = repair_batches(self.own.batch_bytes_full);
        let mut last = claimed.min(Seq(tip.seq.0.saturating_add(batches)));
        if let Some(early) = lane.early_first().filter(|early| *early > tip.seq.next()) {
            last = last.min(early.prev());
        }
        Some(Want {
            first: tip.seq.next(),
            last,
            committed: false,
        })
    }

    fn ask(&mut self, now: Now, lane: ValidatorIndex, want: Want, out: &mut Vec<Effect>) {
        let extends = want.last > self.lanes[lane.at()].tip().seq && lane != self.config.me;
        let state = &mut self.fetch.lanes[lane.at()];
        let next_us = match extends {
            true => state.next_us.max(state.hold_until_us(now)),
            // Another branch than the one here is not in the stream.
            false => state.next_us,
        };
        let of_lane = |request: &&Request| request.lane == lane;
        let mut open = self.fetch.requests.iter().filter(of_lane);
        let due_us = match (open.next().copied(), open.count()) {
            (None, _) => next_us,
            (Some(first), others) if 1 + others < REQUESTS_PER_LANE_MAX => {
                let slow_us = self.fetch.slow_us(&first).unwrap_or(u64::MAX);
                if slow_us <= now.mono_us {
                    // Asked last for a while. One that is silent until now may answer still.
                    let until_us = now.mono_us.saturating_add(PEER_DEMOTED_US);
                    self.fetch.demoted_until_us[first.peer.at()] = until_us;
                }
                let silent_us = first.progress_us.saturating_add(REQUEST_HEDGE_US);
                silent_us.min(slow_us).max(next_us)
            }
            (Some(_), _) => return,
        };
        if due_us > now.mono_us {
            self.fetch.note_deadline(due_us);
            return;
        }
        if self.fetch.requests.len() == REQUESTS_MAX {
            return; // the end of another request is the next occasion
        }
        let Some(peer) = self.source(now, lane, want) else {
            return;
        };
        self.fetch.turn = self.fetch.turn.wrapping_add(1);
        let (first, last) = (want.first, want.last);
        let progress_us = now.mono_us;
        self.fetch.requests.push(Request {
            peer,
            lane,
            first,
            last,
            sent_us: progress_us,
            progress_us,
            bytes: 0,
        });
        self.fetch
            .note_deadline(progress_us.saturating_add(REQUEST_HEDGE_US));
        if !want.committed {
            // An answer of no use must not be the occasion for the next request: the owner alone
            // may be asked here, and could keep this node busy. Progress takes the pause away.
            self.fetch.lanes[lane.at()].next_us = progress_us.saturating_add(RETRY_US);
        }
        self.counters.requests += 1;
        let request = GetBatches {
            epoch: self.config.set.epoch(),
            lane,
            first,
            last,
        };
        out.push(Effect::Send {
            to: peer,
            message: PeerMessage::GetBatches(request),
        });
    }

    /// The peer to ask, see the module's text for the order.
    fn source(&self, now: Now, lane: ValidatorIndex, want: Want) -> Option<ValidatorIndex> {
        let n = self.lanes.len();
        let fetch = &self.fetch;
        // Where this node's own chain is as long and still lacks what was committed, peers on the
        // same chain lack it too.
        let forked = want.committed && self.lanes[lane.at()].tip().seq >= want.last;
        let rank = |peer: ValidatorIndex| {
            let reaches = self.marks.latest(peer, lane);
            if forked && self.marks.matched(peer, lane) >= want.last {
                2
            } else if reaches >= want.last {
                0
            } else if peer == lane || reaches >= want.first {
                1
            } else {
                2
            }
        };
        self.config
            .set
            .iter()
            .map(|validator| validator.index)
            .filter(|peer| *peer != self.config.me && fetch.connected[peer.at()])
            .filter(|peer| !fetch.is_asked(*peer, lane))
            // Nobody but its owner can have what no watermark names.
            .filter(|peer| want.committed || rank(*peer) < 2)
            .min_by_key(|peer| {
                let demoted = fetch.demoted_until_us[peer.at()] > now.mono_us;
                let load = fetch
                    .requests
                    .iter()
                    .filter(|open| open.peer == *peer)
                    .count();
                (
                    demoted,
                    rank(*peer),
                    load,
                    (peer.at() + n - fetch.turn % n) % n,
                )
            })
            .or_else(|| want.committed.then(|| self.outsider(now, lane)).flatten())
    }

    /// Somebody outside the set who may have what is committed: for a node that is behind by
    /// epochs, the validators of today are among them.
    fn outsider(&self, now: Now, lane: ValidatorIndex) -> Option<ValidatorIndex> {
        let fetch = &self.fetch;
        (0..FOLLOWERS_MAX)
            .map(ValidatorIndex::of_follower)
            .filter(|peer| fetch.connected[peer.at()] && !fetch.is_asked(*peer, lane))
            .filter(|peer| fetch.demoted_until_us[peer.at()] <= now.mono_us)
            .min_by_key(|peer| {
                let open = fetch.requests.iter().filter(|open| open.peer == *peer);
                open.count()
            })
    }
}
