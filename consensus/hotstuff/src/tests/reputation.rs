//! Rules L1 to L4: leaders by reputation.

use std::collections::BTreeSet;

use falconet_types::genesis::Params;
use falconet_types::validators::ValidatorSet;
use falconet_types::{Epoch, Round, ValidatorIndex};

use super::cluster::Cluster;
use super::harness::{CHAIN, Solo, keys, params, set};
use crate::reputation::{leader, past_rounds, window_rounds};

fn by_reputation() -> Params {
    Params {
        leader_reputation: true,
        ..params()
    }
}

/// All sets of at most `most` validators of `n`.
fn few(n: u16, most: usize) -> impl Iterator<Item = BTreeSet<ValidatorIndex>> {
    let sets = (0..1u32 << n).filter(move |bits| bits.count_ones() as usize <= most);
    sets.map(move |bits| {
        let members = (0..n).filter(|i| bits >> i & 1 == 1);
        members.map(ValidatorIndex).collect()
    })
}

fn present(set: &ValidatorSet, absent: &BTreeSet<ValidatorIndex>) -> BTreeSet<ValidatorIndex> {
    let all = set.iter().map(|v| v.index);
    all.filter(|v| !absent.contains(v)).collect()
}

/// The longest run of rounds whose leaders are correct.
fn longest_run(leaders: &[ValidatorIndex], faulty: &BTreeSet<ValidatorIndex>) -> usize {
    let runs = leaders.split(|leader| faulty.contains(leader));
    runs.map(<[_]>::len).max().unwrap_or(0)
}

/// Liveness: whoever is faulty and whoever is passed over, each window begins with a cycle of all
/// that holds two correct leaders in a row, which is what a commit takes; and so do any two of the
/// cycles after it.
#[test]
fn l3_every_window_has_correct_leaders_in_a_row_whoever_is_faulty_or_passed_over() {
    for n in [4u16, 7] {
        let set = set(n.into());
        let f = (usize::from(n) - 1) / 3;
        let rounds = window_rounds(&set);
        for absent in few(n, f) {
            let authors = present(&set, &absent);
            let window = 5 * rounds + 1..=6 * rounds;
            let leaders: Vec<_> = window.map(|r| leader(&set, Round(r), &authors)).collect();
            let (first, rest) = leaders.split_at(n.into());
            let everybody: BTreeSet<_> = first.iter().copied().collect();
            assert_eq!(everybody.len(), usize::from(n), "everybody leads once");
            assert!(rest.iter().all(|leader| !absent.contains(leader)));
            let cycle = usize::from(n) - absent.len();
            let turns = rest[..cycle].iter().copied().collect::<BTreeSet<_>>();
            assert_eq!(turns.len(), cycle, "the others in turn");
            for faulty in few(n, f) {
                assert!(longest_run(first, &faulty) >= 2);
                assert!(longest_run(&rest[..2 * cycle], &faulty) >= 2);
            }
        }
    }
}

/// Liveness where the faulty are few by weight and many by heads: turns are two rounds, in first
/// cycles and in all others.
#[test]
fn l3_small_validators_that_are_many_stop_no_commit() {
    let weights = [4, 1, 4, 1, 4, 1, 1];
    let members: Vec<_> = keys().iter().cloned().zip(weights).collect();
    let set = ValidatorSet::new(CHAIN, Epoch(0), &members).unwrap();
    let light =
        |of: &BTreeSet<ValidatorIndex>| set.weight_of(of.iter().copied()) < set.weak_weight();
    let (rounds, cycle) = (window_rounds(&set), set.cycle_rounds() as usize);
    assert_eq!((cycle, set.turn_rounds()), (14, 2));
    for absent in few(7, 7).filter(light) {
        let authors = present(&set, &absent);
        let window = 5 * rounds + 1..=6 * rounds;
        let leaders: Vec<_> = window.map(|r| leader(&set, Round(r), &authors)).collect();
        let (first, rest) = leaders.split_at(cycle);
        assert!(rest.iter().all(|leader| !absent.contains(leader)));
        let others = 2 * (7 - absent.len());
        assert!(rest.chunks(2).all(|turn| turn[0] == turn[turn.len() - 1]));
        for faulty in few(7, 7).filter(light) {
            assert!(longest_run(first, &faulty) >= 2);
            let all_faulty = absent.len() + faulty.len() >= 7;
            assert!(all_faulty || longest_run(&rest[..others], &faulty) >= 2);
        }
    }
}

#[test]
fn l3_a_window_without_blocks_or_with_too_many_absent_passes_over_nobody() {
    let set = set(4);
    let rounds = window_rounds(&set);
    for authors in [
        BTreeSet::new(),
        BTreeSet::from([ValidatorIndex(0), ValidatorIndex(1)]),
    ] {
        for round in 2 * rounds + 1..=3 * rounds {
            let found = leader(&set, Round(round), &authors);
            assert_eq!(found, set.leader(Round(round)));
        }
    }
}

/// Rounds that ended with a TC, of `rounds` rounds or a few more, and the rounds.
fn failed_share(cluster: &mut Cluster, at: usize, rounds: u64) -> (u64, u64) {
    let before = cluster.nodes[at].core.progress();
    while cluster.nodes[at].core.progress().round.0 < before.round.0 + rounds {
        cluster.run_ms(10);
    }
    let after = cluster.nodes[at].core.progress();
    (
        after.rounds_by_tc - before.rounds_by_tc,
        after.round.0 - before.round.0,
    )
}

#[test]
fn l2_an_absent_validator_costs_a_round_a_window_instead_of_one_a_cycle() {
    for n in [4usize, 7] {
        let f = (n - 1) / 3;
        let share = |params| {
            let mut cluster = Cluster::with_params(n, params);
            (0..f).for_each(|i| cluster.crash(i));
            // Two windows without knowledge, and one until all rounds are the reputation's.
            let window = window_rounds(&cluster.maker.set);
            let early = failed_share(&mut cluster, n - 1, 2 * window);
            let late = failed_share(&mut cluster, n - 1, 4 * window);
            cluster.height();
            (early, late)
        };
        let (_, plain) = share(params());
        let (early, late) = share(by_reputation());
        println!("n {n}: plain {plain:?}, by reputation {early:?}, then {late:?}");
        let percent = |(failed, rounds): (u64, u64)| failed * 100 / rounds;
        assert!(percent(plain) >= 20 && percent(early) >= 20);
        assert!(percent(late) <= 6);
    }
}

/// Nodes agree on every leader of this window and the next, which are settled, whatever they missed.
#[track_caller]
fn same_leaders(cluster: &Cluster) {
    let reference = &cluster.nodes[3].core;
    let round = reference.progress().round.0;
    for (i, node) in cluster.nodes.iter().enumerate().filter(|(_, n)| n.up) {
        for later in round..=(round - 1) / 32 * 32 + 64 {
            let found = node.core.leader_of(Round(later));
            assert_eq!(found, reference.leader_of(Round(later)), "node {i}");
        }
    }
}

#[test]
fn l4_leaders_are_the_same_after_a_restart_and_after_catching_up() {
    // Not too fast for a node that catches up.
    let params = Params {
        block_interval_ms_min: 30,
        ..by_reputation()
    };
    let mut cluster = Cluster::with_params(4, params);
    cluster.crash(0);
    failed_share(&mut cluster, 3, 150);
    // One restarts with its log, one was away for two windows.
    cluster.nodes[1].log.past_heights = past_rounds(&cluster.maker.set);
    cluster.crash(1);
    cluster.restart(1);
    cluster.run_ms(500);
    same_leaders(&cluster);
    cluster.restart(0);
    cluster.run_ms(6_000);
    same_leaders(&cluster);
    failed_share(&mut cluster, 3, 100);
    same_leaders(&cluster);
    // Whoever came back leads again.
    let round = cluster.nodes[3].core.progress().round.0;
    let leader = |r| cluster.nodes[3].core.leader_of(Round(r));
    let turns = (round..round + 32).filter(|r| leader(*r) == ValidatorIndex(0));
    assert_eq!(turns.count(), 8);
    let (failed, rounds) = failed_share(&mut cluster, 3, 64);
    assert!(failed <= 1, "{failed} of {rounds} rounds");
}

/// A log that begins with a snapshot knows nothing of what is below.
#[test]
fn l4_a_node_without_the_past_asks_for_it() {
    let mut cluster = Cluster::with_params(4, by_reputation());
    cluster.crash(0);
    failed_share(&mut cluster, 3, 150);
    cluster.crash(1);
    cluster.nodes[1].log.past_heights = 0;
    cluster.restart(1);
    let asked = cluster.nodes[1].core.status().counters.block_requests;
    assert!(asked > 0, "at once");
    cluster.run_ms(2_000);
    same_leaders(&cluster);
    cluster.progresses(50, 5_000);
}

#[test]
fn v1_a_header_of_somebody_who_does_not_lead_is_not_kept() {
    let mut solo = Solo::with_params(Solo::follower([1, 2]).me(), by_reputation());
    let mut draft = solo.maker.draft(None, 1);
    draft.author = solo.maker.set.leader(Round(2));
    let stranger = solo.maker.sign(draft);
    solo.header(&stranger);
    assert_eq!(solo.core.status().counters.headers_refused, 1);
    let header = solo.maker.header(None, 1);
    solo.header(&header);
    let said = solo.said();
    assert_eq!(said.votes().len(), 1);
    assert!(said.evidence().is_empty(), "two authors are no evidence");
}
