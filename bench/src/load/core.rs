//! The book-keeping of a load: what is due, what is on its way, what came of it. Times are
//! nanoseconds since the start; nothing here reads a clock or touches a socket.
//!
//! Order of calls: `on_*` for what happened, then [`Core::turn`] for what to send. A frame that
//! could not be sent goes back by [`Core::on_unsent`]. What goes to the same validator then waits
//! in line behind it, so that a validator that reads slowly costs a look now and then and not one
//! for each transaction.
//!
//! What a validator is offered is bounded by what it takes ([`Credit`]): a transaction that it was
//! too busy for goes back to the head of its line, and while no validator takes more, what is due
//! is not even made. It waits as a number between `next` and what the schedule says is due, or is
//! dropped as one, and costs nothing that is needed to execute others.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

use bytes::Bytes;
use falconet_client::{Credit, LOOK_INTERVAL, Offer, Patience};
use falconet_types::TxId;
use falconet_types::message::Admission;
use falconet_types::receipt::{Outcome, Receipt};
use hdrhistogram::Histogram;

use super::BusyPolicy;
use super::frames::{Frame, OpenFrames};
use super::live::LiveSnapshot;
use super::nanos;
use super::outcome::{
    Counters, INTERVALS_MAX, Interval, LoadOutcome, SurgeSeen, histogram, quantile_ms,
};
use crate::hlog;
use crate::schedule::Schedule;
use crate::supply::Supply;

/// A transaction sent this much later than meant counts as late.
pub(super) const LATE_NS: u64 = 10_000_000;
/// Wait before a frame that found no room, or no connection, is tried again.
pub(super) const UNSENT_WAIT_NS: u64 = 10_000_000;
/// Transactions that are taken out of the line to a validator in one turn.
const HELD_PER_TURN: usize = 512;
/// Shortest wait before a validator is asked again that took nothing.
const BUSY_WAIT_MS_MIN: u32 = 1;
const NS_PER_US: u64 = 1_000;
const INTERVAL_NS: u64 = 1_000_000_000;

/// What a load is meant to do.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) schedule: Schedule,
    pub(super) warmup_ns: u64,
    pub(super) measured_ns: Option<u64>,
    pub(super) drain_ns: u64,
    pub(super) tick_ns: u64,
    pub(super) busy: BusyPolicy,
    pub(super) in_flight_max: usize,
    pub(super) links: usize,
    /// When more is offered: from and to.
    pub(super) surge_ns: Option<(u64, u64)>,
}

/// A transaction without a final answer.
struct Flight {
    intended_ns: u64,
    /// When it was last put into a frame.
    offered_ns: u64,
    bytes: Bytes,
    home: usize,
    /// Where it was sent; nothing while it waits to be sent.
    link: Option<usize>,
    sent: bool,
    resent: bool,
    /// It was due while validators took no more: it is late by their will.
    withheld: bool,
}

/// See the module.
pub(super) struct Core {
    settings: Settings,
    /// First nanosecond after the measured time.
    end_ns: Option<u64>,
    next: u64,
    /// Those below this number were due when no validator took more.
    withheld_to: u64,
    next_tag: u64,
    last_turn_ns: u64,
    up: Vec<bool>,
    /// Links to the validators of the epoch, in the order of the set: homes are places in it.
    members: Vec<usize>,
    /// What is known of each validator's silence, and whether it is passed over for it.
    patience: Vec<Patience>,
    silent: Vec<bool>,
    flights: HashMap<TxId, Flight, BuildHasherDefault<IdHasher>>,
    /// Ids of submissions whose results are awaited.
    tags: HashMap<(usize, u64), (Vec<TxId>, Offer)>,
    /// When to send again what waits.
    waiting: BinaryHeap<Reverse<(u64, TxId)>>,
    /// For each validator, what waits for room to send, and until when.
    lines: Vec<Line>,
    counters: Counters,
    committed_measured: u64,
    latency_us: Histogram<u64>,
    accepted_us: Histogram<u64>,
    send_delay_us: Histogram<u64>,
    interval: CurrentInterval,
    intervals: VecDeque<Interval>,
    hlog: VecDeque<hlog::Entry>,
    surge: Option<SurgeSeen>,
    /// The surge is over and its backlog counted.
    surge_over: bool,
}

/// Transactions that wait for room to send, in order.
#[derive(Default)]
struct Line {
    /// The validator was too busy for them: they go first.
    again: VecDeque<TxId>,
    held: VecDeque<TxId>,
    /// What the validator takes.
    credit: Credit,
    /// What is left of it in this turn.
    budget: usize,
    until_ns: u64,
    /// How many of the first came back since the last turn.
    returned: usize,
}

impl Line {
    fn is_empty(&self) -> bool {
        self.again.is_empty() && self.held.is_empty()
    }

    /// The validator is known to be busy and takes no more in this turn, or others are first. A line
    /// before one that never was busy is of another kind: it just reads slowly.
    fn is_closed(&self) -> bool {
        self.budget == 0 || self.credit.is_limited() && !self.is_empty()
    }
}

struct CurrentInterval {
    end_ns: u64,
    committed: u64,
    latency_us: Histogram<u64>,
}

impl Core {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            end_ns: settings
                .measured_ns
                .map(|ns| settings.warmup_ns.saturating_add(ns)),
            next: 0,
            withheld_to: 0,
            next_tag: 1,
            last_turn_ns: 0,
            up: vec![false; settings.links],
            members: (0..settings.links).collect(),
            patience: vec![Patience::default(); settings.links],
            silent: vec![false; settings.links],
            flights: HashMap::default(),
            tags: HashMap::new(),
            waiting: BinaryHeap::new(),
            lines: (0..settings.links).map(|_| Line::default()).collect(),
            counters: Counters::default(),
            committed_measured: 0,
            latency_us: histogram(),
            accepted_us: histogram(),
            send_delay_us: histogram(),
            interval: CurrentInterval {
                end_ns: INTERVAL_NS,
                committed: 0,
                latency_us: histogram(),
            },
            intervals: VecDeque::new(),
            hlog: VecDeque::new(),
            surge: settings.surge_ns.map(|_| SurgeSeen::default()),
            surge_over: false,
            settings,
        }
    }

    /// An epoch begins with these validators. What is on its way to others is waited for.
    pub(super) fn on_members(&mut self, members: Vec<usize>) {
        let links = members.iter().map(|link| link + 1).max();
        let links = links.expect("an epoch has validators").max(self.up.len());
        self.up.resize(links, false);
        self.patience.resize(links, Patience::default());
        self.silent.resize(links, false);
        self.lines.resize_with(links, Line::default);
        self.members = members;
    }

    /// The validator is connected.
    pub(super) fn on_up(&mut self, link: usize) {
        self.up[link] = true;
    }

    /// The connection is lost: whatever was sent over it and has no final answer is sent again.
    pub(super) fn on_down(&mut self, now_ns: u64, link: usize) {
        self.up[link] = false;
        self.silent[link] = false;
        self.patience[link].lost();
        self.counters.disconnects += 1;
        self.tags.retain(|(of, _), _| *of != link);
        self.elsewhere(now_ns, link);
    }

    /// To be called when all that was received has been told. Validators that have fallen silent
    /// lose what they have to the others; what they say later still counts. While none of the others
    /// is well, nobody is blamed: then it is this side, or the network.
    pub(super) fn look(&mut self, now_ns: u64) {
        let now = Duration::from_nanos(now_ns);
        let patience = self.patience.iter_mut();
        let silent: Vec<bool> = patience.map(|link| link.is_silent(now)).collect();
        let well = |link: usize| !silent[link] && self.up[link] && self.patience[link].is_well(now);
        if !(0..silent.len()).any(well) {
            return;
        }
        for (link, silent) in silent.into_iter().enumerate() {
            let was = std::mem::replace(&mut self.silent[link], silent);
            if silent && !was {
                self.counters.silences += 1;
                self.elsewhere(now_ns, link);
            }
        }
    }

    /// Whatever was sent to this validator and has no final answer is sent again.
    fn elsewhere(&mut self, now_ns: u64, link: usize) {
        // What stood in line looks for another validator.
        let line = std::mem::take(&mut self.lines[link]);
        let stood = line.again.into_iter().chain(line.held);
        self.waiting.extend(stood.map(|id| Reverse((now_ns, id))));
        for (id, flight) in &mut self.flights {
            if flight.link == Some(link) {
                flight.link = None;
                flight.resent = true;
                self.counters.resent += 1;
                self.waiting.push(Reverse((now_ns, *id)));
            }
        }
    }

    /// A validator's answer at the door.
    pub(super) fn on_results(&mut self, now_ns: u64, link: usize, tag: u64, results: &[Admission]) {
        self.patience[link].answered(Duration::from_nanos(now_ns), tag);
        let Some((ids, offer)) = self.tags.remove(&(link, tag)) else {
            return;
        };
        let line = &mut self.lines[link];
        let (mut busy, mut ended) = (0, 0);
        let mut hint_ms = u32::MAX;
        for (id, result) in ids.iter().zip(results) {
            // Its receipt may have come first.
            let Some(flight) = self.flights.get_mut(id) else {
                continue;
            };
            // It was silent for so long that another was asked: whose answer counts.
            if flight.link != Some(link) {
                continue;
            }
            let resent = flight.resent;
            match result {
                Admission::Accepted => continue,
                Admission::Busy { retry_after_ms } => {
                    busy += 1;
                    hint_ms = hint_ms.min(*retry_after_ms);
                    if self.settings.busy == BusyPolicy::Retry {
                        flight.link = None;
                        line.again.push_back(*id);
                        continue;
                    }
                    self.counters.dropped += 1;
                }
                Admission::Duplicate | Admission::Refused(Outcome::Replayed) if resent => {
                    self.counters.known += 1;
                    ended += 1;
                }
                Admission::Duplicate | Admission::Refused(_) => {
                    self.counters.refused += 1;
                    ended += 1;
                }
            }
            self.flights.remove(id);
        }
        line.credit.ended(ended);
        if busy > 0 {
            let wait = Duration::from_millis(hint_ms.max(BUSY_WAIT_MS_MIN).into());
            let now = Duration::from_nanos(now_ns);
            line.credit.refused(now, offer, busy, wait);
            self.counters.busy += busy as u64;
            if let Some(surge) = self.surge_at(now_ns) {
                surge.busy += busy as u64;
            }
        }
    }

    /// A validator said something.
    pub(super) fn on_heard(&mut self, now_ns: u64, link: usize) {
        self.patience[link].heard(Duration::from_nanos(now_ns));
    }

    /// Transactions were executed.
    pub(super) fn on_receipts(&mut self, now_ns: u64, receipts: &[Receipt]) {
        for receipt in receipts {
            let Some(flight) = self.flights.remove(&receipt.tx_id) else {
                self.counters.repeated_receipts += 1;
                continue;
            };
            if let Some(link) = flight.link {
                self.lines[link].credit.executed(1);
            }
            match receipt.outcome {
                Outcome::Executed => self.committed(now_ns, &flight),
                Outcome::Replayed if flight.resent => self.counters.known += 1,
                _ => self.counters.failed += 1,
            }
        }
    }

    fn committed(&mut self, now_ns: u64, flight: &Flight) {
        self.counters.committed += 1;
        self.interval.committed += 1;
        let latency_us = now_ns.saturating_sub(flight.intended_ns) / NS_PER_US;
        self.interval.latency_us.saturating_record(latency_us);
        if self.is_measured(now_ns) {
            self.committed_measured += 1;
        }
        if self.is_measured(flight.intended_ns) {
            self.latency_us.saturating_record(latency_us);
        }
        if self.is_measured(flight.offered_ns) {
            let accepted_us = now_ns.saturating_sub(flight.offered_ns) / NS_PER_US;
            self.accepted_us.saturating_record(accepted_us);
            if let Some(surge) = self.surge_at(flight.offered_ns) {
                surge.accepted_us.saturating_record(accepted_us);
            }
        }
    }

    /// What is noted of the surge, if this moment belongs to it.
    fn surge_at(&mut self, at_ns: u64) -> Option<&mut SurgeSeen> {
        let (from, to) = self.settings.surge_ns?;
        self.surge.as_mut().filter(|_| (from..to).contains(&at_ns))
    }

    /// A frame of the last turn was not taken.
    pub(super) fn on_unsent(&mut self, now_ns: u64, link: usize, tag: u64) {
        self.patience[link].withdrawn(tag);
        let (ids, _) = self
            .tags
            .remove(&(link, tag))
            .expect("the frame was made and not answered");
        let line = &mut self.lines[link];
        line.credit.unsent(ids.len());
        line.until_ns = now_ns + UNSENT_WAIT_NS;
        // Before those that came later; several frames of one turn come back one after the other.
        let at = line.held.len().min(line.returned);
        for (place, id) in (at..).zip(ids) {
            let flight = self.flights.get_mut(&id).expect("nothing answered it");
            flight.link = None;
            self.counters.overruns += 1;
            line.held.insert(place, id);
            line.returned = place + 1;
        }
    }

    /// Ends the measured time now, if it has not ended.
    pub(super) fn stop(&mut self, now_ns: u64) {
        self.end_ns = Some(self.end_ns.map_or(now_ns, |end| end.min(now_ns)));
    }

    /// What is to be sent now.
    pub(super) fn turn(&mut self, now_ns: u64, supply: &mut impl Supply) -> Vec<Frame> {
        self.close_intervals(now_ns);
        self.close_surge(now_ns);
        let links = self.up.len();
        let mut open = OpenFrames::new(links);
        for link in 0..links {
            let line = &mut self.lines[link];
            line.returned = 0;
            line.budget = line.credit.room(Duration::from_nanos(now_ns));
            if line.until_ns > now_ns {
                continue;
            }
            for _ in 0..HELD_PER_TURN.min(line.budget) {
                let line = &mut self.lines[link];
                let Some(id) = line.again.pop_front().or_else(|| line.held.pop_front()) else {
                    break;
                };
                self.put(now_ns, link, id, &mut open);
            }
        }
        while let Some(Reverse((due_ns, _))) = self.waiting.peek()
            && *due_ns <= now_ns
        {
            let Reverse((_, id)) = self.waiting.pop().expect("peeked");
            if self
                .flights
                .get(&id)
                .is_some_and(|flight| flight.link.is_none())
            {
                self.dispatch(now_ns, id, &mut open);
            }
        }
        let due = self.due(now_ns);
        while self.next < due {
            if self.is_throttled() {
                self.withheld_to = due;
                if self.settings.busy == BusyPolicy::Drop {
                    let count = due - self.next;
                    self.counters.scheduled += count;
                    self.drop_withheld(now_ns, count);
                    self.next = due;
                }
                break;
            }
            let intended_ns = self.settings.schedule.intended_ns(self.next);
            let withheld = self.next < self.withheld_to;
            self.next += 1;
            self.counters.scheduled += 1;
            if self.flights.len() >= self.settings.in_flight_max {
                self.counters.shed += 1;
                continue;
            }
            let Some(tx) = supply.next() else {
                if withheld {
                    // It has waited for validators and can wait for the supply.
                    self.next -= 1;
                    self.counters.scheduled -= 1;
                    break;
                }
                self.counters.starved += 1;
                continue;
            };
            let flight = Flight {
                intended_ns,
                offered_ns: intended_ns,
                bytes: tx.bytes,
                home: tx.home,
                link: None,
                sent: false,
                resent: false,
                withheld,
            };
            let before = self.flights.insert(tx.id, flight);
            assert!(before.is_none(), "the supply yields every transaction once");
            self.dispatch(now_ns, tx.id, &mut open);
        }
        self.last_turn_ns = now_ns;
        let frames = open.finish();
        for frame in &frames {
            self.patience[frame.link].submitted(Duration::from_nanos(now_ns), frame.tag);
            let offer = self.lines[frame.link].credit.offered(frame.ids.len());
            self.tags
                .insert((frame.link, frame.tag), (frame.ids.clone(), offer));
        }
        frames
    }

    /// How many are due by now.
    fn due(&self, now_ns: u64) -> u64 {
        match self.end_ns {
            Some(0) => 0,
            Some(end) => self.settings.schedule.due(now_ns.min(end - 1)),
            None => self.settings.schedule.due(now_ns),
        }
    }

    /// Whether no validator that is connected and speaks takes more in this turn.
    fn is_throttled(&self) -> bool {
        let ours = self.members.iter().copied();
        let mut speaking = ours.filter(|link| self.up[*link] && !self.silent[*link]);
        let some = speaking.clone().next().is_some();
        some && speaking.all(|link| self.lines[link].is_closed())
    }

    /// They are due, validators are known to be too busy, and nobody wants to wait.
    fn drop_withheld(&mut self, now_ns: u64, count: u64) {
        self.counters.dropped += count;
        self.counters.withheld += count;
        if let Some(surge) = self.surge_at(now_ns) {
            surge.withheld += count;
        }
    }

    /// Notes what the surge left behind, when it is over.
    fn close_surge(&mut self, now_ns: u64) {
        let over = |(_, to): (u64, u64)| now_ns >= to;
        if self.surge_over || !self.settings.surge_ns.is_some_and(over) {
            return;
        }
        self.surge_over = true;
        let backlog = self.due(now_ns).saturating_sub(self.next) + self.flights.len() as u64;
        if let Some(surge) = &mut self.surge {
            surge.backlog = backlog;
        }
    }

    /// Puts a transaction into a frame to its home, or to the next validator that is connected.
    fn dispatch(&mut self, now_ns: u64, id: TxId, open: &mut OpenFrames) {
        let flight = self.flights.get_mut(&id).expect("the caller looked");
        let members = &self.members;
        let candidates =
            (0..members.len()).map(|step| members[(flight.home + step) % members.len()]);
        let mut candidates = candidates.filter(|link| self.up[*link]);
        let speaks = candidates.clone().find(|link| !self.silent[*link]);
        let Some(link) = speaks.or_else(|| candidates.next()) else {
            self.waiting.push(Reverse((now_ns + UNSENT_WAIT_NS, id)));
            return;
        };
        let line = &mut self.lines[link];
        let closed = line.is_closed();
        if closed {
            if self.settings.busy == BusyPolicy::Drop && !flight.resent {
                self.flights.remove(&id);
                self.drop_withheld(now_ns, 1);
                return;
            }
            flight.withheld = true;
        }
        if closed || line.until_ns > now_ns || !line.is_empty() {
            line.held.push_back(id);
            return;
        }
        self.put(now_ns, link, id, open);
    }

    /// Puts a transaction into a frame to this validator, if it has no answer yet.
    fn put(&mut self, now_ns: u64, link: usize, id: TxId, open: &mut OpenFrames) {
        let Some(flight) = self.flights.get_mut(&id) else {
            return;
        };
        flight.offered_ns = now_ns;
        flight.link = Some(link);
        let first = !std::mem::replace(&mut flight.sent, true);
        let (bytes, intended_ns) = (flight.bytes.clone(), flight.intended_ns);
        let withheld = flight.withheld;
        self.lines[link].budget -= 1;
        if first {
            self.counters.sent += 1;
        }
        if first && withheld {
            self.counters.withheld += 1;
            if let Some(surge) = self.surge_at(intended_ns) {
                surge.withheld += 1;
            }
        } else if first {
            let delay_ns = now_ns.saturating_sub(intended_ns);
            self.counters.late += u64::from(delay_ns > LATE_NS);
            if self.is_measured(intended_ns) {
                self.send_delay_us.saturating_record(delay_ns / NS_PER_US);
            }
        }
        open.add(link, id, bytes, &mut self.next_tag);
    }

    /// When the next turn is needed.
    pub(super) fn next_wake_ns(&self) -> u64 {
        let next_ns = self.settings.schedule.intended_ns(self.next);
        let ended = self.end_ns.is_some_and(|end| next_ns >= end);
        let due = (!ended).then(|| next_ns.max(self.last_turn_ns + self.settings.tick_ns));
        let waiting = self.waiting.peek().map(|Reverse((due_ns, _))| *due_ns);
        let soonest_ns = self.last_turn_ns + self.settings.tick_ns;
        let last = Duration::from_nanos(self.last_turn_ns);
        let lines = self.lines.iter().filter_map(|line| {
            if line.is_empty() {
                return None;
            }
            let room_ns = match line.credit.resumes_at(last) {
                Some(at) => nanos(at),
                // What makes room are receipts, and they wake.
                None if line.credit.room(last) == 0 => return None,
                None => 0,
            };
            Some(line.until_ns.max(room_ns).max(soonest_ns))
        });
        let held = lines.min();
        let looks = self.patience.iter().any(Patience::is_waiting);
        let look = looks.then(|| self.last_turn_ns + LOOK_INTERVAL.as_nanos() as u64);
        let times = due.into_iter().chain(waiting).chain(held).chain(look);
        times.min().unwrap_or(u64::MAX)
    }

    /// Whether nothing is left to do or to wait for.
    pub(super) fn is_finished(&self, now_ns: u64) -> bool {
        self.end_ns.is_some_and(|end| {
            let all_sent = end == 0 || self.next >= self.due(now_ns);
            let drained = all_sent && self.flights.is_empty();
            now_ns >= end && (drained || now_ns >= end + self.settings.drain_ns)
        })
    }

    pub(super) fn snapshot(&self, now_ns: u64) -> LiveSnapshot {
        let last = self.intervals.back();
        let some = last.filter(|interval| interval.committed > 0);
        LiveSnapshot {
            elapsed_s: now_ns as f64 / 1e9,
            offered_tps: self.settings.schedule.rate(),
            sent: self.counters.sent,
            committed: self.counters.committed,
            committed_tps: last.map_or(0.0, |interval| interval.committed as f64),
            p50_ms: some.map(|interval| interval.p50_ms),
            p99_ms: some.map(|interval| interval.p99_ms),
            in_flight: self.flights.len() as u64 + self.due(now_ns).saturating_sub(self.next),
            busy: self.counters.busy,
            refused: self.counters.refused + self.counters.failed,
            starved: self.counters.starved,
            connected: self.members.iter().filter(|link| self.up[**link]).count(),
            generator_behind: self.counters.generator_behind(),
        }
    }

    pub(super) fn into_outcome(mut self, now_ns: u64) -> LoadOutcome {
        // What was due and never offered, because validators were busy to the end.
        let withheld = self.due(now_ns).saturating_sub(self.next);
        self.counters.scheduled += withheld;
        self.counters.unresolved = self.flights.len() as u64 + withheld;
        assert!(
            self.counters.balance(),
            "a transaction is lost or counted twice: {:?}",
            self.counters
        );
        let end_ns = self.end_ns.unwrap_or(now_ns);
        let duration_s = end_ns.saturating_sub(self.settings.warmup_ns) as f64 / 1e9;
        let committed = self.committed_measured;
        LoadOutcome {
            offered_tps: self.settings.schedule.rate(),
            duration_s,
            committed,
            committed_tps: if duration_s > 0.0 {
                committed as f64 / duration_s
            } else {
                0.0
            },
            latency_us: self.latency_us,
            accepted_us: self.accepted_us,
            send_delay_us: self.send_delay_us,
            counters: self.counters,
            intervals: self.intervals.into(),
            hlog: self.hlog.into(),
            surge: self.surge,
        }
    }

    fn is_measured(&self, at_ns: u64) -> bool {
        at_ns >= self.settings.warmup_ns && self.end_ns.is_none_or(|end| at_ns < end)
    }

    fn close_intervals(&mut self, now_ns: u64) {
        while now_ns >= self.interval.end_ns {
            let latency_us = &mut self.interval.latency_us;
            let interval = Interval {
                end_s: self.interval.end_ns as f64 / 1e9,
                committed: self.interval.committed,
                p50_ms: quantile_ms(latency_us, 0.5),
                p99_ms: quantile_ms(latency_us, 0.99),
                max_ms: quantile_ms(latency_us, 1.0),
            };
            let entry = hlog::Entry::new(
                (self.interval.end_ns - INTERVAL_NS) as f64 / 1e9,
                INTERVAL_NS as f64 / 1e9,
                latency_us,
            );
            latency_us.reset();
            self.interval.committed = 0;
            self.interval.end_ns += INTERVAL_NS;
            if self.intervals.len() == INTERVALS_MAX {
                self.intervals.pop_front();
                self.hlog.pop_front();
            }
            self.hlog.push_back(entry);
            self.intervals.push_back(interval);
        }
    }
}

/// Ids are digests already: their first bytes are as good as any hash of them.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    /// A slice announces its length first; ids all have the same.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests;
