//! Rules C4 to C6, E5 and E6: commit votes, alone and between votes and timeouts in every order.

use falconet_types::block::SignedHeader;
use falconet_types::certificate::Timeout;
use falconet_types::commit_vote::CommitVote;
use falconet_types::genesis::Params;
use falconet_types::message::PeerMessage;
use falconet_types::signing::Verified;
use falconet_types::wire::Wire;
use falconet_types::{Epoch, Round, ValidatorIndex};

use super::cluster::Cluster;
use super::harness::{CHAIN, Log, Said, Solo, params, set, signer};
use crate::{Evidence, Input, SafetyRecord};

fn with_commit_votes() -> Params {
    Params {
        commit_votes: true,
        ..params()
    }
}

/// A validator of 4 that leads none of the rounds given.
fn follower(rounds: impl IntoIterator<Item = u64>) -> Solo {
    let me = Solo::follower(rounds).me();
    Solo::with_params(me, with_commit_votes())
}

fn commit_vote(voter: u16, header: &SignedHeader) -> CommitVote {
    let voter = ValidatorIndex(voter);
    let (round, id) = (header.round, header.id());
    CommitVote::sign(Epoch(0), round, id, voter, CHAIN, &signer(voter))
}

fn give(solo: &mut Solo, vote: CommitVote) {
    solo.input(Input::CommitVote {
        from: vote.voter,
        vote: Verified::trusted(vote),
    });
}

fn commit_votes(said: &Said) -> Vec<CommitVote> {
    let votes = said.broadcasts().filter_map(|message| match message {
        PeerMessage::CommitVote(vote) => Some(vote.clone()),
        _ => None,
    });
    votes.collect()
}

#[test]
fn c4_whoever_holds_a_qc_locks_it_and_votes_to_commit_its_block_once() {
    let mut solo = follower([1, 2]);
    let chain = solo.maker.chain([1]);
    solo.header(&chain[0]);
    assert!(commit_votes(&solo.said()).is_empty(), "no QC yet");
    solo.qc(&chain[0]);
    let said = solo.said();
    let votes = commit_votes(&said);
    assert_eq!(votes.len(), 1);
    assert_eq!(
        (votes[0].round, votes[0].block_id),
        (Round(1), chain[0].id())
    );
    let record = said.safety().expect("a record goes first");
    assert_eq!(record.locked.round, Round(1));
    assert_eq!(record.last_commit_vote.as_ref(), Some(&votes[0]));
    assert_eq!(
        SafetyRecord::from_bytes(&record.to_bytes()).unwrap(),
        record
    );
    solo.qc(&chain[0]);
    solo.input(Input::Tick);
    assert!(commit_votes(&solo.said()).is_empty(), "never twice");
}

#[test]
fn c4_nothing_without_the_flag_of_genesis() {
    let mut solo = Solo::follower([1, 2]);
    let chain = solo.maker.chain([1]);
    solo.header(&chain[0]);
    solo.qc(&chain[0]);
    for other in solo.others() {
        give(&mut solo, commit_vote(other, &chain[0]));
    }
    let said = solo.said();
    assert!(commit_votes(&said).is_empty());
    assert!(said.commits().is_empty());
}

#[test]
fn c5_a_quorum_of_commit_votes_commits_a_block_without_a_child() {
    let mut solo = follower([1, 2]);
    let chain = solo.maker.chain([1]);
    solo.header(&chain[0]);
    solo.qc(&chain[0]);
    let others = solo.others();
    give(&mut solo, commit_vote(others[0], &chain[0]));
    assert!(solo.said().commits().is_empty(), "two of four");
    give(&mut solo, commit_vote(others[0], &chain[0]));
    assert!(solo.said().commits().is_empty(), "one voter counts once");
    give(&mut solo, commit_vote(others[1], &chain[0]));
    let commits = solo.said().commits();
    assert_eq!(commits.len(), 1);
    assert_eq!(commits[0].header.id(), chain[0].id());
    assert_eq!(commits[0].proof.qc.block_id, chain[0].id());
    assert_eq!(solo.core.status().counters.commits_by_votes, 1);
}

/// Ancestors over gaps too; and what commits by C2 afterwards goes on above.
#[test]
fn c5_ancestors_are_committed_in_height_order_once() {
    let mut solo = follower([1, 3, 4]);
    let chain = solo.maker.chain([1, 3, 4]);
    let [first, second, third] = [&chain[0], &chain[1], &chain[2]];
    solo.header(first);
    solo.qc(first);
    solo.header(second);
    solo.qc(second);
    assert!(solo.said().commits().is_empty(), "rounds 1 and 3");
    for other in solo.others() {
        give(&mut solo, commit_vote(other, second));
    }
    assert_eq!(solo.said().committed_heights(), [1, 2]);
    solo.header(third);
    solo.qc(third);
    assert!(solo.said().commits().is_empty(), "its parent is committed");
    for other in solo.others() {
        give(&mut solo, commit_vote(other, third));
    }
    assert_eq!(solo.said().committed_heights(), [3]);
}

/// The QC comes after the commit votes, and the block after both: it commits when it is there, and
/// whoever voted to commit is asked for the QC.
#[test]
fn c5_commit_votes_may_come_before_the_qc_and_the_block() {
    let mut solo = follower([1, 2]);
    let chain = solo.maker.chain([1]);
    for other in solo.others() {
        give(&mut solo, commit_vote(other, &chain[0]));
    }
    assert!(solo.said().commits().is_empty());
    solo.advance_ms(100);
    let asked = solo.said().sends();
    let asks = |m: &PeerMessage| matches!(m, PeerMessage::GetCert(_));
    assert!(asked.iter().any(|(_, m)| asks(m)));
    solo.qc(&chain[0]);
    assert!(solo.said().commits().is_empty());
    solo.header(&chain[0]);
    assert_eq!(solo.said().committed_heights(), [1]);
}

#[test]
fn b1_commit_votes_of_rounds_outside_the_window_are_not_kept() {
    let mut solo = follower([1, 2]);
    let far = solo.maker.chain([1, 2, 500]);
    for other in solo.others() {
        give(&mut solo, commit_vote(other, &far[2]));
    }
    assert_eq!(solo.core.status().counters.dropped_by_limit, 3);
}

/// Scenario 2: what was signed is sent again as it was, and never signed again.
#[test]
fn s2_a_restarted_node_resends_its_commit_vote_and_keeps_the_lock() {
    let mut solo = follower([1, 2]);
    let chain = solo.maker.chain([1]);
    solo.header(&chain[0]);
    solo.qc(&chain[0]);
    let said = solo.said();
    let mut log = Log::default();
    said.records().for_each(|record| log.append(record));
    let vote = commit_votes(&said)[0].clone();
    let mut again = Solo::start(solo.me(), with_commit_votes(), log.recovered());
    let resent = again.said().sends();
    let resent = resent.iter().filter_map(|(_, message)| match message {
        PeerMessage::CommitVote(vote) => Some(vote),
        _ => None,
    });
    let resent: Vec<_> = resent.collect();
    assert!(!resent.is_empty() && resent.iter().all(|again| **again == vote));
    again.qc(&chain[0]);
    again.advance_ms(2_000);
    let said = again.said();
    assert!(commit_votes(&said).iter().all(|again| *again == vote));
    // P2: the timeout names what it voted to commit.
    let timeouts = said.timeouts();
    assert!(timeouts.iter().all(|t| t.hqc_round == Round(1)));
    assert!(!timeouts.is_empty());
}

#[test]
fn s5_a_foreign_commit_vote_of_the_own_key_stops_the_node() {
    let mut solo = follower([1, 2]);
    let chain = solo.maker.chain([1]);
    let mine = commit_vote(solo.me(), &chain[0]);
    let from = ValidatorIndex(solo.others()[0]);
    solo.input(Input::CommitVote {
        from,
        vote: Verified::trusted(mine),
    });
    assert!(solo.core.status().not_signing.is_some());
}

#[test]
fn e5_two_commit_votes_of_one_round_are_reported_once() {
    let mut solo = follower([1, 2]);
    let first = solo.maker.header(None, 1);
    let mut draft = solo.maker.draft(None, 1);
    draft.time_ms += 1;
    let twin = solo.maker.sign(draft);
    let liar = solo.others()[0];
    for _ in 0..2 {
        give(&mut solo, commit_vote(liar, &first));
        give(&mut solo, commit_vote(liar, &twin));
    }
    let evidence = solo.said().evidence();
    assert_eq!(
        evidence,
        vec![Evidence::CommitVotes(
            commit_vote(liar, &first),
            commit_vote(liar, &twin)
        )]
    );
}

#[test]
fn e6_a_timeout_below_what_was_voted_to_commit_is_reported_in_either_order() {
    for vote_first in [true, false] {
        for round in [1, 4] {
            let mut solo = follower([1, 2]);
            let header = solo.maker.header(None, 1);
            let liar = solo.others()[0];
            let genesis = solo.maker.genesis_qc();
            let timeout = solo.maker.timeout(liar, round, &genesis);
            let vote = commit_vote(liar, &header);
            if vote_first {
                give(&mut solo, vote.clone());
            }
            solo.timeout(timeout.clone());
            if !vote_first {
                give(&mut solo, vote.clone());
            }
            let evidence = solo.said().evidence();
            assert_eq!(evidence, vec![Evidence::CommitViolation(vote, timeout)]);
        }
    }
}

/// What a node of scenario 9 may hear, each once.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Event {
    Header,
    Qc,
    Timer,
    Tc,
    CommitVotes,
    Child,
    ChildQc,
}

/// Scenario 9: the block of round 1, its QC, the end of the round's timer, the TC of the round, the
/// others' commit votes, a child of round 2 and its QC, in each of 5,040 orders. Whatever the
/// order: no commit vote for a round that was given up, no timeout below what was voted to commit,
/// no second statement; and one chain.
#[test]
fn scenario_9_commit_votes_between_votes_and_timeouts_in_every_order() {
    use Event::{Child, ChildQc, CommitVotes, Header, Qc, Tc, Timer};
    let mut orders = Vec::new();
    permute(
        &mut vec![Header, Qc, Timer, Tc, CommitVotes, Child, ChildQc],
        0,
        &mut orders,
    );
    let (mut voted, mut gave_up_first, mut committed) = (0, 0, 0);
    for order in orders {
        let mut solo = follower([1, 2]);
        let chain = solo.maker.chain([1, 2]);
        let genesis = solo.maker.genesis_qc();
        let others = solo.others();
        let mut said: Vec<PeerMessage> = Vec::new();
        let mut heights = Vec::new();
        for event in &order {
            match event {
                Header => solo.header(&chain[0]),
                Child => solo.header(&chain[1]),
                Qc => solo.qc(&chain[0]),
                ChildQc => solo.qc(&chain[1]),
                Timer => solo.advance_ms(1_000),
                Tc => {
                    let by = [others[0], others[1], others[2]].map(|author| (author, &genesis));
                    let tc = solo.maker.tc(1, by);
                    solo.tc(tc);
                }
                CommitVotes => {
                    for other in &others {
                        give(&mut solo, commit_vote(*other, &chain[0]));
                    }
                }
            }
            let new = solo.said();
            assert!(
                new.evidence().iter().all(|e| e.accused().0 != solo.me()),
                "{order:?}"
            );
            heights.extend(new.committed_heights());
            said.extend(new.broadcasts().cloned());
        }
        check_statements(&said, &order);
        let ascending = heights.iter().enumerate().all(|(i, h)| *h == i as u64 + 1);
        assert!(ascending, "{order:?}: {heights:?}");
        let at = |event| order.iter().position(|e| *e == event);
        let has_voted = said
            .iter()
            .any(|m| matches!(m, PeerMessage::CommitVote(v) if v.round == Round(1)));
        voted += u32::from(has_voted);
        gave_up_first += u32::from(!has_voted);
        committed += u32::from(!heights.is_empty());
        if at(Qc) < at(Timer) && at(Qc) < at(ChildQc) {
            assert!(has_voted, "{order:?}");
        }
        assert!(
            !heights.is_empty(),
            "{order:?}: C2 and C5 both apply in the end"
        );
    }
    assert!(voted > 0 && gave_up_first > 0 && committed > 0);
}

fn check_statements(said: &[PeerMessage], order: &[Event]) {
    let mut gave_up: Vec<&Timeout> = Vec::new();
    let mut committed: Vec<&CommitVote> = Vec::new();
    for message in said {
        match message {
            PeerMessage::Timeout(timeout) => {
                let highest = committed.iter().map(|vote| vote.round).max();
                let below = highest.filter(|round| *round <= timeout.round);
                assert!(Some(timeout.hqc_round) >= below, "{order:?}");
                let other = |t: &&&Timeout| t.round == timeout.round && **t != timeout;
                assert_eq!(gave_up.iter().find(other), None, "{order:?}");
                gave_up.push(timeout);
            }
            PeerMessage::CommitVote(vote) => {
                let again = committed.contains(&vote);
                let late = gave_up.iter().any(|timeout| timeout.round >= vote.round);
                assert!(again || !late, "{order:?}");
                let other = |v: &&&CommitVote| v.round == vote.round && **v != vote;
                assert_eq!(committed.iter().find(other), None, "{order:?}");
                committed.push(vote);
            }
            _ => {}
        }
    }
}

fn permute(events: &mut Vec<Event>, at: usize, orders: &mut Vec<Vec<Event>>) {
    if at == events.len() {
        return orders.push(events.clone());
    }
    for i in at..events.len() {
        events.swap(at, i);
        permute(events, at + 1, orders);
        events.swap(at, i);
    }
}

#[test]
fn a_cluster_commits_by_votes_and_a_silent_leader_holds_nothing_up() {
    let mut cluster = Cluster::with_params(4, with_commit_votes());
    cluster.progresses(100, 1_000);
    for node in &cluster.nodes {
        let counters = node.core.status().counters;
        assert!(counters.commits_by_votes * 2 > counters.blocks_committed);
        assert_eq!(counters.timeouts_signed, 0);
    }
    // Without the leader of the next round, the block before it is final all the same.
    cluster.crash(set(4).leader(Round(2)).at());
    cluster.progresses(20, 10_000);
}

#[test]
fn a_cluster_that_crashes_as_a_whole_goes_on_above_what_votes_committed() {
    let mut cluster = Cluster::with_params(4, with_commit_votes());
    cluster.progresses(50, 1_000);
    (0..4).for_each(|i| cluster.crash(i));
    cluster.wire.clear();
    (0..4).for_each(|i| cluster.restart(i));
    cluster.progresses(50, 5_000);
}

/// Rule C6: with commit votes too an epoch's last block is proven to whoever missed its end.
#[test]
fn c6_an_epochs_last_block_waits_for_a_child() {
    let params = Params {
        epoch_heights: 16,
        ..with_commit_votes()
    };
    let mut cluster = Cluster::with_params(4, params);
    // One that hears nothing is shown the proofs later, one epoch at a time.
    cluster.crash(3);
    while cluster.nodes[0].epoch() < 2 {
        cluster.run_ms(100);
    }
    let reached = cluster.nodes[0].epoch();
    cluster.restart(3);
    cluster.run_ms(5_000);
    assert!(cluster.nodes[3].epoch() >= reached);
    assert!(cluster.nodes[0].epoch() > reached);
    for node in &cluster.nodes[..3] {
        assert!(node.core.status().counters.commits_by_votes > 0);
    }
}
