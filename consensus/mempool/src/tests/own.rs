//! Admission, sealing, and what stops this node from sealing.

use bytes::Bytes;
use falconet_types::batch::Batch;
use falconet_types::block::{Cut, LaneTip};
use falconet_types::message::Admission;
use falconet_types::{Digest, Height, Seq};

use super::fixtures::*;
use crate::limits::{
    INTAKE_LATENCY_US, OWN_BATCHES_AHEAD_MAX, PENDING_BYTES_MAX, PENDING_PER_SENDER_MAX,
};
use crate::{Effect, Input, Offered, OwnLaneState, Recovered};

fn open() -> Single {
    let mut node = Single::new(4);
    node.connect();
    assert_eq!(node.core.status().own_lane, OwnLaneState::Open);
    node
}

#[test]
fn a_lone_transaction_leaves_at_once_and_later_ones_after_the_interval() {
    let mut node = open();
    assert_eq!(node.admit(1, 100), Admission::Accepted);
    assert_eq!(node.core.next_deadline_us(), Some(0));
    let out = node.handle(Input::Tick);
    assert_eq!(sent_batches(&out, None), [Seq(1)]);
    assert_eq!(persisted(&out).len(), 1);

    node.wait(1_000);
    assert_eq!(node.admit(2, 100), Admission::Accepted);
    assert_eq!(node.admit(3, 100), Admission::Accepted);
    assert!(sent_batches(&node.wait(3_999), None).is_empty());
    let out = node.wait(1);
    assert_eq!(sent_batches(&out, None), [Seq(2)]);
    assert_eq!(persisted(&out)[0].transactions().count(), 2);
    // The record precedes the send within the turn.
    let position = |wanted: fn(&crate::Effect) -> bool| out.iter().position(wanted);
    let persist = position(|e| matches!(e, crate::Effect::Persist(_)));
    let send = position(|e| matches!(e, crate::Effect::Broadcast(_)));
    assert!(persist < send);
}

#[test]
fn a_full_batch_does_not_wait_and_keeps_the_bound() {
    let mut node = open();
    for i in 0..55 {
        assert_eq!(node.admit(i, 98), Admission::Accepted);
    }
    let out = node.handle(Input::Tick);
    // 100 payload bytes each, and four targets of 1,000 fill a batch: 40 at once, 15 wait.
    assert_eq!(sent_batches(&out, None), [Seq(1)]);
    assert_eq!(persisted(&out)[0].header().payload_len, 4_000);
    assert_eq!(node.core.status().pending_txs, 15);
    assert_eq!(sent_batches(&node.wait(5_000), None), [Seq(2)]);
}

#[test]
fn batches_are_larger_and_fewer_the_faster_the_lane_fills() {
    // Bytes a second, and batches a second of a lane whose batches commit and execute at once.
    let batches = |txs_per_ms: u64| {
        let mut params = params();
        params.batch_bytes_target = 20_000;
        params.block_bytes_max = 1 << 30;
        params.lane_backlog_bytes_max = 1 << 30;
        let mut node = Single::with(config(0, &set(4), params));
        node.connect();
        let (mut number, mut sealed) = (0, 0);
        for ms in 0..2_000 {
            for _ in 0..txs_per_ms {
                assert_eq!(node.admit(number, 98), Admission::Accepted);
                number += 1;
            }
            let out = node.wait(1_000);
            let fresh = persisted(&out).len();
            if fresh > 0 {
                let tip = node.tip(0);
                node.commit(&[(0, tip)]);
                node.execute();
            }
            sealed += if ms >= 1_000 { fresh } else { 0 };
        }
        sealed
    };
    // The target is reached in the longest interval, 40 ms, at 500 bytes a millisecond: twenty-five
    // batches a second, whatever more comes, until the bound of a batch cuts them.
    let found: Vec<usize> = [1, 3, 5, 10, 18, 40].map(batches).into();
    assert!((70..=90).contains(&found[0]), "{found:?}");
    assert!((24..=26).contains(&found[2]), "{found:?}");
    assert!((24..=26).contains(&found[4]), "{found:?}");
    assert!(
        (48..=52).contains(&found[5]),
        "80,000 bytes each: {found:?}"
    );
}

#[test]
fn the_interval_stretches_with_batches_in_flight() {
    let mut node = open();
    for i in 0..3 {
        assert_eq!(node.admit(i, 62), Admission::Accepted);
        node.wait(10_000);
    }
    // Three in flight: the timer is twice the interval.
    node.admit(100, 62);
    assert!(sent_batches(&node.wait(9_999), None).is_empty());
    assert_eq!(sent_batches(&node.wait(1), None), [Seq(4)]);
}

#[test]
fn duplicates_are_refused_while_pending_and_after() {
    let mut node = open();
    assert_eq!(node.admit(1, 100), Admission::Accepted);
    assert_eq!(node.admit(1, 100), Admission::Duplicate);
    node.handle(Input::Tick);
    assert_eq!(node.admit(1, 100), Admission::Duplicate);
    let tip = node.tip(0);
    node.commit(&[(0, tip)]);
    node.execute();
    assert_eq!(node.admit(1, 100), Admission::Duplicate);
    assert!(matches!(node.admit(2, 61), Admission::Refused(_)));
    assert!(matches!(node.admit(2, 65_536), Admission::Refused(_)));
}

#[test]
fn the_backlog_bound_makes_the_lane_busy_until_a_commit() {
    let mut node = open();
    let mut i = 0;
    let refused = loop {
        i += 1;
        match node.admit(i, 998) {
            Admission::Accepted => node.wait(50_000),
            other => break other,
        };
    };
    assert_eq!(i, 11, "ten batches of 1,000 bytes are the bound");
    let Admission::Busy { retry_after_ms } = refused else {
        panic!("{refused:?}")
    };
    assert!((10..=5_000).contains(&retry_after_ms));
    // A refused transaction is not remembered as admitted.
    let tip = node.tip(0);
    assert_eq!(tip.seq, Seq(8), "the window; the rest waits");
    node.commit(&[(0, tip)]);
    assert_eq!(node.admit(i, 998), Admission::Accepted);
}

#[test]
fn the_number_of_batches_ahead_is_bounded_too() {
    let mut params = params();
    params.lane_backlog_bytes_max = 1 << 40;
    params.batch_bytes_target = 100_000;
    let mut node = Single::with(config(0, &set(4), params));
    node.connect();
    let mut i = 0;
    while node.admit(i, 62) == Admission::Accepted {
        node.wait(100_000);
        i += 1;
    }
    assert_eq!(i, OWN_BATCHES_AHEAD_MAX);
}

#[test]
fn nothing_is_sealed_before_a_quorum_was_heard_and_pending_is_bounded() {
    let mut params = params();
    params.lane_backlog_bytes_max = 1 << 40;
    let mut node = Single::with(config(0, &set(4), params));
    let mut i = 0;
    while node.admit(i, 60_000) == Admission::Accepted {
        assert!(persisted(&node.wait(5_000)).is_empty());
        i += 1;
    }
    let status = node.core.status();
    assert_eq!(status.own_lane, OwnLaneState::Waiting);
    assert!(status.pending_bytes <= PENDING_BYTES_MAX && i > 100);
    node.watermark(1, &[]);
    assert_eq!(node.core.status().own_lane, OwnLaneState::Waiting);
    let out = node.watermark(2, &[]);
    assert_eq!(node.core.status().own_lane, OwnLaneState::Open);
    assert!(!persisted(&out).is_empty());
}

#[test]
fn a_restarted_owner_continues_after_its_highest_durable_batch() {
    let own = chain(0, LaneTip::default(), 1, 5);
    let recovered = Recovered {
        executed: Height::ZERO,
        cut: Cut::empty(4),
        batches: own.clone(),
        unsettled: Vec::new(),
    };
    let mut node = Single::recovered(config(0, &set(4), params()), recovered);
    node.connect();
    assert_eq!(node.admit(1, 70), Admission::Accepted);
    let sealed = persisted(&node.wait(5_000));
    assert_eq!(sealed[0].header().seq, Seq(6));
    assert_eq!(sealed[0].header().prev_hash, own[4].hash());
}

#[test]
fn an_old_disk_is_noticed_by_a_commit_and_repaired_before_sealing() {
    let own = chain(0, LaneTip::default(), 1, 5);
    let recovered = Recovered {
        executed: Height::ZERO,
        cut: Cut::empty(4),
        batches: own[..2].to_vec(),
        unsettled: Vec::new(),
    };
    let mut node = Single::recovered(config(0, &set(4), params()), recovered);
    node.connect();
    assert_eq!(node.admit(1, 70), Admission::Accepted);
    let out = node.commit(&[(0, own[3].tip())]);
    assert_eq!(
        node.core.status().own_lane,
        OwnLaneState::Behind { target: Seq(4) }
    );
    assert_eq!(requests(&out).len(), 1);
    assert!(matches!(node.admit(2, 70), Admission::Busy { .. }));
    assert!(persisted(&node.wait(5_000)).is_empty(), "it must not seal");
    // A peer proves that a fifth exists, then the missing ones arrive.
    node.batch(2, &own[4]);
    assert_eq!(
        node.core.status().own_lane,
        OwnLaneState::Behind { target: Seq(5) }
    );
    node.batch(2, &own[3]);
    let out = node.batch(2, &own[2]);
    assert_eq!(node.core.status().own_lane, OwnLaneState::Open);
    let sealed = persisted(&out);
    let last = sealed.last().expect("the pending transaction is sealed");
    assert_eq!(
        (last.header().seq, last.header().prev_hash),
        (Seq(6), own[4].hash())
    );
}

#[test]
fn an_old_disk_is_noticed_by_watermarks_of_weight_f1_only() {
    let mut node = Single::new(4);
    let far = LaneTip {
        seq: Seq(9),
        hash: Digest([9; 32]),
    };
    node.handle(Input::PeerUp(v(1)));
    node.watermark(1, &[(0, far)]);
    node.watermark(2, &[]);
    assert_eq!(
        node.core.status().own_lane,
        OwnLaneState::Open,
        "one peer may lie"
    );
    let near = LaneTip {
        seq: Seq(7),
        hash: Digest([7; 32]),
    };
    node.watermark(2, &[(0, near)]);
    assert_eq!(
        node.core.status().own_lane,
        OwnLaneState::Behind { target: Seq(7) }
    );
    // Repair asks a peer that claims to have them.
    let asked = requests(&node.wait(100_000));
    assert!(
        asked
            .iter()
            .all(|(peer, lane, first, _)| { (*lane, *first) == (0, 1) && [1, 2].contains(peer) })
    );
    assert_eq!(asked.len(), 1);
}

#[test]
fn a_second_process_with_the_same_key_stops_sealing_for_good() {
    let mut node = open();
    node.admit(1, 70);
    node.wait(5_000);
    let twin = batch(0, LaneTip::default(), 9, 70);
    let out = node.batch(1, &twin);
    assert_eq!(evidence(&out).len(), 1);
    assert!(evidence(&out)[0].is_conflict());
    assert_eq!(node.core.status().own_lane, OwnLaneState::Forked);
    node.admit(2, 70);
    assert!(persisted(&node.wait(1_000_000)).is_empty());
}

#[test]
fn a_single_validator_needs_nobody() {
    let mut node = Single::with(config(0, &set(1), params()));
    node.admit(1, 70);
    let out = node.wait(0);
    let sealed = persisted(&out);
    assert_eq!(sealed.len(), 1);
    let proposal = node.core.propose(&node.cut);
    assert_eq!(proposal, cut(1, &[(0, sealed[0].tip())]));
    assert!(node.core.has_work(&node.cut) && node.core.available(&node.cut, &proposal));
    let out = node.commit(&[(0, sealed[0].tip())]);
    assert_eq!(delivered(&out), [(1, vec![sealed[0].hash()])]);
    assert!(!node.core.has_work(&node.cut));
}

#[test]
fn sealed_batches_parse_and_name_their_predecessor() {
    let mut node = open();
    let mut tip = LaneTip::default();
    for i in 0..5 {
        node.admit(i, 200);
        let sealed = persisted(&node.wait(50_000));
        let parsed = Batch::parse(sealed[0].bytes().clone()).expect("it parses");
        assert_eq!(parsed.header().prev_hash, tip.hash);
        tip = parsed.tip();
    }
}

/// A transaction with a fee of a sender; its ticket is its number.
fn offer(
    node: &mut Single,
    number: u64,
    bytes: usize,
    fee: u64,
    sender: u8,
) -> (Admission, Vec<u64>) {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&number.to_le_bytes());
    let mut evicted = Vec::new();
    let offered = Offered {
        id: Digest(id),
        bytes: Bytes::from(vec![1; bytes]),
        sender: Some(Digest([sender; 32])),
        priority: fee,
        ticket: number,
    };
    let answer = node
        .core
        .admit_offered(at(node.now_us), offered, &mut evicted);
    (answer, evicted.iter().map(|tx| tx.ticket).collect())
}

fn sealed(out: &[Effect]) -> Vec<u64> {
    let tickets = |effect: &Effect| match effect {
        Effect::Sealed { tickets } => tickets.clone(),
        _ => Vec::new(),
    };
    out.iter().flat_map(tickets).collect()
}

/// A lane that may not seal yet, so that everything waits.
fn waiting() -> Single {
    let mut params = params();
    params.lane_backlog_bytes_max = 1 << 40;
    Single::with(config(0, &set(4), params))
}

#[test]
fn the_highest_fee_is_sealed_first_and_every_ticket_once() {
    let mut node = waiting();
    for (number, fee) in [(1, 5), (2, 9), (3, 5), (4, 1)] {
        assert_eq!(offer(&mut node, number, 100, fee, 1).0, Admission::Accepted);
    }
    let mut order = Vec::new();
    for peer in [1, 2] {
        order.extend(sealed(&node.watermark(peer, &[])));
    }
    for _ in 0..4 {
        order.extend(sealed(&node.wait(100_000)));
    }
    assert_eq!(order, [2, 1, 3, 4]);
}

#[test]
fn a_full_queue_makes_room_for_higher_fees_only() {
    let mut node = waiting();
    let mut number = 0;
    // Many senders, so that no quota is in the way.
    while offer(&mut node, number, 60_000, 10, number as u8).0 == Admission::Accepted {
        number += 1;
    }
    let full = node.core.status();
    assert!(full.pending_bytes <= PENDING_BYTES_MAX);
    for fee in [1, 9, 10] {
        let (answer, evicted) = offer(&mut node, 1_000, 60_000, fee, 250);
        assert!(matches!(answer, Admission::Busy { .. }) && evicted.is_empty());
    }
    let (answer, evicted) = offer(&mut node, 1_000, 60_000, 11, 250);
    assert_eq!(answer, Admission::Accepted);
    assert_eq!(evicted, [number - 1], "the newest of the lowest");
    let now = node.core.status();
    assert_eq!(now.pending_txs, full.pending_txs);
    assert_eq!(now.counters.evicted, 1);
    // What was evicted may come again, when it pays more.
    let (answer, evicted) = offer(&mut node, number - 1, 60_000, 50, 251);
    assert_eq!((answer, evicted.len()), (Admission::Accepted, 1));
}

#[test]
fn a_sender_has_a_quota_while_the_queue_is_contended() {
    let mut node = waiting();
    let mut accepted = 0;
    loop {
        match offer(&mut node, accepted, 9_000, 5, 1).0 {
            Admission::Accepted => accepted += 1,
            other => {
                assert!(matches!(other, Admission::Busy { .. }));
                break;
            }
        }
    }
    assert_eq!(accepted, u64::from(PENDING_PER_SENDER_MAX));
    assert!(node.core.status().pending_bytes < PENDING_BYTES_MAX);
    let (other, _) = offer(&mut node, 9_999, 9_000, 5, 2);
    assert_eq!(other, Admission::Accepted, "others are not held up");
}

#[test]
fn the_window_is_what_is_executed_in_the_time_allowed() {
    let mut params = params();
    params.batch_bytes_target = 10_000;
    params.block_bytes_max = 1 << 30;
    params.lane_backlog_bytes_max = 1 << 30;
    let mut node = Single::with(config(0, &set(4), params));
    node.connect();
    assert_eq!(node.core.status().window_bytes, 80_000, "the least");
    // Executes 20,000 bytes every 50 ms, whatever it is offered.
    let mut number = 0;
    let mut unexecuted = Vec::new();
    for _ in 0..200 {
        for _ in 0..400 {
            node.admit(number, 98);
            number += 1;
        }
        node.wait(25_000);
        node.wait(25_000);
        let lane = node.core.status().lanes[0].tip.seq;
        let next = Seq(node.cut.0[0].seq.0 + 1);
        if next <= lane {
            let tip = node.tip_at(0, next);
            node.commit(&[(0, tip)]);
            node.execute();
        }
        unexecuted.push(node.core.status().lanes[0].backlog_bytes);
    }
    let status = node.core.status();
    // Batches of 40,000 bytes each 50 ms, times the time allowed.
    let expected = 40_000 * 20 * INTAKE_LATENCY_US / 1_000_000;
    assert!(
        status.window_bytes.abs_diff(expected) < expected / 4,
        "{status:?}"
    );
    let most = unexecuted[100..].iter().max().expect("some");
    assert!(*most <= status.window_bytes + 40_000, "{most}");
}
