//! Rules C2, C3 and Y2 to Y4: committing, and fetching what is missing.

use std::sync::Arc;

use falconet_types::block::SignedHeader;
use falconet_types::message::{GetBlocks, PeerMessage};
use falconet_types::signing::Verified;
use falconet_types::{Height, Round, ValidatorIndex};

use super::harness::{Said, Solo};
use crate::limits::SYNC_RUN_MAX;
use crate::{Alarm, Effect, Input};

fn blocks(solo: &mut Solo, from: u16, headers: Vec<SignedHeader>) {
    let headers = headers.into_iter().map(Verified::trusted).collect();
    solo.input(Input::Blocks {
        from: ValidatorIndex(from),
        headers,
    });
}

fn requests(said: &Said) -> Vec<(u16, GetBlocks)> {
    said.sends()
        .into_iter()
        .filter_map(|(to, m)| match m {
            PeerMessage::GetBlocks(request) => Some((to, request)),
            _ => None,
        })
        .collect()
}

#[test]
fn c2_a_certified_child_of_the_next_round_commits_the_parent() {
    let mut solo = Solo::follower([1]);
    let chain = solo.maker.chain([1, 2]);
    solo.header(&chain[0]);
    solo.qc(&chain[0]);
    solo.header(&chain[1]);
    assert!(solo.said().commits().is_empty());
    solo.qc(&chain[1]);
    let commits = solo.said().commits();
    assert_eq!(commits.len(), 1);
    assert_eq!(commits[0].header.id(), chain[0].id());
    assert_eq!(commits[0].proof.child.id(), chain[1].id());
    assert_eq!(commits[0].proof.qc.block_id, chain[1].id());
    assert_eq!(commits[0].parent_cut, chain[0].cut);
}

/// Scenario 5: parent links alone commit nothing; rounds must be consecutive.
#[test]
fn c2_skipped_rounds_do_not_commit() {
    let mut solo = Solo::follower([1]);
    let chain = solo.maker.chain([1, 3, 5, 7, 9]);
    solo.feed(&chain);
    assert!(solo.said().commits().is_empty());
    assert_eq!(solo.core.status().high_qc_round, Round(9));
}

/// Scenario 5: after gaps, commit order is by height, nothing twice, nothing missing.
#[test]
fn c3_ancestors_over_gaps_are_committed_in_height_order_once() {
    let mut solo = Solo::follower([1]);
    let chain = solo.maker.chain([1, 3, 6, 7, 8, 11, 12]);
    solo.feed(&chain);
    let said = solo.said();
    assert_eq!(said.committed_heights(), vec![1, 2, 3, 4, 5, 6]);
    let commits = said.commits();
    // The proof nearest above: blocks of rounds 1 and 3 have none of their own.
    let proof_of = |i: usize| commits[i].proof.child.round.0;
    assert_eq!((proof_of(0), proof_of(1), proof_of(2)), (7, 7, 7));
    assert_eq!(proof_of(3), 8);
    assert_eq!(
        (proof_of(4), proof_of(5)),
        (12, 12),
        "round 8 has a child of round 11"
    );
    for commit in &commits {
        assert_eq!(
            commit.proof.child.parent_round.next(),
            commit.proof.child.round
        );
        assert_eq!(commit.proof.child.id(), commit.proof.qc.block_id);
    }
}

/// Found by the simulator: one node alone saw the QC of round 2 and committed; the others went on
/// without it and could not check the state that its headers named.
#[test]
fn c2_an_ancestor_of_a_certified_block_is_certified() {
    let mut solo = Solo::follower([1]);
    let chain = solo.maker.chain([1, 2, 4]);
    for header in &chain {
        solo.header(header);
    }
    solo.qc(&chain[2]);
    let said = solo.said();
    assert_eq!(
        said.committed_heights(),
        vec![1],
        "the QC of round 2 is not held"
    );
    let proof = &said.commits()[0].proof;
    assert_eq!(proof.child.id(), chain[2].id());
    assert_eq!(proof.qc.block_id, chain[2].id());
    solo.qc(&chain[1]);
    assert!(solo.said().commits().is_empty(), "nothing twice");
}

/// A dead fork: certified, but the chain went on without it.
#[test]
fn c3_a_certified_fork_below_the_commit_is_forgotten() {
    let mut solo = Solo::follower([1]);
    let fork = solo.maker.header(None, 1);
    let chain = solo.maker.chain([2, 3, 4]);
    solo.header(&fork);
    solo.qc(&fork);
    solo.feed(&chain);
    let said = solo.said();
    assert_eq!(said.committed_heights(), vec![1, 2]);
    assert!(!said.0.iter().any(|e| matches!(e, Effect::Alarm(_))));
    assert_eq!(
        solo.core.tree.len(),
        1,
        "only the child of the committed block is left"
    );
}

#[test]
fn y2_a_missing_block_is_fetched_from_its_author_then_from_voters() {
    let mut solo = Solo::follower([1, 2, 3]);
    let chain = solo.maker.chain([1, 2, 3]);
    solo.header(&chain[0]);
    solo.qc(&chain[0]);
    solo.qc(&chain[2]);
    solo.said();
    let mut asked = Vec::new();
    for _ in 0..12 {
        solo.advance_ms(50);
        asked.extend(requests(&solo.said()));
    }
    assert_eq!(asked[0].0, chain[2].author.0);
    assert_eq!(asked[0].1.from, chain[2].id());
    assert_eq!(asked[0].1.stop_height, Height(0));
    let mut who: Vec<u16> = asked.iter().map(|(to, _)| *to).collect();
    who.sort_unstable();
    who.dedup();
    assert_eq!(who, solo.others(), "everybody is tried");
    assert!(
        asked.len() <= 9,
        "with growing waits, not a flood: {}",
        asked.len()
    );

    // Wrong headers change nothing; the right ones complete the chain.
    let other = solo.maker.header(None, 9);
    blocks(&mut solo, asked[0].0, vec![other]);
    assert!(solo.core.status().syncing);
    blocks(
        &mut solo,
        asked[0].0,
        vec![chain[2].clone(), chain[1].clone()],
    );
    assert!(!solo.core.status().syncing);
    assert_eq!(solo.said().committed_heights(), vec![1, 2]);
}

#[test]
fn y2_what_arrives_by_itself_is_not_fetched() {
    let mut solo = Solo::follower([1, 2]);
    let chain = solo.maker.chain([1, 2]);
    solo.qc(&chain[0]);
    solo.advance_ms(40);
    solo.header(&chain[0]);
    solo.advance_ms(500);
    assert!(requests(&solo.said()).is_empty());
}

/// A peer that serves: newest first, 64 at most, down to the stop height.
fn serve(chain: &[SignedHeader], request: &GetBlocks) -> Vec<SignedHeader> {
    let at = chain
        .iter()
        .position(|h| h.id() == request.from)
        .expect("a block of the chain");
    chain[..=at]
        .iter()
        .rev()
        .take_while(|h| h.height > request.stop_height)
        .take(usize::from(request.max))
        .cloned()
        .collect()
}

fn catch_up(solo: &mut Solo, chain: &[SignedHeader]) -> (Vec<u64>, usize, usize) {
    let mut heights = Vec::new();
    let mut exchanges = 0;
    let mut most_held = 0;
    for _ in 0..100_000 {
        let said = solo.said();
        heights.extend(said.committed_heights());
        for (to, request) in requests(&said) {
            exchanges += 1;
            let headers = serve(chain, &request);
            blocks(solo, to, headers);
        }
        if !solo.core.status().syncing {
            break;
        }
        most_held = most_held.max(solo.core.walk.as_ref().map_or(0, |walk| walk.run.len()));
        let due = solo.core.next_deadline_us().unwrap();
        if solo.effects.is_empty() {
            solo.now.mono_us = solo.now.mono_us.max(due);
            solo.input(Input::Tick);
        }
    }
    heights.extend(solo.said().committed_heights());
    (heights, exchanges, most_held)
}

#[test]
fn y2_a_node_that_was_away_catches_up() {
    let mut solo = Solo::follower([1]);
    let chain = solo.maker.chain(1..=300);
    solo.qc(&chain[299]);
    let (heights, exchanges, _) = catch_up(&mut solo, &chain);
    assert_eq!(heights, (1..=299).collect::<Vec<_>>());
    assert!(exchanges <= 6, "{exchanges} requests for 300 headers");
}

/// Whoever answers at once, with a header at a time, is asked first once.
#[test]
fn y2_nobody_leads_a_node_on_by_a_header_at_a_time() {
    let mut solo = Solo::follower([1]);
    let chain = solo.maker.chain(1..=600);
    solo.qc(&chain[599]);
    // Whoever is asked first is the one.
    let mut dripping = None;
    let mut exchanges = 0;
    while solo.core.status().syncing || exchanges == 0 {
        let asked = requests(&solo.said());
        for (to, request) in asked {
            exchanges += 1;
            let mut headers = serve(&chain, &request);
            if *dripping.get_or_insert(to) == to {
                headers.truncate(1);
            }
            blocks(&mut solo, to, headers);
        }
        let due = solo.core.next_deadline_us().unwrap();
        if solo.effects.is_empty() {
            solo.now.mono_us = solo.now.mono_us.max(due);
            solo.input(Input::Tick);
        }
    }
    assert!(exchanges <= 600 / 64 + 4, "{exchanges} requests");
}

/// A walk longer than the run limit is committed in pieces, from the bottom, in bounded memory.
#[test]
fn y3_a_very_long_walk_keeps_checkpoints_only() {
    let length = SYNC_RUN_MAX * 2 + 100;
    let mut solo = Solo::follower([1]);
    let chain = solo.maker.chain(1..=length as u64);
    solo.qc(chain.last().unwrap());
    let (heights, _, most_held) = catch_up(&mut solo, &chain);
    assert_eq!(heights, (1..length as u64).collect::<Vec<_>>());
    assert!(most_held <= SYNC_RUN_MAX, "{most_held} headers held");
}

/// While a node has not connected a proposal's parent it does not vote.
#[test]
fn y5_no_vote_before_the_parents_chain_is_connected() {
    let mut solo = Solo::follower([4, 5]);
    let chain = solo.maker.chain(1..=5);
    solo.qc(&chain[3]);
    solo.header(&chain[4]);
    assert!(solo.said().votes().is_empty());
    solo.header(&chain[3]);
    assert!(
        solo.said().votes().is_empty(),
        "the parent alone is not enough"
    );
    let headers = chain[..3].iter().rev().cloned().collect();
    blocks(&mut solo, 0, headers);
    assert_eq!(solo.said().votes().len(), 1);
}

#[test]
fn y4_a_certified_chain_without_the_committed_block_stops_the_node() {
    let mut solo = Solo::follower([1]);
    let chain = solo.maker.chain(1..=4);
    solo.feed(&chain);
    solo.said();
    let other = solo.maker.chain([5, 6, 7, 8, 9]);
    solo.qc(&other[4]);
    let headers = other.iter().rev().cloned().collect();
    blocks(&mut solo, 0, headers);
    let said = solo.said();
    let alarm = said
        .0
        .iter()
        .any(|e| matches!(e, Effect::Alarm(Alarm::ConflictingChain { .. })));
    assert!(alarm);
    assert!(solo.core.status().not_signing.is_some());
    assert_eq!(
        solo.core.status().committed_height,
        Height(3),
        "what is final stays"
    );
}

#[test]
fn c1_two_certificates_of_one_round_raise_an_alarm() {
    let mut solo = Solo::follower([1]);
    let first = solo.maker.header(None, 1);
    let mut draft = solo.maker.draft(None, 1);
    draft.time_ms += 1;
    let twin = solo.maker.sign(draft);
    solo.qc(&first);
    solo.qc(&twin);
    let said = solo.said();
    let alarms = said.0.iter().filter(|e| {
        matches!(e, Effect::Alarm(Alarm::ConflictingCertificates { held, other })
            if held.block_id == first.id() && other.block_id == twin.id())
    });
    assert_eq!(alarms.count(), 1);
    let _: &Arc<_> = solo.core.certificates.high_qc();
}
