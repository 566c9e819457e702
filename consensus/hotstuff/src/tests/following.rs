//! A core whose key is not in the set: it commits and serves, and signs nothing.

use falconet_types::message::{GetBlocks, PeerMessage};
use falconet_types::{Height, ValidatorIndex};

use super::harness::Solo;
use crate::{Input, Record};

fn nobody() -> Solo {
    Solo::new(ValidatorIndex::NOBODY.0)
}

#[test]
fn a_follower_commits_and_never_signs() {
    let mut solo = nobody();
    let chain = solo.maker.chain(1..=40);
    for header in &chain {
        solo.header(header);
        solo.qc(header);
    }
    solo.advance_ms(60_000);
    let said = solo.said();
    assert_eq!(said.committed_heights(), (1..=39).collect::<Vec<_>>());
    assert!(said.votes().is_empty() && said.timeouts().is_empty() && said.headers().is_empty());
    let records: Vec<_> = said
        .records()
        .filter(|r| matches!(r, Record::Safety(_)))
        .collect();
    assert_eq!(
        records.len(),
        1,
        "that of a node that never signed anything"
    );
    let why = solo.core.status().not_signing.expect("it does not sign");
    assert!(why.contains("follower"), "{why}");
}

#[test]
fn votes_make_a_followers_certificates() {
    let mut solo = nobody();
    for header in &solo.maker.chain(1..=3) {
        solo.header(header);
        for voter in 0..3 {
            solo.vote(solo.maker.vote(voter, header));
        }
    }
    assert_eq!(solo.said().committed_heights(), vec![1, 2]);
}

#[test]
fn followers_are_served_within_the_limits_of_a_peer() {
    let mut solo = Solo::follower([1]);
    let chain = solo.maker.chain(1..=10);
    solo.feed(&chain);
    solo.said();
    let from = ValidatorIndex::of_follower(3);
    for _ in 0..100 {
        let request = GetBlocks {
            from: chain[7].id(),
            stop_height: Height(3),
            max: 64,
        };
        solo.input(Input::GetBlocks { from, request });
    }
    let sends = solo.said().sends();
    assert_eq!(
        sends.len(),
        crate::limits::ANSWERS_PER_INTERVAL_MAX as usize
    );
    let (to, PeerMessage::Blocks(headers)) = &sends[0] else {
        panic!("headers")
    };
    assert_eq!((*to, headers.len()), (from.0, 5));
}
