//! Peers' lanes: acceptance, order, quotas, forks, acknowledgement, repair, serving.

use falconet_types::block::{Cut, LaneTip};
use falconet_types::message::{GetBatches, PeerMessage};
use falconet_types::{Digest, Epoch, Height, Seq};

use super::fixtures::*;
use crate::limits::*;
use crate::{Effect, Input, RecoverError, Recovered};
use falconet_types::genesis::HISTORY_HEIGHTS_FLOOR;

const GENESIS: LaneTip = LaneTip {
    seq: Seq::ZERO,
    hash: Digest::ZERO,
};

fn connected() -> Single {
    let mut node = Single::new(4);
    node.connect();
    node
}

#[test]
fn a_batch_is_persisted_before_the_watermark_that_names_it() {
    let mut node = connected();
    let batches = chain(1, GENESIS, 1, 2);
    let out = node.batch(1, &batches[0]);
    assert_eq!(hashes(&persisted(&out)), hashes(&batches[..1]));
    let first = watermarks(&out);
    assert_eq!(
        first,
        [watermark(&[(1, batches[0].tip())])],
        "an idle node acknowledges at once"
    );
    let persist = out.iter().position(|e| matches!(e, Effect::Persist(_)));
    let promise = out
        .iter()
        .position(|e| matches!(e, Effect::Broadcast(PeerMessage::Watermark(_))));
    assert!(persist < promise);
    // The next within the interval waits for it.
    assert!(watermarks(&node.batch(1, &batches[1])).is_empty());
    let due_us = node.core.next_deadline_us().expect("a watermark is due");
    let out = node.wait(due_us - node.now_us);
    assert_eq!(watermarks(&out), [watermark(&[(1, batches[1].tip())])]);
    assert!(
        watermarks(&node.wait(20_000)).is_empty(),
        "nothing new, nothing sent"
    );
}

#[test]
fn batches_out_of_order_are_acknowledged_in_order() {
    let mut node = connected();
    let batches = chain(1, GENESIS, 1, 4);
    for batch in [&batches[3], &batches[1], &batches[2]] {
        let out = node.batch(1, batch);
        assert!(persisted(&out).is_empty() && watermarks(&out).is_empty());
    }
    let out = node.batch(1, &batches[0]);
    assert_eq!(hashes(&persisted(&out)), hashes(&batches));
    assert_eq!(node.tip(1), batches[3].tip());
    // Again: nothing happens.
    assert!(persisted(&node.batch(1, &batches[2])).is_empty());
}

#[test]
fn the_early_buffer_is_bounded_and_prefers_what_is_needed_first() {
    let mut node = connected();
    let batches = chain(1, GENESIS, 1, 200);
    for batch in batches[1..].iter().rev() {
        node.batch(1, batch);
    }
    let out = node.batch(1, &batches[0]);
    // The lowest of the buffer survived, although they came last.
    assert_eq!(node.tip(1).seq, Seq(1 + EARLY_BATCHES_MAX as u64));
    assert_eq!(persisted(&out).len(), 1 + EARLY_BATCHES_MAX);
}

#[test]
fn a_lane_may_run_ahead_of_commits_by_its_bound_and_no_further() {
    let mut node = connected();
    let batches = chain(1, GENESIS, 1, 200);
    for batch in &batches {
        node.batch(1, batch);
    }
    // 10,000 bytes and a quarter more; 100 bytes a batch.
    assert_eq!(node.tip(1).seq, Seq(125));
    assert_eq!(node.core.status().lanes[1].backlog_bytes, 12_500);
    assert!(node.core.status().counters.over_quota > 0);
    let out = node.wait(10_000);
    assert!(watermarks(&out).iter().all(|w| w.tips[0].1.seq <= Seq(125)));
    // A commit gives room: the one that was refused is taken, and those kept early after it.
    node.commit(&[(1, batches[99].tip())]);
    node.batch(1, &batches[125]);
    assert_eq!(node.tip(1).seq, Seq(126 + EARLY_BATCHES_MAX as u64));
}

#[test]
fn the_number_of_batches_ahead_is_bounded_for_peers_too() {
    let mut params = params();
    params.lane_backlog_bytes_max = 1 << 40;
    let mut node = Single::with(config(0, &set(4), params));
    for batch in &chain(1, GENESIS, 1, LANE_BATCHES_AHEAD_MAX as usize + 10) {
        node.batch(1, batch);
    }
    assert_eq!(node.tip(1).seq, Seq(LANE_BATCHES_AHEAD_MAX));
}

#[test]
fn the_first_branch_wins_and_the_fork_is_proven_once() {
    let mut node = connected();
    let (a, b) = (chain(1, GENESIS, 1, 3), chain(1, GENESIS, 2, 3));
    node.batch(1, &a[0]);
    node.batch(1, &a[1]);
    let out = node.batch(2, &b[0]);
    let proofs = evidence(&out);
    assert_eq!(proofs.len(), 1);
    assert!(proofs[0].is_conflict());
    assert_eq!(proofs[0].first.header, *a[0].header());
    assert_eq!(proofs[0].second.header, *b[0].header());
    assert!(persisted(&out).is_empty());
    // Same sequence number as the next expected, other predecessor: a conflict of neighbours.
    assert!(
        evidence(&node.batch(1, &b[2])).is_empty(),
        "one proof a lane is enough"
    );
    assert_eq!(node.core.status().counters.forks, 2);
    assert!(node.core.status().lanes[1].forked);
    node.batch(1, &a[2]);
    assert_eq!(node.tip(1), a[2].tip());
}

#[test]
fn neighbours_that_do_not_link_are_evidence_and_links_are_not() {
    let mut node = connected();
    let (a, b) = (chain(1, GENESIS, 1, 2), chain(1, GENESIS, 2, 2));
    node.batch(1, &a[0]);
    let proofs = evidence(&node.batch(1, &b[1]));
    assert!(proofs[0].is_conflict());
    let mut honest = proofs[0].clone();
    honest.second = (&a[1]).into();
    assert!(!honest.is_conflict());
    honest.second = (&a[0]).into();
    assert!(
        !honest.is_conflict(),
        "the same header twice is no conflict"
    );
}

#[test]
fn an_early_batch_of_another_branch_does_not_block_the_lane() {
    let mut node = connected();
    let (a, b) = (chain(1, GENESIS, 1, 3), chain(1, GENESIS, 2, 3));
    node.batch(1, &b[1]);
    let out = node.batch(1, &a[0]);
    assert_eq!(evidence(&out).len(), 1);
    node.batch(1, &a[1]);
    assert_eq!(node.tip(1), a[1].tip());
}

#[test]
fn a_commit_of_the_other_branch_replaces_this_one_and_the_lane_goes_on() {
    let mut node = connected();
    let fork = batch(1, GENESIS, 0, 98);
    let (mine, theirs) = (chain(1, fork.tip(), 1, 3), chain(1, fork.tip(), 2, 4));
    node.batch(1, &fork);
    for batch in &mine {
        node.batch(1, batch);
    }
    for peer in 2..4 {
        node.watermark(peer, &[(1, theirs[1].tip())]);
    }
    // Watermarks of weight F1 for exactly the other branch: it may vote for it ...
    let parent = node.cut.clone();
    assert!(
        node.core
            .available(&parent, &cut(4, &[(1, theirs[1].tip())]))
    );
    // ... and must fetch it when it is committed.
    let out = node.commit(&[(1, theirs[1].tip())]);
    let (peer, lane, first, last) = requests(&out)[0];
    assert!([2, 3].contains(&peer));
    assert_eq!((lane, first, last), (1, 1, 3));
    // The answer comes newest first; what is held already is not waited for.
    assert!(delivered(&node.batch(peer, &theirs[1])).is_empty());
    let out = node.batch(peer, &theirs[0]);
    let expected = vec![fork.hash(), theirs[0].hash(), theirs[1].hash()];
    assert_eq!(delivered(&out), [(1, expected)]);
    assert_eq!(node.tip(1), theirs[1].tip());
    node.batch(1, &theirs[2]);
    assert_eq!(node.tip(1), theirs[2].tip());
    // The superseded branch was acknowledged, so it is still served until execution passes it.
    let request = GetBatches {
        epoch: Epoch::ZERO,
        lane: v(1),
        first: Seq(4),
        last: Seq(4),
    };
    let out = node.handle(Input::GetBatches {
        from: v(3),
        request,
    });
    assert_eq!(
        sent_batches(&out, Some(3)).len(),
        2,
        "both branches at seq 4"
    );
}

#[test]
fn a_certified_cut_that_does_not_link_is_delivered_alike_everywhere() {
    // The parent's cut names branch A at 1, the next cut names branch B at 2.
    let (a, b) = (chain(1, GENESIS, 1, 1), chain(1, GENESIS, 2, 3));
    for holds_b in [false, true] {
        let mut node = connected();
        if holds_b {
            b.iter().for_each(|batch| drop(node.batch(1, batch)));
            node.commit(&[(1, a[0].tip())]);
            node.batch(2, &a[0]);
        } else {
            node.batch(1, &a[0]);
            node.commit(&[(1, a[0].tip())]);
        }
        // Peers that weigh F1 say that they hold the tip; whoever knows better must refuse.
        for peer in 2..4 {
            node.watermark(peer, &[(1, b[1].tip())]);
        }
        let (parent, next) = (node.cut.clone(), cut(4, &[(1, b[1].tip())]));
        assert_eq!(node.core.available(&parent, &next), !holds_b);
        let mut out = node.commit(&[(1, b[1].tip())]);
        if !holds_b {
            out = node.batch(2, &b[1]);
        }
        assert_eq!(
            delivered(&out),
            [(2, vec![b[1].hash()])],
            "holds_b: {holds_b}"
        );
        assert_eq!(node.core.status().counters.broken_links, 1);
        assert_eq!(node.tip(1), if holds_b { b[2].tip() } else { b[1].tip() });
        node.execute();
    }
}

#[test]
fn lost_stream_data_is_repaired_from_a_holder() {
    let mut node = connected();
    let batches = chain(1, GENESIS, 1, 5);
    node.batch(1, &batches[0]);
    node.watermark(3, &[(1, batches[4].tip())]);
    assert!(
        requests(&node.wait(REPAIR_AFTER_US - 1)).is_empty(),
        "it may be on its way"
    );
    let asked = requests(&node.wait(1));
    // Two thousand bytes in the small parameters' early buffer: the range is bounded, not all.
    assert_eq!(asked, [(3, 1, 2, 5)]);
    for batch in batches[1..].iter().rev() {
        node.batch(3, batch);
    }
    assert_eq!(node.tip(1), batches[4].tip());
    assert_eq!(node.core.status().requests, 0);
}

#[test]
fn useless_answers_to_a_repair_do_not_ask_for_the_next_one() {
    let mut node = connected();
    let (right, wrong) = (chain(1, GENESIS, 1, 3), chain(1, GENESIS, 2, 3));
    node.batch(1, &right[0]);
    // Settled and forgotten: that the next one does not extend it is no proof of a fork.
    node.commit(&[(1, right[0].tip())]);
    node.execute();
    for _ in 0..HISTORY_HEIGHTS_FLOOR {
        node.commit(&[]);
        node.execute();
    }
    node.watermark(1, &[(1, right[2].tip())]);
    assert_eq!(requests(&node.wait(REPAIR_AFTER_US)), [(1, 1, 2, 3)]);
    // The owner answers at once, with another branch, as often as it is asked.
    let mut asked = 0;
    for _ in 0..100 {
        asked += requests(&node.batch(1, &wrong[1])).len();
    }
    assert_eq!(asked, 0);
    assert!(requests(&node.wait(RETRY_US)).len() <= 1);
}

#[test]
fn a_silent_peer_costs_a_timeout_and_another_is_asked() {
    let mut node = connected();
    let batches = chain(1, GENESIS, 1, 3);
    node.watermark(2, &[(1, batches[2].tip())]);
    node.watermark(3, &[(1, batches[2].tip())]);
    let first = requests(&node.commit(&[(1, batches[2].tip())]))[0].0;
    let second = requests(&node.wait(REQUEST_HEDGE_US))[0].0;
    assert_ne!(first, second);
    assert_eq!(node.core.status().requests, 2);
    let mut asked = vec![0usize; 4];
    for _ in 0..200 {
        let wait_us = node
            .core
            .next_deadline_us()
            .map_or(1_000, |at| at.saturating_sub(node.now_us));
        for (peer, ..) in requests(&node.wait(wait_us.max(1))) {
            asked[peer] += 1;
        }
        assert!(node.core.status().requests <= REQUESTS_PER_LANE_MAX);
    }
    assert!(
        asked[1] > 0 && asked[2] > 0 && asked[3] > 0,
        "all are tried: {asked:?}"
    );
    let spent_s = (node.now_us - 1_000_000) / 1_000_000;
    assert!(
        spent_s > 30,
        "200 deadlines must not be a busy loop: {spent_s} s"
    );
    for batch in batches.iter().rev() {
        node.batch(2, batch);
    }
    assert_eq!(node.core.status().delivered, Height(1));
}

#[test]
fn a_peer_that_sends_another_branch_is_demoted_and_its_batch_ignored() {
    let mut node = connected();
    let (right, wrong) = (chain(1, GENESIS, 1, 2), chain(1, GENESIS, 2, 2));
    for peer in 2..4 {
        node.watermark(peer, &[(1, right[1].tip())]);
    }
    let bad = requests(&node.commit(&[(1, right[1].tip())]))[0].0;
    let out = node.batch(bad, &wrong[1]);
    assert!(persisted(&out).is_empty());
    assert_eq!(node.core.status().counters.wrong_branch, 1);
    let (good, ..) = requests(&out)[0];
    assert_ne!(good, bad);
    node.batch(good, &right[1]);
    let out = node.batch(good, &right[0]);
    assert_eq!(delivered(&out), [(1, hashes(&right))]);
}

#[test]
fn what_is_on_its_way_is_not_asked_for() {
    let batches = chain(1, GENESIS, 1, 4);
    // The owner's stream was heard of just now.
    let mut node = connected();
    node.batch(1, &batches[0]);
    let out = node.commit(&[(1, batches[1].tip())]);
    assert!(requests(&out).is_empty(), "the stream may bring it");
    assert!(requests(&node.wait(STREAM_ALIVE_US - 1)).is_empty());
    assert_eq!(node.core.next_deadline_us(), Some(node.now_us + 1));
    assert_eq!(requests(&node.wait(1)), [(1, 1, 2, 2)]);
    // It waits to be verified.
    let mut node = connected();
    node.core.arriving(v(1), true);
    let out = node.commit(&[(1, batches[1].tip())]);
    assert!(requests(&out).is_empty());
    assert!(requests(&node.wait(ARRIVING_US_MAX - 1)).is_empty());
    assert_eq!(requests(&node.wait(1)).len(), 1, "not for ever");
    // It was verified, and was something else.
    let mut node = connected();
    node.core.arriving(v(1), true);
    assert!(requests(&node.commit(&[(1, batches[1].tip())])).is_empty());
    node.core.arriving(v(1), false);
    assert_eq!(requests(&node.wait(0)).len(), 1);
    // It comes in time.
    let mut node = connected();
    node.core.arriving(v(1), true);
    node.commit(&[(1, batches[1].tip())]);
    node.batch(1, &batches[0]);
    node.batch(1, &batches[1]);
    node.core.arriving(v(1), false);
    assert!(requests(&node.wait(ARRIVING_US_MAX)).is_empty());
    assert_eq!(node.core.status().delivered, Height(1));
}

#[test]
fn small_blocks_are_fetched_together() {
    let mut node = connected();
    let batches = chain(1, GENESIS, 1, 40);
    let mut asked = Vec::new();
    for batch in &batches {
        asked.extend(requests(&node.commit(&[(1, batch.tip())])));
    }
    assert_eq!(asked.len(), 1, "one request a lane is in flight");
    let (peer, _, first, last) = asked[0];
    assert_eq!((first, last), (1, 1));
    let out = node.batch(peer, &batches[0]);
    assert_eq!(requests(&out).len(), 1);
    let (peer, _, first, last) = requests(&out)[0];
    assert_eq!((first, last), (2, 40), "the other 39 blocks in one");
    let mut heights = Vec::new();
    for batch in batches[1..].iter().rev() {
        heights.extend(
            delivered(&node.batch(peer, batch))
                .into_iter()
                .map(|(h, _)| h),
        );
    }
    assert_eq!(heights, (2..=40).collect::<Vec<_>>());
}

/// Whoever sends a batch now and then keeps a lane waiting no longer than one that sends none.
#[test]
fn a_peer_that_drips_is_helped_and_asked_last() {
    const LATE_US: u64 = REQUEST_HEDGE_US - 10_000;
    let mut node = connected();
    let batches = chain(1, GENESIS, 1, 200);
    // How fast answers come: a round trip of ten milliseconds.
    for batch in &batches[..20] {
        let asked = requests(&node.commit(&[(1, batch.tip())]));
        let (peer, _, first, last) = asked[0];
        assert_eq!((first, last), (batch.header().seq.0, batch.header().seq.0));
        node.wait(10_000);
        node.batch(peer, batch);
    }
    let mut asked = Vec::new();
    for batch in &batches[20..80] {
        asked.extend(requests(&node.commit(&[(1, batch.tip())])));
    }
    let (peer, _, _, _) = asked[0];
    let out = node.batch(peer, &batches[20]);
    let (dripping, _, first, last) = requests(&out)[0];
    assert_eq!((first, last), (22, 80));
    let mut second = Vec::new();
    let mut waited_us = 0;
    for batch in batches[21..80].iter().rev() {
        second = requests(&node.wait(LATE_US));
        waited_us += LATE_US;
        if !second.is_empty() {
            break;
        }
        second = requests(&node.batch(dripping, batch));
        if !second.is_empty() {
            break;
        }
    }
    assert!(
        waited_us <= REQUEST_TIMEOUT_US + 4 * LATE_US,
        "{waited_us} us"
    );
    let (other, _, first, last) = second[0];
    assert_ne!(other, dripping);
    assert_eq!(first, 22);
    for batch in batches[21..last as usize].iter().rev() {
        node.batch(other, batch);
    }
    assert_eq!(node.core.status().delivered, Height(80));
    // What it was asked for nobody waits for any more, and others come first.
    for batch in &batches[80..] {
        let asked = requests(&node.commit(&[(1, batch.tip())]));
        assert_eq!(asked.len(), 1, "at once");
        assert_ne!(asked[0].0, dripping);
        node.batch(asked[0].0, batch);
    }
    assert_eq!(node.core.status().delivered, Height(200));
}

/// A link that is slow for everybody makes nobody ask twice.
#[test]
fn answers_that_are_slow_everywhere_are_asked_for_once() {
    let mut node = connected();
    let batches = chain(1, GENESIS, 1, 240);
    let mut number = 0;
    for part in batches.chunks(20) {
        let mut asked = Vec::new();
        for batch in part {
            asked.extend(requests(&node.commit(&[(1, batch.tip())])));
        }
        while let Some((peer, _, first, last)) = asked.pop() {
            assert_eq!(asked, vec![], "one at a time");
            number += 1;
            for seq in (first..=last).rev() {
                // Each batch takes this long on the link.
                let out = node.wait(REQUEST_HEDGE_US - 10_000);
                assert_eq!(requests(&out), vec![], "{number} requests so far");
                asked = requests(&node.batch(peer, &batches[seq as usize - 1]));
            }
        }
    }
    assert_eq!(node.core.status().delivered, Height(240));
}

#[test]
fn requests_are_served_newest_first_capped_and_rate_limited() {
    let mut params = params();
    (params.lane_backlog_bytes_max, params.block_bytes_max) = (1 << 30, 1 << 30);
    let mut node = Single::with(config(0, &set(4), params));
    node.connect();
    let mut tip = GENESIS;
    for _ in 0..100 {
        let batch = batch(1, tip, 1, 65_000);
        tip = batch.tip();
        node.batch(1, &batch);
    }
    let request = |first, last| GetBatches {
        epoch: Epoch::ZERO,
        lane: v(1),
        first: Seq(first),
        last: Seq(last),
    };
    let ask = |node: &mut Single, first, last| {
        node.handle(Input::GetBatches {
            from: v(2),
            request: request(first, last),
        })
    };
    let served = sent_batches(&ask(&mut node, 98, 1_000), Some(2));
    assert_eq!(served, [Seq(100), Seq(99), Seq(98)]);
    let served = sent_batches(&ask(&mut node, 1, u64::MAX), Some(2));
    assert_eq!(
        served.len(),
        REQUEST_BATCHES_MAX as usize,
        "capped in number"
    );
    assert_eq!(served[0], Seq(100));
    assert!(sent_batches(&ask(&mut node, 101, 200), Some(2)).is_empty());
    // Without a pause the allowance runs out.
    let mut total = 0;
    for _ in 0..100 {
        total += sent_batches(&ask(&mut node, 1, 64), Some(2)).len();
    }
    assert!(
        total as u64 * 65_000 <= SERVE_BURST_BYTES + SERVE_BYTES_MAX,
        "{total} batches"
    );
    assert!(node.core.status().counters.serve_refused > 0);
    node.wait(1_000_000);
    assert!(!sent_batches(&ask(&mut node, 1, 64), Some(2)).is_empty());
    // Executed batches come from the store.
    node.commit(&[(1, tip)]);
    node.execute();
    let out = ask(&mut node, 90, 100);
    assert!(sent_batches(&out, Some(2)).is_empty());
    assert!(out.iter().any(|effect| matches!(effect,
        Effect::Serve { to, lane, first, last, .. }
            if (*to, *lane, *first, *last) == (v(2), v(1), Seq(90), Seq(100)))));
}

#[test]
fn a_served_answer_stops_at_its_byte_bound() {
    let mut params = params();
    params.lane_backlog_bytes_max = 1 << 30;
    let mut node = Single::with(config(0, &set(4), params));
    let mut tip = GENESIS;
    for _ in 0..20 {
        let txs: Vec<_> = (0..10)
            .map(|_| bytes::Bytes::from(vec![3; 60_000]))
            .collect();
        let batch = falconet_types::batch::Batch::seal(
            Epoch::ZERO,
            v(1),
            tip,
            &txs,
            CHAIN,
            &FakeSigner(v(1)),
        );
        tip = batch.tip();
        node.batch(1, &batch);
    }
    let request = GetBatches {
        epoch: Epoch::ZERO,
        lane: v(1),
        first: Seq(1),
        last: Seq(20),
    };
    let served = sent_batches(
        &node.handle(Input::GetBatches {
            from: v(2),
            request,
        }),
        Some(2),
    );
    assert_eq!(served.len(), (SERVE_BYTES_MAX / 600_000) as usize + 1);
}

#[test]
fn nonsense_from_peers_is_ignored() {
    let mut node = connected();
    let far = LaneTip {
        seq: Seq(u64::MAX),
        hash: Digest([1; 32]),
    };
    node.watermark(1, &[(2, far), (77, far)]);
    let mut other_epoch = watermark(&[(1, far)]);
    other_epoch.epoch = Epoch(9);
    node.handle(Input::Watermark {
        from: v(1),
        watermark: other_epoch,
    });
    node.handle(Input::Watermark {
        from: v(99),
        watermark: watermark(&[(1, far)]),
    });
    node.handle(Input::PeerUp(v(99)));
    node.handle(Input::PeerDown(v(99)));
    let stranger = batch(6, GENESIS, 1, 98);
    assert!(persisted(&node.batch(1, &stranger)).is_empty());
    for (lane, first, last) in [(99, 1, 2), (1, 0, 0), (1, 5, 4), (1, 1, u64::MAX)] {
        let request = GetBatches {
            epoch: Epoch::ZERO,
            lane: v(lane),
            first: Seq(first),
            last: Seq(last),
        };
        node.handle(Input::GetBatches {
            from: v(1),
            request,
        });
    }
    // A claim that nobody can fulfil leads to a bounded number of requests to the liar alone.
    let mut asked = 0;
    for _ in 0..100 {
        for (peer, lane, ..) in requests(&node.wait(100_000)) {
            assert!(lane == 2 && (peer == 1 || peer == 2));
            asked += 1;
        }
    }
    assert!((1..=20).contains(&asked), "{asked} requests in 10 s");
}

#[test]
fn executed_batches_leave_memory_and_history_is_pruned() {
    let mut params = params();
    params.history_heights_min = 0; // the floor holds
    let mut node = Single::with(config(0, &set(4), params));
    node.connect();
    let mut tip = GENESIS;
    let mut pruned = Vec::new();
    for height in 1..=2 * HISTORY_HEIGHTS_FLOOR {
        let batch = batch(1, tip, 1, 98);
        tip = batch.tip();
        node.batch(1, &batch);
        node.commit(&[(1, tip)]);
        assert_eq!(node.core.status().execution_debt_bytes, 100);
        for effect in node.execute() {
            if let Effect::Prune { height: up_to, cut } = effect {
                assert_eq!(cut.0[1].seq.0, up_to.0);
                assert!(up_to.0 + HISTORY_HEIGHTS_FLOOR <= height, "too early");
                pruned.push(up_to);
            }
        }
        assert_eq!(node.core.status().execution_debt_bytes, 0);
        assert_eq!(node.core.status().lanes[1].backlog_bytes, 0);
    }
    assert!(pruned.len() as u64 >= PRUNE_CHECKPOINTS - 1 && pruned.is_sorted());
}

#[test]
fn recovery_restores_chains_branches_and_gaps() {
    let fork = chain(1, GENESIS, 0, 1);
    let (a, b) = (chain(1, fork[0].tip(), 1, 2), chain(1, fork[0].tip(), 2, 2));
    let gap = chain(2, GENESIS, 1, 4);
    let mut batches = vec![fork[0].clone(), a[0].clone(), b[0].clone(), b[1].clone()];
    batches.extend([
        gap[0].clone(),
        gap[3].clone(),
        gap[2].clone(),
        gap[3].clone(),
    ]);
    let recovered = Recovered {
        executed: Height::ZERO,
        cut: Cut::empty(4),
        batches,
        unsettled: Vec::new(),
    };
    let mut node = Single::recovered(config(0, &set(4), params()), recovered.clone());
    node.connect();
    assert_eq!(
        node.tip(1),
        a[0].tip(),
        "what was persisted first was acknowledged first"
    );
    assert_eq!(node.tip(2), gap[0].tip());
    // Committing the other branch needs no fetch; the gap is asked for as one batch.
    let out = node.commit(&[(1, b[1].tip()), (2, gap[3].tip())]);
    assert_eq!(requests(&out).len(), 1);
    let (_, lane, first, last) = requests(&out)[0];
    assert_eq!((lane, first, last), (2, 2, 2));
    let out = node.batch(3, &gap[1]);
    let mut expected = hashes(&[fork[0].clone(), b[0].clone(), b[1].clone()]);
    expected.extend(hashes(&gap));
    assert_eq!(delivered(&out), [(1, expected)]);
    assert_eq!(
        hashes(&persisted(&out)),
        hashes(&gap[1..2]),
        "only the new one is persisted"
    );

    let bad = Recovered {
        cut: Cut::empty(3),
        ..recovered.clone()
    };
    let start = |config, recovered| {
        crate::Mempool::new(config, Box::new(FakeSigner(v(0))), recovered).err()
    };
    let four = || config(0, &set(4), params());
    assert_eq!(
        start(four(), bad),
        Some(RecoverError::Lanes {
            found: 3,
            expected: 4
        })
    );
    let stranger = Recovered {
        batches: vec![batch(6, GENESIS, 1, 98)],
        ..recovered.clone()
    };
    assert_eq!(
        start(four(), stranger),
        Some(RecoverError::Batch(v(6), Seq(1)))
    );
    let outsider = config(5, &set(4), params());
    assert_eq!(
        start(outsider, recovered),
        Some(RecoverError::NotInSet(v(5), 4))
    );
}

#[test]
fn a_new_connection_gets_the_full_watermark() {
    let mut node = connected();
    let (a, b) = (chain(1, GENESIS, 1, 2), chain(2, GENESIS, 1, 1));
    a.iter().for_each(|batch| drop(node.batch(1, batch)));
    node.batch(2, &b[0]);
    node.wait(10_000);
    let out = node.handle(Input::PeerUp(v(3)));
    let full = watermark(&[(1, a[1].tip()), (2, b[0].tip())]);
    assert!(out.iter().any(|effect| matches!(effect,
        Effect::Send { to, message: PeerMessage::Watermark(w) } if *to == v(3) && *w == full)));
    // And it is repeated while something is uncommitted.
    let out = node.wait(WATERMARK_REFRESH_US);
    assert_eq!(watermarks(&out), [full]);
}
