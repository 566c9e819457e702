//! Rules Y1 and Y6: certificates and proposals that did not arrive by themselves, and whom they are
//! asked of.

use falconet_types::block::SignedHeader;
use falconet_types::message::{CertRef, PeerMessage};
use falconet_types::signing::Verified;
use falconet_types::{Digest, Epoch, Round, ValidatorIndex};

use super::harness::Solo;
use crate::Input;
use crate::limits::{PULL_ASKED_AT_ONCE_MAX, PULL_ATTEMPTS_MAX, PULLS_PER_PEER_MAX};
use crate::pulls::{Due, Pulls};

const RETRY_US: u64 = 10;
const RETRY_US_MAX: u64 = 1_000;

fn v(index: u16) -> ValidatorIndex {
    ValidatorIndex(index)
}

fn cert(round: u64) -> CertRef {
    CertRef::Qc {
        epoch: Epoch(0),
        round: Round(round),
        block_id: Digest([round as u8; 32]),
    }
}

/// Everybody is connected, and nobody kept anything back.
fn due(pulls: &mut Pulls, now_us: u64) -> Due {
    pulls.due(now_us, (RETRY_US, RETRY_US_MAX), |_| true, |_| 0)
}

fn asked(due: &Due) -> Vec<u16> {
    due.requests.iter().map(|(to, _)| to.0).collect()
}

#[test]
fn y1_who_named_it_is_asked_first_then_ever_more_others() {
    let mut pulls = Pulls::default();
    assert!(pulls.want(cert(1), v(20), (0..30).map(v), 0));
    let (mut now_us, mut sizes, mut everybody) = (0, Vec::new(), Vec::new());
    while everybody.len() < 30 {
        let due = due(&mut pulls, now_us);
        sizes.push(due.requests.len());
        everybody.extend(asked(&due));
        now_us = pulls.next_due_us().unwrap();
    }
    assert_eq!(everybody[0], 20);
    assert_eq!(sizes, [1, 2, 4, 8, 8, PULL_ASKED_AT_ONCE_MAX]);
    everybody.truncate(30);
    everybody.sort_unstable();
    assert_eq!(everybody, (0..30).collect::<Vec<_>>(), "each once");
    assert_eq!(now_us, RETRY_US * (1 + 2 * 5), "the wait is short for once");
}

#[test]
fn y1_a_new_holder_is_asked_at_once_and_once() {
    let mut pulls = Pulls::default();
    assert!(pulls.want(cert(1), v(3), [], 0));
    assert_eq!(asked(&due(&mut pulls, 0)), [3]);
    assert!(pulls.want(cert(1), v(5), [], 1));
    assert_eq!(asked(&due(&mut pulls, 1))[0], 5);
    for again in [3, 5] {
        assert!(pulls.want(cert(1), v(again), [], 2));
        assert!(asked(&due(&mut pulls, 2)).is_empty(), "it was asked");
    }
}

#[test]
fn y1_who_kept_something_back_is_asked_after_the_others() {
    let mut pulls = Pulls::default();
    assert!(pulls.want(cert(1), v(3), [], 0));
    assert!(due(&mut pulls, 0).kept_back.is_empty());
    assert_eq!(due(&mut pulls, RETRY_US).kept_back, [v(3)]);
    assert!(due(&mut pulls, 90).kept_back.is_empty(), "said once");
    // Who is asked because it may have it is not to blame when it has not.
    assert!(pulls.want(cert(2), v(3), (0..4).map(v), 100));
    let kept_back = |index| u32::from(index == v(3));
    let waits = (RETRY_US, RETRY_US_MAX);
    let due = pulls.due(100, waits, |_| true, kept_back);
    assert!(due.requests.contains(&(v(0), cert(2))), "{due:?}");
    assert!(!due.requests.contains(&(v(3), cert(2))), "{due:?}");
    let due = pulls.due(150, waits, |_| true, kept_back);
    assert!(!due.kept_back.contains(&v(0)), "{due:?}");
}

#[test]
fn y1_who_is_not_connected_is_not_asked_and_invented_certificates_are_forgotten() {
    let mut pulls = Pulls::default();
    assert!(pulls.want(cert(1), v(3), [v(1)], 0));
    let due = pulls.due(0, (RETRY_US, RETRY_US_MAX), |to| to != v(3), |_| 0);
    assert_eq!(asked(&due), [1]);
    let mut requests = 1;
    while let Some(now_us) = pulls.next_due_us() {
        requests += self::due(&mut pulls, now_us).requests.len();
    }
    assert!(requests <= 2 * PULL_ATTEMPTS_MAX as usize + 1, "{requests}");
    for round in 0..PULLS_PER_PEER_MAX as u64 {
        assert!(pulls.want(cert(round), v(3), [], 0));
    }
    assert!(!pulls.want(cert(99), v(3), [], 0), "its share is used up");
    assert!(pulls.want(cert(99), v(1), [], 0));
    let nobody = |_| false;
    for now_us in 0..10_000 {
        let due = pulls.due(now_us, (RETRY_US, RETRY_US_MAX), nobody, |_| 0);
        assert!(due.requests.is_empty());
    }
    assert_eq!(pulls.len(), 0, "nobody is there to ask");
}

/// A follower of round 1, the proposal that it lacks, and the others who are not its leader.
fn without_proposal() -> (Solo, SignedHeader, [u16; 2]) {
    let solo = Solo::follower([1]);
    let header = solo.maker.header(None, 1);
    let others = solo.others().into_iter();
    let others: Vec<u16> = others.filter(|i| *i != header.author.0).collect();
    let [a, b] = others[..] else {
        panic!("two besides the leader");
    };
    (solo, header, [a, b])
}

/// Whom a proposal was asked of.
fn proposal_asked_of(solo: &mut Solo, header: &SignedHeader) -> Vec<u16> {
    let sends = solo.said().sends().into_iter();
    sends
        .filter_map(|(to, message)| match message {
            PeerMessage::GetBlocks(request) if request.from == header.id() => Some(to),
            _ => None,
        })
        .collect()
}

#[test]
fn y6_a_proposal_that_others_voted_for_is_fetched_from_a_voter() {
    let (mut solo, header, [a, b]) = without_proposal();
    solo.vote(solo.maker.vote(a, &header));
    solo.advance_ms(60);
    assert!(proposal_asked_of(&mut solo, &header).is_empty(), "one vote");
    solo.vote(solo.maker.vote(b, &header));
    assert!(proposal_asked_of(&mut solo, &header).is_empty(), "too soon");
    let mut asked = Vec::new();
    for _ in 0..8 {
        solo.advance_ms(50);
        asked.extend(proposal_asked_of(&mut solo, &header));
    }
    asked.sort_unstable();
    assert_eq!(asked, [a, b], "each voter once, and nobody else");
    let answer = Input::Blocks {
        from: v(a),
        headers: vec![Verified::trusted(header.clone())],
    };
    solo.input(answer);
    let voted: Vec<_> = solo.said().votes().iter().map(|v| v.block_id).collect();
    assert_eq!(voted, [header.id()]);
    solo.advance_ms(20);
    assert!(
        proposal_asked_of(&mut solo, &header).is_empty(),
        "it is here"
    );
}

#[test]
fn y6_a_proposal_that_comes_by_itself_is_not_asked_for() {
    let (mut solo, header, [a, b]) = without_proposal();
    solo.vote(solo.maker.vote(a, &header));
    solo.vote(solo.maker.vote(b, &header));
    solo.header(&header);
    solo.said();
    solo.advance_ms(60);
    assert!(proposal_asked_of(&mut solo, &header).is_empty());
}

/// Nobody can make a node take a header of its own choice, or of another leader, by this way.
#[test]
fn y6_answers_that_nobody_asked_for_are_ignored() {
    let (mut solo, header, [a, b]) = without_proposal();
    let give = |solo: &mut Solo, header: &SignedHeader| {
        solo.input(Input::Blocks {
            from: v(a),
            headers: vec![Verified::trusted(header.clone())],
        });
    };
    give(&mut solo, &header);
    assert!(solo.said().votes().is_empty(), "nobody voted for it");
    solo.vote(solo.maker.vote(a, &header));
    solo.vote(solo.maker.vote(b, &header));
    let mut other = solo.maker.draft(None, 1);
    other.time_ms += 1;
    let other = solo.maker.sign(other);
    give(&mut solo, &other);
    assert!(solo.said().votes().is_empty(), "not what was asked for");
    give(&mut solo, &header);
    assert_eq!(solo.said().votes().len(), 1);
}
