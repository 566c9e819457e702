//! The leader's cut and the availability rule.

use falconet_types::block::{Cut, LaneTip};
use falconet_types::message::Admission;
use falconet_types::{Digest, Seq};

use super::fixtures::*;
use crate::limits::*;
use crate::{Effect, Input};

const GENESIS: LaneTip = LaneTip {
    seq: Seq::ZERO,
    hash: Digest::ZERO,
};

#[test]
fn a_cut_needs_exactly_a_quorum_by_weight() {
    // W = 10, Q = 7: this node 2, peers 4, 1, 3.
    let mut node = Single::with(config(0, &weighted_set(&[2, 4, 1, 3]), params()));
    node.connect();
    let batches = chain(2, GENESIS, 1, 3);
    batches.iter().for_each(|batch| drop(node.batch(2, batch)));
    let empty = node.cut.clone();
    // Own 2 and the owner's 1.
    assert!(!node.core.has_work(&empty));
    node.watermark(3, &[(2, batches[2].tip())]);
    assert!(!node.core.has_work(&empty), "weight 6");
    let out = node.watermark(1, &[(2, batches[1].tip())]);
    assert!(
        out.iter()
            .any(|effect| matches!(effect, Effect::PayloadChanged))
    );
    // At 2 all four hold it; at 3 it is 2 + 1 + 3.
    assert_eq!(node.core.propose(&empty), cut(4, &[(2, batches[1].tip())]));
    node.watermark(1, &[(2, batches[2].tip())]);
    assert_eq!(node.core.propose(&empty), cut(4, &[(2, batches[2].tip())]));
}

#[test]
fn q_minus_one_of_equal_weights_is_not_a_quorum() {
    for n in [4usize, 5, 6, 7] {
        let quorum = n - (n - 1) / 3;
        let mut node = Single::new(n);
        node.connect();
        let batches = chain(1, GENESIS, 1, 1);
        node.batch(1, &batches[0]);
        // This node and the owner hold it.
        for holders in 3..=n {
            assert_eq!(node.core.has_work(&node.cut), holders > quorum, "n {n}");
            node.watermark(holders - 1, &[(1, batches[0].tip())]);
        }
    }
}

#[test]
fn a_watermark_on_another_branch_or_unknown_does_not_count() {
    let mut node = Single::new(4);
    node.connect();
    let (a, b) = (chain(1, GENESIS, 1, 3), chain(1, GENESIS, 2, 3));
    node.batch(1, &a[0]);
    node.watermark(2, &[(1, b[0].tip())]);
    node.watermark(3, &[(1, b[2].tip())]);
    let empty = node.cut.clone();
    assert!(!node.core.has_work(&empty));
    // Higher on the same chain counts for what is below it, once the chain is known here.
    node.watermark(2, &[(1, a[2].tip())]);
    assert!(
        !node.core.has_work(&empty),
        "not known to extend the first batch yet"
    );
    node.batch(1, &a[1]);
    assert!(!node.core.has_work(&empty));
    node.batch(1, &a[2]);
    assert_eq!(node.core.propose(&empty), cut(4, &[(1, a[2].tip())]));
}

#[test]
fn a_peer_that_is_always_ahead_still_counts() {
    let mut node = Single::new(4);
    node.connect();
    let batches = chain(1, GENESIS, 1, 60);
    // Two peers are three batches ahead all the time.
    for i in 0..57 {
        for peer in 2..4 {
            node.watermark(peer, &[(1, batches[i + 3].tip())]);
        }
        node.batch(1, &batches[i]);
    }
    let proposed = node.core.propose(&node.cut).0[1].seq;
    assert!(proposed >= Seq(50), "{proposed}");
}

#[test]
fn watermarks_do_not_regress() {
    let mut node = Single::new(4);
    node.connect();
    let batches = chain(1, GENESIS, 1, 3);
    batches.iter().for_each(|batch| drop(node.batch(1, batch)));
    node.watermark(2, &[(1, batches[2].tip())]);
    node.watermark(2, &[(1, batches[0].tip())]);
    assert_eq!(node.core.status().counters.watermarks_refused, 1);
    assert_eq!(
        node.core.propose(&node.cut),
        cut(4, &[(1, batches[2].tip())])
    );
}

#[test]
fn the_cut_starts_at_the_parent_and_only_on_its_branch() {
    let mut node = Single::new(4);
    node.connect();
    let (a, b) = (chain(1, GENESIS, 1, 3), chain(1, GENESIS, 2, 2));
    a.iter().for_each(|batch| drop(node.batch(1, batch)));
    node.watermark(2, &[(1, a[1].tip())]);
    let on_a = cut(4, &[(1, a[0].tip())]);
    assert_eq!(node.core.propose(&on_a), cut(4, &[(1, a[1].tip())]));
    for parent in [
        cut(4, &[(1, b[0].tip())]),
        cut(4, &[(1, a[2].tip())]),
        cut(
            4,
            &[(
                1,
                LaneTip {
                    seq: Seq(9),
                    hash: Digest([9; 32]),
                },
            )],
        ),
    ] {
        assert_eq!(node.core.propose(&parent), parent);
        assert!(!node.core.has_work(&parent));
    }
    assert_eq!(
        node.core.propose(&Cut::empty(3)),
        Cut::empty(3),
        "another set's cut"
    );
}

#[test]
fn the_block_budget_is_shared_fairly() {
    let mut params = params();
    (params.block_bytes_max, params.lane_backlog_bytes_max) = (1_000, 100_000);
    let mut node = Single::with(config(0, &set(4), params));
    node.connect();
    let lanes = [
        chain(1, GENESIS, 1, 50),
        chain(2, GENESIS, 1, 50),
        chain(3, GENESIS, 1, 2),
    ];
    for batches in &lanes {
        for batch in batches {
            node.batch(batch.header().lane.at(), batch);
        }
    }
    for peer in 1..4 {
        let tips: Vec<_> = (1..4)
            .map(|i| (i, lanes[i - 1].last().unwrap().tip()))
            .collect();
        node.watermark(peer, &tips);
    }
    let mut parent = node.cut.clone();
    for _ in 0..5 {
        let next = node.core.propose(&parent);
        let taken: Vec<u64> = (1..4)
            .map(|lane| next.0[lane].seq.0 - parent.0[lane].seq.0)
            .collect();
        assert_eq!(
            taken.iter().sum::<u64>(),
            10,
            "the budget is used: {taken:?}"
        );
        assert!(taken[0].abs_diff(taken[1]) <= 1, "equal shares: {taken:?}");
        assert!(
            node.core.available(&parent, &next),
            "the voter counts as the leader does"
        );
        parent = next;
    }
    assert_eq!(parent.0[3].seq, Seq(2), "a small lane is served whole");
    // One batch above the budget is refused.
    let mut greedy = node.core.propose(&node.cut);
    let seq = greedy.0[1].seq.0 as usize;
    greedy.0[1] = lanes[0][seq].tip();
    assert!(!node.core.available(&node.cut, &greedy));
}

#[test]
fn availability_by_holding() {
    let mut node = Single::new(4);
    node.connect();
    let batches = chain(1, GENESIS, 1, 3);
    batches.iter().for_each(|batch| drop(node.batch(1, batch)));
    let empty = node.cut.clone();
    let at_three = cut(4, &[(1, batches[2].tip())]);
    assert!(node.core.available(&empty, &at_three));
    assert!(
        node.core
            .available(&cut(4, &[(1, batches[0].tip())]), &at_three)
    );
    assert!(
        node.core.available(&at_three, &at_three),
        "an empty block needs nothing"
    );
    assert!(!node.core.available(&at_three, &empty), "backwards");
    assert!(!node.core.available(&empty, &Cut::empty(3)), "another set");
    let forged = cut(
        4,
        &[(
            1,
            LaneTip {
                seq: Seq(3),
                hash: Digest([3; 32]),
            },
        )],
    );
    assert!(!node.core.available(&empty, &forged));
    let mut two = at_three.clone();
    two.0[2] = LaneTip {
        seq: Seq(1),
        hash: Digest([4; 32]),
    };
    assert!(
        !node.core.available(&empty, &two),
        "every advanced lane counts"
    );
}

#[test]
fn after_a_change_of_branch_old_acknowledgements_do_not_count() {
    let mut node = Single::new(4);
    node.connect();
    let (a, b) = (chain(1, GENESIS, 1, 3), chain(1, GENESIS, 2, 3));
    a.iter().for_each(|batch| drop(node.batch(1, batch)));
    for peer in 2..4 {
        node.watermark(peer, &[(1, a[2].tip())]);
    }
    assert!(node.core.has_work(&node.cut));
    node.commit(&[(1, b[1].tip())]);
    node.batch(2, &b[1]);
    node.batch(2, &b[0]);
    node.batch(1, &b[2]);
    assert_eq!(node.tip(1), b[2].tip());
    assert!(
        !node.core.has_work(&node.cut),
        "they hold the third of branch A"
    );
    node.watermark(2, &[(1, b[2].tip())]);
    assert!(
        node.core.has_work(&node.cut),
        "this node, the owner and one peer"
    );
}

#[test]
fn a_cut_that_does_not_continue_its_parent_is_refused_by_who_can_see_it() {
    let mut node = Single::new(4);
    node.connect();
    let (a, b) = (chain(1, GENESIS, 1, 1), chain(1, GENESIS, 2, 2));
    b.iter().for_each(|batch| drop(node.batch(1, batch)));
    for peer in 2..4 {
        node.watermark(peer, &[(1, b[1].tip())]);
    }
    let next = cut(4, &[(1, b[1].tip())]);
    assert!(node.core.available(&cut(4, &[(1, b[0].tip())]), &next));
    assert!(!node.core.available(&cut(4, &[(1, a[0].tip())]), &next));
}

#[test]
fn early_batches_are_not_durable_and_do_not_make_available() {
    let mut node = Single::new(4);
    node.connect();
    let batches = chain(1, GENESIS, 1, 2);
    node.batch(1, &batches[1]);
    assert!(
        !node
            .core
            .available(&node.cut, &cut(4, &[(1, batches[1].tip())]))
    );
}

#[test]
fn availability_by_watermarks_needs_f1_on_exactly_that_batch() {
    let mut node = Single::new(7); // F1 = 3
    node.connect();
    let batches = chain(1, GENESIS, 1, 2);
    let empty = node.cut.clone();
    let wanted = cut(7, &[(1, batches[0].tip())]);
    node.watermark(2, &[(1, batches[0].tip())]);
    node.watermark(3, &[(1, batches[0].tip())]);
    assert!(!node.core.available(&empty, &wanted));
    let other = LaneTip {
        seq: Seq(1),
        hash: Digest([8; 32]),
    };
    node.watermark(4, &[(1, other)]);
    node.watermark(5, &[(1, batches[1].tip())]);
    assert!(
        !node.core.available(&empty, &wanted),
        "other hash, other sequence number"
    );
    node.watermark(6, &[(1, batches[0].tip())]);
    assert!(node.core.available(&empty, &wanted));
    // A peer that went on still holds it.
    node.watermark(6, &[(1, batches[1].tip())]);
    assert!(node.core.available(&empty, &wanted));
}

#[test]
fn a_cut_may_not_advance_a_lane_beyond_the_bound() {
    let mut node = Single::new(4);
    node.connect();
    let tip = LaneTip {
        seq: Seq(BLOCK_LANE_BATCHES_MAX + 1),
        hash: Digest([5; 32]),
    };
    for peer in 1..4 {
        node.watermark(peer, &[(1, tip)]);
    }
    assert!(!node.core.available(&node.cut, &cut(4, &[(1, tip)])));
}

#[test]
fn in_debt_a_node_neither_leads_nor_votes_for_payload() {
    // Fetch debt.
    let mut node = Single::new(4);
    node.connect();
    let held = chain(2, GENESIS, 1, 1);
    node.batch(2, &held[0]);
    node.watermark(3, &[(2, held[0].tip())]);
    assert!(node.core.has_work(&node.cut));
    let tip = LaneTip {
        seq: Seq(FETCH_DEBT_BATCHES_MAX + 1),
        hash: Digest([5; 32]),
    };
    node.commit(&[(1, tip)]);
    assert_eq!(
        node.core.status().fetch_debt_batches,
        FETCH_DEBT_BATCHES_MAX + 1
    );
    let mut next = node.cut.clone();
    next.0[2] = held[0].tip();
    assert!(!node.core.has_work(&node.cut));
    assert!(!node.core.available(&node.cut, &next));
    assert!(
        node.core.available(&node.cut, &node.cut),
        "an empty block adds no debt"
    );

    // Execution debt: the leader stops at half of what the voter stops at.
    let mut node = Single::new(4);
    node.connect();
    let debt_bytes_max = params().block_bytes_max * EXECUTION_DEBT_FULL_BLOCKS;
    let mut tip = GENESIS;
    let (mut leads, mut votes) = (None, None);
    for block in 1..=debt_bytes_max / 10_000 + 1 {
        let batch = batch(1, tip, 1, 9_998);
        node.batch(1, &batch);
        node.watermark(2, &[(1, batch.tip())]);
        let mut next = node.cut.clone();
        next.0[1] = batch.tip();
        if !node.core.has_work(&node.cut) {
            leads.get_or_insert(block);
        }
        if !node.core.available(&node.cut, &next) {
            votes.get_or_insert(block);
            assert_eq!(node.tip(1), tip, "nor does it take more batches");
            break;
        }
        tip = batch.tip();
        node.commit(&[(1, tip)]);
    }
    assert_eq!((leads, votes), (Some(5), Some(9)));
    node.execute();
    node.now_us += 100_000;
    node.handle(Input::Tick);
    assert!(node.core.available(&node.cut, &node.cut));
    assert_eq!(node.core.status().execution_debt_bytes, 0);
}

#[test]
fn an_owner_that_cannot_execute_stops_sealing() {
    let mut params = params();
    params.block_bytes_max = 1_000;
    let mut node = Single::with(config(0, &set(1), params));
    let mut admitted = 0;
    for i in 0..1_000 {
        if node.admit(i, 98) == Admission::Accepted {
            admitted += 1;
        }
        node.wait(50_000);
        let tip = node.tip(0);
        if tip.seq > node.cut.0[0].seq {
            node.commit(&[(0, tip)]);
        }
    }
    let status = node.core.status();
    assert!(
        status.execution_debt_bytes <= 4_100,
        "{}",
        status.execution_debt_bytes
    );
    assert!(
        admitted < 200,
        "backpressure reaches the client: {admitted}"
    );
    node.execute();
    assert!(node.core.status().pending_txs < admitted);
}
