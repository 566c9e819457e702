//! Rules V1 to V5.

use falconet_types::block::{Executed, HeaderKind};
use falconet_types::message::{CertRef, PeerMessage};
use falconet_types::{Digest, Height, Round, ValidatorIndex};

use super::harness::{Solo, params, state, tip};
use crate::{Alarm, Effect, Input};

#[test]
fn v_a_correct_first_proposal_gets_one_vote() {
    let mut solo = Solo::follower([1]);
    let header = solo.maker.header(None, 1);
    solo.header(&header);
    solo.header(&header);
    let said = solo.said();
    assert_eq!(said.votes().len(), 1);
    assert_eq!(said.votes()[0].block_id, header.id());
    let record = said.safety().expect("the record is written with the vote");
    assert_eq!(record.last_vote, Some(said.votes()[0].clone()));
    assert_eq!(record.last_voted_round, Round(1));
}

/// Each wrong header of round 2 is refused, and a right one of the same round is voted for.
#[test]
fn v1_headers_that_contradict_their_parent_get_no_vote() {
    type Change = fn(&mut falconet_types::block::Header);
    let changes: [(&str, Change); 8] = [
        ("height", |h| h.height = Height(3)),
        ("time", |h| h.time_ms -= 1),
        ("cut back", |h| h.cut.0[0] = tip(0)),
        ("cut sideways", |h| h.cut.0[0].hash = Digest([1; 32])),
        ("the end of another epoch", |h| h.ended_by = Digest([1; 32])),
        ("other state of the same height", |h| {
            h.executed.root = Digest([1; 32])
        }),
        ("state too close", |h| {
            h.executed = Executed {
                height: Height(1),
                root: state(Height(1)),
            };
        }),
        ("lanes", |h| {
            h.cut.0.pop();
        }),
    ];
    for (name, change) in changes {
        let mut solo = Solo::follower([1, 2]);
        solo.payload.executed = Height(1);
        let mut first = solo.maker.draft(None, 1);
        first.cut.0[0] = tip(3);
        let first = solo.maker.sign(first);
        solo.header(&first);
        solo.qc(&first);
        solo.said();
        let mut draft = solo.maker.draft(Some(&first), 2);
        change(&mut draft);
        let wrong = solo.maker.sign(draft);
        solo.header(&wrong);
        assert!(solo.said().votes().is_empty(), "{name}");
        assert_eq!(solo.round(), 2);
    }
    let mut solo = Solo::follower([1, 2]);
    let chain = solo.maker.chain([1, 2]);
    solo.header(&chain[0]);
    solo.qc(&chain[0]);
    solo.header(&chain[1]);
    assert_eq!(solo.said().votes().len(), 2);
}

#[test]
fn v1_a_header_ahead_of_the_clock_waits_for_it() {
    let mut solo = Solo::follower([1]);
    let drift = solo.core.config.params.clock_drift_ms_max;
    let mut draft = solo.maker.draft(None, 1);
    draft.time_ms = solo.now.wall_ms + drift + 30;
    let header = solo.maker.sign(draft);
    solo.header(&header);
    assert!(solo.said().votes().is_empty());
    let due = solo.core.next_deadline_us().expect("it looks again");
    assert_eq!(due, solo.now.mono_us + 30_000);
    solo.advance_ms(29);
    assert!(solo.said().votes().is_empty());
    solo.advance_ms(1);
    assert_eq!(solo.said().votes().len(), 1);
}

/// Both limits of a leader's clock: one millisecond above the parent, and exactly the drift ahead.
#[test]
fn v1_times_at_both_limits_are_accepted() {
    for ahead in [false, true] {
        let mut solo = Solo::follower([1]);
        let mut draft = solo.maker.draft(None, 1);
        if ahead {
            draft.time_ms = solo.now.wall_ms + solo.core.config.params.clock_drift_ms_max;
        }
        let header = solo.maker.sign(draft);
        solo.header(&header);
        assert_eq!(solo.said().votes().len(), 1, "ahead: {ahead}");
    }
}

#[test]
fn v1_another_state_than_computed_is_refused_and_reported_once() {
    let mut solo = Solo::leader_of_2();
    let chain = solo.maker.chain([1, 3, 4]);
    solo.feed(&chain);
    let mut draft = solo.maker.draft(Some(&chain[2]), 5);
    draft.executed = Executed {
        height: Height(1),
        root: Digest([3; 32]),
    };
    let wrong = solo.maker.sign(draft);
    solo.said();
    solo.header(&wrong);
    assert!(solo.said().votes().is_empty(), "not executed yet: wait");
    solo.payload.executed = Height(2);
    solo.input(Input::PayloadChanged);
    solo.input(Input::PayloadChanged);
    let said = solo.said();
    assert!(said.votes().is_empty());
    let alarms = said.0.iter().filter(|e| {
        matches!(e, Effect::Alarm(Alarm::StateMismatch { computed, .. })
            if *computed == state(Height(1)))
    });
    assert_eq!(alarms.count(), 1);
}

#[test]
fn v1_a_state_not_executed_yet_is_waited_for() {
    let mut solo = Solo::leader_of_2();
    let chain = solo.maker.chain([1, 3, 4]);
    solo.feed(&chain);
    let mut draft = solo.maker.draft(Some(&chain[2]), 5);
    draft.executed = Executed {
        height: Height(1),
        root: state(Height(1)),
    };
    let header = solo.maker.sign(draft);
    solo.said();
    solo.header(&header);
    assert!(solo.said().votes().is_empty());
    solo.payload.executed = Height(1);
    solo.input(Input::PayloadChanged);
    assert_eq!(solo.said().votes().len(), 1);
}

#[test]
fn v2_no_second_vote_and_none_after_a_timeout() {
    let mut solo = Solo::follower([1, 2]);
    let first = solo.maker.header(None, 1);
    let mut draft = solo.maker.draft(None, 1);
    draft.time_ms += 1;
    let twin = solo.maker.sign(draft);
    solo.header(&first);
    solo.header(&twin);
    assert_eq!(
        solo.said().votes().len(),
        1,
        "one vote for two headers of a round"
    );
    solo.qc(&first);
    solo.advance_ms(1_000);
    assert_eq!(solo.said().timeouts().len(), 1);
    let second = solo.maker.header(Some(&first), 2);
    solo.header(&second);
    assert!(solo.said().votes().is_empty(), "the round was given up");
}

/// Scenario 11: votes reached only some; the rest pull the certificate.
#[test]
fn v3_y1_a_missing_parent_qc_is_pulled_from_the_leader_then_from_everybody() {
    let mut solo = Solo::follower([1, 2]);
    let chain = solo.maker.chain([1, 2]);
    solo.header(&chain[0]);
    solo.header(&chain[1]);
    let said = solo.said();
    assert_eq!(said.votes().len(), 1, "for round 1 only");
    assert!(said.sends().is_empty(), "it may still form out of votes");
    let wanted = CertRef::Qc {
        epoch: chain[0].epoch,
        round: Round(1),
        block_id: chain[0].id(),
    };
    let mut asked = Vec::new();
    for _ in 0..8 {
        solo.advance_ms(50);
        for (to, message) in solo.said().sends() {
            if message == PeerMessage::GetCert(wanted) {
                asked.push(to);
            }
        }
    }
    assert_eq!(asked[0], chain[1].author.0);
    solo.qc(&chain[0]);
    assert_eq!(solo.said().votes().len(), 1);
    solo.advance_ms(500);
    assert!(
        solo.said().sends().is_empty(),
        "no request for what is held"
    );
}

#[test]
fn v4_a_skipped_round_needs_a_tc() {
    let mut solo = Solo::follower([1, 3]);
    let first = solo.maker.header(None, 1);
    solo.header(&first);
    solo.qc(&first);
    let header = solo.maker.header(Some(&first), 3);
    assert_eq!(header.kind, HeaderKind::Recovery);
    solo.header(&header);
    let said = solo.said();
    assert_eq!(said.votes().len(), 1, "round 1 only");
    let qc = solo.maker.qc_without(&first, solo.me());
    let [a, b, c] = solo.others()[..] else {
        panic!("three others")
    };
    solo.tc(solo.maker.tc(2, [(a, &qc), (b, &qc), (c, &qc)]));
    assert_eq!(solo.round(), 3);
    assert_eq!(solo.said().votes().len(), 1);
}

/// The TC at hand names a higher QC than the proposal's parent: the leader's TC is pulled before
/// the proposal is given up.
#[test]
fn v4_any_valid_tc_of_the_round_before_will_do() {
    let mut solo = Solo::follower([1, 2, 4]);
    let chain = solo.maker.chain([1, 2]);
    for header in &chain {
        solo.header(header);
    }
    let me = solo.me();
    let low = solo.maker.qc_without(&chain[0], me);
    let high = solo.maker.qc_without(&chain[1], me);
    solo.give_qc(low.clone());
    let [a, b, c] = solo.others()[..] else {
        panic!("three others")
    };
    solo.tc(solo.maker.tc(3, [(a, &high), (b, &low), (c, &low)]));
    let recovery = solo.maker.header(Some(&chain[0]), 4);
    solo.said();
    solo.header(&recovery);
    assert!(
        solo.said().votes().is_empty(),
        "the parent is below the TC's highest QC"
    );
    solo.advance_ms(50);
    let asked = PeerMessage::GetCert(CertRef::Tc {
        epoch: recovery.epoch,
        round: Round(3),
    });
    assert!(solo.said().sends().contains(&(recovery.author.0, asked)));
    solo.tc(solo.maker.tc(3, [(a, &low), (b, &low), (c, &low)]));
    assert_eq!(solo.said().votes().len(), 1);
}

#[test]
fn v4_a_recovery_header_on_the_round_before_needs_a_tc_too() {
    let mut solo = Solo::follower([1, 2]);
    let first = solo.maker.header(None, 1);
    solo.header(&first);
    solo.qc(&first);
    let mut draft = solo.maker.draft(Some(&first), 2);
    draft.kind = HeaderKind::Recovery;
    let recovery = solo.maker.sign(draft);
    solo.said();
    solo.header(&recovery);
    assert!(solo.said().votes().is_empty());
    let genesis = solo.maker.genesis_qc();
    let [a, b, c] = solo.others()[..] else {
        panic!("three others")
    };
    solo.tc(solo
        .maker
        .tc(1, [(a, &genesis), (b, &genesis), (c, &genesis)]));
    assert_eq!(solo.said().votes().len(), 1);
}

#[test]
fn v5_the_vote_waits_for_the_payload() {
    let mut solo = Solo::follower([1]);
    solo.payload.available = false;
    let header = solo.maker.header(None, 1);
    solo.header(&header);
    assert!(solo.said().votes().is_empty());
    solo.payload.available = true;
    solo.input(Input::PayloadChanged);
    assert_eq!(solo.said().votes().len(), 1);
}

#[test]
fn s6_a_vote_locks_the_parents_qc() {
    let mut solo = Solo::follower([1, 2]);
    let chain = solo.maker.chain([1, 2]);
    solo.header(&chain[0]);
    assert_eq!(solo.said().safety().unwrap().locked.round, Round(0));
    solo.qc(&chain[0]);
    solo.header(&chain[1]);
    let record = solo.said().safety().unwrap();
    assert_eq!(record.locked.block_id, chain[0].id());
    assert_eq!(
        record.locked.votes.len(),
        3,
        "the certificate itself is in the record"
    );
}

#[test]
fn v_messages_of_another_epoch_are_ignored() {
    let mut solo = Solo::follower([1]);
    let mut draft = solo.maker.draft(None, 1);
    draft.epoch = falconet_types::Epoch(1);
    let other = solo.maker.sign(draft);
    solo.header(&other);
    let mut vote = solo
        .maker
        .vote(solo.others()[0], &solo.maker.header(None, 1));
    vote.epoch = falconet_types::Epoch(1);
    solo.input(Input::Vote {
        from: ValidatorIndex(solo.others()[0]),
        vote: falconet_types::signing::Verified::trusted(vote),
    });
    let header = solo.maker.header(None, 1);
    solo.header(&header);
    let said = solo.said();
    assert_eq!(said.votes().len(), 1);
    assert!(said.evidence().is_empty());
}

/// Every checkpoint is named by some header, or its snapshot could not be proven.
#[test]
fn v1_a_state_beyond_the_next_checkpoint_gets_no_vote() {
    let every = params().checkpoint_heights();
    for (named, votes) in [(every + 1, 0), (every, 1)] {
        let round = every + 50;
        let mut solo = Solo::follower([round]);
        let chain = solo.maker.chain(1..round);
        solo.feed(&chain);
        solo.payload.executed = Height(every + 40);
        let mut draft = solo.maker.draft(chain.last(), round);
        draft.executed = Executed {
            height: Height(named),
            root: state(Height(named)),
        };
        let header = solo.maker.sign(draft);
        solo.said();
        solo.header(&header);
        assert_eq!(solo.said().votes().len(), votes, "naming {named}");
    }
}
