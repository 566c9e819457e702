//! Rules P7 and P8: the base of the round timer, and who is not waited for.

use falconet_types::validators::ValidatorSet;
use falconet_types::{Epoch, Round, ValidatorIndex};

use super::cluster::Cluster;
use super::harness::{CHAIN, Solo, keys, set};
use crate::limits::{
    BASE_ROUNDS, PASSED_OVER_FACTOR, PASSED_OVER_US_MAX, PATIENCE_TURNS, TURN_FAILURES_MAX, Times,
};
use crate::patience::Patience;

/// Everybody can be heard of.
fn nobody(_: ValidatorIndex) -> bool {
    false
}

const FLOOR_US: u64 = 100_000;
const CEILING_US: u64 = 1_000_000;

fn weighted(weights: &[u64]) -> ValidatorSet {
    let members: Vec<_> = keys()
        .iter()
        .cloned()
        .zip(weights.iter().copied())
        .collect();
    ValidatorSet::new(CHAIN, Epoch(0), &members).expect("a valid set")
}

fn v(index: u16) -> ValidatorIndex {
    ValidatorIndex(index)
}

/// Everybody led once; the rounds of validator i took `took_us[i]`.
fn after_a_cycle(took_us: &[u64]) -> Patience {
    let set = set(took_us.len());
    let mut patience = Patience::new(&set, FLOOR_US, CEILING_US);
    for (i, took_us) in (0..).zip(took_us) {
        patience.succeeded(v(i), *took_us, &set);
    }
    patience
}

#[test]
fn p7_the_base_is_what_a_quorum_of_leaders_needs_within_its_bounds() {
    let base_us = |took_us: &[u64]| after_a_cycle(took_us).base_us();
    assert_eq!(base_us(&[40_000; 4]), 40_000 * BASE_ROUNDS);
    assert_eq!(base_us(&[1_000; 4]), FLOOR_US, "never less");
    assert_eq!(base_us(&[600_000; 4]), CEILING_US, "never more");
    // One of four may be faulty: the slowest has no say, nor has the fastest alone.
    assert_eq!(base_us(&[40_000, 40_000, 900_000, 40_000]), 160_000);
    assert_eq!(base_us(&[40_000, 0, 40_000, 40_000]), 160_000);
    assert_eq!(base_us(&[40_000, 0, 50_000, 900_000]), 200_000);
    let seven = [30_000, 900_000, 40_000, 900_000, 35_000, 30_000, 60_000];
    assert_eq!(base_us(&seven), 240_000, "two of seven");
    // Until a quorum has led, genesis decides.
    let set = set(4);
    let mut patience = Patience::new(&set, FLOOR_US, CEILING_US);
    for i in 0..2 {
        patience.succeeded(v(i), 1_000, &set);
        assert_eq!(patience.base_us(), CEILING_US);
    }
    patience.succeeded(v(2), 1_000, &set);
    assert_eq!(patience.base_us(), FLOOR_US);
}

/// With unequal weights few can be a quorum, but no block commits without two leaders in a row.
#[test]
fn p7_the_base_is_what_more_than_half_of_the_leaders_need() {
    let set = weighted(&[7, 1, 1, 1]);
    let mut patience = Patience::new(&set, FLOOR_US, CEILING_US);
    for (i, took_us) in [(0, 1_000), (1, 60_000), (2, 50_000), (3, 900_000)] {
        patience.succeeded(v(i), took_us, &set);
    }
    assert_eq!(patience.base_us(), 240_000);
}

#[test]
fn p8_weights_say_how_many_are_passed_over() {
    let heavy = weighted(&[7, 1, 1, 1]);
    let mut patience = Patience::new(&heavy, FLOOR_US, CEILING_US);
    for i in 0..4 {
        patience.failed(0, v(i), FLOOR_US, &heavy);
    }
    let passed = |i: &u16| patience.passes_over(1, v(*i), &heavy, nobody);
    assert_eq!((0..4).filter(passed).collect::<Vec<_>>(), [1, 2, 3]);
    // Whoever is silent is one of them.
    let four = set(4);
    let mut patience = Patience::new(&four, FLOOR_US, CEILING_US);
    patience.failed(0, v(1), FLOOR_US, &four);
    assert!(patience.passes_over(1, v(1), &four, nobody));
    assert!(patience.passes_over(1, v(1), &four, |index| index == v(1)));
    assert!(!patience.passes_over(1, v(1), &four, |index| index == v(2)));
}

#[test]
fn p7_slow_rounds_are_remembered_for_some_turns() {
    let set = set(4);
    let mut patience = after_a_cycle(&[50_000; 4]);
    for i in 0..2 {
        patience.succeeded(v(i), 100_000, &set);
    }
    assert_eq!(patience.base_us(), 400_000);
    for turn in 1..PATIENCE_TURNS {
        for i in 0..4 {
            patience.succeeded(v(i), 40_000, &set);
        }
        assert_eq!(patience.base_us(), 400_000, "turn {turn}");
    }
    for i in 0..4 {
        patience.succeeded(v(i), 40_000, &set);
    }
    assert_eq!(patience.base_us(), 160_000);
}

/// A network that becomes slower than the base: every round fails until the base has followed.
#[test]
fn p7_rounds_that_fail_lengthen_the_base() {
    let set = set(4);
    let mut patience = after_a_cycle(&[5_000; 4]);
    let mut waited_us = 0;
    let mut turns = 0;
    while patience.base_us() < CEILING_US {
        let leader = v(turns % 4);
        waited_us = patience.base_us().max(waited_us + waited_us / 2);
        patience.failed(u64::from(turns), leader, waited_us, &set);
        turns += 1;
        assert!(turns <= 8, "{turns} rounds");
    }
}

#[test]
fn p7_the_next_epoch_begins_with_the_base_of_this_one() {
    let seven = set(7);
    let patience = after_a_cycle(&[50_000; 4]);
    assert_eq!(patience.after(&seven).base_us(), 200_000);
    let mut patience = patience.after(&seven);
    for i in 0..4 {
        patience.succeeded(v(i), 30_000, &seven);
        assert_eq!(patience.base_us(), 200_000, "not a quorum yet");
    }
    patience.succeeded(v(4), 30_000, &seven);
    assert_eq!(patience.base_us(), 120_000);
}

/// Liveness rests on this: however short the base, the timer grows to where it grew without it.
#[test]
fn p7_a_short_base_grows_to_genesis_timer() {
    let mut times = Times::new(&super::harness::params());
    let genesis: Vec<u64> = (0..100).map(|k| times.round_timer_us(k)).collect();
    for base_us in [100, 12_345, FLOOR_US, 333_333, CEILING_US] {
        times.base_us = base_us;
        let short: Vec<u64> = (0..100).map(|k| times.round_timer_us(k)).collect();
        assert_eq!(short[0], base_us);
        assert!(short.is_sorted());
        assert!(short.iter().zip(&genesis).all(|(a, b)| a <= b));
        assert_eq!(short.last(), genesis.last(), "from {base_us}");
    }
}

#[test]
fn p8_a_leader_is_passed_over_longer_with_each_turn_that_fails() {
    let set = set(4);
    let mut patience = after_a_cycle(&[5_000; 4]);
    assert!(!patience.passes_over(0, v(1), &set, nobody));
    let mut now_us = 0;
    for turn in 0..2 * TURN_FAILURES_MAX {
        patience.failed(now_us, v(1), FLOOR_US, &set);
        let pause_us = (FLOOR_US * PASSED_OVER_FACTOR) << turn.min(TURN_FAILURES_MAX);
        let pause_us = pause_us.min(PASSED_OVER_US_MAX);
        assert!(patience.passes_over(now_us + pause_us - 1, v(1), &set, nobody));
        now_us += pause_us;
        assert!(
            !patience.passes_over(now_us, v(1), &set, nobody),
            "turn {turn}"
        );
    }
    // One that succeeds ends it at once, but is not all that counts.
    patience.failed(now_us, v(1), FLOOR_US, &set);
    patience.succeeded(v(1), 5_000, &set);
    assert!(!patience.passes_over(now_us, v(1), &set, nobody));
    patience.failed(now_us, v(1), FLOOR_US, &set);
    let first_us = FLOOR_US * PASSED_OVER_FACTOR;
    assert!(patience.passes_over(now_us + 4 * first_us, v(1), &set, nobody));
}

/// Of as many as cannot all be faulty, the worst ones only.
#[test]
fn p8_no_more_are_passed_over_than_may_be_faulty() {
    let four = set(4);
    let mut patience = after_a_cycle(&[5_000; 4]);
    patience.failed(0, v(0), FLOOR_US, &four);
    patience.failed(0, v(2), FLOOR_US, &four);
    patience.failed(0, v(2), FLOOR_US, &four);
    let passed: Vec<bool> = (0..4)
        .map(|i| patience.passes_over(1, v(i), &four, nobody))
        .collect();
    assert_eq!(passed, [false, false, true, false]);
    let seven = set(7);
    let mut patience = after_a_cycle(&[5_000; 7]);
    for i in 0..7 {
        patience.failed(0, v(i), FLOOR_US, &seven);
    }
    let passed = (0..7).filter(|i| patience.passes_over(1, v(*i), &seven, nobody));
    assert_eq!(passed.count(), 2);
    assert!(!patience.passes_over(0, ValidatorIndex::NOBODY, &seven, nobody));
}

/// Without payload a leader may wait for the idle interval, and its patience begins after that.
#[test]
fn p7_patience_begins_when_the_leader_has_a_reason_to_propose() {
    let give_up_ms = |work_at_ms: Option<u64>| {
        let mut solo = Solo::follower([9]);
        let mut chain = solo.maker.chain(1..=7);
        let mut last = solo.maker.draft(chain.last(), 8);
        last.time_ms = solo.now.wall_ms;
        chain.push(solo.maker.sign(last));
        solo.feed(&chain);
        assert_eq!(solo.core.status().round_base_us, FLOOR_US);
        solo.said();
        for ms in 0..2_000 {
            if work_at_ms == Some(ms) {
                solo.payload.work = true;
                solo.input(crate::Input::PayloadChanged);
            }
            if solo.said().timeouts().iter().any(|t| t.round == Round(9)) {
                return ms;
            }
            solo.advance_ms(1);
        }
        panic!("never given up");
    };
    assert_eq!(give_up_ms(None), 250 + 100);
    // It looks for payload once a twentieth of the base.
    for work_at_ms in [0, 1, 120, 244] {
        let expected = work_at_ms + 100..=work_at_ms + 105;
        assert!(expected.contains(&give_up_ms(Some(work_at_ms))));
    }
    assert_eq!(give_up_ms(Some(249)), 250 + 100);
}

/// A leader that says nothing costs the floor of the timer once, then nothing, then a little now
/// and then; without votes of the rest it is not passed over for ever.
#[test]
fn p8_a_dead_leader_costs_little() {
    let mut cluster = Cluster::new(4);
    cluster.run_ms(500);
    // It votes, and never leads.
    let dead = 2;
    cluster.pass = Box::new(move |from, _, message| {
        from != dead || !matches!(message, falconet_types::message::PeerMessage::Header(_))
    });
    let before = cluster.nodes[0].core.status();
    cluster.run_ms(20_000);
    let after = cluster.nodes[0].core.status();
    let failed = after.counters.rounds_by_tc - before.counters.rounds_by_tc;
    let passed_over = after.counters.rounds_passed_over - before.counters.rounds_passed_over;
    let waited_for = failed - passed_over;
    assert!((3..=8).contains(&waited_for), "{waited_for} of {failed}");
    assert!(after.committed_height.0 - before.committed_height.0 > 5_000);
    // It is back: within the longest pause it leads again.
    cluster.pass = Box::new(|_, _, _| true);
    cluster.run_ms(PASSED_OVER_US_MAX / 1_000 + 1_000);
    let back = cluster.nodes[0].core.status();
    cluster.run_ms(1_000);
    let later = cluster.nodes[0].core.status();
    assert_eq!(later.counters.rounds_by_tc, back.counters.rounds_by_tc);
}

/// Scenario 11: the votes that end a round reach one of the others only, not the next leader. It is
/// told, and nobody waits for its timer.
#[test]
fn p6_a_leader_that_lacks_the_certificate_is_told() {
    let mut cluster = Cluster::new(4);
    cluster.run_ms(500);
    let before = cluster.nodes[0].core.status();
    let set = cluster.maker.set.clone();
    // Votes of the author of a block do not reach the next leader, nor the header the one after.
    cluster.pass = Box::new(move |from, to, message| match message {
        falconet_types::message::PeerMessage::Vote(vote) => {
            let author = usize::from(set.leader(vote.round).0);
            let next = usize::from(set.leader(vote.round.next()).0);
            author != 1 || from == next || to != next
        }
        _ => true,
    });
    cluster.run_ms(5_000);
    let after = cluster.nodes[0].core.status();
    assert_eq!(after.counters.rounds_by_tc, before.counters.rounds_by_tc);
    assert!(after.committed_height.0 - before.committed_height.0 > 500);
}
