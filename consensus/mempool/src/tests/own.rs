//! Admission, sealing, and what stops this node from sealing.

use falconet_types::batch::Batch;
use falconet_types::block::{Cut, LaneTip};
use falconet_types::message::Admission;
use falconet_types::{Digest, Height, Seq};

use super::fixtures::*;
use crate::limits::{OWN_BATCHES_AHEAD_MAX, PENDING_BYTES_MAX};
use crate::{Input, OwnLaneState, Recovered};

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
fn a_full_batch_does_not_wait_and_keeps_the_target() {
    let mut node = open();
    for i in 0..25 {
        assert_eq!(node.admit(i, 98), Admission::Accepted);
    }
    let out = node.handle(Input::Tick);
    // 100 payload bytes each: two batches of ten at once, five wait.
    assert_eq!(sent_batches(&out, None), [Seq(1), Seq(2)]);
    assert!(
        persisted(&out)
            .iter()
            .all(|b| b.header().payload_len == 1_000)
    );
    assert_eq!(node.core.status().pending_txs, 5);
    // Two in flight double the interval.
    assert_eq!(sent_batches(&node.wait(10_000), None), [Seq(3)]);
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
            Admission::Accepted => node.wait(5_000),
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
    assert_eq!(tip.seq, Seq(10));
    node.commit(&[(0, tip)]);
    assert_eq!(node.admit(i, 998), Admission::Accepted);
}

#[test]
fn the_number_of_batches_ahead_is_bounded_too() {
    let mut params = params();
    params.lane_backlog_bytes_max = 1 << 40;
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
