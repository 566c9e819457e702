//! Rules N1 to N8: epochs that follow one another. Groups 21 and 22 of the scenarios.

use falconet_types::block::SignedHeader;
use falconet_types::epoch::EpochProof;
use falconet_types::message::PeerMessage;
use falconet_types::signing::Verified;
use falconet_types::{BlockId, Digest, Epoch, Height, Round, ValidatorIndex};

use super::cluster::{Cluster, EPOCH_HEIGHTS};
use super::harness::{Solo, state, tip};
use crate::{Effect, Input, Record, Recovered};

/// Four validators that stay.
fn steady() -> Cluster {
    Cluster::with_epochs(4, vec![vec![0, 1, 2, 3]], EPOCH_HEIGHTS)
}

impl Cluster {
    /// The epoch that every running node has reached.
    fn epoch(&self) -> usize {
        let up = self.nodes.iter().filter(|node| node.up);
        up.map(super::cluster::Node::epoch).min().unwrap()
    }

    /// Lets time pass until something is true, at most `ms`.
    #[track_caller]
    fn until(&mut self, ms: u64, done: impl Fn(&Self) -> bool) {
        let end = self.now_us + ms * 1_000;
        while !done(self) {
            self.run_ms(1);
            if self.now_us > end {
                let all: Vec<_> = self.nodes.iter().map(|n| n.core.status()).collect();
                panic!("not within {ms} ms: {all:#?}");
            }
        }
    }

    /// Lets time pass until everybody who runs has committed `blocks` more, at most `ms`.
    #[track_caller]
    fn grows(&mut self, blocks: u64, ms: u64) {
        let goal = self.height() + blocks;
        self.until(ms, |cluster| cluster.height() >= goal);
    }

    /// Lets time pass until every running node is in `epoch`, at most `ms`.
    #[track_caller]
    fn reaches(&mut self, epoch: usize, ms: u64) {
        let end = self.now_us + ms * 1_000;
        while self.epoch() < epoch && self.now_us < end {
            self.run_ms(1);
        }
        assert!(
            self.epoch() >= epoch,
            "in epoch {} after {ms} ms",
            self.epoch()
        );
        self.height();
    }
}

fn solo_with_epochs(me: u16, recovered: Recovered) -> Solo {
    let mut solo = Solo::recover(me, recovered);
    solo.core.config.params.epoch_heights = 16;
    solo
}

#[test]
fn n1_above_the_end_of_the_epoch_no_header_carries_payload() {
    for carries in [true, false] {
        let mut solo = solo_with_epochs(Solo::follower([17]).me(), Recovered::default());
        solo.payload.executed = Height(20);
        let chain = solo.maker.chain(1..=16);
        solo.feed(&chain);
        solo.said();
        let mut draft = solo.maker.draft(chain.last(), 17);
        if carries {
            draft.cut.0[0] = tip(1);
        }
        let header = solo.maker.sign(draft);
        solo.header(&header);
        let votes = solo.said().votes();
        assert_eq!(votes.is_empty(), carries, "carries: {carries}, {votes:?}");
    }
}

/// A chain of blocks to `height`, of which that at 19 ends the epoch; nothing names its state before.
fn past_the_end(solo: &Solo, height: u64) -> Vec<SignedHeader> {
    let mut chain = solo.maker.chain(1..=18);
    for round in 19..=height {
        let mut draft = solo.maker.draft(chain.last(), round);
        draft.executed.height = Height(16);
        draft.executed.root = state(Height(16));
        draft.ended_by = chain.get(18).map_or(Digest::ZERO, SignedHeader::id);
        chain.push(solo.maker.sign(draft));
    }
    chain
}

/// Block 19 is the first that names the state of the end: each above it names 19, none below does.
#[test]
fn n9_above_the_last_block_a_header_names_it_or_gets_no_vote() {
    for (height, right) in [(18, None), (19, None), (20, Some(19))] {
        let solo = solo_with_epochs(Solo::follower([height]).me(), Recovered::default());
        let mut chain = past_the_end(&solo, height);
        let last = chain.pop().expect("it is there");
        let ids = [
            None,
            Some(chain[16].id()),
            chain.get(17).map(SignedHeader::id),
            chain.get(18).map(SignedHeader::id),
        ];
        let right = right.map(|at: usize| chain[at - 1].id());
        for named in ids {
            let mut solo = solo_with_epochs(solo.me(), Recovered::default());
            solo.payload.executed = Height(20);
            solo.feed(&chain);
            solo.said();
            let mut draft = last.header().clone();
            draft.ended_by = named.unwrap_or(Digest::ZERO);
            solo.header(&solo.maker.sign(draft));
            let votes = solo.said().votes();
            assert_eq!(
                !votes.is_empty(),
                named == right,
                "{height} names {named:?}"
            );
        }
    }
}

/// What those say who have gone on because block 20 is certified.
fn proof_of_the_end(solo: &Solo, chain: &[SignedHeader]) -> Input {
    let voters = solo.maker.qc_without(&chain[19], solo.me());
    Input::EpochProof {
        from: ValidatorIndex(solo.others()[0]),
        proof: Verified::trusted(EpochProof {
            headers: chain[17..].iter().map(|h| h.header().clone()).collect(),
            qc: voters,
            accounts: Digest::ZERO,
            results: Digest::ZERO,
            next: None,
        }),
    }
}

/// The header that a node asks for, once it waited for it to come by itself.
fn asks_for(solo: &mut Solo) -> Option<BlockId> {
    let _ = solo.said();
    solo.advance_ms(200);
    let sends = solo.said().sends().into_iter();
    let mut asked = sends.filter_map(|(_, message)| match message {
        PeerMessage::GetBlocks(request) => Some(request.from),
        _ => None,
    });
    asked.next()
}

fn is_shown_the_end(solo: &mut Solo, chain: &[SignedHeader]) {
    let proof = proof_of_the_end(solo, chain);
    solo.input(proof);
    assert_eq!(asks_for(solo), Some(chain[19].id()));
    let missing = chain.iter().rev().cloned().map(Verified::trusted);
    let from = ValidatorIndex(solo.others()[1]);
    solo.input(Input::Blocks {
        from,
        headers: missing.collect(),
    });
    let said = solo.said();
    assert_eq!(said.committed_heights().last(), Some(&19));
    let ended =
        |effect: &Effect| matches!(effect, Effect::EpochEnded { last } if last.height.0 == 19);
    assert!(said.0.iter().any(ended));
}

/// Found by the simulator: this node holds the certificate of a block that follows the last one with
/// a gap of rounds, which commits nothing, and a higher one than that of the block which does.
#[test]
fn n5_the_end_is_found_beside_the_highest_certified_block() {
    let mut solo = solo_with_epochs(Solo::follower([1]).me(), Recovered::default());
    let chain = past_the_end(&solo, 20);
    solo.feed(&chain[..19]);
    let mut draft = solo.maker.draft(Some(&chain[18]), 22);
    draft.executed = chain[18].executed;
    let beside = solo.maker.sign(draft);
    solo.header(&beside);
    solo.qc(&beside);
    assert_eq!(solo.said().committed_heights().last(), Some(&18));
    is_shown_the_end(&mut solo, &chain);
}

/// Found by the simulator: the highest certified block that a node heard of before it crashed is above
/// the last of the epoch, and nobody has it any more.
#[test]
fn n5_the_end_is_fetched_before_a_block_that_nobody_has_any_more() {
    let mut solo = solo_with_epochs(Solo::follower([1]).me(), Recovered::default());
    let chain = past_the_end(&solo, 20);
    solo.feed(&chain[..10]);
    let far = solo.maker.header(chain.last(), 23);
    solo.qc(&far);
    assert_eq!(asks_for(&mut solo), Some(far.id()));
    is_shown_the_end(&mut solo, &chain);
}

#[test]
fn n2_commits_stop_at_the_first_block_that_names_the_state_of_the_end() {
    let mut solo = solo_with_epochs(Solo::follower([1]).me(), Recovered::default());
    let chain = past_the_end(&solo, 23);
    solo.feed(&chain);
    let said = solo.said();
    assert_eq!(said.committed_heights(), (1..=19).collect::<Vec<_>>());
    let ended: Vec<_> = said
        .0
        .iter()
        .filter_map(|effect| match effect {
            Effect::EpochEnded { last } => Some(last.height.0),
            _ => None,
        })
        .collect();
    assert_eq!(ended, [19], "once");
    let last_commit = said.0.iter().rposition(|e| matches!(e, Effect::Commit(_)));
    let end = said
        .0
        .iter()
        .position(|e| matches!(e, Effect::EpochEnded { .. }));
    assert!(last_commit < end, "the commit comes first");
    assert!(solo.core.status().epoch_over);
    // Nothing is signed in the epoch any more.
    solo.advance_ms(60_000);
    assert!(solo.said().timeouts().is_empty());
}

#[test]
fn epochs_follow_one_another_without_a_timeout() {
    let mut cluster = steady();
    cluster.reaches(10, 4_000);
    for node in &cluster.nodes {
        let status = node.core.status();
        assert_eq!(status.counters.timeouts_signed, 0, "{status:?}");
        assert!(status.committed_height.0 >= 10 * EPOCH_HEIGHTS);
    }
}

#[test]
fn scenario_21_sets_grow_from_1_to_4_to_7_and_shrink_back() {
    let four = vec![0, 1, 2, 3];
    let seven: Vec<usize> = (0..7).collect();
    let members = vec![
        vec![0],
        four.clone(),
        seven,
        vec![3, 4, 5, 6],
        vec![6],
        vec![6, 0, 1, 2],
    ];
    let mut cluster = Cluster::with_epochs(7, members, EPOCH_HEIGHTS);
    cluster.reaches(6, 20_000);
    cluster.grows(20, 5_000);
    // Nobody signs outside its epochs, everybody follows.
    assert!(cluster.nodes[4].core.status().not_signing.is_some());
    assert_eq!(cluster.nodes[1].core.status().not_signing, None);
}

/// The set changes while timers run out at every possible moment of the epoch's last rounds.
#[test]
fn scenario_21_a_change_at_every_offset_relative_to_timeouts() {
    for offset in 0..24u64 {
        let members = vec![vec![0, 1, 2, 3], vec![1, 2, 3, 4]];
        let mut cluster = Cluster::with_epochs(5, members, EPOCH_HEIGHTS);
        let stop = EPOCH_HEIGHTS.saturating_sub(8) + offset;
        // From this height on nobody hears anybody, until all have given up a round.
        cluster.until(60_000, |cluster| cluster.height() >= stop);
        cluster.pass = Box::new(|_, _, _| false);
        cluster.run_ms(1_500);
        cluster.pass = Box::new(|_, _, _| true);
        cluster.reaches(1, 30_000);
        cluster.grows(3, 20_000);
    }
}

/// Timeouts and a TC of the old epoch that arrive in the new one lead nowhere; who sent them is
/// shown that its epoch is over.
#[test]
fn scenario_21_timeouts_across_the_boundary() {
    let mut cluster = steady();
    // Node 3 hears no votes and no proofs: it stays behind and times out, alone.
    cluster.pass = Box::new(|_, to, message| {
        to != 3
            || matches!(
                message,
                PeerMessage::Header(_) | PeerMessage::Timeout(_) | PeerMessage::CertRefs(_)
            )
    });
    cluster.until(60_000, |cluster| cluster.nodes[0].epoch() > 0);
    assert_eq!(cluster.nodes[3].epoch(), 0);
    let height = cluster.nodes[0].core.status().committed_height;
    cluster.run_ms(2_000);
    assert_eq!(cluster.nodes[3].epoch(), 0);
    assert!(cluster.nodes[0].core.status().committed_height > height);
    cluster.pass = Box::new(|_, _, _| true);
    cluster.reaches(2, 30_000);
}

/// The only node that knows that the epoch is over is about to leave the set, and everybody
/// crashes. All restart, that one too.
#[test]
fn scenario_21_all_but_one_that_learned_the_commit_crash_and_it_leaves() {
    let members = vec![vec![0, 1, 2, 3], vec![1, 2, 3, 4]];
    let mut cluster = Cluster::with_epochs(5, members, EPOCH_HEIGHTS);
    // Height 19 is the epoch's last; the certificate above it forms at node 0 only.
    cluster.pass = Box::new(|_, to, message| match message {
        PeerMessage::Vote(vote) => to == 0 || vote.round < Round(20),
        PeerMessage::EpochProof(_) => false,
        _ => true,
    });
    cluster.until(60_000, |cluster| cluster.nodes[0].epoch() > 0);
    for i in 1..5 {
        assert_eq!(cluster.nodes[i].epoch(), 0, "node {i}");
    }
    cluster.wire.clear();
    (0..5).for_each(|i| cluster.crash(i));
    (0..5).for_each(|i| cluster.restart(i));
    assert_eq!(cluster.nodes[0].epoch(), 1, "its disk says so");
    cluster.pass = Box::new(|_, _, _| true);
    cluster.reaches(1, 20_000);
    cluster.grows(5, 10_000);
}

/// Node 0 sleeps for three epochs, in each of which the set changes; it is not a member at the end.
#[test]
fn scenario_21_a_node_asleep_for_three_epochs_takes_them_one_at_a_time() {
    let members = vec![
        vec![0, 1, 2, 3],
        vec![1, 2, 3, 4],
        vec![2, 3, 4, 5],
        vec![3, 4, 5, 6],
    ];
    let mut cluster = Cluster::with_epochs(7, members, EPOCH_HEIGHTS);
    cluster.run_ms(5);
    cluster.crash(0);
    cluster.reaches(3, 20_000);
    cluster.restart(0);
    assert_eq!(cluster.nodes[0].epoch(), 0);
    let mut seen = vec![0];
    while cluster.nodes[0].epoch() < 3 {
        cluster.run_ms(1);
        let epoch = cluster.nodes[0].epoch();
        if seen.last() != Some(&epoch) {
            seen.push(epoch);
        }
        assert!(cluster.now_us < 60_000_000, "stays in epoch {epoch}");
    }
    assert_eq!(seen, [0, 1, 2, 3]);
    cluster.grows(10, 10_000);
}

/// A member of the new set that does not run costs its rounds, like any other silent leader.
#[test]
fn scenario_21_a_joiner_that_is_not_there() {
    let members = vec![vec![0, 1, 2], vec![0, 1, 2, 3]];
    let mut cluster = Cluster::with_epochs(4, members, EPOCH_HEIGHTS);
    cluster.crash(3);
    cluster.reaches(1, 20_000);
    cluster.grows(5, 20_000);
    cluster.restart(3);
    cluster.reaches(3, 60_000);
    cluster.grows(20, 20_000);
    assert!(cluster.nodes[3].core.status().counters.votes_signed > 0);
}

/// Found by the simulator: the only validator has handed over to one that was not there, and which
/// knows nobody else. Neither says anything by itself, as neither signs: the one follows, the other
/// is in an epoch that is over.
#[test]
fn scenario_21_everybody_has_left_when_the_joiner_wakes() {
    let mut cluster = Cluster::with_epochs(2, vec![vec![0], vec![1]], EPOCH_HEIGHTS);
    cluster.crash(1);
    cluster.until(60_000, |cluster| cluster.nodes[0].epoch() > 0);
    // What was said on the way is lost.
    cluster.pass = Box::new(|_, _, _| false);
    cluster.restart(1);
    cluster.run_ms(50);
    cluster.pass = Box::new(|_, _, _| true);
    cluster.reaches(1, 20_000);
    cluster.grows(5, 10_000);
}

/// Proofs of epochs that are over, and of those to come, change nothing.
#[test]
fn scenario_21_stale_proofs_are_replayed() {
    let mut cluster = steady();
    cluster.reaches(3, 20_000);
    let proofs = cluster.nodes[0].log.proofs.clone();
    let before = cluster.nodes[1].core.status();
    for proof in &proofs[..2] {
        for from in [0, 2, 3] {
            cluster.input(
                1,
                Input::EpochProof {
                    from: ValidatorIndex(from),
                    proof: Verified::trusted(proof.clone()),
                },
            );
        }
    }
    let after = cluster.nodes[1].core.status();
    assert_eq!((after.epoch, after.round), (before.epoch, before.round));
    cluster.grows(20, 5_000);
}

/// N7: a notice for the current or an earlier epoch puts no node back.
#[test]
fn n7_a_late_notice_changes_nothing() {
    let mut cluster = steady();
    cluster.reaches(1, 20_000);
    let height = cluster.starts[1].0.height.0;
    let (_, id) = cluster.nodes[0].commits[height as usize - 1];
    let last = cluster.nodes[0].log.header(&id).unwrap().clone();
    let late = cluster.next_epoch(0, &last);
    cluster.reaches(2, 20_000);
    let before = cluster.nodes[0].core.status();
    let mut out = Vec::new();
    let now = falconet_types::time::Now::default();
    assert!(!cluster.nodes[0].core.start_epoch(now, late, &mut out));
    assert!(out.is_empty());
    assert_eq!(cluster.nodes[0].core.status(), before);
}

/// N5: a node that is behind is shown the proof, at most once an interval.
#[test]
fn n5_whoever_is_behind_is_shown_that_the_epoch_is_over() {
    let mut cluster = steady();
    cluster.reaches(1, 20_000);
    cluster.wire.clear();
    for _ in 0..20 {
        let behind = Input::OtherEpoch {
            from: ValidatorIndex(2),
            epoch: Epoch(0),
        };
        cluster.input(0, behind);
    }
    let shown = cluster
        .wire
        .iter()
        .filter(|(_, from, to, m)| {
            (*from, *to) == (0, 2)
                && matches!(m, PeerMessage::EpochProof(p) if p.epoch() == Epoch(0))
        })
        .count();
    assert_eq!(shown, 1);
    // And one that is ahead is asked.
    cluster.now_us += 500_000;
    let ahead = Input::OtherEpoch {
        from: ValidatorIndex(3),
        epoch: Epoch(9),
    };
    cluster.input(0, ahead);
    let asked = cluster.wire.iter().any(|(_, from, to, m)| {
        (*from, *to) == (0, 3) && matches!(m, PeerMessage::GetEpochProof(Epoch(1)))
    });
    assert!(asked);
}

/// N6: the first record of the new epoch is the safety record, and it is whole.
#[test]
fn n6_one_record_replaces_the_other() {
    let mut cluster = steady();
    cluster.nodes[0].stuck = true;
    cluster.until(60_000, |cluster| cluster.nodes[0].ended.is_some());
    let last = cluster.nodes[0].ended.clone().unwrap();
    let next = cluster.next_epoch(0, &last);
    let mut out = Vec::new();
    let now = falconet_types::time::Now::default();
    assert!(cluster.nodes[0].core.start_epoch(now, next, &mut out));
    let Some(Effect::Persist(Record::Safety(record))) = out.first() else {
        panic!("{out:?}");
    };
    assert_eq!(record.epoch, Epoch(1));
    assert_eq!(record.locked.block_id, cluster.starts[1].0.id);
    assert_eq!(record.last_voted_round.0, 0);
    assert_eq!(record.last_vote, None);
}

/// Crash between the commit of the last block and the start of the next epoch: the end is said
/// again after the restart, with the record of either epoch.
#[test]
fn n6_a_crash_at_the_boundary() {
    let mut cluster = steady();
    cluster.nodes[0].stuck = true;
    cluster.until(60_000, |cluster| cluster.nodes[0].ended.is_some());
    cluster.run_ms(100);
    cluster.crash(0);
    cluster.nodes[0].stuck = false;
    cluster.restart(0);
    cluster.reaches(1, 10_000);
    cluster.grows(30, 10_000);
    assert_eq!(cluster.nodes[0].core.status().not_signing, None);
    assert!(cluster.nodes[0].core.status().counters.votes_signed > 0);
}

/// Everybody crashes at every moment around the boundary.
#[test]
fn n6_all_crash_around_the_boundary() {
    for at_ms in 20..60 {
        let members = vec![vec![0, 1, 2, 3], vec![1, 2, 3, 4], vec![0, 1, 3, 4]];
        let mut cluster = Cluster::with_epochs(5, members, EPOCH_HEIGHTS);
        cluster.run_ms(at_ms);
        cluster.wire.clear();
        (0..5).for_each(|i| cluster.crash(i));
        (0..5).for_each(|i| cluster.restart(i));
        cluster.reaches(3, 60_000);
        for i in [0, 1, 3, 4] {
            assert_eq!(cluster.nodes[i].core.status().not_signing, None, "node {i}");
        }
    }
}

/// A node that lost its safety record signs nothing in that epoch and again in the next (S3).
#[test]
fn s3_a_node_without_a_record_signs_again_in_the_next_epoch() {
    let mut cluster = steady();
    cluster.run_ms(10);
    cluster.crash(1);
    cluster.nodes[1].log.lose_safety();
    cluster.restart(1);
    assert!(cluster.nodes[1].core.status().not_signing.is_some());
    cluster.reaches(1, 20_000);
    assert_eq!(cluster.nodes[1].core.status().not_signing, None);
    cluster.grows(10, 5_000);
    assert!(cluster.nodes[1].core.status().counters.votes_signed > 0);
}

/// Scenario 22: a removed validator goes on voting for the old epoch; nobody minds, and its votes
/// count for nothing.
#[test]
fn scenario_22_a_removed_validator_keeps_talking() {
    let members = vec![vec![0, 1, 2, 3], vec![1, 2, 3]];
    let mut cluster = Cluster::with_epochs(4, members, EPOCH_HEIGHTS);
    cluster.nodes[0].stuck = true;
    cluster.until(60_000, |cluster| {
        !((1..4).any(|i| cluster.nodes[i].epoch() == 0))
    });
    assert_eq!(cluster.nodes[0].epoch(), 0);
    cluster.run_ms(3_000);
    let rounds = cluster.nodes[1].core.status().counters.rounds_by_tc;
    assert_eq!(rounds, 0, "three of three go on undisturbed");
    assert!(cluster.nodes[1].core.status().committed_height.0 > 2 * EPOCH_HEIGHTS);
}
