//! Clusters under faults. Numbers in names of scenarios refer to the list in `docs/mempool.md`.

use std::collections::BTreeSet;

use falconet_types::batch::Batch;
use falconet_types::block::{Cut, LaneTip};
use falconet_types::message::{Admission, PeerMessage};
use falconet_types::{Digest, Seq};

use super::fixtures::*;
use super::net::Net;
use crate::limits::PAYLOAD_WINDOW_BLOCKS;

const GENESIS: LaneTip = LaneTip {
    seq: Seq::ZERO,
    hash: Digest::ZERO,
};
const SECOND_US: u64 = 1_000_000;

fn roomy() -> falconet_types::genesis::Params {
    let mut params = params();
    (params.lane_backlog_bytes_max, params.block_bytes_max) = (100_000, 50_000);
    params
}

#[test]
fn all_nodes_deliver_the_same() {
    for (n, seed) in [(1, 1), (4, 2), (4, 3), (7, 4)] {
        let mut net = Net::new(n, &[], roomy(), seed);
        let accepted = net.run_loaded(2 * SECOND_US, 100, 200);
        assert_eq!(accepted, 100 * n as u64, "nobody is busy at this rate");
        net.run(SECOND_US);
        assert!(net.assert_agreement() > 50);
        net.assert_drained();
    }
}

#[test]
fn lost_messages_are_repaired() {
    for seed in 0..20 {
        let mut net = Net::new(4, &[], roomy(), seed);
        net.loss_per_mille = 50 + 10 * seed;
        net.run_loaded(3 * SECOND_US, 60, 300);
        net.loss_per_mille = 0;
        net.run(8 * SECOND_US);
        assert!(net.assert_agreement() > 50, "seed {seed}");
        net.assert_drained();
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut net = Net::new(4, &[], roomy(), seed);
        net.loss_per_mille = 100;
        net.run_loaded(SECOND_US, 30, 300);
        net.run(SECOND_US);
        (
            net.nodes
                .iter()
                .map(|node| node.delivered.clone())
                .collect::<Vec<_>>(),
            net.rng.u64(..),
        )
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn a_withholding_owner_is_ordered_once_a_quorum_has_the_data() {
    // Node 3 sends its batches to node 0 only; with its own word that is not a quorum. The others
    // see the watermarks and repair, so the lane goes on.
    for seed in 0..5 {
        let mut net = Net::new(4, &[], roomy(), seed);
        net.tamper = Some(Box::new(|from, to, message| match message {
            PeerMessage::Batch(bytes) if from == 3 && to != 0 => {
                let lane = Batch::parse(bytes.clone()).expect("a batch").header().lane;
                if lane == v(3) {
                    vec![]
                } else {
                    vec![PeerMessage::Batch(bytes)]
                }
            }
            message => vec![message],
        }));
        net.run_loaded(2 * SECOND_US, 40, 300);
        net.run(3 * SECOND_US);
        net.assert_agreement();
        net.assert_drained();
        assert!(net.tip_of(1, 3).seq > Seq(10));
    }
}

#[test]
fn the_backlog_of_an_owner_that_fell_silent_is_ordered() {
    // Its last batches reached one node only; the others get them from there.
    let mut net = Net::new(4, &[], roomy(), 21);
    net.run(100_000);
    net.cut_links = [(3, 1), (3, 2)].into();
    net.run_loaded(100_000, 20, 300);
    net.kill(3);
    let tip = net.tip_of(0, 3);
    assert!(tip.seq > Seq(5));
    net.run(2 * SECOND_US);
    net.assert_agreement();
    net.assert_drained();
    assert_eq!(net.cut_at(net.blocks.len() as u64).0[3], tip);
}

#[test]
fn an_owner_whom_nobody_hears_stalls_its_own_lane_only() {
    let mut net = Net::new(4, &[], roomy(), 9);
    net.cut_links = (0..3).flat_map(|other| [(3, other), (other, 3)]).collect();
    // Node 3 never heard a quorum: it takes transactions up to its bound and seals none.
    net.run_loaded(2 * SECOND_US, 40, 300);
    let cut = net.cut_at(net.blocks.len() as u64);
    assert_eq!(cut.0[3], GENESIS);
    assert!((0..3).all(|lane| cut.0[lane].seq > Seq(5)));
    net.heal();
    net.run(3 * SECOND_US);
    net.assert_agreement();
    net.assert_drained();
}

#[test]
fn a_forking_owner_harms_nobody_else() {
    // Node 3 is Byzantine: it sends branch A to some, branch B to others, and says it holds both.
    for seed in 0..10 {
        let mut net = Net::new(4, &[3], roomy(), seed);
        let (a, b) = (chain(3, GENESIS, 1, 20), chain(3, GENESIS, 2, 20));
        for i in 0..20 {
            for to in 0..3 {
                let branch = if to == (seed as usize) % 3 {
                    &b[i]
                } else {
                    &a[i]
                };
                net.inject(3, to, PeerMessage::Batch(branch.bytes().clone()));
                let tip = branch.tip();
                net.inject(3, to, PeerMessage::Watermark(watermark(&[(3, tip)])));
            }
            for node in 0..3 {
                net.admit(node, 200);
            }
            net.run(50_000);
        }
        // A leader in league with the owner names branch A: it is available by F1 and gets
        // committed, so the node on branch B must change over.
        let tip = a[19].tip();
        net.bad_leader = Some((
            3,
            Box::new(move |parent: &Cut| {
                let mut cut = parent.clone();
                if cut.0[3].seq < tip.seq {
                    cut.0[3] = tip;
                }
                cut
            }),
        ));
        net.run(4 * SECOND_US);
        net.assert_agreement();
        net.assert_drained();
        let cut = net.cut_at(net.blocks.len() as u64);
        assert_eq!(cut.0[3], tip, "seed {seed}");
        assert!((0..3).all(|lane| net.tip_of(lane, 3) == tip));
    }
}

#[test]
fn different_bytes_for_every_peer_are_never_ordered() {
    let mut net = Net::new(4, &[3], roomy(), 11);
    for to in 0..3 {
        for batch in chain(3, GENESIS, 10 + to as u8, 5) {
            net.inject(3, to, PeerMessage::Batch(batch.bytes().clone()));
        }
    }
    // The watermarks of the three contradict each other.
    net.run_loaded(2 * SECOND_US, 20, 200);
    net.run(SECOND_US);
    net.assert_agreement();
    net.assert_drained();
    assert_eq!(net.cut_at(net.blocks.len() as u64).0[3], GENESIS);
    let tips: BTreeSet<Digest> = (0..3).map(|node| net.tip_of(node, 3).hash).collect();
    assert_eq!(tips.len(), 3, "each holds its own branch");
}

#[test]
fn a_leader_that_names_unknown_or_old_data_gets_no_votes() {
    let mut net = Net::new(4, &[3], roomy(), 12);
    let mut turn = 0u64;
    net.bad_leader = Some((
        3,
        Box::new(move |parent: &Cut| {
            turn += 1;
            let mut cut = parent.clone();
            match turn % 3 {
                0 => {
                    cut.0[1] = LaneTip {
                        seq: Seq(cut.0[1].seq.0 + 1),
                        hash: Digest([1; 32]),
                    }
                }
                1 => cut.0[0] = LaneTip::default(),
                _ => cut.0[2].seq = Seq(cut.0[2].seq.0 + 1_000_000),
            }
            cut
        }),
    ));
    net.run_loaded(2 * SECOND_US, 40, 200);
    net.run(SECOND_US);
    net.assert_agreement();
    net.assert_drained();
}

#[test]
fn a_node_that_was_away_catches_up_in_bounded_steps() {
    let mut net = Net::new(4, &[], roomy(), 13);
    net.run_loaded(SECOND_US / 2, 10, 200);
    net.kill(2);
    // More blocks than the window holds.
    while (net.blocks.len() as u64) < 3 * PAYLOAD_WINDOW_BLOCKS {
        net.run_loaded(SECOND_US, 40, 200);
    }
    net.start(2);
    net.run_loaded(5 * SECOND_US, 100, 200);
    net.run(3 * SECOND_US);
    net.assert_agreement();
    net.assert_drained();
    let counters = net.nodes[2]
        .core
        .as_ref()
        .expect("it runs")
        .status()
        .counters;
    assert!(counters.fetched > 500, "{counters:?}");
}

#[test]
fn crashes_and_restarts_lose_nothing_and_never_fork_a_lane() {
    for seed in 0..10 {
        let mut net = Net::new(4, &[], roomy(), 100 + seed);
        net.loss_per_mille = 20;
        let mut plan = fastrand::Rng::with_seed(seed);
        for _ in 0..12 {
            let node = plan.usize(..4);
            net.run_loaded(SECOND_US / 4, 10, 300);
            net.kill(node);
            net.run_loaded(plan.u64(..SECOND_US / 2) + 1, 5, 300);
            net.start(node);
        }
        net.loss_per_mille = 0;
        net.run(8 * SECOND_US);
        assert!(net.assert_agreement() > 100, "seed {seed}");
        // All that was on a disk is committed in the end, whoever crashed.
        net.assert_drained();
        let committed: BTreeSet<Digest> =
            net.nodes[0].delivered.iter().flatten().copied().collect();
        for node in &net.nodes {
            assert!(
                node.disk
                    .iter()
                    .all(|batch| committed.contains(&batch.hash()))
            );
        }
    }
}

#[test]
fn all_crash_at_once_and_go_on() {
    let mut net = Net::new(4, &[], roomy(), 14);
    net.run_loaded(SECOND_US, 30, 300);
    for node in 0..4 {
        net.kill(node);
    }
    for node in 0..4 {
        net.start(node);
    }
    net.run_loaded(SECOND_US, 30, 300);
    net.run(3 * SECOND_US);
    net.assert_agreement();
    net.assert_drained();
}

#[test]
fn the_last_holder_serves_the_rest() {
    // Node 3 gives its batches to node 0 alone and lies about their spread through watermarks in
    // the names that it can: its own. Votes come by F1 (0 and 3); then 3 falls silent.
    let mut net = Net::new(4, &[3], roomy(), 15);
    let batches = chain(3, GENESIS, 1, 8);
    net.cut_links = (1..3).flat_map(|other| [(other, 0), (0, other)]).collect();
    for batch in &batches {
        net.inject(3, 0, PeerMessage::Batch(batch.bytes().clone()));
    }
    net.run(100_000);
    net.heal();
    for to in 0..3 {
        net.inject(
            3,
            to,
            PeerMessage::Watermark(watermark(&[(3, batches[7].tip())])),
        );
    }
    net.run(10_000);
    let holder = PeerMessage::Watermark(watermark(&[(3, batches[7].tip())]));
    for to in 1..3 {
        net.inject(0, to, holder.clone());
    }
    net.run(6_000);
    let tip = batches[7].tip();
    net.bad_leader = Some((
        3,
        Box::new(move |parent: &Cut| {
            let mut cut = parent.clone();
            cut.0[3] = tip;
            cut
        }),
    ));
    net.run(3 * SECOND_US);
    net.assert_agreement();
    assert_eq!(net.cut_at(net.blocks.len() as u64).0[3], tip);
    assert!((0..3).all(|node| net.nodes[node].delivered.iter().flatten().count() >= 8));
}

#[test]
fn a_flood_of_one_lane_is_bounded_and_others_proceed() {
    let mut params = roomy();
    params.lane_backlog_bytes_max = 20_000;
    let mut net = Net::new(4, &[3], params, 16);
    // A long lane of which nothing is ever committed: nobody acknowledges on the owner's behalf.
    let flood = chain(3, GENESIS, 1, 400);
    net.cut_links = (0..3).flat_map(|a| (0..3).map(move |b| (a, b))).collect();
    for batch in &flood {
        for to in 0..3 {
            net.inject(3, to, PeerMessage::Batch(batch.bytes().clone()));
        }
        net.run(1_000);
    }
    net.run(SECOND_US);
    for node in 0..3 {
        let core = net.nodes[node].core.as_ref().expect("it runs");
        assert_eq!(
            core.status().lanes[3].backlog_bytes,
            25_000,
            "the quota, and not more"
        );
    }
    net.heal();
    net.run_loaded(2 * SECOND_US, 40, 200);
    net.run(3 * SECOND_US);
    net.assert_agreement();
    net.assert_drained();
}

#[test]
fn a_hot_lane_is_slowed_by_busy_and_not_by_loss() {
    let mut params = params();
    params.block_bytes_max = 2_000;
    let mut net = Net::new(4, &[], params, 17);
    let (mut accepted, mut busy) = (0, 0);
    for _ in 0..2_000 {
        match net.admit(0, 498) {
            Admission::Accepted => accepted += 1,
            Admission::Busy { retry_after_ms } => {
                assert!(retry_after_ms >= 10);
                busy += 1;
            }
            other => panic!("{other:?}"),
        }
        net.run(1_000);
    }
    net.run(5 * SECOND_US);
    net.assert_drained();
    net.assert_agreement();
    assert!(
        accepted > 100 && busy > 100,
        "{accepted} accepted, {busy} busy"
    );
    let batches: BTreeSet<Digest> = net.nodes[1].delivered.iter().flatten().copied().collect();
    let txs: usize = net.nodes[1]
        .disk
        .iter()
        .filter(|batch| batches.contains(&batch.hash()))
        .map(|batch| batch.transactions().count())
        .sum();
    assert_eq!(
        txs, accepted,
        "every accepted transaction is delivered once"
    );
}

#[test]
fn a_node_that_cannot_execute_stays_bounded_and_recovers() {
    let mut params = params();
    params.block_bytes_max = 5_000;
    let mut net = Net::new(4, &[], params, 18);
    net.nodes[1].stuck = true;
    for _ in 0..20 {
        net.run_loaded(SECOND_US / 4, 20, 400);
        let status = net.nodes[1].core.as_ref().expect("it runs").status();
        // Four blocks of debt, and what the lanes were ahead of commits when it was reached.
        let held_bytes_max = 4 * 5_000 + 4 * 12_500;
        let ahead_bytes: u64 = status.lanes.iter().map(|lane| lane.backlog_bytes).sum();
        assert!(
            status.execution_debt_bytes + ahead_bytes <= held_bytes_max,
            "{status:?}"
        );
    }
    assert!(net.blocks.len() > 50, "three of four go on");
    net.nodes[1].stuck = false;
    net.run(20 * SECOND_US);
    net.assert_agreement();
    net.assert_drained();
}
