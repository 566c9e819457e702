//! From one epoch to the next (rule N8).

use std::sync::Arc;

use falconet_types::block::{Cut, LaneTip};
use falconet_types::message::{Admission, GetBatches, PeerMessage};
use falconet_types::validators::ValidatorSet;
use falconet_types::{Epoch, Height, Seq, ValidatorIndex};

use super::fixtures::*;
use crate::{Effect, Input, OwnLaneState, Recovered};

/// The members at `who` of the set of four, as the set of `epoch`.
fn next(epoch: u64, who: &[usize]) -> Arc<ValidatorSet> {
    let all = set(4);
    let members: Vec<_> = who
        .iter()
        .map(|i| (all.get(v(*i)).unwrap().key.clone(), 1))
        .collect();
    Arc::new(ValidatorSet::new(CHAIN, Epoch(epoch), &members).unwrap())
}

fn hear(node: &mut Single, epoch: u64, from: usize) -> Vec<Effect> {
    let mut watermark = watermark(&[]);
    watermark.epoch = Epoch(epoch);
    node.handle(Input::Watermark {
        from: v(from),
        watermark,
    })
}

#[test]
fn n8_lanes_begin_anew_and_no_accepted_transaction_is_lost() {
    let mut node = Single::new(4);
    node.connect();
    for i in 0..3 {
        assert_eq!(node.admit(i, 98), Admission::Accepted);
        node.wait(20_000);
    }
    let first = node.tip(0);
    assert_eq!(first.seq, Seq(3));
    // The first batch is committed; the second and third never will be. A fourth waits.
    let chain = node.core.lanes[0].batch_at(Seq(1)).unwrap().tip();
    node.commit(&[(0, chain)]);
    node.execute();
    assert_eq!(node.admit(9, 98), Admission::Accepted);
    let height = node.core.status().executed;
    assert!(node.core.start_epoch(next(1, &[0, 1, 2, 3]), v(0), height));
    assert_eq!(node.core.status().own_lane, OwnLaneState::Waiting);
    assert_eq!(
        node.core.status().pending_txs,
        3,
        "two again, one that waited"
    );
    assert_eq!(node.admit(1, 98), Admission::Duplicate);
    // A quorum of the new epoch opens the lane.
    assert!(sent_batches(&node.handle(Input::Tick), None).is_empty());
    hear(&mut node, 0, 1);
    hear(&mut node, 0, 2);
    assert_eq!(node.core.status().own_lane, OwnLaneState::Waiting);
    hear(&mut node, 1, 1);
    let out = hear(&mut node, 1, 2);
    assert_eq!(sent_batches(&out, None), [Seq(1)]);
    let batch = &persisted(&out)[0];
    assert_eq!(batch.header().epoch, Epoch(1));
    assert_eq!(batch.transactions().count(), 3);
    // N7: a late notice changes nothing.
    assert!(!node.core.start_epoch(next(1, &[0, 1, 2, 3]), v(0), height));
    assert_eq!(node.tip(0).seq, Seq(1));
}

#[test]
fn n8_whoever_came_late_is_told_again() {
    let mut node = Single::new(4);
    node.connect();
    assert!(
        node.core
            .start_epoch(next(1, &[0, 1, 2, 3]), v(0), Height(0))
    );
    let told = |out: &[Effect], to| {
        out.iter()
            .filter(|e| {
                matches!(e, Effect::Send { to: t, message: PeerMessage::Watermark(w) }
                    if *t == v(to) && w.epoch == Epoch(1))
            })
            .count()
    };
    let out = hear(&mut node, 1, 2);
    assert_eq!(told(&out, 2), 1);
    let out = hear(&mut node, 1, 2);
    assert_eq!(told(&out, 2), 0, "once");
}

#[test]
fn n8_the_transactions_of_a_validator_that_left_are_adopted() {
    // Validator 3 leaves; of the others, two take its batches over.
    let mut adopters = 0;
    for me in 0..3 {
        let mut node = Single::with(config(me, &set(4), params()));
        node.connect();
        for batch in chain(3, falconet_types::block::LaneTip::default(), 7, 2) {
            node.batch(3, &batch);
        }
        let members = next(1, &[0, 1, 2]);
        assert!(node.core.start_epoch(members, v(me), Height(0)));
        adopters += usize::from(node.core.status().pending_txs == 2);
        assert_eq!(node.core.status().lanes.len(), 3);
    }
    assert_eq!(adopters, 2);
}

#[test]
fn n8_a_node_that_left_has_no_lane_and_serves_what_was() {
    let mut node = Single::new(4);
    node.connect();
    node.admit(1, 98);
    node.wait(20_000);
    let nobody = ValidatorIndex::NOBODY;
    assert!(
        node.core
            .start_epoch(next(1, &[1, 2, 3]), nobody, Height(0))
    );
    assert_eq!(node.core.status().own_lane, OwnLaneState::Absent);
    assert!(matches!(node.admit(5, 98), Admission::Busy { .. }));
    let request = GetBatches {
        epoch: Epoch(0),
        lane: v(0),
        first: Seq(1),
        last: Seq(u64::MAX),
    };
    let out = node.handle(Input::GetBatches {
        from: v(1),
        request,
    });
    let served = out.iter().any(
        |e| matches!(e, Effect::Serve { epoch, lane, .. } if (*epoch, *lane) == (Epoch(0), v(0))),
    );
    assert!(served);
    // An epoch to come is nobody's history.
    let request = GetBatches {
        epoch: Epoch(2),
        last: Seq(1),
        ..request
    };
    let out = node.handle(Input::GetBatches {
        from: v(1),
        request,
    });
    assert!(!out.iter().any(|e| matches!(e, Effect::Serve { .. })));
}

/// Found by the simulator: a validator crashed after an epoch had begun and before it had sealed
/// anew what it had accepted in the one before.
#[test]
fn n8_a_start_in_the_new_epoch_carries_over_what_was_accepted_in_the_old_one() {
    let old = chain(0, LaneTip::default(), 1, 2);
    let unsettled: Vec<_> = old.iter().flat_map(|batch| batch.transactions()).collect();
    let recovered = |n| Recovered {
        cut: Cut::empty(n),
        unsettled: unsettled.clone(),
        ..Recovered::default()
    };
    let mut member = config(0, &set(4), params());
    member.set = next(1, &[0, 1, 2, 3]);
    let mut node = Single::recovered(member.clone(), recovered(4));
    assert_eq!(node.core.status().pending_txs, unsettled.len());
    node.connect();
    hear(&mut node, 1, 1);
    let out = hear(&mut node, 1, 2);
    let sealed: Vec<_> = persisted(&out)[0].transactions().collect();
    assert_eq!(sealed, unsettled);
    assert!(node.core.take_orphans().is_empty());

    // One that has no lane any more gives it to others.
    let mut left = member;
    left.set = next(1, &[1, 2, 3]);
    left.me = ValidatorIndex::NOBODY;
    let mut node = Single::recovered(left, recovered(3));
    assert_eq!(node.core.status().pending_txs, 0);
    assert_eq!(node.core.take_orphans(), unsettled);
    assert!(node.core.take_orphans().is_empty());
}

#[test]
fn n8_a_validator_that_leaves_gives_what_it_accepted_to_others() {
    let mut node = Single::new(4);
    node.connect();
    assert_eq!(node.admit(1, 98), Admission::Accepted);
    node.wait(20_000);
    assert_eq!(node.tip(0).seq, Seq(1));
    let gone = next(1, &[1, 2, 3]);
    assert!(
        node.core
            .start_epoch(gone, ValidatorIndex::NOBODY, Height(0))
    );
    assert_eq!(node.core.take_orphans().len(), 1);
}

/// A node that slept takes epochs one after the other and can seal nothing in those that are over:
/// what it carried over into one of them, and what came since, is not lost with its seat.
#[test]
fn n8_what_was_carried_over_and_not_sealed_is_given_to_others_by_who_leaves_later() {
    let mut node = Single::new(4);
    node.connect();
    assert_eq!(node.admit(1, 98), Admission::Accepted);
    node.wait(20_000);
    let sealed: Vec<_> = (node.core.lanes[0].batch_at(Seq(1)).unwrap())
        .transactions()
        .collect();
    let stays = next(1, &[0, 1, 2, 3]);
    assert!(node.core.start_epoch(stays, v(0), Height(0)));
    assert_eq!(node.core.status().pending_txs, 1);
    assert_eq!(node.core.take_orphans().len(), 0);
    assert_eq!(node.admit(2, 98), Admission::Accepted);
    let gone = next(2, &[1, 2, 3]);
    let nobody = ValidatorIndex::NOBODY;
    assert!(node.core.start_epoch(gone, nobody, Height(0)));
    assert_eq!(node.core.status().pending_txs, 0);
    let orphans = node.core.take_orphans();
    assert_eq!(orphans.len(), 2);
    assert_eq!(orphans[0], sealed[0], "what was promised comes first");
}
