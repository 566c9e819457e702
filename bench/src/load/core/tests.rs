//! The book-keeping against scripted validators: virtual time, no sockets.

use falconet_types::{Digest, Height, Seq, ValidatorIndex};

use super::*;
use crate::supply::SupplyTx;

const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;

/// Transactions numbered from 0, or none while `empty`.
#[derive(Default)]
struct Numbered {
    next: u64,
    empty: bool,
    links: u64,
}

impl Supply for Numbered {
    fn next(&mut self) -> Option<SupplyTx> {
        if self.empty {
            return None;
        }
        let n = self.next;
        self.next += 1;
        let home = usize::try_from(n % self.links).unwrap();
        Some(SupplyTx {
            id: id(n),
            bytes: Bytes::from(vec![0; 1_000]),
            home,
        })
    }
}

fn id(n: u64) -> TxId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    Digest(bytes)
}

fn core(rate: u64, links: usize) -> (Core, Numbered) {
    let mut core = Core::new(Settings {
        schedule: Schedule::new(rate),
        warmup_ns: S,
        measured_ns: Some(2 * S),
        drain_ns: S,
        tick_ns: MS,
        busy: BusyPolicy::Retry,
        in_flight_max: 10_000,
        links,
        surge_ns: None,
    });
    for link in 0..links {
        core.on_up(link);
    }
    (
        core,
        Numbered {
            links: links as u64,
            ..Numbered::default()
        },
    )
}

fn receipts(ids: &[TxId], outcome: Outcome) -> Vec<Receipt> {
    let receipt = |tx_id: &TxId| Receipt {
        tx_id: *tx_id,
        height: Height(1),
        lane: ValidatorIndex(0),
        seq: Seq(1),
        index: 0,
        outcome,
    };
    ids.iter().map(receipt).collect()
}

/// Answers a frame as a willing validator does.
fn commit(core: &mut Core, now: u64, frame: &Frame) {
    core.on_results(
        now,
        frame.link,
        frame.tag,
        &vec![Admission::Accepted; frame.ids.len()],
    );
    core.on_receipts(now, &receipts(&frame.ids, Outcome::Executed));
}

/// Runs a whole load in steps of a tick; each frame is answered `delay` later.
fn run(core: &mut Core, supply: &mut Numbered, delay: u64) -> u64 {
    let mut pending: VecDeque<(u64, Frame)> = VecDeque::new();
    let mut now = 0;
    loop {
        while pending.front().is_some_and(|(due, _)| *due <= now) {
            let (due, frame) = pending.pop_front().unwrap();
            commit(core, due, &frame);
        }
        pending.extend(
            core.turn(now, supply)
                .into_iter()
                .map(|frame| (now + delay, frame)),
        );
        if core.is_finished(now) {
            return now;
        }
        now += MS;
    }
}

#[test]
fn a_steady_run_measures_its_window_only() {
    let (mut core, mut supply) = core(1_000, 4);
    let end = run(&mut core, &mut supply, 20 * MS);
    assert_eq!(
        end,
        3 * S + 19 * MS,
        "the last is sent at 2.999 s and answered 20 ms later"
    );
    let outcome = core.into_outcome(end);
    assert_eq!(outcome.counters.scheduled, 3_000);
    assert_eq!(outcome.counters.committed, 3_000);
    assert_eq!(
        outcome.committed, 2_000,
        "two of three seconds are measured"
    );
    assert_eq!(outcome.committed_tps, 1_000.0);
    assert_eq!(outcome.latency_us.len(), 2_000);
    assert!((quantile_ms(&outcome.latency_us, 0.5) - 20.0).abs() < 0.1);
    assert_eq!(outcome.intervals.len(), 3);
    assert_eq!(outcome.intervals[1].committed, 1_000);
    assert!(!outcome.counters.generator_behind());
}

#[test]
fn a_stall_of_the_generator_counts_as_latency_and_is_reported() {
    let (mut core, mut supply) = core(1_000, 1);
    core.turn(999 * MS, &mut supply);
    // Nothing for 500 ms, then everything at once.
    let frames = core.turn(1_500 * MS, &mut supply);
    let sent: usize = frames.iter().map(|frame| frame.ids.len()).sum();
    assert_eq!(sent, 501);
    for frame in &frames {
        commit(&mut core, 1_500 * MS, frame);
    }
    core.stop(1_501 * MS);
    let outcome = core.into_outcome(1_501 * MS);
    // Transaction 1000 was meant for 1.0 s and waited 500 ms, the median waited 250 ms.
    assert!((quantile_ms(&outcome.latency_us, 1.0) - 500.0).abs() < 1.0);
    assert!((quantile_ms(&outcome.latency_us, 0.5) - 250.0).abs() < 1.0);
    assert!((quantile_ms(&outcome.send_delay_us, 1.0) - 500.0).abs() < 1.0);
    assert!(outcome.counters.generator_behind());
}

#[test]
fn a_supply_without_transactions_is_the_generators_fault() {
    let (mut core, mut supply) = core(1_000, 1);
    supply.empty = true;
    let end = run(&mut core, &mut supply, 0);
    let outcome = core.into_outcome(end);
    assert_eq!(
        (outcome.counters.starved, outcome.counters.sent),
        (3_000, 0)
    );
    assert!(outcome.counters.generator_behind());
    assert_eq!(outcome.committed, 0);
}

#[test]
fn busy_is_retried_after_the_hint_with_the_intended_time_kept() {
    let (mut core, mut supply) = core(1, 1);
    core.settings.warmup_ns = 0;
    let frame = core.turn(0, &mut supply).remove(0);
    core.on_results(MS, 0, frame.tag, &[Admission::Busy { retry_after_ms: 40 }]);
    assert!(core.turn(40 * MS, &mut supply).is_empty());
    assert_eq!(core.next_wake_ns(), 41 * MS);
    let again = core.turn(41 * MS, &mut supply).remove(0);
    assert_eq!(again.ids, frame.ids);
    commit(&mut core, 50 * MS, &again);
    let counters = core.counters;
    assert_eq!(
        (counters.busy, counters.sent, counters.committed),
        (1, 1, 1)
    );
    assert!((quantile_ms(&core.latency_us, 1.0) - 50.0).abs() < 0.1);
}

#[test]
fn busy_is_dropped_and_counted_when_asked() {
    let (mut core, mut supply) = core(1, 1);
    core.settings.busy = BusyPolicy::Drop;
    let frame = core.turn(0, &mut supply).remove(0);
    core.on_results(MS, 0, frame.tag, &[Admission::Busy { retry_after_ms: 0 }]);
    assert!(core.turn(500 * MS, &mut supply).is_empty());
    core.stop(501 * MS);
    assert!(core.is_finished(501 * MS));
    assert_eq!(core.into_outcome(501 * MS).counters.dropped, 1);
}

#[test]
fn a_lost_connection_fails_over_and_nothing_counts_twice() {
    let (mut core, mut supply) = core(1_000, 2);
    let frames = core.turn(9 * MS, &mut supply);
    assert_eq!(
        frames
            .iter()
            .map(|f| (f.link, f.ids.len()))
            .collect::<Vec<_>>(),
        [(0, 5), (1, 5)]
    );
    // Validator 0 executes two of five and dies; one receipt got through.
    core.on_receipts(10 * MS, &receipts(&frames[0].ids[..1], Outcome::Executed));
    core.on_down(11 * MS, 0);
    let again = core.turn(11 * MS, &mut supply);
    assert!(
        again.iter().all(|frame| frame.link == 1),
        "everything goes to validator 1"
    );
    let resent: Vec<TxId> = again
        .iter()
        .flat_map(|f| f.ids.clone())
        .filter(|id| frames[0].ids.contains(id))
        .collect();
    assert_eq!(resent.len(), 4);
    // Late results of the dead connection change nothing.
    core.on_results(
        12 * MS,
        0,
        frames[0].tag,
        &[Admission::Refused(Outcome::Malformed); 5],
    );
    // Validator 1 orders them all; one was executed before.
    let (replayed, rest): (Vec<TxId>, Vec<TxId>) =
        resent.iter().partition(|id| **id == frames[0].ids[1]);
    core.on_receipts(20 * MS, &receipts(&replayed, Outcome::Replayed));
    core.on_receipts(20 * MS, &receipts(&rest, Outcome::Executed));
    core.on_receipts(21 * MS, &receipts(&rest, Outcome::Executed));
    core.on_receipts(20 * MS, &receipts(&frames[1].ids, Outcome::Executed));
    assert_eq!(core.counters.committed, 1 + 3 + 5);
    assert_eq!(core.counters.known, 1);
    assert_eq!(core.counters.resent, 4);
    assert_eq!(core.counters.repeated_receipts, 3);
    core.stop(12 * MS);
    assert!(core.into_outcome(30 * MS).counters.balance());
}

#[test]
fn a_validator_that_falls_silent_loses_its_transactions_to_the_others() {
    let (mut core, mut supply) = core(100, 2);
    let mut at_0: Vec<TxId> = Vec::new();
    let (mut now, mut silent_at) = (0, None);
    // Validator 0 dies after 500 ms; its connection stands. Validator 1 executes everything.
    while now < 3 * S {
        for frame in core.turn(now, &mut supply) {
            if frame.link == 1 || now < 500 * MS {
                commit(&mut core, now, &frame);
            } else {
                at_0.extend(&frame.ids);
            }
        }
        now += MS;
        core.look(now);
        if core.silent[0] && silent_at.is_none() {
            silent_at = Some(now);
        }
    }
    let silent_at = silent_at.unwrap();
    assert!(silent_at < 1_100 * MS, "{silent_at}");
    assert_eq!(core.counters.silences, 1);
    assert_eq!(core.counters.resent, at_0.len() as u64);
    assert!(core.flights.is_empty(), "validator 1 has executed all");
    // It was only slow: what it says late changes nothing, and it gets its own again.
    core.on_results(now, 0, 1, &[Admission::Refused(Outcome::Malformed); 5]);
    core.on_receipts(now, &receipts(&at_0, Outcome::Executed));
    core.on_heard(now, 0);
    core.look(now);
    assert!(!core.silent[0]);
    assert_eq!(core.counters.repeated_receipts, at_0.len() as u64);
    assert!(core.into_outcome(now).counters.balance());
}

#[test]
fn an_epoch_sends_new_transactions_to_its_validators_and_waits_for_the_old() {
    let (mut core, mut supply) = core(1_000, 2);
    let before = core.turn(9 * MS, &mut supply);
    // Validator 0 leaves, links 2 and 3 are new; 3 is not connected yet.
    core.on_members(vec![1, 2, 3]);
    core.on_up(2);
    supply.links = 3;
    let after = core.turn(69 * MS, &mut supply);
    let mut links: Vec<usize> = after.iter().map(|frame| frame.link).collect();
    links.sort_unstable();
    assert_eq!(links, [1, 2], "3 is passed over, 0 has left");
    for frame in before.iter().chain(&after) {
        commit(&mut core, 70 * MS, frame);
    }
    core.on_down(71 * MS, 0);
    assert_eq!(core.counters.committed, core.counters.sent);
    assert_eq!(core.counters.resent, 0);
    core.on_up(3);
    let last = core.turn(129 * MS, &mut supply);
    assert_eq!(last.len(), 3);
}

#[test]
fn when_all_fall_silent_nobody_is_blamed() {
    let (mut core, mut supply) = core(100, 2);
    let mut now = 0;
    while now < 2 * S {
        core.turn(now, &mut supply);
        now += MS;
        core.look(now);
    }
    assert_eq!(core.counters.silences + core.counters.resent, 0);
}

#[test]
fn without_any_connection_transactions_wait_and_go_out_later() {
    let (mut core, mut supply) = core(1_000, 2);
    core.on_down(0, 0);
    core.on_down(0, 1);
    assert!(core.turn(4 * MS, &mut supply).is_empty());
    assert_eq!(core.counters.sent, 0);
    core.on_up(1);
    let frames = core.turn(4 * MS + UNSENT_WAIT_NS, &mut supply);
    let ids: Vec<TxId> = frames.iter().flat_map(|frame| frame.ids.clone()).collect();
    assert!(
        (0..5).all(|n| ids.contains(&id(n))),
        "the five that waited are among them"
    );
    assert!(frames.iter().all(|frame| frame.link == 1));
}

#[test]
fn a_full_send_queue_delays_and_keeps_the_intended_time() {
    let (mut core, mut supply) = core(1, 1);
    core.settings.warmup_ns = 0;
    let frame = core.turn(0, &mut supply).remove(0);
    core.on_unsent(0, 0, frame.tag);
    assert!(core.turn(UNSENT_WAIT_NS - 1, &mut supply).is_empty());
    let again = core.turn(UNSENT_WAIT_NS, &mut supply).remove(0);
    commit(&mut core, UNSENT_WAIT_NS, &again);
    assert_eq!((core.counters.overruns, core.counters.sent), (1, 1));
    assert_eq!(quantile_ms(&core.latency_us, 1.0).round(), 10.0);
}

#[test]
fn too_many_in_flight_are_shed_not_stored() {
    let (mut core, mut supply) = core(1_000_000, 1);
    core.turn(20 * MS, &mut supply);
    assert_eq!(core.flights.len(), 10_000);
    assert_eq!(core.counters.shed, 20_001 - 10_000);
    core.stop(20 * MS + 1);
    assert!(!core.is_finished(20 * MS + 1), "waits for receipts");
    assert!(
        core.is_finished(20 * MS + 1 + S),
        "but not longer than the drain"
    );
    let counters = core.into_outcome(20 * MS + 1 + S).counters;
    assert_eq!(counters.unresolved, 10_000);
}

#[test]
fn refusals_and_failures_are_final() {
    let (mut core, mut supply) = core(1_000, 1);
    let frame = core.turn(2 * MS, &mut supply).remove(0);
    let results = [
        Admission::Refused(Outcome::Replayed),
        Admission::Duplicate,
        Admission::Accepted,
    ];
    core.on_results(3 * MS, 0, frame.tag, &results);
    core.on_receipts(
        4 * MS,
        &receipts(&frame.ids[2..], Outcome::InsufficientFunds),
    );
    core.stop(3 * MS);
    let counters = core.into_outcome(5 * MS).counters;
    assert_eq!(
        (counters.refused, counters.failed, counters.committed),
        (2, 1, 0)
    );
}

#[test]
fn frames_respect_the_limit_of_the_wire() {
    let (mut core, mut supply) = core(1_000_000, 1);
    let frames = core.turn(MS, &mut supply);
    assert_eq!(
        frames.iter().map(|frame| frame.ids.len()).sum::<usize>(),
        1_001
    );
    assert!(
        frames.len() >= 4,
        "1,001 x 1,000 bytes need four frames of 256 KiB"
    );
    let mut tags: Vec<u64> = frames.iter().map(|frame| frame.tag).collect();
    tags.dedup();
    assert_eq!(tags.len(), frames.len(), "every frame has a tag of its own");
    for frame in &frames {
        assert!(
            frame.txs.iter().map(|tx| tx.len() + 2).sum::<usize>() + 10
                <= falconet_client::FRAME_BYTES_MAX
        );
    }
}

#[test]
fn at_a_low_rate_the_generator_wakes_exactly_on_time() {
    let (mut core, mut supply) = core(100, 1);
    core.turn(0, &mut supply);
    assert_eq!(core.next_wake_ns(), 10 * MS);
    let frames = core.turn(10 * MS, &mut supply);
    frames
        .iter()
        .for_each(|frame| commit(&mut core, 10 * MS, frame));
    assert_eq!(core.next_wake_ns(), 20 * MS);
    core.stop(15 * MS);
    assert_eq!(core.next_wake_ns(), u64::MAX, "nothing more is due");
}

/// Validators that each hold `limit` transactions and execute `per_ms`, until the load is finished:
/// when, and how many offers they saw.
fn overloaded(core: &mut Core, supply: &mut Numbered, limit: usize, per_ms: usize) -> (u64, u64) {
    let links = core.settings.links;
    let mut held: Vec<VecDeque<TxId>> = vec![VecDeque::new(); links];
    let (mut now, mut offers) = (0, 0);
    while !core.is_finished(now) {
        for queue in &mut held {
            let count = per_ms.min(queue.len());
            let done: Vec<TxId> = queue.drain(..count).collect();
            core.on_receipts(now, &receipts(&done, Outcome::Executed));
        }
        for frame in core.turn(now, supply) {
            offers += frame.ids.len() as u64;
            let queue = &mut held[frame.link];
            let answer = |id: &TxId| {
                if queue.len() == limit {
                    return Admission::Busy { retry_after_ms: 50 };
                }
                queue.push_back(*id);
                Admission::Accepted
            };
            let results: Vec<Admission> = frame.ids.iter().map(answer).collect();
            core.on_results(now, frame.link, frame.tag, &results);
        }
        now += MS;
    }
    (now, offers)
}

/// A load that is three times what validators execute for a second.
fn surging(policy: BusyPolicy) -> (Core, Numbered) {
    let surge = crate::surge::Surge {
        factor: 6.0,
        from: Duration::from_secs(1),
        to: Duration::from_secs(2),
    };
    let (mut core, supply) = core(10_000, 2);
    core.settings.schedule = Schedule::with_surge(10_000, &surge);
    core.settings.surge_ns = Some((S, 2 * S));
    core.surge = Some(SurgeSeen::default());
    core.settings.warmup_ns = 0;
    core.settings.measured_ns = Some(8 * S);
    core.end_ns = Some(8 * S);
    core.settings.busy = policy;
    core.settings.in_flight_max = 100_000;
    (core, supply)
}

#[test]
fn under_overload_validators_are_offered_what_they_take_and_nothing_is_lost() {
    let (mut core, mut supply) = surging(BusyPolicy::Retry);
    let (end, offers) = overloaded(&mut core, &mut supply, 5_000, 10);
    let outcome = core.into_outcome(end);
    let counters = outcome.counters;
    assert_eq!(counters.scheduled, 7 * 10_000 + 60_000);
    assert_eq!(counters.committed, counters.scheduled, "{counters:?}");
    assert!(offers < counters.scheduled * 115 / 100, "{offers}");
    assert!(counters.withheld > 20_000, "{counters:?}");
    assert!(!counters.generator_behind(), "{counters:?}");
    // Its capacity of 20,000 a second goes on being used: surge and backlog, each second.
    for second in &outcome.intervals[1..5] {
        assert!(second.committed > 19_000, "{:?}", outcome.intervals);
    }
    let seen = outcome.surge.expect("there was one");
    assert!((35_000..=51_000).contains(&seen.backlog), "{seen:?}");
    // A full validator takes half a second, whatever waits outside.
    assert!(quantile_ms(&seen.accepted_us, 1.0) < 520.0);
    // The last that waited came when the backlog was gone: 40,000 at 10,000 a second.
    let waited_ms = quantile_ms(&outcome.latency_us, 1.0);
    assert!((1_900.0..2_700.0).contains(&waited_ms), "{waited_ms}");
}

#[test]
fn clients_that_give_up_leave_nothing_behind() {
    let (mut core, mut supply) = surging(BusyPolicy::Drop);
    let (end, offers) = overloaded(&mut core, &mut supply, 5_000, 10);
    let outcome = core.into_outcome(end);
    let counters = outcome.counters;
    assert_eq!(counters.scheduled, 7 * 10_000 + 60_000);
    assert_eq!(counters.committed + counters.dropped, counters.scheduled);
    assert!(counters.dropped > 25_000, "{counters:?}");
    assert!(
        counters.withheld > counters.busy,
        "dropped without being sent"
    );
    assert!(offers < counters.committed * 115 / 100, "{offers}");
    let calm = &outcome.intervals[3..8];
    for second in calm {
        assert_eq!(second.committed, 10_000, "{:?}", outcome.intervals);
        assert!(second.p99_ms < 5.0, "{second:?}");
    }
    assert!(outcome.intervals[1].committed > 19_000);
}

#[test]
fn what_was_refused_goes_before_what_came_later() {
    let (mut core, mut supply) = core(1_000, 1);
    let first = core.turn(9 * MS, &mut supply).remove(0);
    let mut results = vec![Admission::Accepted; first.ids.len()];
    results[4..].fill(Admission::Busy { retry_after_ms: 50 });
    core.on_results(10 * MS, 0, first.tag, &results);
    // Room comes with receipts, not with the hint.
    core.on_receipts(20 * MS, &receipts(&first.ids[..4], Outcome::Executed));
    let later = core.turn(20 * MS, &mut supply);
    let ids: Vec<TxId> = later.iter().flat_map(|frame| frame.ids.clone()).collect();
    assert_eq!(ids[..6], first.ids[4..]);
    let mut sorted = ids.clone();
    sorted.sort();
    assert_eq!(ids, sorted, "nonces of an account stay in order");
}

#[test]
fn what_never_found_room_is_counted() {
    let (mut core, mut supply) = core(1_000, 1);
    let first = core.turn(9 * MS, &mut supply).remove(0);
    let busy = vec![
        Admission::Busy {
            retry_after_ms: 60_000
        };
        first.ids.len()
    ];
    core.on_results(10 * MS, 0, first.tag, &busy);
    assert!(core.turn(20 * MS, &mut supply).is_empty());
    assert_eq!(core.snapshot(20 * MS).in_flight, 21);
    core.stop(21 * MS);
    let counters = core.into_outcome(21 * MS + S).counters;
    assert_eq!((counters.scheduled, counters.unresolved), (21, 21));
}
