//! Rules H1 to H5.

use falconet_types::block::{Executed, HeaderKind};
use falconet_types::{Height, Round};

use super::harness::{GENESIS_MS, Solo, params, set, state};
use crate::Input;

fn leader_of(round: u64) -> Solo {
    let mut solo = Solo::new(set(4).leader(Round(round)).0);
    solo.said();
    solo
}

#[test]
fn h1_one_header_a_round() {
    let mut solo = Solo::new(set(4).leader(Round(1)).0);
    solo.payload.work = true;
    for _ in 0..3 {
        solo.input(Input::PayloadChanged);
        solo.advance_ms(10);
    }
    let said = solo.said();
    assert_eq!(said.headers().len(), 1);
    assert_eq!(said.votes().len(), 1, "the leader votes for its own header");
    let record = said.safety().unwrap();
    assert_eq!(record.last_normal.unwrap().id(), said.headers()[0].id());
}

/// Scenario 15 and idle pacing: no work, so the leader waits for the idle interval.
#[test]
fn h3_an_idle_leader_waits_and_work_wakes_it() {
    let mut solo = leader_of(2);
    let first = solo.maker.draft(None, 1);
    let mut first = first;
    first.time_ms = solo.now.wall_ms;
    let first = solo.maker.sign(first);
    solo.header(&first);
    solo.qc(&first);
    solo.advance_ms(249);
    assert!(solo.said().headers().is_empty());
    let due = solo.core.next_deadline_us().unwrap();
    assert_eq!(due, solo.now.mono_us + 1_000);
    solo.payload.work = true;
    solo.input(Input::PayloadChanged);
    let said = solo.said();
    assert_eq!(said.headers().len(), 1);
    assert_eq!(said.headers()[0].cut.0[0].seq.0, 1);
    assert_eq!(said.headers()[0].kind, HeaderKind::Normal);

    let mut solo = leader_of(2);
    solo.header(&first);
    solo.qc(&first);
    solo.advance_ms(250);
    assert_eq!(
        solo.said().headers().len(),
        1,
        "an empty block when the interval is over"
    );
}

#[test]
fn h3_payload_above_the_commit_is_driven_on_at_once() {
    // The minimal interval is for new payload only.
    let slow = || falconet_types::genesis::Params {
        block_interval_ms_min: 20,
        ..params()
    };
    let mut solo = Solo::with_params(set(4).leader(Round(2)).0, slow());
    solo.said();
    let mut first = solo.maker.draft(None, 1);
    first.time_ms = solo.now.wall_ms;
    first.cut.0[0] = super::harness::tip(1);
    let first = solo.maker.sign(first);
    solo.header(&first);
    solo.qc(&first);
    let said = solo.said();
    assert_eq!(said.headers().len(), 1, "block 1 needs a child to commit");
    // The block after that commits block 1 and is empty: nothing to hurry for.
    let mut solo = leader_of(3);
    solo.header(&first);
    solo.qc(&first);
    let second = solo.maker.header(Some(&first), 2);
    solo.header(&second);
    solo.qc(&second);
    let said = solo.said();
    assert_eq!(said.committed_heights(), vec![1]);
    assert!(said.headers().is_empty());
}

#[test]
fn h3_the_minimal_interval_holds_a_busy_leader() {
    let mut solo = leader_of(2);
    solo.core.config.params.block_interval_ms_min = 20;
    solo.payload.work = true;
    let mut first = solo.maker.draft(None, 1);
    first.time_ms = solo.now.wall_ms;
    let first = solo.maker.sign(first);
    solo.header(&first);
    solo.qc(&first);
    solo.advance_ms(19);
    assert!(solo.said().headers().is_empty());
    solo.advance_ms(1);
    assert_eq!(solo.said().headers().len(), 1);
}

/// Under load the data layer asks for more time, and gets at most the idle interval.
#[test]
fn h3_a_leader_waits_longer_when_the_payload_asks_for_it() {
    for (stretch, wait_ms) in [(3, 60), (1_000, params().block_interval_ms_idle)] {
        let mut solo = leader_of(2);
        solo.core.config.params.block_interval_ms_min = 20;
        solo.payload.work = true;
        solo.payload.stretch = stretch;
        let mut first = solo.maker.draft(None, 1);
        first.time_ms = solo.now.wall_ms;
        let first = solo.maker.sign(first);
        solo.header(&first);
        solo.qc(&first);
        solo.advance_ms(wait_ms - 1);
        assert!(solo.said().headers().is_empty());
        solo.advance_ms(1);
        assert_eq!(solo.said().headers().len(), 1);
    }
}

/// Scenario 15: the clock was set back by an hour. Neither the wait nor the time of the block
/// follows it.
#[test]
fn h3_h4_a_clock_that_goes_back_delays_nothing() {
    let mut solo = leader_of(2);
    solo.payload.work = true;
    solo.now.wall_ms += 3_600_000;
    let mut first = solo.maker.draft(None, 1);
    first.time_ms = solo.now.wall_ms;
    let first = solo.maker.sign(first);
    solo.header(&first);
    solo.now.wall_ms -= 3_600_000;
    solo.qc(&first);
    let header = solo
        .said()
        .headers()
        .pop()
        .expect("no wait beyond the interval");
    assert_eq!(header.time_ms, first.time_ms + 1);

    let mut idle = leader_of(2);
    idle.header(&first);
    idle.qc(&first);
    idle.advance_ms(250);
    assert_eq!(idle.said().headers().len(), 1);
}

#[test]
fn h3_after_a_tc_the_leader_proposes_a_recovery_header_on_its_highest_qc() {
    let mut solo = leader_of(3);
    let first = solo.maker.header(None, 1);
    solo.header(&first);
    solo.qc(&first);
    let qc = solo.maker.qc_without(&first, solo.me());
    let genesis = solo.maker.genesis_qc();
    let [a, b, c] = solo.others()[..] else {
        panic!("three others")
    };
    solo.payload.work = true;
    solo.tc(solo.maker.tc(2, [(a, &genesis), (b, &qc), (c, &genesis)]));
    let said = solo.said();
    let header = &said.headers()[0];
    assert_eq!(
        (header.kind, header.round),
        (HeaderKind::Recovery, Round(3))
    );
    assert_eq!(header.parent_id, first.id());
    assert_eq!(said.votes().last().unwrap().block_id, header.id());
}

#[test]
fn h3_a_leader_without_its_parents_header_fetches_it_first() {
    let mut solo = leader_of(2);
    solo.payload.work = true;
    let first = solo.maker.header(None, 1);
    solo.qc(&first);
    assert!(solo.said().headers().is_empty());
    solo.header(&first);
    assert_eq!(solo.said().headers().len(), 1);
}

#[test]
fn h4_the_header_names_the_highest_state_that_voters_should_know() {
    let mut solo = leader_of(6);
    solo.payload.executed = Height(4);
    let chain = solo.maker.chain([1, 3, 4, 5]);
    solo.feed(&chain);
    let header = solo.said().headers().pop().expect("a proposal");
    assert_eq!(header.height, Height(5));
    let named = Executed {
        height: Height(2),
        root: state(Height(2)),
    };
    assert_eq!(header.executed, named);
}

/// Found by the simulator: the leader alone had committed a block, through a child that was
/// abandoned. It named the block's state; the others had not executed it and waited for ever.
#[test]
fn h4_only_states_that_the_chain_itself_commits_are_named() {
    let mut solo = leader_of(10);
    solo.payload.executed = Height(9);
    let mut chain = solo.maker.chain([1, 3]);
    // Round 4 commits round 3 for those who see its QC; the chain goes on from round 3.
    let abandoned = solo.maker.header(chain.last(), 4);
    for round in [5, 7, 9] {
        let next = solo.maker.header(chain.last(), round);
        chain.push(next);
    }
    solo.feed(&chain[..2]);
    solo.feed(&[abandoned]);
    assert_eq!(solo.said().committed_heights(), vec![1, 2]);
    solo.feed(&chain[2..]);
    let header = solo.said().headers().pop().expect("a proposal");
    assert_eq!(header.height, Height(6));
    assert_eq!(
        header.executed.height,
        Height(0),
        "no two rounds below are consecutive"
    );
}

#[test]
fn h4_the_state_never_goes_back_behind_the_parents() {
    let mut solo = leader_of(7);
    let mut chain = solo.maker.chain([1, 2, 4, 5]);
    let mut sixth = solo.maker.draft(chain.last(), 6);
    sixth.executed = Executed {
        height: Height(2),
        root: state(Height(2)),
    };
    chain.push(solo.maker.sign(sixth));
    solo.feed(&chain);
    let header = solo.said().headers().pop().expect("a proposal");
    assert_eq!(
        header.executed.height,
        Height(2),
        "this node executed nothing yet"
    );
}

#[test]
fn h4_no_checkpoint_is_passed_over() {
    let every = params().checkpoint_heights();
    let mut solo = leader_of(every + 50);
    let chain = solo.maker.chain(1..every + 50);
    solo.payload.executed = Height(every + 40);
    solo.feed(&chain);
    let header = solo.said().headers().pop().expect("a proposal");
    let named = (header.executed.height, header.executed.root);
    assert_eq!(named, (Height(every), state(Height(every))));
}

#[test]
fn h4_time_is_the_clock_or_one_above_the_parent() {
    let mut solo = Solo::new(set(4).leader(Round(1)).0);
    assert_eq!(solo.said().headers()[0].time_ms, GENESIS_MS + 1_000);
}

/// A set of one: it is its own quorum, and one input makes one block.
#[test]
fn a_single_validator_commits_alone_one_block_a_turn() {
    use super::harness::{FakeSigner, TestPayload, config, signer};
    use crate::{HotStuff, Recovered};
    let set = set(1);
    let me = falconet_types::ValidatorIndex(0);
    let key: Box<FakeSigner> = Box::new(signer(me));
    let mut core = HotStuff::new(config(&set, me), key, Recovered::default()).unwrap();
    let payload = TestPayload {
        work: true,
        ..TestPayload::default()
    };
    let mut now = falconet_types::time::Now {
        mono_us: 1,
        wall_ms: GENESIS_MS,
    };
    let mut log = super::harness::Log::default();
    let mut turn = |core: &mut HotStuff, log: &mut super::harness::Log| {
        let mut out = Vec::new();
        core.handle(now, Input::Tick, &payload, &mut out);
        now.mono_us += 1_000;
        now.wall_ms += 1;
        let said = super::harness::Said(out);
        assert!(said.headers().len() <= 1);
        said.records().for_each(|r| log.append(r));
        said.committed_heights()
    };
    let mut heights = Vec::new();
    for _ in 0..10 {
        heights.extend(turn(&mut core, &mut log));
    }
    assert_eq!(heights, (1..=9).collect::<Vec<_>>());
    let key: Box<FakeSigner> = Box::new(signer(me));
    let mut core = HotStuff::new(config(&set, me), key, log.recovered()).unwrap();
    heights.clear();
    for _ in 0..5 {
        heights.extend(turn(&mut core, &mut log));
    }
    assert_eq!(
        heights.first(),
        Some(&10),
        "its own vote certifies block 10 after the restart"
    );
}

/// A leader of round 2 of a chain with optimistic proposals, with a proposal of round 1.
fn ahead_of_2() -> (Solo, falconet_types::block::SignedHeader) {
    let me = set(4).leader(Round(2));
    let mut solo = Solo::with_params(
        me.0,
        falconet_types::genesis::Params {
            optimistic_proposals: true,
            ..params()
        },
    );
    solo.said();
    solo.payload.work = true;
    let mut first = solo.maker.draft(None, 1);
    first.time_ms = solo.now.wall_ms;
    let first = solo.maker.sign(first);
    (solo, first)
}

#[test]
fn h5_the_next_leader_proposes_after_its_vote() {
    let (mut solo, first) = ahead_of_2();
    solo.header(&first);
    let said = solo.said();
    assert_eq!(said.votes().len(), 1);
    let ahead = said.headers();
    assert_eq!(ahead.len(), 1, "no QC was needed");
    assert_eq!(ahead[0].round, Round(2));
    assert_eq!(ahead[0].parent_id, first.id());
    assert_eq!(ahead[0].kind, HeaderKind::Normal);
    let record = said.safety().unwrap();
    assert_eq!(record.last_normal.unwrap().id(), ahead[0].id());
    assert_eq!(record.locked.round, Round::ZERO, "it relies on no QC");
    // Once the block is certified the node votes for its own header and sends no other.
    solo.qc(&first);
    let said = solo.said();
    assert!(said.headers().is_empty());
    assert_eq!(said.votes()[0].block_id, ahead[0].id());
}

#[test]
fn h5_a_tc_asks_for_a_recovery_header() {
    let (mut solo, first) = ahead_of_2();
    solo.header(&first);
    let ahead = solo.said().headers();
    assert_eq!(ahead.len(), 1);
    let genesis = solo.maker.genesis_qc();
    let others = solo.others();
    let tc = solo.maker.tc(
        1,
        [
            (others[0], &genesis),
            (others[1], &genesis),
            (others[2], &genesis),
        ],
    );
    solo.tc(tc);
    let said = solo.said();
    let second = said.headers();
    assert_eq!(second.len(), 1);
    assert_eq!(second[0].kind, HeaderKind::Recovery);
    assert_eq!(second[0].round, Round(2));
    assert_eq!(second[0].parent_round, Round::ZERO);
    let record = said.safety().unwrap();
    assert_eq!(record.last_normal.unwrap().id(), ahead[0].id());
    assert_eq!(record.last_recovery.unwrap().id(), second[0].id());
}

#[test]
fn h5_not_in_a_round_that_was_given_up() {
    let (mut solo, first) = ahead_of_2();
    solo.advance_ms(2_000);
    assert_eq!(solo.said().timeouts().len(), 1);
    solo.header(&first);
    let said = solo.said();
    assert!(said.votes().is_empty() && said.headers().is_empty());
}

#[test]
fn h5_not_without_the_genesis_flag() {
    let (_, first) = ahead_of_2();
    let mut solo = leader_of(2);
    solo.payload.work = true;
    solo.header(&first);
    let said = solo.said();
    assert_eq!(said.votes().len(), 1);
    assert!(said.headers().is_empty());
}

/// The block that was certified is not the one that was voted for: a second normal header would be
/// evidence.
#[test]
fn h5_no_second_normal_header() {
    let (mut solo, first) = ahead_of_2();
    solo.header(&first);
    assert_eq!(solo.said().headers().len(), 1);
    let mut other = solo.maker.draft(None, 1);
    other.time_ms = first.time_ms + 1;
    let other = solo.maker.sign(other);
    solo.header(&other);
    solo.qc(&other);
    solo.advance_ms(300);
    assert!(solo.said().headers().is_empty());
}
