//! Rules E1 to E3.

use falconet_types::Round;

use super::harness::Solo;
use crate::Evidence;

#[test]
fn e1_two_headers_of_one_round_and_kind_are_reported_once() {
    let mut solo = Solo::follower([1]);
    let first = solo.maker.header(None, 1);
    for extra in 1..=3 {
        let mut draft = solo.maker.draft(None, 1);
        draft.time_ms += extra;
        let twin = solo.maker.sign(draft);
        solo.header(&first);
        solo.header(&twin);
    }
    let evidence = solo.said().evidence();
    assert_eq!(evidence.len(), 1);
    let Evidence::Headers(a, b) = &evidence[0] else {
        panic!("{evidence:?}")
    };
    assert_eq!(a.id(), first.id());
    assert_ne!(a.id(), b.id());
    assert_eq!((a.round, a.kind, a.author), (b.round, b.kind, b.author));
}

#[test]
fn e2_two_votes_of_one_round_are_reported_once_and_only_the_first_counts() {
    let mut solo = Solo::follower([1]);
    let first = solo.maker.header(None, 1);
    let mut draft = solo.maker.draft(None, 1);
    draft.time_ms += 1;
    let twin = solo.maker.sign(draft);
    let [a, b, c] = solo.others()[..] else {
        panic!("three others")
    };
    solo.vote(solo.maker.vote(a, &twin));
    solo.vote(solo.maker.vote(a, &first));
    solo.vote(solo.maker.vote(a, &first));
    solo.vote(solo.maker.vote(b, &first));
    solo.vote(solo.maker.vote(c, &first));
    let said = solo.said();
    assert_eq!(said.evidence().len(), 1);
    assert!(matches!(&said.evidence()[0], Evidence::Votes(x, y) if x.block_id != y.block_id));
    assert_eq!(solo.round(), 1, "the second vote of {a} does not count");
}

/// Scenario 8, second half: a timeout below the lock that a vote proves, in either order.
#[test]
fn e3_a_timeout_below_the_lock_is_reported() {
    for vote_first in [true, false] {
        let mut solo = Solo::follower([1, 2]);
        let chain = solo.maker.chain([1, 2]);
        let liar = solo.others()[0];
        let genesis = solo.maker.genesis_qc();
        let vote = solo.maker.vote(liar, &chain[1]);
        let timeout = solo.maker.timeout(liar, 4, &genesis);
        if vote_first {
            solo.vote(vote.clone());
            solo.timeout(timeout.clone());
        } else {
            solo.timeout(timeout.clone());
            solo.vote(vote.clone());
        }
        let evidence = solo.said().evidence();
        assert_eq!(evidence, vec![Evidence::LockViolation(vote, timeout)]);
    }
}

#[test]
fn e3_nothing_hides_a_timeout_below_the_lock() {
    // Behind a truthful timeout of the same round, behind one of a far round, in a round that is
    // over.
    for hidden in 0..3 {
        let mut solo = Solo::follower([1, 2]);
        let chain = solo.maker.chain([1, 2]);
        let liar = solo.others()[0];
        let genesis = solo.maker.genesis_qc();
        let first = solo.maker.qc_without(&chain[0], solo.me());
        solo.vote(solo.maker.vote(liar, &chain[1]));
        let low = match hidden {
            0 => {
                solo.timeout(solo.maker.timeout(liar, 2, &first));
                solo.maker.timeout(liar, 2, &genesis)
            }
            1 => {
                solo.timeout(solo.maker.timeout(liar, 6, &first));
                solo.maker.timeout(liar, 3, &genesis)
            }
            _ => {
                for voter in solo.others().into_iter().skip(1) {
                    solo.vote(solo.maker.vote(voter, &chain[1]));
                }
                solo.maker.timeout(liar, 2, &genesis)
            }
        };
        let _ = solo.said();
        for _ in 0..3 {
            solo.timeout(low.clone());
        }
        let violations = solo.said().evidence();
        let violations: Vec<_> = violations
            .iter()
            .filter(|evidence| matches!(evidence, Evidence::LockViolation(_, t) if *t == low))
            .collect();
        assert_eq!(violations.len(), 1, "case {hidden}: {violations:?}");
    }
}

#[test]
fn e3_honest_timeouts_are_no_evidence() {
    let mut solo = Solo::follower([1, 2]);
    let chain = solo.maker.chain([1, 2]);
    let honest = solo.others()[0];
    let qc = solo.maker.qc_without(&chain[0], solo.me());
    solo.vote(solo.maker.vote(honest, &chain[1]));
    solo.timeout(solo.maker.timeout(honest, 2, &qc));
    assert!(solo.said().evidence().is_empty());
}

#[test]
fn e_two_timeouts_of_one_round_are_a_warning() {
    let mut solo = Solo::follower([1, 2]);
    let first = solo.maker.header(None, 1);
    let qc = solo.maker.qc_without(&first, solo.me());
    let genesis = solo.maker.genesis_qc();
    let peer = solo.others()[0];
    solo.timeout(solo.maker.timeout(peer, 2, &genesis));
    for _ in 0..3 {
        solo.timeout(solo.maker.timeout(peer, 2, &qc));
    }
    let evidence = solo.said().evidence();
    assert!(matches!(&evidence[..], [Evidence::Timeouts(a, b)]
        if a.hqc_round == Round(0) && b.hqc_round == Round(1)));
}
