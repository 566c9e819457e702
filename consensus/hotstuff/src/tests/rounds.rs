//! Rules P1 to P7.

use falconet_types::message::{CertRef, PeerMessage};
use falconet_types::{Digest, Round, ValidatorIndex};

use super::harness::Solo;
use crate::limits::Times;

#[test]
fn p1_the_round_moves_by_certificates_only() {
    let mut solo = Solo::follower([1]);
    let header = solo.maker.header(None, 1);
    solo.header(&header);
    for i in solo.others() {
        let far = solo.maker.header(None, 5);
        solo.vote(solo.maker.vote(i, &far));
    }
    assert_eq!(
        solo.round(),
        6,
        "a quorum of votes is a QC, whatever its round"
    );
    let low = solo.maker.header(None, 4);
    solo.qc(&low);
    assert_eq!(solo.round(), 6, "a lower one moves nothing");
    solo.advance_ms(10_000);
    assert_eq!(solo.round(), 6, "nor does time");
}

#[test]
fn c1_a_quorum_of_votes_is_a_qc_and_less_is_not() {
    let mut solo = Solo::follower([1, 2]);
    let header = solo.maker.header(None, 1);
    let [a, b, c] = solo.others()[..] else {
        panic!("three others")
    };
    solo.vote(solo.maker.vote(a, &header));
    solo.vote(solo.maker.vote(a, &header));
    solo.vote(solo.maker.vote(b, &header));
    assert_eq!(solo.round(), 1);
    solo.vote(solo.maker.vote(c, &header));
    assert_eq!(solo.round(), 2);
    assert_eq!(solo.core.status().counters.qcs_formed, 1);
}

#[test]
fn c1_votes_that_differ_in_the_parents_round_do_not_add_up() {
    let mut solo = Solo::follower([1]);
    let header = solo.maker.header(None, 3);
    let [a, b, c] = solo.others()[..] else {
        panic!("three others")
    };
    solo.vote(solo.maker.vote(a, &header));
    solo.vote(solo.maker.vote(b, &header));
    let mut odd = solo.maker.draft(None, 3);
    odd.parent_round = Round(1);
    let odd = solo.maker.sign(odd);
    let mut vote = solo.maker.vote(c, &odd);
    vote.block_id = header.id();
    solo.vote(vote);
    assert_eq!(solo.round(), 1);
}

#[test]
fn p2_the_timer_gives_the_round_up_once() {
    let mut solo = Solo::follower([1]);
    solo.said();
    solo.advance_ms(999);
    assert!(solo.said().timeouts().is_empty());
    solo.advance_ms(1);
    let said = solo.said();
    assert_eq!(said.timeouts().len(), 1);
    assert_eq!(said.timeouts()[0].hqc_round, Round(0));
    solo.advance_ms(500);
    assert!(solo.said().timeouts().is_empty());
}

#[test]
fn p2_a_weak_quorum_or_the_leader_is_followed_at_once() {
    let mut solo = Solo::follower([1]);
    let leader = solo.maker.set.leader(Round(1)).0;
    let genesis = solo.maker.genesis_qc();
    let two: Vec<u16> = solo.others().into_iter().filter(|i| *i != leader).collect();
    solo.timeout(solo.maker.timeout(two[0], 1, &genesis));
    assert!(solo.said().timeouts().is_empty(), "one may be faulty");
    solo.timeout(solo.maker.timeout(two[1], 4, &genesis));
    let said = solo.said();
    assert_eq!(
        said.timeouts().len(),
        1,
        "one of two is correct, and later rounds count"
    );
    assert_eq!(
        said.timeouts()[0].round,
        Round(1),
        "only a round that was entered is given up"
    );

    let mut solo = Solo::follower([1]);
    solo.timeout(solo.maker.timeout(leader, 1, &genesis));
    assert_eq!(solo.said().timeouts().len(), 1);
}

/// P3: the vote travels with the timeout, and the certificate that led into the round.
#[test]
fn p3_a_timeout_carries_the_vote_and_the_certificate() {
    let mut solo = Solo::follower([1, 2]);
    let chain = solo.maker.chain([1, 2]);
    solo.header(&chain[0]);
    solo.qc(&chain[0]);
    solo.header(&chain[1]);
    let vote = solo.said().votes()[1].clone();
    solo.advance_ms(1_000);
    let said = solo.said();
    assert_eq!(said.votes(), vec![vote], "the same bytes");
    let refs = PeerMessage::CertRefs(vec![CertRef::Qc {
        epoch: chain[0].epoch,
        round: Round(1),
        block_id: chain[0].id(),
    }]);
    assert!(said.broadcasts().any(|m| *m == refs));
    assert_eq!(said.timeouts()[0].hqc_id, chain[0].id());
}

/// Scenario 8: a timeout with an inflated QC that nobody can deliver is ignored.
#[test]
fn p4_a_timeout_counts_once_its_qc_is_held() {
    let mut solo = Solo::follower([1, 2, 3]);
    let first = solo.maker.header(None, 1);
    solo.header(&first);
    solo.qc(&first);
    let qc = solo.maker.qc_without(&first, solo.me());
    let [a, b, c] = solo.others()[..] else {
        panic!("three others")
    };
    solo.advance_ms(1_000);
    solo.said();
    solo.timeout(solo.maker.timeout_naming(a, 5, Round(4), Digest([4; 32])));
    solo.timeout(solo.maker.timeout(b, 2, &qc));
    assert_eq!(solo.round(), 2, "two timeouts of round 2, own included");
    let wanted = PeerMessage::GetCert(CertRef::Qc {
        epoch: first.epoch,
        round: Round(4),
        block_id: Digest([4; 32]),
    });
    let asked: Vec<u16> = solo
        .said()
        .sends()
        .into_iter()
        .filter(|(_, m)| *m == wanted)
        .map(|(to, _)| to)
        .collect();
    assert_eq!(asked, vec![a], "its author is asked for the QC");
    solo.timeout(solo.maker.timeout(c, 2, &qc));
    assert_eq!(solo.round(), 3);
}

#[test]
fn p4_a_timeout_that_names_an_unknown_qc_counts_when_the_qc_arrives() {
    let mut solo = Solo::follower([1, 2, 3]);
    let first = solo.maker.header(None, 1);
    let qc = solo.maker.qc_without(&first, solo.me());
    let genesis = solo.maker.genesis_qc();
    let [a, b, c] = solo.others()[..] else {
        panic!("three others")
    };
    solo.timeout(solo.maker.timeout(a, 2, &qc));
    solo.timeout(solo.maker.timeout(b, 2, &qc));
    solo.timeout(solo.maker.timeout(c, 2, &genesis));
    assert_eq!(solo.round(), 1);
    solo.give_qc(qc);
    assert_eq!(solo.round(), 3, "QC of 1 leads to 2, its TC to 3");
    assert_eq!(solo.core.status().high_qc_round, Round(1));
}

#[test]
fn p5_the_tc_holds_the_highest_qc_and_its_next_leader_is_told() {
    let mut solo = Solo::follower([1, 2, 3]);
    let first = solo.maker.header(None, 1);
    solo.header(&first);
    solo.qc(&first);
    let qc = solo.maker.qc_without(&first, solo.me());
    let genesis = solo.maker.genesis_qc();
    let [a, b, c] = solo.others()[..] else {
        panic!("three others")
    };
    solo.timeout(solo.maker.timeout(a, 2, &genesis));
    solo.timeout(solo.maker.timeout(b, 2, &qc));
    solo.timeout(solo.maker.timeout(c, 2, &genesis));
    let said = solo.said();
    let tc = said
        .records()
        .find_map(|r| {
            if let crate::Record::Tc(tc) = r {
                Some(tc.clone())
            } else {
                None
            }
        })
        .expect("a TC that leads into a round is logged");
    assert_eq!(tc.max_qc.round, Round(1));
    assert_eq!(tc.max_hqc_round(), Round(1));
    let leader = solo.maker.set.leader(Round(3)).0;
    let told = said.sends().into_iter().any(|(to, m)| {
        to == leader
            && matches!(&m, PeerMessage::CertRefs(refs)
                if refs.contains(&CertRef::Tc { epoch: tc.epoch, round: Round(2) }))
    });
    assert!(told);
}

/// Scenario 12, one side: a TC learnt late still brings the QC it names.
#[test]
fn p1_a_tc_brings_its_qc_along() {
    let mut solo = Solo::follower([1]);
    let chain = solo.maker.chain([1, 2]);
    let qc = solo.maker.qc_without(&chain[1], solo.me());
    let [a, b, c] = solo.others()[..] else {
        panic!("three others")
    };
    solo.tc(solo.maker.tc(6, [(a, &qc), (b, &qc), (c, &qc)]));
    let status = solo.core.status();
    assert_eq!(status.round, Round(7));
    assert_eq!(status.high_qc_round, Round(2));
}

#[test]
fn p6_last_words_are_repeated_while_a_round_lasts() {
    let mut solo = Solo::follower([1]);
    let header = solo.maker.header(None, 1);
    solo.header(&header);
    let vote = solo.said().votes()[0].clone();
    solo.advance_ms(1_000);
    let timeout = solo.said().timeouts()[0].clone();
    for _ in 0..3 {
        solo.advance_ms(1_000);
        let said = solo.said();
        assert_eq!(said.votes(), vec![vote.clone()]);
        assert_eq!(said.timeouts(), vec![timeout.clone()]);
    }
}

/// Scenario 12: a peer that lags is told which certificates there are, but not over and over.
#[test]
fn p6_a_laggard_is_told_at_most_once_an_interval() {
    let mut solo = Solo::follower([1]);
    let chain = solo.maker.chain(1..=9);
    solo.feed(&chain);
    solo.said();
    let genesis = solo.maker.genesis_qc();
    let slow = solo.others()[0];
    let old = solo.maker.timeout(slow, 1, &genesis);
    for _ in 0..5 {
        solo.timeout(old.clone());
    }
    let refs = PeerMessage::CertRefs(vec![CertRef::Qc {
        epoch: old.epoch,
        round: Round(9),
        block_id: chain[8].id(),
    }]);
    assert_eq!(solo.said().sends(), vec![(slow, refs.clone())]);
    solo.advance_ms(250);
    solo.said();
    solo.timeout(old);
    assert_eq!(solo.said().sends(), vec![(slow, refs)]);
}

#[test]
fn p7_the_timer_grows_with_failed_rounds_up_to_its_cap_and_a_commit_resets_it() {
    let times = Times::new(&super::harness::params());
    assert_eq!(times.round_timer_us(0), 1_000_000);
    assert_eq!(times.round_timer_us(1), 1_500_000);
    assert_eq!(times.round_timer_us(2), 2_250_000);
    assert_eq!(times.round_timer_us(6), 10_000_000, "the cap");
    assert_eq!(times.round_timer_us(u32::MAX), 10_000_000);

    let mut solo = Solo::follower([4, 5]);
    let genesis = solo.maker.genesis_qc();
    let [a, b, c] = solo.others()[..] else {
        panic!("three others")
    };
    solo.tc(solo
        .maker
        .tc(1, [(a, &genesis), (b, &genesis), (c, &genesis)]));
    solo.tc(solo
        .maker
        .tc(2, [(a, &genesis), (b, &genesis), (c, &genesis)]));
    let expected = solo.now.mono_us + 2_250_000;
    assert_eq!(solo.core.pace.deadline_us(), expected);
    let chain = solo.maker.chain([3, 4]);
    solo.feed(&chain);
    assert_eq!(solo.said().committed_heights(), vec![1]);
    assert_eq!(solo.core.pace.failed_rounds, 0);
}

#[test]
fn p7_a_leader_that_is_silent_for_two_cycles_is_skipped() {
    let mut solo = Solo::follower([1]);
    let silent = solo.maker.set.leader(Round(12)).0;
    let mut last = None;
    for round in 1..=11 {
        let header = solo.maker.header(last.as_ref(), round);
        // Votes of all but the silent one make the QCs.
        for i in solo.others().into_iter().filter(|i| *i != silent) {
            solo.vote(solo.maker.vote(i, &header));
        }
        if header.author.0 != silent && header.author.0 != solo.me() {
            solo.header(&header);
        }
        solo.qc(&header);
        last = Some(header);
    }
    let said = solo.said();
    assert_eq!(solo.round(), 12);
    assert!(
        said.timeouts().iter().any(|t| t.round == Round(12)),
        "at once"
    );
}

/// One that is a quorum alone makes rounds faster than messages travel: others are not silent because
/// of that.
#[test]
fn p7_rounds_that_pass_quickly_make_nobody_silent() {
    let gives_up_at_once = |pause_ms: u64| {
        let mut solo = Solo::follower([1]);
        let slow = solo.maker.set.leader(Round(12)).0;
        let first = solo.maker.header(None, 1);
        solo.vote(solo.maker.vote(slow, &first));
        solo.advance_ms(pause_ms);
        let mut last = None;
        for round in 1..=11 {
            let header = solo.maker.header(last.as_ref(), round);
            for i in solo.others().into_iter().filter(|i| *i != slow) {
                solo.vote(solo.maker.vote(i, &header));
            }
            solo.qc(&header);
            last = Some(header);
        }
        let said = solo.said();
        assert_eq!(solo.round(), 12);
        said.timeouts().iter().any(|t| t.round == Round(12))
    };
    assert!(gives_up_at_once(1_000));
    assert!(!gives_up_at_once(999));
}

#[test]
fn p7_after_an_absence_nobody_counts_as_silent() {
    let mut solo = Solo::follower([1]);
    let header = solo.maker.header(None, 100);
    solo.qc(&header);
    assert_eq!(solo.round(), 101);
    assert!(
        solo.said().timeouts().is_empty(),
        "no quorum was heard of lately"
    );
}

/// Rule P7: nobody waits for a leader whom the ledger has punished in this epoch, unless so many
/// were that the rest is no quorum.
#[test]
fn p7_a_leader_that_was_punished_is_skipped() {
    let leader_of_next = |solo: &Solo| solo.maker.set.leader(Round(3));
    let gives_up_at_once = |punish: &dyn Fn(&mut Solo)| {
        let mut solo = Solo::follower([1, 3]);
        punish(&mut solo);
        let chain = solo.maker.chain([1, 2]);
        solo.feed(&chain);
        assert_eq!(solo.round(), 3);
        let said = solo.said();
        said.timeouts().iter().any(|t| t.round == Round(3))
    };
    assert!(!gives_up_at_once(&|_| {}));
    assert!(gives_up_at_once(&|solo| {
        let leader = leader_of_next(solo);
        solo.core.punish([leader]);
    }));
    // Somebody else was.
    assert!(!gives_up_at_once(&|solo| {
        let leader = leader_of_next(solo).0;
        let other = solo.others().into_iter().find(|i| *i != leader);
        solo.core.punish([ValidatorIndex(other.unwrap())]);
    }));
    // Two of four: their votes are needed.
    assert!(!gives_up_at_once(&|solo| {
        let leader = leader_of_next(solo);
        let other = solo.others().into_iter().find(|i| *i != leader.0);
        solo.core.punish([leader, ValidatorIndex(other.unwrap())]);
    }));
}
