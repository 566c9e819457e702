//! Rules B1 to B3, and what peers are given on request. Scenario 16 as far as the core goes.

use falconet_types::message::{CertRef, GetBlocks, PeerMessage};
use falconet_types::{Digest, Epoch, Height, Round, ValidatorIndex};

use super::harness::Solo;
use crate::limits::{
    ANSWERS_PER_INTERVAL_MAX, PULLS_PER_PEER_MAX, ROUNDS_AHEAD_MAX, ROUNDS_BEHIND_MAX,
};
use crate::{Effect, Input};

fn with_chain(length: u64) -> (Solo, Vec<falconet_types::block::SignedHeader>) {
    let mut solo = Solo::follower([1]);
    let chain = solo.maker.chain(1..=length);
    solo.feed(&chain);
    solo.said();
    (solo, chain)
}

fn get_blocks(solo: &mut Solo, from: Digest, stop: u64, max: u16) {
    let request = GetBlocks {
        from,
        stop_height: Height(stop),
        max,
    };
    solo.input(Input::GetBlocks {
        from: ValidatorIndex(solo.others()[0]),
        request,
    });
}

#[test]
fn blocks_are_served_newest_first_down_to_the_stop_height() {
    let (mut solo, chain) = with_chain(10);
    get_blocks(&mut solo, chain[7].id(), 3, 64);
    let sends = solo.said().sends();
    let [(_, PeerMessage::Blocks(headers))] = &sends[..] else {
        panic!("{sends:?}")
    };
    let heights: Vec<u64> = headers.iter().map(|h| h.height.0).collect();
    assert_eq!(heights, vec![8, 7, 6, 5, 4]);
}

#[test]
fn b2_answers_are_bounded_whatever_is_asked() {
    let (mut solo, chain) = with_chain(120);
    get_blocks(&mut solo, chain[119].id(), 0, u16::MAX);
    let sends = solo.said().sends();
    let [(_, PeerMessage::Blocks(headers))] = &sends[..] else {
        panic!("one answer")
    };
    assert_eq!(headers.len(), 64);
    for _ in 0..1_000 {
        get_blocks(&mut solo, chain[119].id(), 0, 64);
    }
    assert_eq!(
        solo.said().sends().len(),
        ANSWERS_PER_INTERVAL_MAX as usize - 1
    );
    solo.advance_ms(250);
    solo.said();
    get_blocks(&mut solo, chain[119].id(), 0, 64);
    assert_eq!(solo.said().sends().len(), 1);
}

#[test]
fn b3_old_blocks_are_left_to_the_store() {
    let (mut solo, chain) = with_chain(200);
    get_blocks(&mut solo, chain[3].id(), 0, 64);
    let said = solo.said();
    assert!(said.sends().is_empty());
    assert!(said.0.iter().any(
        |e| matches!(e, Effect::ServeBlocks { request, .. } if request.from == chain[3].id())
    ));
    assert!(
        solo.core.tree.len() <= 2,
        "nothing but the uncommitted is in the tree"
    );
}

#[test]
fn certificates_are_served_or_better_ones_named() {
    let (mut solo, chain) = with_chain(5);
    let from = ValidatorIndex(solo.others()[0]);
    let epoch = Epoch(0);
    let ask = |solo: &mut Solo, cert| {
        solo.input(Input::GetCert { from, cert });
        solo.said().sends()
    };
    let newest = CertRef::Qc {
        epoch,
        round: Round(5),
        block_id: chain[4].id(),
    };
    let sends = ask(&mut solo, newest);
    assert!(matches!(&sends[..], [(_, PeerMessage::Qc(qc))] if qc.round == Round(5)));
    let sends = ask(
        &mut solo,
        CertRef::Tc {
            epoch,
            round: Round(2),
        },
    );
    assert!(matches!(&sends[..], [(_, PeerMessage::Qc(qc))] if qc.round == Round(5)));
    let unknown = CertRef::Qc {
        epoch,
        round: Round(9),
        block_id: Digest([1; 32]),
    };
    let sends = ask(&mut solo, unknown);
    assert_eq!(sends, vec![(from.0, PeerMessage::CertRefs(vec![newest]))]);
}

#[test]
fn a_peers_list_leads_to_a_pull_of_what_is_news() {
    let (mut solo, chain) = with_chain(3);
    let from = ValidatorIndex(solo.others()[1]);
    let epoch = Epoch(0);
    let old = CertRef::Qc {
        epoch,
        round: Round(2),
        block_id: chain[1].id(),
    };
    let new = CertRef::Qc {
        epoch,
        round: Round(8),
        block_id: Digest([8; 32]),
    };
    solo.input(Input::CertRefs {
        from,
        refs: vec![old, new],
    });
    assert_eq!(
        solo.said().sends(),
        vec![(from.0, PeerMessage::GetCert(new))]
    );
}

/// Scenario 16: rounds up to 2^64 - 1, invented certificates, votes and headers without end.
#[test]
fn b1_b2_a_flood_for_far_rounds_holds_nothing_and_stops_nothing() {
    let (mut solo, chain) = with_chain(3);
    let liar = solo.others()[0];
    let window = (ROUNDS_AHEAD_MAX + ROUNDS_BEHIND_MAX + 1) as usize;
    let rounds = (1..200u64).chain([u64::MAX - 1, u64::MAX]);
    for round in rounds {
        let mut draft = solo.maker.draft(None, 50);
        draft.round = Round(round);
        draft.parent_round = Round(round - 1);
        draft.parent_id = Digest([round as u8; 32]);
        let header = solo.maker.sign(draft);
        solo.header(&header);
        solo.vote(solo.maker.vote(liar, &header));
        let naming = Digest([3; 32]);
        solo.timeout(
            solo.maker
                .timeout_naming(liar, round, Round(round - 1), naming),
        );
        let refs = vec![
            CertRef::Qc {
                epoch: Epoch(0),
                round: Round(round),
                block_id: Digest([5; 32]),
            },
            CertRef::Tc {
                epoch: Epoch(0),
                round: Round(round),
            },
        ];
        solo.input(Input::CertRefs {
            from: ValidatorIndex(liar),
            refs,
        });
    }
    assert!(solo.core.votes.len() <= window * 4);
    assert!(solo.core.slots.len() <= 2 * window);
    assert!(solo.core.pulls.len() <= PULLS_PER_PEER_MAX * 4);
    assert_eq!(solo.round(), 4, "one validator moves no round");
    solo.said();
    let next = solo.maker.chain(1..=4).pop().unwrap();
    assert_eq!(next.parent_id, chain[2].id());
    solo.qc(&next);
    solo.header(&next);
    assert_eq!(solo.round(), 5, "honest traffic goes on");
}

#[test]
fn messages_of_strangers_are_survived() {
    let (mut solo, chain) = with_chain(3);
    let stranger = ValidatorIndex(999);
    let tc = CertRef::Tc {
        epoch: Epoch(0),
        round: Round(9),
    };
    solo.input(Input::PeerUp(stranger));
    solo.input(Input::PeerDown(stranger));
    solo.input(Input::PeerUp(ValidatorIndex(200)));
    solo.said();
    solo.input(Input::GetCert {
        from: stranger,
        cert: tc,
    });
    let request = GetBlocks {
        from: chain[0].id(),
        stop_height: Height(0),
        max: 1,
    };
    solo.input(Input::GetBlocks {
        from: stranger,
        request,
    });
    assert!(solo.said().sends().is_empty());
}
